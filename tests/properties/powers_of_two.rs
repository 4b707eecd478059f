//! Scaling by a power of two commutes with every rounding.

use crate::{config, forward_f32, shapes};
use proptest::prelude::*;
use tritgemm::Linear;
use tritgemm_testing::case::{Case, assert_same};
use tritgemm_testing::{bits, ways};

proptest! {
    #![proptest_config(config(24))]

    /// The activations lie between 2^-43 and 2^20 in magnitude, or are 0, and the scales above
    /// 2^-27: with these factors no sum overflows, and no sum or product that
    /// is not 0 leaves the normal range.
    #[test]
    fn powers_of_two_pass_through_f32(shape in shapes(), power in -30..40i32) {
        let case = Case::new(shape);
        // Without the bias, which is not scaled along.
        let panels = case.layer.panels().clone();
        let layer = Linear::from_parts(panels, case.scales.clone(), None).expect("a layer");
        let factor = 2f32.powi(power);
        let x: Vec<f32> = case.x_f32.iter().map(|v| v * factor).collect();
        for way in &ways() {
            let what = format!("2^{power}, {:?} {way:?}", case.shape);
            let y = forward_f32(&layer, &case.x_f32, case.shape.n, way);
            let wanted: Vec<f32> = y.iter().map(|v| v * factor).collect();
            let got = forward_f32(&layer, &x, case.shape.n, way);
            assert_same("forward_f32", &what, &bits(&got), &bits(&wanted));
        }
    }
}
