//! `tritgemm`: quantise, convert, verify and measure ternary weights from a shell. The program
//! is [`run`], for other programs that have the command among theirs, as the Python package.
//!
//! | module | what it does |
//! |---|---|
//! | `args` | the command line |
//! | `quantize` | a safetensors file to one with packed ternary matrices |
//! | `convert` | between our files, GGUF, HF BitNet and panel files |
//! | `inspect` | what a file holds |
//! | `verify` | every kernel against the scalar path on a file's matrices |
//! | `info` | what this CPU has and which kernels would run |
//! | `bench` | speeds, beside the memory's and a dense GEMM's |
//! | `demo` | all of it on weights made for the occasion |
//! | `format` | safetensors files as they are written |
//! | `sharded` | the files of an output, one or many |
//! | `scales` | what a scale covers, made coarser or finer without loss |
#![forbid(unsafe_code)]

mod args;
mod atomic;
mod bench;
mod convert;
mod cpu;
mod demo;
mod format;
mod info;
mod inspect;
mod names;
mod output;
mod quantize;
mod scales;
mod sharded;
mod signals;
mod table;
mod verify;

use anyhow::Context;
use args::{Cli, Command};
use clap::Parser;
use std::ffi::OsString;
use std::num::NonZeroUsize;

/// Runs the command with its arguments, the first of which is its name, and returns the exit
/// code of the process. The process is the command's: it heeds signals from then on, and ends
/// here if the arguments are wrong or ask for help.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = Cli::parse_from(args);
    // Where it cannot be, such signals leave temporary files, no more.
    let _ = signals::on_sent_faults(atomic::end);
    let mut out = output::Out::stdout();
    let done = match &cli.command {
        Command::Quantize(args) => quantize::run(args, &mut out),
        Command::Convert(args) => convert::run(args, &mut out),
        Command::Inspect(args) => inspect::run(args, &mut out),
        Command::Verify(args) => verify::run(args, &mut out),
        Command::Info(args) => info::run(args, &mut out),
        Command::Bench(args) => bench::run(args, &mut out),
        Command::Demo(args) => demo::run(args, &mut out),
    };
    match done.and_then(|()| out.finish()) {
        Ok(()) => 0,
        Err(error) => {
            let text = output::one_line(&format!("{error:#}"));
            anstream::eprintln!("{}error:{} {text}", output::RED, output::RED.render_reset());
            1
        }
    }
}

/// Runs `work` in a rayon pool of `threads`, or else of one thread a core: the
/// library uses the pool that it is called in.
fn in_pool<R: Send>(
    threads: Option<NonZeroUsize>,
    work: impl FnOnce() -> R + Send,
) -> anyhow::Result<R> {
    let threads = threads.map_or(0, NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    Ok(pool.context("cannot start threads")?.install(work))
}
