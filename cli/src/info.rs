//! `tritgemm info`: the CPU, which kernels run on it and why the others do not.

use crate::args::InfoArgs;
use crate::cpu::{self, Cache};
use crate::output::{self, Out, plain};
use anyhow::{Result, anyhow};
use serde::Serialize;
use std::collections::BTreeMap;
use tritgemm::{Backend, ISA_VARIABLE, cpu_features, kernel_table};

/// Everything, as `--json` prints it.
#[derive(Serialize)]
struct Info {
    version: &'static str,
    arch: &'static str,
    os: &'static str,
    cpu: Option<String>,
    threads: Option<usize>,
    caches: Vec<Cache>,
    features: BTreeMap<&'static str, bool>,
    /// `TRITGEMM_ISA`.
    isa_variable: Option<String>,
    /// The rows of the registry, best first.
    registry: Vec<Row>,
    /// Name of the row that runs.
    active: Option<&'static str>,
    /// Its kernels, by operation.
    kernels: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    level: &'static str,
    needs: Vec<&'static str>,
    /// The needed features that this CPU lacks.
    missing: Vec<&'static str>,
    /// Whether it can run here.
    available: bool,
    /// Why it runs or does not.
    why: String,
}

/// Runs the command.
pub fn run(args: &InfoArgs, out: &mut Out) -> Result<()> {
    let active = Backend::active();
    let info = gather(active.as_ref().ok().copied());
    if args.json {
        out.line(serde_json::to_string(&info)?)?;
    } else {
        print(&info, out)?;
    }
    // What there is was shown; that the wish of the variable cannot be met is
    // still a failure.
    active
        .map(|_| ())
        .map_err(|e| anyhow!("{ISA_VARIABLE}: {e}"))
}

fn gather(active: Option<Backend>) -> Info {
    let features: BTreeMap<_, _> = cpu_features().into_iter().collect();
    let row = |row: tritgemm::TableRow| {
        let lacks = |name: &&str| features.get(name) == Some(&false);
        let missing: Vec<_> = row.features.iter().copied().filter(lacks).collect();
        let why = match (active.map(Backend::name) == Some(row.name), row.runs_here) {
            (true, _) => "runs".to_owned(),
            (_, true) => "can run, was not chosen".to_owned(),
            (_, false) => format!("this CPU lacks {}", missing.join(", ")),
        };
        Row {
            name: row.name,
            level: row.isa.name(),
            available: row.runs_here,
            needs: row.features,
            missing,
            why,
        }
    };
    Info {
        version: env!("CARGO_PKG_VERSION"),
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
        cpu: cpu::model(),
        threads: std::thread::available_parallelism().ok().map(|n| n.get()),
        caches: cpu::caches(),
        isa_variable: std::env::var_os(ISA_VARIABLE).map(|v| v.to_string_lossy().into_owned()),
        registry: kernel_table().into_iter().map(row).collect(),
        features,
        active: active.map(Backend::name),
        kernels: active
            .into_iter()
            .flat_map(Backend::kernels)
            .map(|k| (k.operation, k.name))
            .collect(),
    }
}

fn print(info: &Info, out: &mut Out) -> Result<()> {
    out.line(format!(
        "tritgemm {} on {} {}",
        info.version, info.os, info.arch
    ))?;
    let cpu = info.cpu.as_deref().map_or("unknown CPU".to_owned(), plain);
    let threads = info.threads.map_or(String::new(), |n| {
        format!(", {}", output::count(n, "thread", "threads"))
    });
    let having = |has: bool| {
        let names = info.features.iter().filter(|f| *f.1 == has).map(|f| *f.0);
        match names.collect::<Vec<_>>().join(" ") {
            none if none.is_empty() => "none".to_owned(),
            names => names,
        }
    };
    let pinned = info
        .isa_variable
        .as_deref()
        .map_or("not set".to_owned(), plain);
    out.pairs(&[
        ("CPU", format!("{cpu}{threads}")),
        ("Caches", caches(&info.caches)),
        ("Features", having(true)),
        ("Missing", having(false)),
        (ISA_VARIABLE, pinned),
    ])?;

    out.line("\nKernels of this build, best first")?;
    let rows = info.registry.iter().map(|row| (row.name, row.why.clone()));
    out.pairs(&rows.collect::<Vec<_>>())?;

    if let Some(active) = info.active {
        out.line(format!("\nWhat runs: {active}"))?;
        let kernels = info.kernels.iter().map(|(&k, &name)| (k, name.to_owned()));
        out.pairs(&kernels.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn caches(caches: &[Cache]) -> String {
    if caches.is_empty() {
        return "unknown".to_owned();
    }
    let kib = |c: &Cache| match c.bytes {
        bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    };
    let text = |c: &Cache| match c.kind.as_str() {
        "data" => format!("L{}d {}", c.level, kib(c)),
        "instruction" => format!("L{}i {}", c.level, kib(c)),
        _ => format!("L{} {} (CPUs {})", c.level, kib(c), c.shared_by),
    };
    caches.iter().map(text).collect::<Vec<_>>().join(", ")
}
