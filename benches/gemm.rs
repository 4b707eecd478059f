//! The product through the public API on one thread: activation type, shape,
//! number of tokens, backend; `gemm/i8/4096x4096/N=8/avx2/zen4/hot`.
//!
//! Gelem/s is GMAC/s. Hot is the same weights every time, in whichever cache
//! they fit; cold rotates over copies that together exceed 512 MB, so that every
//! byte of weights comes from memory: divide GMAC/s by 4 for its GB/s.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

mod common;

use common::Profile;
use common::product::{self, Path, Product, Rotation, SHAPES, layer};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::LazyCell;
use std::ops::Deref;
use tritgemm::{Linear, Options, Threads};
use tritgemm_testing::case::Shape;

const QUICK_SHAPES: [Shape; 2] = [layer(2560, 2560), layer(4096, 4096)];
const QUICK_TOKENS: [usize; 6] = [1, 4, 8, 16, 32, 128];
const TOKENS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 512];

fn gemm(c: &mut Criterion) {
    let profile = Profile::get();
    let tokens = profile.pick(&QUICK_TOKENS[..], &TOKENS);
    for &shape in profile.pick(&QUICK_SHAPES[..], &SHAPES) {
        let layers = LazyCell::new(|| product::hot(shape));
        sweep(c, shape, "hot", tokens, &layers);
        let layers = LazyCell::new(|| product::cold(shape));
        // From N = 2 on, the quick profile leaves it at what is in cache.
        sweep(c, shape, "cold", profile.pick(&[1], tokens), &layers);
    }
}

/// All activation types and backends, on `layers`, made when first needed.
fn sweep(
    c: &mut Criterion,
    shape: Shape,
    weights: &str,
    tokens: &[usize],
    layers: &impl Deref<Target = Vec<Linear>>,
) {
    for path in Path::ALL {
        let mut group = c.benchmark_group(format!("gemm/{}/{shape}", path.name()));
        for &n in tokens {
            let shape = Shape { n, ..shape };
            let macs = shape.macs();
            group.throughput(common::macs(macs));
            for backend in common::backends() {
                if !common::affordable(backend, macs) {
                    continue;
                }
                let options = Options::new().backend(backend).threads(Threads::Serial);
                let options = options.weights_in_cache(weights == "hot");
                let name = format!("N={n}/{}/{weights}", backend.name());
                let setup = || {
                    let product = Product::new(path, shape, options.clone());
                    (product, Rotation::new(layers))
                };
                common::time(&mut group, name, setup, |(product, layers)| {
                    product.run(layers.next_layer());
                });
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = gemm
}
criterion_main!(benches);
