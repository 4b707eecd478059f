//! Many threads, pools within pools, callbacks that panic: the same bits.
//!
//! | module | what it shows |
//! |---|---|
//! | [`sharing`] | one layer, one set of prepared activations, 64 threads |
//! | [`pools`] | rayon pools: of one thread, nested, inside of each other |
//! | [`panics`] | a caller's pool that panics halfway leaves everything usable |
//!
//! `.ci/sanitize tsan` runs these under the thread sanitizer.

mod panics;
#[cfg(feature = "rayon")]
mod pools;
mod sharing;

use tritgemm::Workspace;
use tritgemm_testing::case::{Case, Shape, Values};
use tritgemm_testing::quick;

/// At least 2^21 MACs, so that products are shared: one token, and several with
/// some left over by whole tiles; scales by row and by group.
fn cases() -> Vec<Case> {
    let sizes = [(2900, 730, 1, 2), (710, 420, 41, 128)];
    let shape = |(m, k, n, granularity)| Shape {
        gaps: [1, 2],
        granularity,
        values: Values::Wide,
        seed: (m + n) as u64,
        ..Shape::new(m, k, n)
    };
    // Under an emulator or a sanitizer the second alone: it takes both lanes.
    let shapes = sizes.map(shape).into_iter().skip(usize::from(quick()));
    let cases: Vec<Case> = shapes.map(Case::new).collect();
    for case in &cases {
        let Shape { m, k, n, .. } = case.shape;
        assert!(m * k * n >= 1 << 21, "too small to be shared: {m} {k} {n}");
    }
    cases
}

#[derive(PartialEq, Debug)]
struct Results {
    integers: Vec<i32>,
    /// Bits of the f32, the W1.58A8 and the prepared product.
    floats: [Vec<u32>; 3],
}

fn results(case: &Case, ws: &mut Workspace) -> Results {
    let strided = case.strided(&case.x_f32, f32::NAN);
    let x = case.strided_view(&strided);
    let prepared = case.layer.prepare_int8(x, ws).expect("finite");
    let integers = case.gemm_i8(ws);
    let floats = [
        case.forward_f32(ws),
        case.forward_int8(ws),
        case.prepared_int8(&prepared, ws),
    ];
    Results { integers, floats }
}
