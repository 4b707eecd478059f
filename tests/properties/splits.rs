//! Rows, tokens and threads may be split anyhow.

use crate::{config, forward, forward_f32, layer_i8, products, shapes};
use proptest::prelude::*;
use tritgemm_testing::case::{Case, Shape, assert_same};
use tritgemm_testing::{bits, ways};

proptest! {
    #![proptest_config(config(24))]

    /// Tokens `0..cut` and the others, by themselves.
    #[test]
    fn tokens(shape in shapes(), cut: prop::sample::Index) {
        let case = Case::new(shape);
        let Shape { k, n, .. } = case.shape;
        let cut = cut.index(n + 1);
        for way in &ways() {
            let what = format!("cut at {cut}, {:?} {way:?}", case.shape);
            let (integers, floats) = products(&case, way);
            let (head, tail) = case.x_i8.split_at(cut * k);
            let parts = [(head, cut), (tail, n - cut)];
            let got = parts.map(|(x, n)| layer_i8(&case.layer, x, n, way)).concat();
            assert_same("int8", &what, &got, &integers);
            let (head, tail) = case.x_f32.split_at(cut * k);
            for (run, wanted) in [forward_f32, forward].into_iter().zip(&floats) {
                let parts = [(head, cut), (tail, n - cut)];
                let got = parts.map(|(x, n)| bits(&run(&case.layer, x, n, way))).concat();
                assert_same("float", &what, &got, wanted);
            }
        }
    }

    /// Any range of panels.
    #[test]
    fn rows(shape in shapes(), start: prop::sample::Index, end: prop::sample::Index) {
        let case = Case::new(shape);
        let Shape { m, n, .. } = case.shape;
        let panels = m.div_ceil(64);
        let start = start.index(panels);
        let end = start + end.index(panels - start + 1);
        let rows = (64 * start).min(m)..(64 * end).min(m);
        let slice = case.layer.slice_rows(rows.clone()).expect("at panels");
        for way in &ways() {
            let what = format!("rows {rows:?}, {:?} {way:?}", case.shape);
            let (integers, floats) = products(&case, way);
            let got = layer_i8(&slice, &case.x_i8, n, way);
            let wanted: Vec<i32> = integers.chunks(m).flat_map(|y| y[rows.clone()].to_vec()).collect();
            assert_same("int8", &what, &got, &wanted);
            for (run, whole) in [forward_f32, forward].into_iter().zip(&floats) {
                let wanted: Vec<u32> = whole.chunks(m).flat_map(|y| y[rows.clone()].to_vec()).collect();
                assert_same("float", &what, &bits(&run(&slice, &case.x_f32, n, way)), &wanted);
            }
        }
    }
}

#[cfg(feature = "rayon")]
proptest! {
    #![proptest_config(config(8))]

    /// Products large enough to be shared among 1 to 9 threads.
    #[test]
    fn threads(m in 900..1300usize, n in 1..40usize, count in 1..10usize, seed: u64) {
        use tritgemm::Threads;
        use tritgemm_testing::case::Values;
        let k = (1usize << 21).div_ceil(m * n).max(50);
        let case = Case::new(Shape { values: Values::Wide, seed, ..Shape::new(m, k, n) });
        let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build().expect("a pool");
        for way in &ways() {
            let alone = products(&case, way);
            let shared = pool.install(|| products(&case, &way.clone().threads(Threads::Rayon)));
            prop_assert!(alone == shared, "{count} threads, {:?} {way:?}", case.shape);
        }
    }
}
