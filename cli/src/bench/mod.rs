//! `tritgemm bench`: how fast products are, beside how fast their weights are read.
//!
//! | module | what it does |
//! |---|---|
//! | [`weights`] | one matrix, or so many copies that they come from memory |
//! | [`measure`] | interleaved repeats, their medians and how far they lie apart |
//! | [`read`] | the bandwidth that there is |

mod measure;
mod read;
mod weights;

use crate::args::{Act, BenchArgs, Shape, WeightsFrom};
use crate::cpu;
use crate::output::{self, Out, plain};
use crate::table::{Col, Table};
use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::num::NonZeroUsize;
use tritgemm::{Backend, MatMut, MatRef, Options, Threads, Workspace};
use weights::Weights;

/// Repeats that lie further apart than this, as a share of their median, are told of.
const BUSY: f64 = 0.1;

/// What came of one measurement, with the fields that `--json` promises.
#[derive(serde::Serialize)]
struct Line {
    backend: &'static str,
    act: &'static str,
    m: usize,
    k: usize,
    n: usize,
    threads: usize,
    weights_in_cache: bool,
    ns: f64,
    gmacs: f64,
    weight_gbs: f64,
    read_gbs: f64,
    spread: f64,
}

/// Runs the command.
pub fn run(args: &BenchArgs, out: &mut Out) -> Result<()> {
    match args.threads.get() {
        // The library is serial outside of a pool.
        1 => bench(args, out),
        _ => crate::in_pool(Some(args.threads), || bench(args, out))?,
    }
}

fn bench(args: &BenchArgs, out: &mut Out) -> Result<()> {
    const ONE_AND_MANY: [NonZeroUsize; 2] =
        [NonZeroUsize::MIN, NonZeroUsize::new(64).expect("not 0")];
    let backends = match args.isa[..] {
        [] => vec![Backend::active()?],
        _ => args
            .isa
            .iter()
            .map(|name| Backend::by_name(name))
            .collect::<Result<_, _>>()?,
    };
    let shapes = or(&args.shape, &[Shape { m: 4096, k: 4096 }]);
    let (tokens, acts) = (or(&args.tokens, &ONE_AND_MANY), or(&args.act, &Act::ALL));
    let most = tokens.iter().max().map_or(0, |n| n.get());
    let len = args.residency.len() * shapes.len() * tokens.len() * acts.len() * backends.len();
    let bar = output::progress(len as u64, "{bar:30} {pos} of {len} products  {wide_msg}");
    let mut lines = Vec::new();
    for &from in &args.residency {
        for shape in &shapes {
            let Shape { m, k } = *shape;
            let weights = Weights::new(*shape, from, most).with_context(|| format!("{m}x{k}"))?;
            for n in &tokens {
                for &act in &acts {
                    for &backend in &backends {
                        let name = format!("{} {m}x{k}, N = {n}, {}", act.name(), backend.name());
                        bar.set_message(name.clone());
                        // Drawn by no thread of its own: that would disturb the measurement.
                        bar.tick();
                        let line = measured(args, &weights, (m, k, n.get()), act, (backend, from))
                            .context(name)?;
                        if args.json {
                            bar.suspend(|| out.line(serde_json::to_string(&line)?))?;
                        }
                        lines.push(line);
                        bar.inc(1);
                    }
                }
            }
        }
    }
    bar.finish_and_clear();
    if args.json {
        return Ok(());
    }
    print(&lines, args, out)
}

fn or<T: Clone>(given: &[T], default: &[T]) -> Vec<T> {
    if given.is_empty() { default } else { given }.to_vec()
}

