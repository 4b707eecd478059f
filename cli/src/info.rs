//! `tritgemm info`: the CPU, which kernels run on it and why the others do not.

use crate::args::InfoArgs;
use crate::cpu::{self, Cache};
use crate::output::{self, Out, plain};
use anyhow::{Result, anyhow};
use serde::Serialize;
use std::collections::BTreeMap;
use tritgemm::{Backend, diagnostics};

/// The environment variable that chooses the row.
const ISA_VARIABLE: &str = "TRITGEMM_ISA";

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
    /// The rows of the registry.
    registry: Vec<Row>,
    /// Name of the row that runs.
    active: Option<&'static str>,
    /// Its kernels.
    kernels: Vec<Kernel>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    level: &'static str,
    needs: Vec<&'static str>,
    /// The needed features that this CPU lacks.
    missing: Vec<&'static str>,
    /// The CPUs that its tuning looks for.
    looks_for: Option<&'static str>,
    /// Whether it can run here.
    available: bool,
    /// Why it runs or does not.
    why: String,
}

#[derive(Serialize)]
struct Kernel {
    operation: &'static str,
    name: &'static str,
    /// When this one is taken, where the operation has several.
    when: Option<String>,
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
    let row = |row: diagnostics::Row| Row {
        why: why(&row, active),
        name: row.name,
        level: row.isa.name(),
        needs: row.features,
        available: row.missing.is_empty(),
        missing: row.missing,
        looks_for: row.looks_for,
    };
    let kernel = |kernel: diagnostics::KernelInfo| Kernel {
        operation: kernel.operation,
        name: kernel.name,
        when: kernel.when,
    };
    Info {
        version: env!("CARGO_PKG_VERSION"),
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
        cpu: cpu::model(),
        threads: std::thread::available_parallelism().ok().map(|n| n.get()),
        caches: cpu::caches(),
        isa_variable: std::env::var_os(ISA_VARIABLE).map(|v| v.to_string_lossy().into_owned()),
        registry: diagnostics::registry().into_iter().map(row).collect(),
        features: diagnostics::cpu_features().into_iter().collect(),
        active: active.map(Backend::name),
        kernels: active
            .into_iter()
            .flat_map(diagnostics::kernels)
            .map(kernel)
            .collect(),
    }
}

/// Why a row runs or does not.
fn why(row: &diagnostics::Row, active: Option<Backend>) -> String {
    match (row.looks_for, active) {
        (_, Some(active)) if active.name() == row.name => "runs".to_owned(),
        _ if !row.missing.is_empty() => format!("this CPU lacks {}", row.missing.join(", ")),
        (Some(cpus), _) if !row.suits => format!("can run, looks for {cpus}"),
        _ => "can run, another was chosen".to_owned(),
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

    out.line("\nKernels of this build")?;
    let rows = info.registry.iter().map(|row| (row.name, row.why.clone()));
    out.pairs(&rows.collect::<Vec<_>>())?;

    if let Some(active) = info.active {
        out.line(format!("\nWhat runs: {active}"))?;
        let kernels = info.kernels.iter().map(|kernel| {
            let when = kernel.when.as_ref().map(|when| format!(" ({when})"));
            (
                kernel.operation,
                format!("{}{}", kernel.name, when.unwrap_or_default()),
            )
        });
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
