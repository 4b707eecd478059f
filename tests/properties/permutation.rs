//! The order of the rows is the order of the outputs, and nothing else.

use crate::{config, forward, forward_f32, gemm_i8, layer, shapes};
use proptest::prelude::*;
use tritgemm::Scales;
use tritgemm_testing::case::{Case, Shape, assert_same};
use tritgemm_testing::{Rng, bits, ways};

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn permuted_rows_permute(shape in shapes()) {
        let case = Case::new(shape);
        let Shape { m, k, n, .. } = case.shape;
        let mut rng = Rng::new(case.shape.seed);
        let mut order: Vec<usize> = (0..m).collect();
        for i in (1..m).rev() {
            order.swap(i, rng.below(i + 1));
        }
        let rows = order.iter().flat_map(|&r| &case.trits[r * k..][..k]);
        let permuted: Vec<i8> = rows.copied().collect();
        let scales = || Scales::per_tensor(0.75);
        let layers = [&case.trits, &permuted].map(|t| layer(t, m, k, scales()));
        for way in &ways() {
            let what = format!("{:?} {way:?}", case.shape);
            let [y, got] = [&case.trits, &permuted].map(|t| gemm_i8(t, &case.x_i8, [m, k, n], way));
            assert_same("int8", &what, &got, &reordered(&y, &order));
            for run in [forward_f32, forward] {
                let [y, got] = layers.each_ref().map(|l| bits(&run(l, &case.x_f32, n, way)));
                assert_same("float", &what, &got, &reordered(&y, &order));
            }
        }
    }
}

/// Outputs `[n][m]` in another order of their m.
fn reordered<T: Copy>(y: &[T], order: &[usize]) -> Vec<T> {
    let token = |y: &[T]| order.iter().map(|&r| y[r]).collect::<Vec<T>>();
    y.chunks(order.len()).flat_map(token).collect()
}
