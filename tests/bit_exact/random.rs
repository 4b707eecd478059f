//! Random shapes, and every entry point on them.

use half::{bf16, f16};
use proptest::prelude::*;
use proptest::test_runner::Config;
use tritgemm::{GroupSize, Options, PreparedActivations};
use tritgemm_testing::case::{Case, GRANULARITIES, Shape, VALUES, Values, assert_same};
use tritgemm_testing::{bits, oracle, quick, view, view_mut, ways, workspace};

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
        for way in ways() {
            case.check(way, &expected);
        }
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn prepared_activations(shape in shape()) {
        let case = Case::new(shape);
        for way in ways() {
            prepared(&case, way);
        }
    }

    #[test]
    fn half_precision(mut shape in shape()) {
        shape.values = Values::Unit;
        let case = Case::new(shape);
        for way in ways() {
            halves(&case, way);
        }
    }
}

fn prepared(case: &Case, way: Options) {
    let ws = &mut workspace(way);
    let Shape { m, n, .. } = case.shape;
    let what = format!("{:?} {way:?}", case.shape);
    let group = case.group().and_then(GroupSize::from_len);

    let strided = case.strided(&case.x_f32, f32::NAN);
    let x = case.strided_view(&strided);
    let float = PreparedActivations::float(x, group, ws).expect("prepared");
    let quantized = PreparedActivations::quantize(x, group, ws);

    let strided = case.strided(&case.x_i8, 77);
    let token_scales: Vec<f32> = (0..n).map(|i| 0.25 + i as f32).collect();
    let x = case.strided_view(&strided);
    let int8 = PreparedActivations::int8(x, token_scales.clone(), group, ws).expect("prepared");
    let wanted_int8 =
        case.affine(|a| oracle::scaled_integers(case.operands(&case.x_i8), &token_scales, a));

    // Twice: a product must leave prepared activations as they were.
    for _ in 0..2 {
        let wanted = case.forward_f32(ws);
        assert_same(
            "prepared f32",
            &what,
            &case.forward_prepared(&float, ws),
            &wanted,
        );
        if let Ok(quantized) = &quantized {
            let wanted = case.forward(ws);
            assert_same(
                "quantised",
                &what,
                &case.forward_prepared(quantized, ws),
                &wanted,
            );
        }
        let got = case.forward_prepared(&int8, ws);
        assert_same("prepared int8", &what, &got, &bits(&wanted_int8));
    }
    assert_eq!([float.tokens(), float.cols()], [n, case.shape.k]);

    let x = case.strided_view(&strided);
    let raw = PreparedActivations::int8(x, token_scales, None, ws).expect("prepared");
    let mut y = vec![-1; n * m];
    let panels = case.layer.panels();
    panels
        .gemm_i8_prepared(&raw, view_mut(&mut y, n, m), ws)
        .expect("fits");
    assert_same("gemm_i8_prepared", &what, &y, &case.gemm_i8(ws));
}

/// f16 and bf16 activations are those f32 values.
fn halves(case: &Case, way: Options) {
    let ws = &mut workspace(way);
    let Shape { m, k, n, .. } = case.shape;
    let what = format!("{:?} {way:?}", case.shape);
    let x16: Vec<f16> = case.x_f32.iter().map(|&v| f16::from_f32(v)).collect();
    let xb16: Vec<bf16> = case.x_f32.iter().map(|&v| bf16::from_f32(v)).collect();
    let mut wanted = vec![0.0; n * m];
    let mut got = vec![1.0; n * m];
    let layer = &case.layer;

    let wide: Vec<f32> = x16.iter().map(|v| v.to_f32()).collect();
    layer
        .forward(view(&wide, n, k), view_mut(&mut wanted, n, m), ws)
        .expect("fits");
    layer
        .forward(view(&x16, n, k), view_mut(&mut got, n, m), ws)
        .expect("fits");
    assert_same("f16", &what, &bits(&got), &bits(&wanted));

    let wide: Vec<f32> = xb16.iter().map(|v| v.to_f32()).collect();
    layer
        .forward(view(&wide, n, k), view_mut(&mut wanted, n, m), ws)
        .expect("fits");
    layer
        .forward(view(&xb16, n, k), view_mut(&mut got, n, m), ws)
        .expect("fits");
    assert_same("bf16", &what, &bits(&got), &bits(&wanted));
}
