//! `BitLinear`: its cache, its seeds, its errors and, with the feature `train`,
//! its gradients against a dense f64 oracle and finite differences.

use tritgemm::nn::{BitLinear, LayerError};
use tritgemm::quant::QuantError;
use tritgemm::{Backend, MatMut, MatRef, MatrixError, Options, Workspace};
use tritgemm_testing::bits;

const U: f64 = f32::EPSILON as f64 / 2.0;

/// Uniform in [-1, 1), from a counter.
fn uniform(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as i32 as f32 / 2.0_f32.powi(31)
    })
    .take(count)
    .collect()
}

fn forward(layer: &mut BitLinear, x: &[f32], ws: &mut Workspace) -> Vec<f32> {
    let tokens = x.len() / layer.in_features().max(1);
    let mut y = vec![f32::NAN; tokens * layer.out_features()];
    let x = MatRef::new(x, tokens, layer.in_features()).unwrap();
    let y_view = MatMut::new(&mut y, tokens, layer.out_features()).unwrap();
    layer.forward_training(x, y_view, ws).unwrap();
    y
}

fn trits(layer: &mut BitLinear) -> Vec<i8> {
    layer.ternary().unwrap().to_trits().unwrap()
}

/// Where the packed weights lie, to see whether they were made anew.
fn panels(layer: &BitLinear) -> Option<*const u8> {
    layer
        .packed()
        .map(|linear| linear.panels().as_bytes().as_ptr())
}

#[test]
fn weights_are_packed_once_and_again_after_each_access() {
    let mut layer = BitLinear::kaiming_uniform(70, 130, 3).unwrap();
    let (x, mut ws) = (uniform(130, 1), Workspace::new());
    assert!(
        layer.packed().is_none(),
        "nothing is packed before it is needed"
    );
    let first = forward(&mut layer, &x, &mut ws);
    let packed = panels(&layer);
    assert!(packed.is_some());
    forward(&mut layer, &x, &mut ws);
    layer.prepare_for_inference().unwrap();
    layer.ternary().unwrap();
    assert_eq!(panels(&layer), packed, "unchanged weights stay packed");

    let version = layer.version();
    layer.weight_mut()[0] = 9.0;
    assert_eq!(layer.version(), version + 1);
    assert!(layer.packed().is_none(), "what is packed is out of date");
    let second = forward(&mut layer, &x, &mut ws);
    assert_ne!(first[0], second[0]);
    assert_eq!(first[1..], second[1..], "other rows do not see it");
    assert!(panels(&layer).is_some());

    layer.invalidate();
    assert!(layer.packed().is_none());
    assert_eq!(forward(&mut layer, &x, &mut ws), second);
}

#[test]
fn a_frozen_layer_outlives_the_training_of_its_origin() {
    let mut layer = BitLinear::kaiming_uniform(64, 64, 3).unwrap();
    let (x, mut ws) = (uniform(64, 1), Workspace::new());
    let before = forward(&mut layer, &x, &mut ws);
    let frozen = layer.prepare_for_inference().unwrap().clone();
    layer.weight_mut().fill(1.0);
    assert_ne!(forward(&mut layer, &x, &mut ws), before);
    let mut y = vec![0.0; 64];
    let (x, y_view) = (
        MatRef::new(&x, 1, 64).unwrap(),
        MatMut::new(&mut y, 1, 64).unwrap(),
    );
    frozen.forward_f32(x, y_view, &mut ws).unwrap();
    assert_eq!(bits(&y), bits(&before));
}

#[test]
fn a_changed_bias_counts_and_packs_nothing() {
    let layer = BitLinear::kaiming_uniform(3, 8, 3).unwrap();
    let mut layer = layer.with_bias(vec![9.0; 3]).unwrap();
    layer.bias_mut().unwrap().fill(0.0); // before there is anything packed
    let (x, mut ws) = (uniform(8, 1), Workspace::new());
    let without = forward(&mut layer, &x, &mut ws);
    let packed = panels(&layer);
    layer.bias_mut().unwrap().copy_from_slice(&[1.0, -2.0, 0.5]);
    assert!(layer.packed().is_none(), "its bias is out of date");
    let with = forward(&mut layer, &x, &mut ws);
    for ((with, without), bias) in with.iter().zip(without).zip([1.0, -2.0, 0.5]) {
        assert_eq!(*with, without + bias);
    }
    assert_eq!(panels(&layer), packed, "the weights were not packed again");
}

