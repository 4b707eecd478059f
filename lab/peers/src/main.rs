//! tritgemm against its peers and the machine's ceilings, in one interleaved run.
//! See README.md beside this crate's Cargo.toml.

mod bars;
mod best_of;
mod ceilings;
mod check;
mod cli;
mod contender;
mod gemm_crate;
#[cfg(feature = "ggml")]
mod ggml;
mod host;
mod litespark;
mod llama;
mod machine;
mod model;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;
mod ours;
mod owned;
mod plot;
mod pools;
mod problem;
mod ratios;
mod report;
mod run;
mod scaling;
mod svg;
mod timing;

use clap::Parser;
use contender::{Info, Library};
use pools::Pools;
use report::Report;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use timing::Protocol;

#[global_allocator]
static ALLOCATOR: owned::Noting = owned::Noting;

fn main() -> anyhow::Result<ExitCode> {
    let cli = cli::Cli::parse();
    if let (Some(json), Some(dir)) = (&cli.replot, &cli.plots) {
        match cli.model {
            Some(_) => model::draw(&model::ModelReport::read_json(json)?, dir)?,
            None => plot::draw(&Report::read_json(json)?, cli.plot_shape, dir)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(name) = &cli.model {
        let programs = model::Programs {
            generate: cli.generate.clone(),
            llama: cli.llama.clone(),
            plugin: cli.plugin.clone(),
            candle: cli.candle.clone(),
        };
        let task = model::Task {
            model: name.clone(),
            files: cli.files.clone(),
            prompt: cli.prompts[0],
            generated: cli.generated,
        };
        let report = model::measure(&programs, &task, &cli.threads, cli.protocol().repeats)?;
        print!("{}", report.table());
        if let Some(path) = &cli.json {
            fs::write(path, serde_json::to_string_pretty(&report)?)?;
        }
        if let Some(dir) = &cli.plots {
            model::draw(&report, dir)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(bench), Some(plugin)) = (&cli.llama, &cli.plugin) {
        let rows = llama::measure(&llama::Plan {
            bench: llama::Bench {
                program: bench.clone(),
                plugin: plugin.clone(),
                prompts: cli.prompts.clone(),
                generated: cli.generated,
            },
            models: cli.models.clone(),
            threads: cli.threads.clone(),
            repeats: cli.protocol().repeats,
        })?;
        if let Some(path) = &cli.json {
            fs::write(path, serde_json::to_string_pretty(&rows)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if cli.scaling {
        let machine = machine::Machine::detect().summary();
        println!("machine: {machine}");
        let repeats = cli.protocol().repeats;
        let found = scaling::measure(&cli.shapes(), &cli.tokens, repeats)?;
        scaling::print(&found);
        if let Some(path) = &cli.json {
            fs::write(path, serde_json::to_string_pretty(&found)?)?;
        }
        if let Some(dir) = &cli.plots {
            plot::draw_scaling(&found, &machine, dir)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    // Checking the bars compares one thread with two, whatever is asked for.
    let mut threads = cli.threads.clone();
    threads.extend([1, 2]);
    let pools = Arc::new(Pools::new(&threads)?);
    let mut libraries: Vec<Box<dyn Library>> = vec![
        Box::new(ours::Tritgemm::new(Arc::clone(&pools))),
        #[cfg(feature = "ggml")]
        Box::new(ggml::Ggml::new()),
        Box::new(gemm_crate::GemmCrate::new(Arc::clone(&pools))),
        Box::new(ceilings::Ceilings::new(pools)),
    ];
    if let Some(library) = &cli.litespark {
        libraries.push(Box::new(litespark::Litespark::new(library)?));
    }
    #[cfg(feature = "onnxruntime")]
    if let Some(library) = &cli.onnxruntime {
        libraries.push(Box::new(onnxruntime::OnnxRuntime::new(library)?));
    }
    if cli.list {
        libraries
            .iter()
            .flat_map(|library| library.contenders())
            .for_each(|info| println!("{}", info.name));
        return Ok(ExitCode::SUCCESS);
    }
    let report = measure(&cli, &libraries)?;
    if let Some(path) = &cli.json {
        report.write_json(path)?;
    }
    if let Some(dir) = &cli.plots {
        plot::draw(&report, cli.plot_shape, dir)?;
    }
    let failed = report.bars.iter().any(|v| v.passes() == Some(false));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What was found of the linked ggml; an error if it is not the fast one.
fn ggml_build() -> anyhow::Result<Option<String>> {
    #[cfg(feature = "ggml")]
    return ggml::build_check::inspect().map(Some);
    #[cfg(not(feature = "ggml"))]
    return Ok(None);
}

fn measure(cli: &cli::Cli, libraries: &[Box<dyn Library>]) -> anyhow::Result<Report> {
    let machine = machine::Machine::detect();
    let load_before = report::load_now();
    let ggml = ggml_build()?;
    println!("machine: {}", machine.summary());
    println!("features: {}", machine.features.join(" "));
    println!("{}", ggml.as_deref().unwrap_or("ggml: not in this build"));
    eprintln!("checking every contender against exact products");
    check::check(libraries, &cli.threads)?;

    let start = Instant::now();
    let progress = |what: &str| eprintln!("{:6.0} s  {what}", start.elapsed().as_secs_f64());
    let protocol = Protocol {
        look_ups: ceilings::look_ups_rate(),
        ..cli.protocol()
    };
    let (cells, verdicts) = if cli.bars {
        let context = bars::Context {
            libraries,
            shapes: cli.shapes(),
            protocol,
        };
        bars::check(&context, progress)?
    } else {
        let select = |_: &problem::Cell, info: &Info| cli.wants(info);
        let progress = |cell: &problem::Cell| progress(&cell.to_string());
        let cells = run::run(libraries, &cli.cells(), &select, protocol, progress)?;
        (cells, Vec::new())
    };
    let report = Report {
        machine,
        ggml,
        tritgemm_version: env!("CARGO_PKG_VERSION").to_owned(),
        load_before,
        seconds_since_1970: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
        repeats: protocol.repeats,
        cells,
        bars: verdicts,
    };
    if cli.bars {
        println!("{}", bars::table(&report.bars));
    } else {
        println!("{}", report.table());
    }
    println!("{}", report.remarks());
    Ok(report)
}
