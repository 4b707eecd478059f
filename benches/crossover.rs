//! The kernels for few tokens against those for many over the number of tokens, on
//! one thread with hot weights: `crossover/i8/2560x2560/N=9/avx2/zen4/many`.
//!
//! Up to half the largest tile, 16 int8 or 8 f32 tokens, the kernel for many tokens is
//! the one with smaller tiles where there is one. At the end it prints each backend's
//! crossovers: the first number of tokens from which a smaller tile beats the kernel
//! for few tokens (`small`), and the first from which the largest tile beats a smaller
//! one and few for the rest (`large`): what `from` of a row of the registry is set from.
//! They come from products run in turn, few and many, less the time that Linux let them
//! wait for a core: benchmarks measured one after the other compare badly on a machine
//! that does something else meanwhile. W1.58A8 runs the int8 kernels behind the same
//! crossover, so it has none of its own.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

mod common;

use common::Profile;
use common::product::{self, Path, Product, layer};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::LazyCell;
use tritgemm::{Backend, Family, Linear, Options, Threads};
use tritgemm_testing::case::Shape;

const QUICK_SHAPES: [Shape; 1] = [layer(2560, 2560)];
const SHAPES: [Shape; 4] = [
    layer(2560, 2560),
    layer(4096, 4096),
    layer(14336, 4096),
    layer(4096, 14336),
];
/// Up to the 32 tokens of the largest int8 tile; beyond it only what is left over
/// after whole tiles is a choice.
const QUICK_TOKENS: [usize; 15] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32];
const TOKENS: [usize; 20] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 28, 32,
];

/// Products of each kind that are run in turn.
const ROUNDS: usize = 15;

/// Number of tokens, seconds of few and of many.
type Times = (usize, [f64; 2]);

fn crossovers(c: &mut Criterion) {
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
        println!("\ncrossovers: kernels for many tokens are faster from N =");
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
    let mut group = c.benchmark_group(format!("crossover/{}/{shape}", path.name()));
    let mut both = |n: usize| {
        let shape = Shape { n, ..shape };
        let macs = shape.macs();
        if !common::affordable(backend, macs) {
            return None;
        }
        group.throughput(common::macs(macs));
        let product = |family| {
            let options = Options::new().backend(backend).threads(Threads::Serial);
            let options = options.weights_in_cache(true);
            Product::new(path, shape, options.family(family))
        };
        let measured = [(Family::Few, "few"), (Family::Many, "many")].map(|(family, what)| {
            let name = format!("N={n}/{}/{what}", backend.name());
            let setup = || (product(family), layer());
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
    let at = |n: usize, family: usize| {
        let found = times.iter().find(|&&(tokens, _)| tokens == n);
        found.map(|(_, seconds)| seconds[family])
    };
    let upto = times.iter().filter(|&&(n, _)| n <= half);
    let small = first(upto.map(|&(n, [few, many])| (n, few, many)));
    // Beyond half a tile: a smaller tile and few, against the largest one.
    let beyond = times.iter().filter(|&&(n, _)| n > half);
    let large = first(beyond.filter_map(|&(n, [_, many])| {
        let mixed = at(half, 1)? + at(n - half, 0)?;
        Some((n, mixed, many))
    }));
    let ratios: Vec<String> = times
        .iter()
        .map(|(n, [few, many])| format!("{n}: {:.2}", few / many))
        .collect();
    Some(format!(
        "{:12} {:4} {:12} small {small}, large {large}\n    time of few / many: {}",
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
    targets = crossovers
}
criterion_main!(benches);