#[test]
fn every_backend_and_number_of_tokens_gives_the_same_bits() {
    let (tokens, rows, cols) = (37, 130, 243);
    let x = uniform(tokens * cols, 5);
    let mut layer = BitLinear::kaiming_uniform(rows, cols, 11).unwrap();
    let all = forward(&mut layer, &x, &mut Workspace::new());
    for backend in Backend::available() {
        let mut ws = Workspace::with_options(Options::new().backend(backend));
        assert_eq!(
            bits(&forward(&mut layer, &x, &mut ws)),
            bits(&all),
            "{backend:?}"
        );
        let mut one_by_one = Vec::new();
        for x in x.chunks(cols) {
            one_by_one.extend(forward(&mut layer, x, &mut ws));
        }
        assert_eq!(
            bits(&one_by_one),
            bits(&all),
            "{backend:?}, one token at a time"
        );
    }
}

/// The W1.58A8 path: an exact integer sum, converted, times alpha times the
/// token's scale, plus the bias: four roundings.
#[test]
fn the_int8_forward_pass_is_the_quantised_product() {
    let (tokens, rows, cols) = (5, 70, 333);
    let x = uniform(tokens * cols, 2);
    let bias = uniform(rows, 3);
    let layer = BitLinear::kaiming_uniform(rows, cols, 4).unwrap();
    let mut layer = layer.with_bias(bias.clone()).unwrap();
    let mut y = vec![f32::NAN; tokens * rows];
    let (x_view, y_view) = (
        MatRef::new(&x, tokens, cols).unwrap(),
        MatMut::new(&mut y, tokens, rows).unwrap(),
    );
    layer
        .forward_int8(x_view, y_view, &mut Workspace::new())
        .unwrap();
    let (q, token_scales) = tritgemm::quant::quantize_activations(x_view).unwrap();
    let matrix = layer.ternary().unwrap();
    let (trits, alphas) = (matrix.to_trits().unwrap(), matrix.scales().values());
    for (i, &y) in y.iter().enumerate() {
        let (token, row) = (i / rows, i % rows);
        let sum: i32 = (0..cols)
            .map(|k| i32::from(trits[row * cols + k]) * i32::from(q[token * cols + k]))
            .sum();
        let product = f64::from(sum) * f64::from(alphas[row]) * f64::from(token_scales[token]);
        let exact = product + f64::from(bias[row]);
        let bound = 4.01 * U * (product.abs() + f64::from(bias[row]).abs());
        assert!(
            (f64::from(y) - exact).abs() <= bound,
            "token {token} row {row}: {y} against {exact}"
        );
    }
}

#[test]
fn two_in_four_layers_have_at_most_two_in_four() {
    let layer = BitLinear::kaiming_uniform(9, 103, 4).unwrap();
    let dense = trits(&mut layer.clone());
    let mut layer = layer.with_2_4_sparsity(true);
    let sparse = trits(&mut layer);
    for (dense, sparse) in dense.chunks(103).zip(sparse.chunks(103)) {
        for (dense, sparse) in dense.chunks(4).zip(sparse.chunks(4)) {
            let count = |trits: &[i8]| trits.iter().filter(|&&trit| trit != 0).count();
            assert_eq!(count(sparse), count(dense).min(2));
        }
    }
}

#[test]
fn initial_weights_are_uniform_and_depend_on_the_seed_alone() {
    let (rows, cols) = (300, 500);
    let alone = BitLinear::kaiming_uniform(rows, cols, 7).unwrap();
    let bound = 1.0 / f64::from(cols as u32).sqrt();
    let count = (rows * cols) as f64;
    let moment = |p: i32| {
        alone
            .weight()
            .iter()
            .map(|&w| f64::from(w).powi(p))
            .sum::<f64>()
            / count
    };
    assert!(
        alone
            .weight()
            .iter()
            .all(|w| f64::from(w.abs()) <= bound * (1.0 + U))
    );
    // Five standard deviations of the sample moments of a uniform value.
    assert!(moment(1).abs() < 5.0 * bound / (3.0 * count).sqrt());
    let second = bound * bound / 3.0;
    assert!((moment(2) - second).abs() < 5.0 * second * (0.8 / count).sqrt());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    let pooled = pool.install(|| BitLinear::kaiming_uniform(rows, cols, 7).unwrap());
    assert_eq!(bits(alone.weight()), bits(pooled.weight()));
    let other = BitLinear::kaiming_uniform(rows, cols, 8).unwrap();
    let equal = alone
        .weight()
        .iter()
        .zip(other.weight())
        .filter(|(a, b)| a == b)
        .count();
    assert!(equal < 10, "{equal} weights of two seeds are equal");
}

