//! `tritgemm info`: the CPU, what the library can use of it and what it would.

use crate::args::InfoArgs;
use crate::cpu::{self, Cache};
use crate::output::{self, Col, Out, plain};
use anyhow::{Result, anyhow};
use serde::Serialize;
use std::collections::BTreeMap;
use tritgemm::{Backend, ISA_VARIABLE, Isa, IsaError, cpu_features};

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
    /// Best first.
    backends: Vec<BackendInfo>,
    unavailable: Vec<Unavailable>,
    /// Name of the backend that would run.
    active: Option<&'static str>,
    /// By operation.
    kernels: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct BackendInfo {
    name: &'static str,
    isa: &'static str,
    needs: Vec<&'static str>,
}

#[derive(Serialize)]
struct Unavailable {
    isa: &'static str,
    missing: Vec<&'static str>,
    reason: String,
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
    let unavailable = |&isa: &Isa| {
        let error = Backend::for_isa(isa).err()?;
        let missing = match &error {
            IsaError::MissingFeatures { missing, .. } => missing.clone(),
            _ => Vec::new(),
        };
        Some(Unavailable {
            isa: isa.name(),
            missing,
            reason: error.to_string(),
        })
    };
    let backend = |b: Backend| BackendInfo {
        name: b.name(),
        isa: b.isa().name(),
        needs: b.features().collect(),
    };
    Info {
        version: env!("CARGO_PKG_VERSION"),
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
        cpu: cpu::model(),
        threads: std::thread::available_parallelism().ok().map(|n| n.get()),
        caches: cpu::caches(),
        features: cpu_features().into_iter().collect(),
        isa_variable: std::env::var_os(ISA_VARIABLE).map(|v| v.to_string_lossy().into_owned()),
        backends: Backend::available().map(backend).collect(),
        unavailable: Isa::ALL.iter().filter_map(unavailable).collect(),
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
    out.table(&output::pairs(&[
        ("CPU", format!("{cpu}{threads}")),
        ("Caches", caches(&info.caches)),
        ("Features", having(true)),
        ("Missing", having(false)),
        (ISA_VARIABLE, pinned),
    ]))?;

    out.line("\nKernel sets, best first")?;
    let mut table = output::table(&[Col::Left("set"), Col::Left("ISA"), Col::Wrap("state")], 2);
    for backend in &info.backends {
        let active = info.active == Some(backend.name);
        table.add_row([
            backend.name,
            backend.isa,
            if active { "active" } else { "available" },
        ]);
    }
    for missing in &info.unavailable {
        table.add_row(["-", missing.isa, &output::breaks(&missing.reason, ' ')]);
    }
    out.table(&table)?;

    if info.active.is_some() {
        out.line("\nKernels that would run")?;
        let mut table = output::table(&[Col::Left("operation"), Col::Left("kernel")], 2);
        for (operation, kernel) in &info.kernels {
            table.add_row([operation, kernel]);
        }
        out.table(&table)?;
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
