//! tritgemm against its peers and the machine's ceilings, in one interleaved run.
//! See README.md beside this crate's Cargo.toml.

mod bars;
mod ceilings;
mod check;
mod cli;
mod contender;
mod dense;
mod ggml;
mod host;
mod machine;
mod memory;
mod ours;
mod plots;
mod pools;
mod problem;
mod ratios;
mod report;
mod run;
mod timing;

use clap::Parser;
use contender::{Family, Info};
use pools::Pools;
use report::Report;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use timing::Protocol;

fn main() -> anyhow::Result<ExitCode> {
    let cli = cli::Cli::parse();
    if let (Some(json), Some(dir)) = (&cli.replot, &cli.plots) {
        plots::draw(&Report::read_json(json)?, cli.plot_shape, dir)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Checking the bars compares one thread with two, whatever is asked for.
    let mut threads = cli.threads.clone();
    threads.extend([1, 2]);
    let pools = Arc::new(Pools::new(&threads)?);
    let families: Vec<Box<dyn Family>> = vec![
        Box::new(ours::OurFamily::new(Arc::clone(&pools))),
        Box::new(ggml::GgmlFamily::new()),
        Box::new(dense::DenseFamily::new(Arc::clone(&pools))),
        Box::new(ceilings::CeilingFamily::new(Arc::clone(&pools))),
    ];
    if cli.list {
        families
            .iter()
            .flat_map(|f| f.contenders())
            .for_each(|info| println!("{}", info.name));
        return Ok(ExitCode::SUCCESS);
    }
    let report = measure(&cli, &families, &pools)?;
    if let Some(path) = &cli.json {
        report.write_json(path)?;
    }
    if let Some(dir) = &cli.plots {
        plots::draw(&report, cli.plot_shape, dir)?;
    }
    let failed = report.bars.iter().any(|v| v.passes() == Some(false));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn measure(cli: &cli::Cli, families: &[Box<dyn Family>], pools: &Pools) -> anyhow::Result<Report> {
    let machine = machine::Machine::detect();
    let load_before = fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|s| s.split(' ').next()?.parse().ok());
    let build = ggml::build_check::Build::inspect()?;
    eprintln!("checking every contender against exact products");
    check::check(families, &cli.threads)?;
    eprintln!("measuring the ceilings");
    let ceilings = ceilings::Ceilings::measure(&machine, pools, &cli.threads);
    println!("{}", report::head(&machine, &build, &ceilings));

    let start = Instant::now();
    let progress = |what: &str| eprintln!("{:6.0} s  {what}", start.elapsed().as_secs_f64());
    let protocol = Protocol {
        look_ups: ceilings.peak(ceilings::LOOK_UPS, 1).unwrap_or(0.0),
        ..cli.protocol()
    };
    let (cells, verdicts) = if cli.bars {
        let context = bars::Context {
            families,
            shapes: cli.shapes(),
            protocol,
        };
        bars::check(&context, progress)?
    } else {
        let select = |_: &problem::Cell, info: &Info| cli.wants(info);
        let cells = run::run(families, &cli.cells(), &select, protocol, |cell| {
            progress(&cell.to_string());
        })?;
        (cells, Vec::new())
    };
    let report = Report {
        machine,
        ggml: build,
        tritgemm_version: env!("CARGO_PKG_VERSION").to_owned(),
        load_before,
        seconds_since_1970: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
        repeats: protocol.repeats,
        ceilings,
        cells,
        bars: verdicts,
    };
    if !cli.bars {
        println!("{}", report.table());
    } else {
        println!("{}", bars::table(&report.bars));
    }
    println!("{}", report.remarks());
    Ok(report)
}