/// MeZO's three steps: the weights come back but for rounding, and each step
/// invalidates what is packed.
#[test]
fn perturbation_restores_the_weights() {
    let (rows, cols, eps) = (200, 700, 1e-3_f32);
    let mut layer = BitLinear::kaiming_uniform(rows, cols, 1).unwrap();
    let before = layer.weight().to_vec();
    layer.prepare_for_inference().unwrap();
    let mut noise = BitLinear::new(vec![0.0; rows * cols], rows, cols).unwrap();
    noise.perturb(42, 1.0);

    layer.perturb(42, eps);
    assert!(
        layer.packed().is_none(),
        "perturbed weights must be packed anew"
    );
    for ((&w, &before), &z) in layer.weight().iter().zip(&before).zip(noise.weight()) {
        assert_eq!(w, before + eps * z);
    }
    let up = trits(&mut layer);
    layer.perturb(42, -2.0 * eps);
    assert!(layer.packed().is_none());
    let down = trits(&mut layer);
    assert_ne!(up, down, "both directions are different layers");
    layer.perturb(42, eps);
    assert!(layer.packed().is_none());
    for ((&w, &before), &z) in layer.weight().iter().zip(&before).zip(noise.weight()) {
        let bound = U * (3.0 * f64::from(before.abs()) + 4.0 * f64::from((eps * z).abs()));
        let off = (f64::from(w) - f64::from(before)).abs();
        assert!(off <= bound, "{before} came back as {w}");
    }
}

#[test]
fn perturbation_is_the_same_for_any_number_of_threads() {
    let perturbed = || {
        let mut layer = BitLinear::kaiming_uniform(400, 1001, 1).unwrap();
        layer.perturb(3, 0.5);
        bits(layer.weight())
    };
    let alone = perturbed();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert!(pool.install(perturbed) == alone, "{threads} threads");
    }
}

#[test]
fn bad_input_is_named() {
    let mut layer = BitLinear::new(vec![0.5; 6], 2, 3).unwrap();
    layer.weight_mut()[4] = f32::INFINITY;
    let value = f32::INFINITY;
    let expected = QuantError::Weight {
        row: 1,
        col: 1,
        value,
    };
    let expected = LayerError::from(expected);
    assert_eq!(layer.prepare_for_inference().unwrap_err(), expected);
    assert_eq!(layer.ternary().unwrap_err(), expected);
    layer.weight_mut()[4] = 0.5;
    layer.prepare_for_inference().unwrap();

    let length = |argument, len, expected| LayerError::Length {
        argument,
        len,
        expected,
    };
    assert_eq!(
        BitLinear::new(vec![0.5; 5], 2, 3).unwrap_err(),
        length("weight", 5, 6)
    );
    assert_eq!(
        layer.clone().with_bias(vec![0.0; 3]).unwrap_err(),
        length("bias", 3, 2)
    );
    let cols = tritgemm::MAX_COLS + 1;
    let expected = LayerError::from(MatrixError::TooManyColumns { cols });
    assert_eq!(BitLinear::new(vec![], 0, cols).unwrap_err(), expected);
    assert!(matches!(
        BitLinear::kaiming_uniform(3, usize::MAX / 2, 0).unwrap_err(),
        LayerError::Quant(QuantError::TooLarge { .. })
    ));
    let (x, mut y) = ([0.0; 4], [0.0; 2]);
    let (x, y) = (
        MatRef::new(&x, 1, 4).unwrap(),
        MatMut::new(&mut y, 1, 2).unwrap(),
    );
    let error = layer
        .forward_training(x, y, &mut Workspace::new())
        .unwrap_err();
    assert!(matches!(error, LayerError::Gemm(_)), "{error}");
}

#[cfg(feature = "train")]
mod backward;
