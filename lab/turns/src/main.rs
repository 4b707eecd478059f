//! Two commits of tritgemm linked into one program and timed in turns of milliseconds.
//!
//! Builds that run one after the other differ by what the machine does meanwhile. Here the
//! builds take turns in one process, so that a slow moment meets both, and a cell's figure
//! is the median over the ratios of neighbouring turns. Where a build's memory lies makes up
//! to four percent by itself, so that every cell is measured in several allocations, by turns
//! with the old build's memory allocated first and with the new build's, and the geometric
//! mean is taken.

mod side;

use clap::{Parser, ValueEnum};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rayon::ThreadPoolBuilder;
use side::{Call, Side};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Times the commit that `run.sh` checked out against the work tree.
#[derive(Parser)]
struct Options {
    /// Weight matrices, rows x columns.
    #[arg(long, value_delimiter = ',', default_values = ["2560x2560", "4096x4096"])]
    shapes: Vec<Shape>,
    /// Tokens of a call.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 128])]
    tokens: Vec<usize>,
    /// Threads of rayon.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// What is called.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Call::Int8, Call::F32])]
    calls: Vec<Call>,
    /// Where the weights are.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Weights::Hot, Weights::Memory])]
    weights: Vec<Weights>,
    /// Backends, `OLD=NEW` where the commits name one otherwise. Unless given, each of the
    /// old commit's that suits this CPU beside the new one's first of the same level.
    #[arg(long, value_delimiter = ',')]
    backends: Vec<String>,
    /// Pairs of turns of a cell in one allocation; fewer, but five or more, where they would
    /// take over three seconds.
    #[arg(long, default_value_t = 21)]
    pairs: usize,
    /// Allocations that a cell is measured in, in pairs: the old build's memory first, then
    /// the new build's.
    #[arg(long, default_value_t = 2)]
    allocations: usize,
    /// Times the new build against itself: what the method adds.
    #[arg(long)]
    same: bool,
    /// Lists the backends of both commits and ends.
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Weights {
    /// One matrix, which the build is told is in the cache.
    Hot,
    /// A ring of matrices of 160 MB.
    Memory,
}

#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    cols: usize,
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('x').map(|(m, k)| (m.parse(), k.parse()));
        match parts {
            Some((Ok(rows), Ok(cols))) => Ok(Shape { rows, cols }),
            _ => Err(format!("expected a shape as 4096x4096, not {text:?}")),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// Bytes of packed weights that no last-level cache at hand holds.
const RING: usize = 160 << 20;

/// The least time of a turn.
const TURN: Duration = Duration::from_millis(2);

/// About the most time of a cell in one allocation.
const CELL: Duration = Duration::from_secs(3);

/// What a side is made of.
pub struct Problem {
    trits: Vec<i8>,
    shape: Shape,
    copies: usize,
    hot: bool,
    tokens: usize,
    x: Vec<f32>,
    values: Vec<i8>,
}

impl Problem {
    fn new(shape: Shape, weights: Weights, tokens: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let copies = match weights {
            Weights::Hot => 1,
            Weights::Memory => RING.div_ceil(shape.rows * shape.cols.div_ceil(4)),
        };
        let mut trits = vec![0; shape.rows * shape.cols];
        trits.fill_with(|| rng.random_range(-1..=1));
        let mut x = vec![0.0; tokens * shape.cols];
        x.fill_with(|| rng.random_range(-1.0..1.0));
        let values = x.iter().map(|v| (v * 127.0) as i8).collect();
        let hot = weights == Weights::Hot;
        Problem {
            trits,
            shape,
            copies,
            hot,
            tokens,
            x,
            values,
        }
    }
}

/// Seconds a call of `calls` calls, after one that is not timed.
fn turn(side: &mut dyn Side, call: Call, calls: usize) -> anyhow::Result<f64> {
    side.call(call)?;
    let start = Instant::now();
    for _ in 0..calls {
        side.call(call)?;
    }
    Ok(start.elapsed().as_secs_f64() / calls as f64)
}

/// Calls that fill a turn, by the fastest of five.
fn calls_of_a_turn(side: &mut dyn Side, call: Call) -> anyhow::Result<usize> {
    let mut fastest = f64::INFINITY;
    for _ in 0..5 {
        fastest = fastest.min(turn(side, call, 1)?);
    }
    Ok((TURN.as_secs_f64() / fastest).ceil().max(1.0) as usize)
}

/// The median of the ratios of neighbouring turns, old time over new time, and the new
/// build's median time of a call in seconds.
fn ratio(
    old: &mut dyn Side,
    new: &mut dyn Side,
    call: Call,
    pairs: usize,
) -> anyhow::Result<[f64; 2]> {
    let calls = calls_of_a_turn(new, call)?;
    let a_pair = turn(old, call, calls)? + turn(new, call, calls)?;
    let a_pair = a_pair * (calls + 1) as f64;
    let pairs = pairs.min(((CELL.as_secs_f64() / a_pair) as usize).max(5));
    let (mut ratios, mut times) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let (before, after);
        if pair % 2 == 0 {
            before = turn(old, call, calls)?;
            after = turn(new, call, calls)?;
        } else {
            after = turn(new, call, calls)?;
            before = turn(old, call, calls)?;
        }
        ratios.push(before / after);
        times.push(after);
    }
    Ok([median(&mut ratios), median(&mut times)])
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    (low + high) / 2.0
}

/// The pairs of backends to compare, by their names.
fn backends(options: &Options) -> Vec<[String; 2]> {
    let named = |text: &String| {
        let (old, new) = text.split_once('=').unwrap_or((text, text));
        [old.to_owned(), new.to_owned()]
    };
    if !options.backends.is_empty() {
        return options.backends.iter().map(named).collect();
    }
    let level = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
    let new: Vec<String> = side::new::backends();
    let mut pairs: Vec<[String; 2]> = Vec::new();
    for old in side::old::backends() {
        let best = new.iter().find(|name| level(name) == level(&old));
        // The first of a level is the one that a user of this CPU gets.
        let first = !pairs.iter().any(|[seen, _]| level(seen) == level(&old));
        if let (Some(best), true) = (best, first) {
            pairs.push([old, best.clone()]);
        }
    }
    pairs
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.list {
        println!("old: {}", side::old::backends().join(" "));
        println!("new: {}", side::new::backends().join(" "));
        return Ok(());
    }
    anyhow::ensure!(
        options.pairs > 0 && options.allocations > 0,
        "expected one pair of turns and of allocations or more"
    );
    let mut by_backend: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    println!("backend, threads, weights, shape, call, N: old time / new time, us a call");
    for [old_name, new_name] in backends(&options) {
        let backend = if old_name == new_name {
            new_name.clone()
        } else {
            format!("{old_name}={new_name}")
        };
        for &threads in &options.threads {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
            let cells =
                pool.install(|| measure(&options, [&old_name, &new_name], threads, &backend))?;
            by_backend
                .entry(format!("{backend}, {threads}"))
                .or_default()
                .extend(cells);
        }
    }
    println!();
    let mut all = Vec::new();
    for (backend, mut ratios) in by_backend {
        report(&backend, &mut ratios);
        all.extend(ratios);
    }
    report("all", &mut all);
    Ok(())
}

fn report(of: &str, ratios: &mut [f64]) {
    let (middle, cells) = (median(ratios), ratios.len());
    println!(
        "{of}: {cells} cells, median {middle:.3}, worst {:.3}",
        ratios[0]
    );
}

/// All cells of one backend and thread count.
fn measure(
    options: &Options,
    names: [&str; 2],
    threads: usize,
    backend: &str,
) -> anyhow::Result<Vec<f64>> {
    let mut found = Vec::new();
    for &shape in &options.shapes {
        for &weights in &options.weights {
            for &tokens in &options.tokens {
                let problem = Problem::new(shape, weights, tokens);
                let mut products: BTreeMap<Call, Vec<[f64; 2]>> = BTreeMap::new();
                for old_first in [true, false].repeat(options.allocations) {
                    let old = |problem| {
                        if options.same {
                            side::new::make(problem, names[1])
                        } else {
                            side::old::make(problem, names[0])
                        }
                    };
                    let (mut a, mut b);
                    if old_first {
                        a = old(&problem)?;
                        b = side::new::make(&problem, names[1])?;
                    } else {
                        b = side::new::make(&problem, names[1])?;
                        a = old(&problem)?;
                    }
                    for &call in &options.calls {
                        let cell = ratio(&mut *a, &mut *b, call, options.pairs)?;
                        products.entry(call).or_default().push(cell);
                    }
                }
                for (call, cells) in products {
                    let mean = |sum: f64| (sum / cells.len() as f64).exp();
                    let ratio = mean(cells.iter().map(|[ratio, _]| ratio.ln()).sum());
                    let us = 1e6 * mean(cells.iter().map(|[_, time]| time.ln()).sum());
                    println!(
                        "{backend} {threads} {weights:?} {shape} {call:?} {tokens}: {ratio:.3}, {us:.1}"
                    );
                    found.push(ratio);
                }
            }
        }
    }
    Ok(found)
}
