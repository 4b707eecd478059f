//! Row lanes against column lanes over the number of tokens, on one thread with
//! hot weights: `lanes/i8/2560x2560/N=9/avx2/column`.
//!
//! At the end it prints each backend's crossovers, the first number of tokens
//! from which column lanes are the faster ones: what `crossover_i8` and
//! `crossover_f32` of its kernel set are set from. They come from products run
//! in turn, row and column lanes, less the time that Linux let them wait for a
//! core: benchmarks measured one after the other compare badly on a machine that
//! does something else meanwhile. W1.58A8 runs the int8 kernels behind the same
//! crossover, so it has none of its own.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

mod common;

use common::Profile;
use common::product::{self, Path, Product, Shape};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::LazyCell;
use tritgemm::{Backend, Isa, Lanes, Linear, Options, Threads};

const QUICK_SHAPES: [Shape; 1] = [Shape::new(2560, 2560)];
const SHAPES: [Shape; 4] = [
    Shape::new(2560, 2560),
    Shape::new(4096, 4096),
    Shape::new(14336, 4096),
    Shape::new(4096, 14336),
];
/// Up to the 32 tokens of the smallest int8 tile; beyond it only what is left
/// over after whole tiles is a choice.
const QUICK_TOKENS: [usize; 15] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32];
const TOKENS: [usize; 20] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 28, 32,
];

/// Products of each kind that are run in turn.
const ROUNDS: usize = 15;

/// The scalar row lanes, at some 1.6 GMAC/s, are measured up to here: they lost
/// to the column lanes long before.
const SCALAR_MACS: usize = 1 << 27;

/// Number of tokens, time of row lanes over time of column lanes.
type Gain = (usize, f64);

fn lanes(c: &mut Criterion) {
    let profile = Profile::get();
    let backends = common::backends();
    let mut found = Vec::new();
    for &shape in profile.pick(&QUICK_SHAPES[..], &SHAPES) {
        let layers = LazyCell::new(|| product::hot(shape));
        for path in [Path::I8, Path::F32] {
            for &backend in &backends {
                let gains = sweep(c, path, shape, backend, || &layers[0]);
                found.extend(crossover(path, shape, backend, &gains));
            }
        }
    }
    if !found.is_empty() {
        println!("\ncrossovers: column lanes are faster from N =");
        found.sort();
        found.iter().for_each(|line| println!("{line}"));
    }
}

fn sweep<'a>(
    c: &mut Criterion,
    path: Path,
    shape: Shape,
    backend: Backend,
    layer: impl Fn() -> &'a Linear,
) -> Vec<Gain> {
    let mut group = c.benchmark_group(format!("lanes/{}/{shape}", path.name()));
    let mut gain = |n: usize| {
        let macs = shape.macs(n);
        if backend.isa() == Isa::Scalar && macs > SCALAR_MACS {
            return None;
        }
        group.throughput(common::macs(macs));
        let product = |lanes| {
            let options = Options::new().backend(backend).threads(Threads::Serial);
            Product::new(path, shape, n, options.lanes(lanes))
        };
        let measured = [(Lanes::Row, "row"), (Lanes::Column, "column")].map(|(lanes, what)| {
            let name = format!("N={n}/{}/{what}", backend.name());
            let setup = || (product(lanes), layer());
            common::time(&mut group, name, setup, |(product, layer)| {
                product.run(layer);
            })
        });
        // A name filter that leaves out either leaves out the comparison.
        measured.iter().all(Option::is_some).then(|| {
            let both = [Lanes::Row, Lanes::Column].map(product);
            (n, contest(both, layer()))
        })
    };
    let tokens = Profile::get().pick(&QUICK_TOKENS[..], &TOKENS);
    tokens.iter().filter_map(|&n| gain(n)).collect()
}

/// The median, over rounds in which each ran once, of the first one's time over
/// the second one's.
fn contest(mut products: [Product; 2], layer: &Linear) -> f64 {
    let mut round = || {
        let [first, second] = &mut products;
        let [first, second] = [first, second].map(|product| {
            let queued = common::queued();
            let time = common::repeat(1, || product.run(layer));
            time.saturating_sub(common::queued() - queued).as_secs_f64()
        });
        first / second
    };
    round();
    let mut ratios: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    common::median(&mut ratios)
}

/// A line of the final table: the first N from which on, and at every larger N
/// that was measured, column lanes were faster.
fn crossover(path: Path, shape: Shape, backend: Backend, gains: &[Gain]) -> Option<String> {
    let (most, _) = *gains.last()?;
    let rows_win = gains.iter().rposition(|&(_, gain)| gain <= 1.0);
    let from = gains.get(rows_win.map_or(0, |i| i + 1));
    let from = from.map_or(format!("none up to {most}"), |(n, _)| n.to_string());
    let gains: Vec<String> = gains
        .iter()
        .map(|(n, gain)| format!("{n}: {gain:.2}"))
        .collect();
    Some(format!(
        "{:12} {:4} {:12} {from}\n    time of row lanes / column lanes: {}",
        backend.name(),
        path.name(),
        shape.to_string(),
        gains.join(", ")
    ))
}

criterion_group! {
    name = benches;
    config = common::short_criterion();
    targets = lanes
}
criterion_main!(benches);
