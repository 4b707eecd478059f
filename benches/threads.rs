//! Thread scaling: one token with cold weights, bound by memory, and 128 tokens
//! with hot ones, bound by the cores, in rayon pools of 1 thread up to one a
//! core: `threads/i8/4096x4096/N=1/cold/threads=2`.
//!
//! The measured loop runs inside the pool, as an engine's does; entering a pool
//! from outside would add about 5 us a product. At the end it prints how many
//! times faster than one thread the others were.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

mod common;

use common::Profile;
use common::product::{self, Path, Product, Rotation, layer};
use criterion::{Criterion, criterion_group, criterion_main};
use rayon::ThreadPoolBuilder;
use std::cell::LazyCell;
use std::ops::Deref;
use tritgemm::{Backend, Linear, Options, Threads};
use tritgemm_testing::case::Shape;

const SHAPES: [Shape; 3] = [layer(4096, 4096), layer(2560, 2560), layer(14336, 4096)];

fn threads(c: &mut Criterion) {
    let profile = Profile::get();
    let paths = profile.pick(&[Path::I8, Path::F32][..], &Path::ALL);
    let backends = common::backends();
    let mut scaling = Vec::new();
    for &shape in profile.pick(&SHAPES[..1], &SHAPES) {
        let cold = LazyCell::new(|| product::cold(shape));
        let hot = LazyCell::new(|| product::hot(shape));
        for &path in paths {
            for &backend in profile.pick(&backends[..1], &backends) {
                scaling.extend(scale(c, path, shape, backend, (1, "cold"), &cold));
                scaling.extend(scale(c, path, shape, backend, (128, "hot"), &hot));
            }
        }
    }
    if !scaling.is_empty() {
        println!("\nspeed-up over one thread");
        scaling.iter().for_each(|line| println!("{line}"));
    }
}

/// One product over all numbers of threads; a line for the final table.
fn scale(
    c: &mut Criterion,
    path: Path,
    shape: Shape,
    backend: Backend,
    (n, weights): (usize, &str),
    layers: &impl Deref<Target = Vec<Linear>>,
) -> Option<String> {
    let case = format!("{}/{shape}/N={n}/{}/{weights}", path.name(), backend.name());
    let mut group = c.benchmark_group(format!("threads/{case}"));
    let shape = Shape { n, ..shape };
    group.throughput(common::macs(shape.macs()));
    let options = Options::new().backend(backend).threads(Threads::Rayon);
    let options = options.weights_in_cache(weights == "hot");
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let mut seconds = Vec::new();
    for threads in counts(cores) {
        let setup = || {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            let product = Product::new(path, shape, options.clone());
            (pool.expect("a pool"), product, Rotation::new(layers))
        };
        let name = format!("threads={threads}");
        let time = common::time_batches(&mut group, name, setup, |state, iterations| {
            let (pool, product, layers) = state;
            pool.install(|| common::repeat(iterations, || product.run(layers.next_layer())))
        });
        seconds.push((threads, time));
    }
    let one = seconds[0].1?;
    let more = |&(threads, time): &(usize, Option<f64>)| {
        Some(format!("{threads} threads {:.2} x", one / time?))
    };
    let speedups: Vec<String> = seconds[1..].iter().filter_map(more).collect();
    (!speedups.is_empty()).then(|| format!("{case:45} {}", speedups.join(", ")))
}

/// Every number of threads up to 8, then powers of two, and all cores.
fn counts(cores: usize) -> impl Iterator<Item = usize> {
    (1..=cores).filter(move |&n| n <= 8 || n.is_power_of_two() || n == cores)
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = threads
}
criterion_main!(benches);
