//! `RmsNorm` against f64, forward and backward, in f32, f16 and bf16.

use half::{bf16, f16};
use proptest::prelude::*;
use tritgemm::nn::{LayerError, RmsNorm};
use tritgemm::{MatMut, MatRef};
use tritgemm_testing::floats::{Float, narrowed, widened};
use tritgemm_testing::{bits, view, view_mut};

const U: f64 = f32::EPSILON as f64 / 2.0;
/// Half the distance of f32's smallest values: what rounding near zero costs.
const TINY: f64 = 1e-45;

fn inverse_rms(x: &[f32], eps: f32) -> f64 {
    let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
    1.0 / (mean + f64::from(eps)).sqrt()
}

fn values(
    kind: impl Strategy<Value = f32> + 'static,
) -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    let kind = kind.boxed();
    (1_usize..200).prop_flat_map(move |n| {
        (
            prop::collection::vec(kind.clone(), n),
            prop::collection::vec(-2.0_f32..2.0, n),
        )
    })
}

proptest! {
    /// Three roundings: of 1 / rms, of its product with x and of that with the
    /// gain; for tokens of any size, the largest included.
    #[test]
    fn outputs_are_within_three_roundings((x, gain) in values(prop_oneof![
        4 => -3.0_f32..3.0,
        1 => any::<f32>().prop_filter("finite", |v| v.is_finite()),
        1 => Just(f32::MAX),
    ])) {
        let norm = RmsNorm::new(gain.clone()).unwrap();
        let mut y = vec![f32::NAN; x.len()];
        norm.forward(view(&x, 1, x.len()), view_mut(&mut y, 1, x.len())).unwrap();
        let r = inverse_rms(&x, RmsNorm::EPS);
        for ((&x, &gain), &y) in x.iter().zip(&gain).zip(&y) {
            let exact = f64::from(x) * r * f64::from(gain);
            let bound = 3.01 * U * exact.abs() + 3.0 * TINY * f64::from(gain).abs().max(1.0);
            prop_assert!((f64::from(y) - exact).abs() <= bound, "{y} against {exact}");
        }
        let mut in_place = x.clone();
        norm.forward_in_place(view_mut(&mut in_place, 1, x.len())).unwrap();
        prop_assert_eq!(bits(&in_place), bits(&y));
    }

    /// 16-bit types: widened exactly, computed as f32, rounded once more.
    #[test]
    fn half_outputs_are_the_rounded_f32_outputs((x, gain) in values(-300.0_f32..300.0)) {
        fn check<T: Float>(x: &[f32], gain: &[f32], zero: T) {
            let norm = RmsNorm::new(gain.to_vec()).unwrap();
            let (features, mut narrow) = (x.len(), narrowed::<T>(x));
            let wide = widened(&narrow);
            let mut y = vec![zero; features];
            norm.forward(view(&narrow, 1, features), view_mut(&mut y, 1, features)).unwrap();
            let mut expected = vec![0.0; features];
            norm.forward(view(&wide, 1, features), view_mut(&mut expected, 1, features)).unwrap();
            let expected = bits(&widened(&narrowed::<T>(&expected)));
            assert_eq!(bits(&widened(&y)), expected);
            norm.forward_in_place(view_mut(&mut narrow, 1, features)).unwrap();
            assert_eq!(bits(&widened(&narrow)), expected);
        }
        check(&x, &gain, f16::ZERO);
        check(&x, &gain, bf16::ZERO);
        check(&x, &gain, 0.0_f32);
    }

    /// grad_x is rounded once; a term of grad_gain three times, its sum once a
    /// token.
    #[test]
    fn gradients_are_those_of_f64(
        (x, gain) in values(-3.0_f32..3.0), tokens in 1_usize..5, scale in 0.01_f32..3.0,
    ) {
        let features = gain.len();
        let x: Vec<f32> = (0..tokens).flat_map(|t| x.iter().map(move |x| x * scale * (t + 1) as f32)).collect();
        let grad_y: Vec<f32> = x.iter().enumerate().map(|(i, x)| (i as f32).sin() - 0.3 * x).collect();
        let norm = RmsNorm::new(gain.clone()).unwrap();
        let mut grad_x = vec![f32::NAN; x.len()];
        let mut grad_gain = vec![0.5; features];
        let (x_view, grad_view) = (view(&x, tokens, features), view(&grad_y, tokens, features));
        let grad_x_view = view_mut(&mut grad_x, tokens, features);
        norm.backward(x_view, grad_view, grad_x_view, &mut grad_gain).unwrap();
        let mut exact_gain = vec![0.5; features];
        let mut gain_size = vec![0.5; features];
        for t in 0..tokens {
            let at = t * features..(t + 1) * features;
            let (x, grad_y, grad_x) = (&x[at.clone()], &grad_y[at.clone()], &grad_x[at]);
            let r = inverse_rms(x, RmsNorm::EPS);
            let g = |k: usize| f64::from(grad_y[k]) * f64::from(gain[k]);
            let mean = (0..features).map(|k| g(k) * f64::from(x[k])).sum::<f64>() / features as f64;
            for k in 0..features {
                let (across, along) = (r * g(k), f64::from(x[k]) * r * r * r * mean);
                let exact = across - along;
                let bound = U * exact.abs() + 1e-13 * (across.abs() + along.abs()) + TINY;
                prop_assert!((f64::from(grad_x[k]) - exact).abs() <= bound, "{} against {exact}", grad_x[k]);
                let term = f64::from(grad_y[k]) * f64::from(x[k]) * r;
                exact_gain[k] += term;
                gain_size[k] += term.abs();
            }
        }
        for ((&ours, exact), size) in grad_gain.iter().zip(exact_gain).zip(gain_size) {
            let bound = 1.01 * U * (3.0 + tokens as f64) * size;
            prop_assert!((f64::from(ours) - exact).abs() <= bound, "{ours} against {exact}");
        }
    }
}

