//! Row lanes against column lanes over the number of tokens, on one thread with
//! hot weights: `lanes/i8/2560x2560/N=9/avx2/column`.
//!
//! Up to half a wide tile, 16 int8 or 8 f32 tokens, column lanes are the narrow
//! kernel's where there is one. At the end it prints each backend's crossovers:
//! the first number of tokens from which column lanes are the faster ones
//! (`narrow`), and the first from which a wide tile is faster than a narrow one
//! and row lanes for the rest (`wide`): what `crossover_i8` and `crossover_f32` of
//! its kernel set are set from. They come from products run in turn, row and
//! column lanes, less the time that Linux let them wait for a core: benchmarks
//! measured one after the other compare badly on a machine that does something
//! else meanwhile. W1.58A8 runs the int8 kernels behind the same crossover, so it
//! has none of its own.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

mod common;

use common::Profile;
use common::product::{self, Path, Product, Shape};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::LazyCell;
use tritgemm::{Backend, Family, Linear, Options, Threads};

const QUICK_SHAPES: [Shape; 1] = [Shape::new(2560, 2560)];
const SHAPES: [Shape; 4] = [
    Shape::new(2560, 2560),
    Shape::new(4096, 4096),
    Shape::new(14336, 4096),
    Shape::new(4096, 14336),
];
/// Up to the 32 tokens of a wide int8 tile; beyond it only what is left over
/// after whole tiles is a choice.
const QUICK_TOKENS: [usize; 15] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32];
const TOKENS: [usize; 20] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 28, 32,
];

/// Products of each kind that are run in turn.
const ROUNDS: usize = 15;

/// Number of tokens, seconds of row lanes and of column lanes.
type Times = (usize, [f64; 2]);

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
) -> Vec<Times> {
    let mut group = c.benchmark_group(format!("lanes/{}/{shape}", path.name()));
    let mut both = |n: usize| {
        let macs = shape.macs(n);
        if !common::affordable(backend, macs) {
            return None;
        }
        group.throughput(common::macs(macs));
        let product = |lanes| {
            let options = Options::new().backend(backend).threads(Threads::Serial);
            Product::new(path, shape, n, options.family(family))
        };
        let measured = [(Family::Few, "row"), (Family::Many, "column")].map(|(lanes, what)| {
            let name = format!("N={n}/{}/{what}", backend.name());
            let setup = || (product(lanes), layer());
            common::time(&mut group, name, setup, |(product, layer)| {
                product.run(layer);
            })
        });
        // A name filter that leaves out either leaves out the comparison.
        measured.iter().all(Option::is_some).then(|| {
            let both = [Family::Few, Family::Many].map(product);
            (n, contest(both, layer()))
        })
    };
    let tokens = Profile::get().pick(&QUICK_TOKENS[..], &TOKENS);
    tokens.iter().filter_map(|&n| both(n)).collect()
}

/// The median seconds of each, over rounds in which each ran once.
fn contest(mut products: [Product; 2], layer: &Linear) -> [f64; 2] {
    let mut seconds = [const { Vec::new() }; 2];
    for round in 0..=ROUNDS {
        for (product, seconds) in products.iter_mut().zip(&mut seconds) {
            let queued = common::queued();
            let time = common::repeat(1, || product.run(layer));
            // The first round fills the caches.
            if round > 0 {
                seconds.push(time.saturating_sub(common::queued() - queued).as_secs_f64());
            }
        }
    }
    seconds.map(|mut seconds| common::median(&mut seconds))
}

/// A line of the final table.
fn crossover(path: Path, shape: Shape, backend: Backend, times: &[Times]) -> Option<String> {
    times.last()?;
    let half = match path {
        Path::F32 => 8,
        _ => 16,
    };
    let at = |n: usize, lanes: usize| {
        let found = times.iter().find(|&&(tokens, _)| tokens == n);
        found.map(|(_, seconds)| seconds[lanes])
    };
    let upto = times.iter().filter(|&&(n, _)| n <= half);
    let narrow = first(upto.map(|&(n, [row, column])| (n, row, column)));
    // Beyond half a tile: a narrow tile and rows, against a wide one.
    let beyond = times.iter().filter(|&&(n, _)| n > half);
    let wide = first(beyond.filter_map(|&(n, [_, column])| {
        let mixed = at(half, 1)? + at(n - half, 0)?;
        Some((n, mixed, column))
    }));
    let ratios: Vec<String> = times
        .iter()
        .map(|(n, [row, column])| format!("{n}: {:.2}", row / column))
        .collect();
    Some(format!(
        "{:12} {:4} {:12} narrow {narrow}, wide {wide}\n    time of row lanes / column lanes: {}",
        backend.name(),
        path.name(),
        shape.to_string(),
        ratios.join(", ")
    ))
}

/// The first number of tokens from which on, and at every larger one that was
/// measured, the second time is the shorter.
fn first(times: impl Iterator<Item = (usize, f64, f64)>) -> String {
    let times: Vec<_> = times.collect();
    let lost = times.iter().rposition(|&(_, other, this)| other <= this);
    match (times.get(lost.map_or(0, |i| i + 1)), times.last()) {
        (Some((n, ..)), _) => n.to_string(),
        (None, Some((most, ..))) => format!("none up to {most}"),
        (None, None) => "not measured".to_owned(),
    }
}

criterion_group! {
    name = benches;
    config = common::short_criterion();
    targets = lanes
}
criterion_main!(benches);
