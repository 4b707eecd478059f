//! Random shapes, and every entry point on them.

use half::{bf16, f16};
use proptest::prelude::*;
use proptest::test_runner::Config;
use tritgemm_testing::case::{Case, GRANULARITIES, Shape, VALUES, Values};
use tritgemm_testing::{quick, ways, workspace};

fn shape() -> impl Strategy<Value = Shape> {
    let sizes = (0..200usize, 0..900usize, 0..70usize);
    let gaps = (0..9usize, 0..9usize);
    let kinds = (0..GRANULARITIES.len(), any::<bool>(), 0..VALUES.len());
    (sizes, gaps, kinds, any::<u64>()).prop_map(
        |((m, k, n), gaps, (granularity, bias, values), seed)| Shape {
            m,
            k,
            n,
            gaps: gaps.into(),
            granularity: GRANULARITIES[granularity],
            bias,
            values: VALUES[values],
            seed,
        },
    )
}

/// Cases are reproducible from the failing shape that proptest prints.
fn config(cases: u32) -> Config {
    Config {
        cases: if quick() { cases.div_ceil(10) } else { cases },
        failure_persistence: None,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn products(shape in shape()) {
        let case = Case::new(shape);
        let expected = case.expected();
        for way in &ways() {
            case.check(way, &expected);
        }
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn prepared_activations(shape in shape()) {
        let case = Case::new(shape);
        let (expected, int8) = (case.expected(), case.expected_int8());
        for way in &ways() {
            case.check_prepared(way, &expected, &int8);
        }
    }

    /// f16 and bf16 activations are those f32 values.
    #[test]
    fn half_precision(mut shape in shape()) {
        shape.values = Values::Unit;
        let case = Case::new(shape);
        let x16: Vec<f16> = case.x_f32.iter().map(|&v| f16::from_f32(v)).collect();
        let xb16: Vec<bf16> = case.x_f32.iter().map(|&v| bf16::from_f32(v)).collect();
        let expected16 = case.quantized(&x16.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        let expected_b16 = case.quantized(&xb16.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        for way in &ways() {
            let ws = &mut workspace(way);
            case.check_quantized(&x16, f16::NAN, &expected16, ws);
            case.check_quantized(&xb16, bf16::NAN, &expected_b16, ws);
        }
    }
}