/// Central differences in f64 of the formula itself, with error O(step^2).
#[test]
fn the_gradient_is_a_finite_difference() {
    let features = 12;
    let x: Vec<f32> = (0..features)
        .map(|k| (k as f32 * 1.7).sin() + 0.1)
        .collect();
    let gain: Vec<f32> = (0..features).map(|k| 1.0 + 0.1 * k as f32).collect();
    let c: Vec<f32> = (0..features).map(|k| (k as f32 * 0.9).cos()).collect();
    let norm = RmsNorm::new(gain.clone()).unwrap().with_eps(0.01).unwrap();
    let loss = |x: &[f64]| -> f64 {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / features as f64;
        let r = 1.0 / (mean + f64::from(norm.eps())).sqrt();
        (0..features)
            .map(|k| f64::from(c[k]) * x[k] * r * f64::from(gain[k]))
            .sum()
    };
    let mut grad_x = vec![0.0; features];
    let (x_view, c_view) = (view(&x, 1, features), view(&c, 1, features));
    let grad_view = view_mut(&mut grad_x, 1, features);
    norm.backward(x_view, c_view, grad_view, &mut vec![0.0; features])
        .unwrap();
    let wide: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let step = 1e-5;
    for k in 0..features {
        let moved = |by: f64| {
            let mut x = wide.clone();
            x[k] += by;
            loss(&x)
        };
        let difference = (moved(step) - moved(-step)) / (2.0 * step);
        // Third derivatives of order 1 / rms^3, rounding of f64 over the step.
        let bound = 1e-8 + U * difference.abs();
        let ours = f64::from(grad_x[k]);
        assert!(
            (ours - difference).abs() <= bound,
            "{k}: {ours} against {difference}"
        );
    }
}

#[test]
fn a_bad_value_spoils_its_own_token_only() {
    let norm = RmsNorm::new(vec![1.0; 2]).unwrap();
    let mut y = [0.0_f32; 6];
    let x = [f32::NAN, 1.0, 3.0, 4.0, f32::INFINITY, 1.0];
    norm.forward(view(&x, 3, 2), view_mut(&mut y, 3, 2))
        .unwrap();
    assert!(y[0].is_nan() && y[1].is_nan());
    assert!((y[2] - 0.848_528).abs() < 1e-6 && (y[3] - 1.131_371).abs() < 1e-6);
    assert!(y[4].is_nan() && y[5] == 0.0);
    // One quiet NaN, whatever went in and on whatever instruction set.
    assert!(
        [y[0], y[1], y[4]]
            .iter()
            .all(|y| y.to_bits() == 0x7fc0_0000)
    );
}

