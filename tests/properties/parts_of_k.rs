//! An int8 sum is the sum of its parts, wherever K is cut.

use crate::{config, gemm_i8, shapes};
use proptest::prelude::*;
use std::ops::Range;
use tritgemm_testing::case::{Case, Shape, assert_same};
use tritgemm_testing::ways;

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn parts_of_k_add_up(shape in shapes(), cut: prop::sample::Index) {
        let case = Case::new(shape);
        let Shape { m, k, n, .. } = case.shape;
        let cut = cut.index(k + 1);
        let columns = |data: &[i8], range: Range<usize>| -> Vec<i8> {
            data.chunks(k).flat_map(|row| row[range.clone()].to_vec()).collect()
        };
        for way in &ways() {
            let part = |range: Range<usize>| {
                let (w, x) = (columns(&case.trits, range.clone()), columns(&case.x_i8, range.clone()));
                gemm_i8(&w, &x, [m, range.len(), n], way)
            };
            let whole = gemm_i8(&case.trits, &case.x_i8, [m, k, n], way);
            let (head, tail) = (part(0..cut), part(cut..k));
            let sum: Vec<i32> = head.iter().zip(&tail).map(|(a, b)| a + b).collect();
            let what = format!("cut at {cut}, {:?} {way:?}", case.shape);
            assert_same("parts", &what, &sum, &whole);
        }
    }
}
