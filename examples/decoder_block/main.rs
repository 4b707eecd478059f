//! One decoder block of BitNet b1.58 2B-4T: every projection on the kernels
//! (int8 activations), against the same block on dense f32.
//!
//! ```text
//! cargo run --release --example decoder_block            # full size, timed
//! cargo run --release --example decoder_block -- --quick # a small one, < 5 s
//! ```
//! Both first check that the ternary block computes what a dense block with the
//! same weights and quantised activations does; the exit code says so. Weights
//! are random: times do not depend on them.

mod attention;
mod block;
mod check;
mod config;
mod dense;
mod project;
#[cfg(test)]
mod tests;

use attention::KvCache;
use block::Block;
use check::{MAX_DIFFERENCE, check, inputs};
use config::Config;
use project::{Dense, Project, Ternary, random_weights};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What is timed: so many tokens after so many.
struct Phase {
    name: &'static str,
    tokens: usize,
    past: usize,
}

/// Repeats until a phase has taken this long, but twice at least.
const ENOUGH: Duration = Duration::from_millis(800);

/// The best seconds of a phase.
fn seconds(
    config: Config,
    phase: &Phase,
    projections: &mut dyn Project,
    enough: Duration,
) -> Result<f64> {
    let positions = phase.past + phase.tokens;
    let mut block = Block::new(config, positions)?;
    let mut past = KvCache::new(&config, positions);
    if phase.past > 0 {
        let mut x = inputs(&config, phase.past, 1);
        block.forward(&mut x, &mut past, projections)?;
    }
    let x = inputs(&config, phase.tokens, 2);
    let (mut best, mut runs) = (f64::INFINITY, 0);
    let started = Instant::now();
    // The first run warms up.
    while runs < 3 || started.elapsed() < enough {
        let mut y = x.clone();
        let mut cache = past.clone();
        let start = Instant::now();
        block.forward(&mut y, &mut cache, projections)?;
        if runs > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
        runs += 1;
    }
    Ok(best)
}

fn time(config: Config, phases: &[Phase], enough: Duration) -> Result<()> {
    let weights = random_weights(&config, 7)?;
    let cores = std::thread::available_parallelism()?.get();
    println!(
        "\n{:>7}  {:<24}{:>26}{:>26}{:>8}",
        "threads", "", "ternary, int8 activations", "dense f32, gemm crate", "faster"
    );
    for threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
        // The library works in the caller's pool and never starts one.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()?;
        pool.install(|| -> std::result::Result<(), String> {
            let mut ternary = Ternary::new(&weights).map_err(|e| e.to_string())?;
            let mut dense = Dense::new(&weights, false).map_err(|e| e.to_string())?;
            for phase in phases {
                let time = |projections: &mut dyn Project| {
                    seconds(config, phase, projections, enough).map_err(|e| e.to_string())
                };
                let (ours, theirs) = (time(&mut ternary)?, time(&mut dense)?);
                let rate = |seconds: f64| {
                    let rate = phase.tokens as f64 / seconds;
                    format!("{:.2} ms {rate:>8.0} tok/s", 1e3 * seconds)
                };
                println!(
                    "{threads:>7}  {:<24}{:>26}{:>26}{:>7.1}x",
                    phase.name,
                    rate(ours),
                    rate(theirs),
                    theirs / ours
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut quick = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => quick = true,
            other => return Err(format!("unknown option {other}, there is --quick").into()),
        }
    }
    let (config, tokens) = match quick {
        true => (Config::SMALL, 24),
        false => (Config::BITNET_2B, 32),
    };
    println!(
        "{config:?}, {} kernels",
        tritgemm::Backend::active()?.name()
    );
    let agreement = check(config, tokens, 1)?;
    println!(
        "{tokens} tokens: projections within {:.1} % of their rounding bound; {:.1e} from the dense \
         block and {:.1e} from one token at a time, relative (at most {MAX_DIFFERENCE:.0e})",
        100.0 * agreement.projections,
        agreement.dense,
        agreement.decode
    );
    let phase = |name, tokens, past| Phase { name, tokens, past };
    if quick {
        let phases = [
            phase("prefill, 32 tokens", 32, 0),
            phase("decode, after 32", 1, 32),
        ];
        return time(config, &phases, Duration::from_millis(50));
    }
    let phases = [
        phase("prefill, 128 tokens", 128, 0),
        phase("prefill, 512 tokens", 512, 0),
        phase("decode, after 128", 1, 128),
        phase("decode, after 512", 1, 512),
    ];
    time(config, &phases, ENOUGH)?;
    println!("\nPer layer; the model has 30. Best of several runs.");
    Ok(())
}