fn measured(
    args: &BenchArgs,
    weights: &Weights,
    (m, k, n): (usize, usize, usize),
    act: Act,
    (backend, from): (Backend, WeightsFrom),
) -> Result<Line> {
    let threads = args.threads.get();
    let mut random = SmallRng::seed_from_u64(2);
    let x: Vec<f32> = (0..n * k).map(|_| random.random_range(-1.0..1.0)).collect();
    let x_i8: Vec<i8> = (0..n * k).map(|_| random.random()).collect();
    let (x, x_i8) = (MatRef::new(&x, n, k)?, MatRef::new(&x_i8, n, k)?);
    let (mut y, mut y_i32) = (vec![0f32; n * m], vec![0i32; n * m]);
    let mut ws = Workspace::with_options(
        Options::new()
            .backend(backend)
            .threads(match threads {
                1 => Threads::Serial,
                _ => Threads::Rayon,
            })
            .weights_in_cache(from == WeightsFrom::Cache),
    );
    let mut product = || -> Result<()> {
        let layer = weights.next();
        match act {
            Act::I8 => layer
                .panels()
                .gemm_i8(x_i8, MatMut::new(&mut y_i32, n, m)?, &mut ws)?,
            Act::F32 => layer.forward_f32(x, MatMut::new(&mut y, n, m)?, &mut ws)?,
            Act::W1a8 => layer.forward_int8(x, MatMut::new(&mut y, n, m)?, &mut ws)?,
        }
        Ok(())
    };
    let mut failed = None;
    let mut product = || {
        if let Err(error) = product() {
            failed.get_or_insert(error);
        }
    };
    let mut read = || read::read(weights.next().panels().as_bytes(), threads);
    let [product, read] = measure::times([&mut product, &mut read], args.repeats.get());
    let (ns, read_ns) = (product.median, read.median);
    if let Some(error) = failed {
        return Err(error);
    }
    let bytes = weights.next().panels().as_bytes().len() as f64;
    Ok(Line {
        backend: backend.name(),
        act: act.name(),
        m,
        k,
        n,
        threads,
        weights_in_cache: from == WeightsFrom::Cache,
        ns,
        gmacs: m as f64 * k as f64 * n as f64 / ns,
        weight_gbs: bytes / ns,
        read_gbs: bytes / read_ns,
        spread: product.spread.max(read.spread),
    })
}

fn print(lines: &[Line], args: &BenchArgs, out: &mut Out) -> Result<()> {
    out.text(format!(
        "{}, {}, median of {}",
        cpu::model()
            .as_deref()
            .map_or("unknown CPU".to_owned(), plain),
        output::count(args.threads.get(), "thread", "threads"),
        output::count(args.repeats.get(), "repeat", "repeats"),
    ))?;
    let group = |line: &Line| (line.m, line.k, line.weights_in_cache);
    for lines in lines.chunk_by(|a, b| group(a) == group(b)) {
        let (m, k, in_cache) = group(&lines[0]);
        let place = match in_cache {
            true => "the cache, as far as they fit (hot)",
            false => "memory (cold)",
        };
        out.line("")?;
        out.text(format!("{m}x{k} weights from {place}"))?;
        let mut table = Table::new(&[
            Col::Left("backend"),
            Col::Left("act"),
            Col::Right("N"),
            Col::Right("us"),
            Col::Right("GMAC/s"),
            Col::Right("weights GB/s"),
            Col::Right("read GB/s"),
            Col::Right("spread"),
        ]);
        for line in lines {
            table.add_row([
                line.backend.to_owned(),
                line.act.to_owned(),
                line.n.to_string(),
                number(line.ns / 1e3),
                number(line.gmacs),
                number(line.weight_gbs),
                number(line.read_gbs),
                format!("{:.0} %", 100.0 * line.spread),
            ]);
        }
        out.table(&table)?;
    }
    out.line("")?;
    out.text(
        "weights: bytes of weights a second that the product gets through; \
         read: bytes a second that a plain sum reads from the same place; \
         spread: how far the middle half of the repeats lies apart.",
    )?;
    if let Some(warning) = busy(lines.iter().map(|line| line.spread)) {
        out.text(warning)?;
    }
    Ok(())
}

/// What to say if repeats lie too far apart to be believed.
fn busy(spreads: impl Iterator<Item = f64>) -> Option<String> {
    let worst = spreads.fold(0.0, f64::max);
    (worst > BUSY).then(|| {
        format!(
            "The machine was busy or changed its speed: repeats lie up to {:.0} % apart. Numbers \
             hold to a few percent where nothing else runs.",
            100.0 * worst
        )
    })
}

/// Three digits, which is more than a measurement is good for.
fn number(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_told_of() {
        assert_eq!(busy([0.0, 0.1].into_iter()), None);
        assert_eq!(busy([].into_iter()), None);
        let warning = busy([0.02, 0.25, f64::NAN].into_iter()).unwrap();
        assert!(
            warning.contains("busy") && warning.contains("25 %"),
            "{warning}"
        );
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(
            [number(1.234), number(12.34), number(123.4)],
            ["1.23", "12.3", "123"]
        );
    }
}