#[test]
fn threads_and_strides_change_nothing() {
    let (tokens, features) = (300, 1000);
    let x: Vec<f32> = (0..tokens * features)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let norm = RmsNorm::new(vec![1.5; features]).unwrap();
    let run = || {
        let (mut y, mut grad_x, mut grad_gain) = (x.clone(), x.clone(), vec![0.0; features]);
        let x_dense = &x[..];
        let x = view(x_dense, tokens, features);
        norm.forward(x, view_mut(&mut y, tokens, features)).unwrap();
        let grad_y = view(&y, tokens, features);
        let grad_x_view = view_mut(&mut grad_x, tokens, features);
        norm.backward(x, grad_y, grad_x_view, &mut grad_gain)
            .unwrap();
        // Rows apart, with values between them that must not show.
        let stride = features + 3;
        let apart = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks(features);
            rows.flat_map(|row| row.iter().copied().chain([f32::NAN; 3]))
                .collect()
        };
        let (x_apart, y_apart) = (apart(x_dense), apart(&y));
        let strided = |data| MatRef::with_stride(data, tokens, features, stride).unwrap();
        let mut out = apart(&vec![0.0; tokens * features]);
        let to = MatMut::with_stride(&mut out, tokens, features, stride).unwrap();
        norm.forward(strided(&x_apart), to).unwrap();
        assert!(bits(&out) == bits(&y_apart));
        let mut in_place = x_apart.clone();
        let to = MatMut::with_stride(&mut in_place, tokens, features, stride).unwrap();
        norm.forward_in_place(to).unwrap();
        assert!(bits(&in_place) == bits(&y_apart));
        let mut gain_apart = vec![0.0; features];
        let to = MatMut::with_stride(&mut out, tokens, features, stride).unwrap();
        norm.backward(strided(&x_apart), strided(&y_apart), to, &mut gain_apart)
            .unwrap();
        assert!(bits(&out) == bits(&apart(&grad_x)));
        assert_eq!(bits(&gain_apart), bits(&grad_gain));
        (bits(&y), bits(&grad_x), bits(&grad_gain))
    };
    let alone = run();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    assert!(pool.install(run) == alone);
}

#[test]
fn bad_arguments_are_named() {
    assert_eq!(RmsNorm::new(vec![]).unwrap_err(), LayerError::NoFeatures);
    let norm = RmsNorm::new(vec![1.0; 3]).unwrap();
    for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(
            matches!(norm.clone().with_eps(eps), Err(LayerError::Eps { .. })),
            "{eps}"
        );
        let text = LayerError::Eps { eps }.to_string();
        assert!(text.contains(&format!("`eps` is {eps},")), "{text}");
    }
    let shape = |argument, shape| LayerError::Shape {
        argument,
        shape,
        expected: [2, 3],
    };
    let (x, mut y) = ([0.0_f32; 8], [7.0; 8]);
    let wide = norm.forward(view(&x, 2, 4), view_mut(&mut y, 2, 4));
    assert_eq!(wide, Err(shape("x", [2, 4])));
    let in_place = norm.forward_in_place(view_mut(&mut y, 2, 2));
    assert_eq!(in_place, Err(shape("x", [2, 2])));
    let short = norm.forward(view(&x, 2, 3), view_mut(&mut y, 1, 3));
    assert_eq!(short, Err(shape("y", [1, 3])));
    let mut backward = |x_cols: usize, grad_y: [usize; 2], grad_x: [usize; 2], gain: usize| {
        let (x, grad_y) = (view(&x, 2, x_cols), view(&x, grad_y[0], grad_y[1]));
        let grad_x = view_mut(&mut y, grad_x[0], grad_x[1]);
        norm.backward(x, grad_y, grad_x, &mut vec![0.0; gain])
    };
    let fits = [2, 3];
    assert_eq!(backward(4, fits, fits, 3), Err(shape("x", [2, 4])));
    assert_eq!(backward(3, [1, 3], fits, 3), Err(shape("grad_y", [1, 3])));
    assert_eq!(backward(3, fits, [2, 4], 3), Err(shape("grad_x", [2, 4])));
    let length = LayerError::Length {
        argument: "grad_gain",
        len: 2,
        expected: 3,
    };
    assert_eq!(backward(3, fits, fits, 2), Err(length.clone()));
    assert_eq!(y, [7.0; 8]);
    for (error, text) in [
        (
            LayerError::NoFeatures,
            "`gain` is empty, expected one value a feature",
        ),
        (shape("x", [2, 4]), "`x` is 2 x 4, expected 2 x 3"),
        (length, "`grad_gain` has length 2, expected 3"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}
