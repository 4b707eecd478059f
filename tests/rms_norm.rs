//! `RmsNorm` against f64, forward and backward, in f32, f16 and bf16.

use half::{bf16, f16};
use proptest::prelude::*;
use tritgemm::Activation;
use tritgemm::nn::{RmsNorm, RmsNormError};

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

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
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
        norm.forward(&x, &mut y).unwrap();
        let r = inverse_rms(&x, RmsNorm::EPS);
        for ((&x, &gain), &y) in x.iter().zip(&gain).zip(&y) {
            let exact = f64::from(x) * r * f64::from(gain);
            let bound = 3.01 * U * exact.abs() + 3.0 * TINY * f64::from(gain).abs().max(1.0);
            prop_assert!((f64::from(y) - exact).abs() <= bound, "{y} against {exact}");
        }
        let mut in_place = x.clone();
        norm.forward_in_place(&mut in_place).unwrap();
        prop_assert_eq!(bits(&in_place), bits(&y));
    }

    /// 16-bit types: widened exactly, computed as f32, rounded once more.
    #[test]
    fn half_outputs_are_the_rounded_f32_outputs((x, gain) in values(-300.0_f32..300.0)) {
        fn check<T: Activation>(x: &[f32], gain: &[f32], zero: T) {
            let norm = RmsNorm::new(gain.to_vec()).unwrap();
            let mut narrow = vec![zero; x.len()];
            T::narrow(x, &mut narrow);
            let mut wide = vec![0.0; x.len()];
            T::widen(&narrow, &mut wide);
            let mut y = vec![zero; x.len()];
            norm.forward(&narrow, &mut y).unwrap();
            let mut expected_wide = wide.clone();
            norm.forward(&wide, &mut expected_wide).unwrap();
            let mut expected = vec![zero; x.len()];
            T::narrow(&expected_wide, &mut expected);
            let as_bits = |values: &[T]| {
                let mut wide = vec![0.0; values.len()];
                T::widen(values, &mut wide);
                bits(&wide)
            };
            assert_eq!(as_bits(&y), as_bits(&expected));
            norm.forward_in_place(&mut narrow).unwrap();
            assert_eq!(as_bits(&narrow), as_bits(&expected));
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
        norm.backward(&x, &grad_y, &mut grad_x, &mut grad_gain).unwrap();
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
    norm.backward(&x, &c, &mut grad_x, &mut vec![0.0; features])
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
    norm.forward(&[f32::NAN, 1.0, 3.0, 4.0, f32::INFINITY, 1.0], &mut y)
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
fn threads_change_nothing() {
    let (tokens, features) = (300, 1000);
    let x: Vec<f32> = (0..tokens * features)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let norm = RmsNorm::new(vec![1.5; features]).unwrap();
    let run = || {
        let (mut y, mut grad_x, mut grad_gain) = (x.clone(), x.clone(), vec![0.0; features]);
        norm.forward(&x, &mut y).unwrap();
        norm.backward(&x, &y, &mut grad_x, &mut grad_gain).unwrap();
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
    assert_eq!(RmsNorm::new(vec![]).unwrap_err(), RmsNormError::NoFeatures);
    let norm = RmsNorm::new(vec![1.0; 3]).unwrap();
    for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(
            matches!(norm.clone().with_eps(eps), Err(RmsNormError::Eps { .. })),
            "{eps}"
        );
        let text = RmsNormError::Eps { eps }.to_string();
        assert!(text.contains(&format!("`eps` is {eps},")), "{text}");
    }
    let tokens = RmsNormError::Tokens {
        argument: "x",
        found: 4,
        features: 3,
    };
    assert_eq!(
        norm.forward(&[0.0_f32; 4], &mut [0.0; 4]),
        Err(tokens.clone())
    );
    let in_place = norm.forward_in_place(&mut [0.0_f32; 4]);
    assert_eq!(in_place, Err(tokens.clone()));
    let backward = norm.backward(&[0.0_f32; 4], &[0.0; 4], &mut [0.0; 4], &mut [0.0; 3]);
    assert_eq!(backward, Err(tokens.clone()));
    let length = |argument, found, expected| RmsNormError::Length {
        argument,
        found,
        expected,
    };
    assert_eq!(
        norm.forward(&[0.0_f32; 6], &mut [0.0; 3]),
        Err(length("y", 3, 6))
    );
    for (error, text) in [
        (
            RmsNormError::NoFeatures,
            "`gain` is empty, expected one value a feature",
        ),
        (tokens, "`x` holds 4 values, expected a multiple of 3"),
        (length("y", 3, 6), "`y` holds 3 values, expected 6"),
    ] {
        assert_eq!(error.to_string(), text);
    }
    let x = [0.0_f32; 6];
    let backward = |grad_y: usize, grad_x: usize, gain: usize| {
        let (grad_y, mut grad_x) = (vec![0.0_f32; grad_y], vec![0.0; grad_x]);
        norm.backward(&x, &grad_y, &mut grad_x, &mut vec![0.0; gain])
    };
    assert_eq!(backward(3, 6, 3), Err(length("grad_y", 3, 6)));
    assert_eq!(backward(6, 3, 3), Err(length("grad_x", 3, 6)));
    assert_eq!(backward(6, 6, 2), Err(length("grad_gain", 2, 3)));
}
