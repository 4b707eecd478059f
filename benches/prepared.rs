//! Activations prepared once for three matrices (Q, K and V) against three
//! calls that each prepare their own: `prepared/w1a8/2560x2560/N=8/shared`.
//! On one thread, hot weights; the preparation is part of both times.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

mod common;

use common::Profile;
use common::product::{self, Path, Product, layer};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::LazyCell;
use tritgemm::{Options, Threads};
use tritgemm_testing::case::Shape;

/// The last one is K and V with grouped queries: little work per preparation.
const SHAPES: [Shape; 3] = [layer(2560, 2560), layer(4096, 4096), layer(640, 2560)];

fn prepared(c: &mut Criterion) {
    let profile = Profile::get();
    let backends = common::backends();
    for &shape in profile.pick(&SHAPES[..1], &SHAPES) {
        let qkv = LazyCell::new(|| product::copies(shape, 3));
        for path in Path::ALL {
            let mut group = c.benchmark_group(format!("prepared/{}/{shape}", path.name()));
            for n in [1, 8, 64] {
                let shape = Shape { n, ..shape };
                group.throughput(common::macs(3 * shape.macs()));
                for &backend in profile.pick(&backends[..1], &backends) {
                    let options = Options::new().backend(backend).threads(Threads::Serial);
                    let options = options.weights_in_cache(true);
                    let setup = || (Product::new(path, shape, options.clone()), &qkv[..]);
                    let name = |what| format!("N={n}/{}/{what}", backend.name());
                    common::time(&mut group, name("separate"), setup, |(product, qkv)| {
                        for layer in *qkv {
                            product.run(layer);
                        }
                    });
                    common::time(&mut group, name("shared"), setup, |(product, qkv)| {
                        let x = product.prepare(&qkv[0]);
                        for layer in *qkv {
                            product.run_prepared(layer, &x);
                        }
                    });
                }
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = prepared
}
criterion_main!(benches);
