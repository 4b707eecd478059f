//! Negated weights give negated sums.

use crate::{config, gemm_i8, shapes};
use proptest::prelude::*;
use tritgemm_testing::case::{Case, Shape, assert_same};
use tritgemm_testing::ways;

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn negated_weights_negate(shape in shapes()) {
        let case = Case::new(shape);
        let Shape { m, k, n, .. } = case.shape;
        let negative: Vec<i8> = case.trits.iter().map(|t| -t).collect();
        for way in &ways() {
            let what = format!("{:?} {way:?}", case.shape);
            let y = gemm_i8(&case.trits, &case.x_i8, [m, k, n], way);
            // Most sums of many terms are not 0, or this would say nothing.
            prop_assert!(m * k < 1000 || y.iter().any(|&v| v != 0), "{what}");
            let wanted: Vec<i32> = y.iter().map(|v| -v).collect();
            let got = gemm_i8(&negative, &case.x_i8, [m, k, n], way);
            assert_same("negated", &what, &got, &wanted);
        }
    }
}
