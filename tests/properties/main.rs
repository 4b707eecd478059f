//! What must hold without knowing any result, for random shapes and values, on
//! every backend and with both lanes.
//!
//! | property | where |
//! |---|---|
//! | `decode(encode(x)) = x`; `encode(decode(b)) = b` for every legal `b` | [`encoding`] |
//! | packing and unpacking undo each other, both ways | [`packing`] |
//! | negating the weights negates int8 results exactly | [`negation`] |
//! | permuting the rows permutes the outputs | [`permutation`] |
//! | int8 products of parts of K add up to the whole | [`parts_of_k`] |
//! | splitting rows or tokens changes no bit | [`splits`] |
//! | splitting the work among threads changes no bit | [`splits`], and beside an oracle `bit_exact::threads` |
//! | a power of two passes through the f32 product exactly | [`powers_of_two`] |
//! | a zero weight ignores its activation, NaN and infinity included | [`zero_weights`] |

mod encoding;
mod negation;
mod packing;
mod parts_of_k;
mod permutation;
mod powers_of_two;
mod splits;
mod zero_weights;

use proptest::prelude::*;
use proptest::test_runner::Config;
use tritgemm::{Linear, Options, Scales, TernaryMatrix};
use tritgemm_testing::case::{Case, GRANULARITIES, Shape, Values};
use tritgemm_testing::{bits, quick, view, view_mut, workspace};

/// Cases are reproducible from the failing shape that proptest prints.
fn config(cases: u32) -> Config {
    Config {
        cases: if quick() { cases.div_ceil(8) } else { cases },
        failure_persistence: None,
        ..Config::default()
    }
}

/// A dense product of at least one row, column and token.
fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (1..200usize, 1..700usize, 1..40usize);
    let kinds = (0..GRANULARITIES.len(), any::<bool>(), any::<u64>());
    (sizes, kinds).prop_map(|((m, k, n), (granularity, bias, seed))| Shape {
        granularity: GRANULARITIES[granularity],
        bias,
        values: Values::Wide,
        seed,
        ..Shape::new(m, k, n)
    })
}

fn layer(trits: &[i8], m: usize, k: usize, scales: Scales) -> Linear {
    let matrix = TernaryMatrix::from_trits(view(trits, m, k), scales).expect("a matrix");
    Linear::new(&matrix).expect("a layer")
}

/// `trits` `[m][k]` times `x` `[n][k]`.
fn gemm_i8(trits: &[i8], x: &[i8], [m, k, n]: [usize; 3], way: &Options) -> Vec<i32> {
    let layer = layer(trits, m, k, Scales::per_tensor(1.0));
    layer_i8(&layer, x, n, way)
}

fn layer_i8(layer: &Linear, x: &[i8], n: usize, way: &Options) -> Vec<i32> {
    let (m, k) = (layer.out_features(), layer.in_features());
    let (mut y, ws) = (vec![-1; n * m], &mut workspace(way));
    let (x, out) = (view(x, n, k), view_mut(&mut y, n, m));
    layer.panels().gemm_i8(x, out, ws).expect("fits");
    y
}

fn forward_f32(layer: &Linear, x: &[f32], n: usize, way: &Options) -> Vec<f32> {
    let (m, k) = (layer.out_features(), layer.in_features());
    let (mut y, ws) = (vec![7.0; n * m], &mut workspace(way));
    layer
        .forward_f32(view(x, n, k), view_mut(&mut y, n, m), ws)
        .expect("fits");
    y
}

/// The W1.58A8 product.
fn forward(layer: &Linear, x: &[f32], n: usize, way: &Options) -> Vec<f32> {
    let (m, k) = (layer.out_features(), layer.in_features());
    let (mut y, ws) = (vec![7.0; n * m], &mut workspace(way));
    layer
        .forward_int8(view(x, n, k), view_mut(&mut y, n, m), ws)
        .expect("finite");
    y
}

/// The three products of a case: int8 sums, and the bits of the float ones.
fn products(case: &Case, way: &Options) -> (Vec<i32>, [Vec<u32>; 2]) {
    let (layer, n) = (&case.layer, case.shape.n);
    let floats = [forward_f32, forward].map(|run| bits(&run(layer, &case.x_f32, n, way)));
    (layer_i8(layer, &case.x_i8, n, way), floats)
}
