//! The gradients: by weights, by input and by bias, and what they are refused for.

use super::*;
use tritgemm::nn::BitLinearGrads;

struct Grads {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

fn backward(layer: &mut BitLinear, x: &[f32], grad_y: &[f32], tokens: usize) -> Grads {
    let (rows, cols) = (layer.out_features(), layer.in_features());
    let mut grads = Grads {
        x: vec![f32::NAN; tokens * cols],
        weight: vec![f32::NAN; rows * cols],
        bias: vec![f32::NAN; rows],
    };
    let into = BitLinearGrads {
        x: Some(MatMut::new(&mut grads.x, tokens, cols).unwrap()),
        weight: Some(&mut grads.weight),
        bias: Some(&mut grads.bias),
    };
    let x = MatRef::new(x, tokens, cols).unwrap();
    let grad_y = MatRef::new(grad_y, tokens, rows).unwrap();
    layer
        .backward(x, grad_y, into, &mut Workspace::new())
        .unwrap();
    grads
}

/// Roundings one term meets in the canonical order (see `tests/golden.rs`).
fn canonical_depth(terms: usize) -> f64 {
    (2 + 60.min(terms.div_ceil(4)) + terms.div_ceil(240)) as f64
}

#[test]
fn gradients_are_those_of_a_dense_f64_oracle() {
    let shapes = [
        (1, 1, 1),
        (3, 5, 4),
        (7, 64, 64),
        (4, 65, 257),
        (33, 130, 66),
        (2, 300, 3),
        (40, 12, 1000),
        (0, 5, 7),
        (3, 0, 7),
        (3, 5, 0),
    ];
    for (case, (tokens, rows, cols)) in shapes.into_iter().enumerate() {
        for sparse in [false, true] {
            let seed = case as u32 * 10;
            let weights = uniform(rows * cols, seed + 1);
            let (x, grad_y) = (
                uniform(tokens * cols, seed + 2),
                uniform(tokens * rows, seed + 3),
            );
            let layer = BitLinear::new(weights.clone(), rows, cols).unwrap();
            let mut layer = layer.with_2_4_sparsity(sparse);
            let matrix = layer.ternary().unwrap().clone();
            let (trits, alphas) = (matrix.to_trits().unwrap(), matrix.scales().values());
            let grads = backward(&mut layer, &x, &grad_y, tokens);
            let what = format!("[{tokens}, {rows}, {cols}] sparse {sparse}");
            for (i, &ours) in grads.x.iter().enumerate() {
                let (token, col) = (i / cols, i % cols);
                let terms = (0..rows).map(|m| {
                    f64::from(grad_y[token * rows + m])
                        * f64::from(alphas[m])
                        * f64::from(trits[m * cols + col])
                });
                let exact: f64 = terms.clone().sum();
                let bound =
                    1.01 * U * (canonical_depth(rows) + 1.0) * terms.map(f64::abs).sum::<f64>();
                assert!(
                    (f64::from(ours) - exact).abs() <= bound,
                    "{what} grad_x {i}: {ours}, {exact}"
                );
            }
            for (i, &ours) in grads.weight.iter().enumerate() {
                let (row, col) = (i / cols, i % cols);
                if (weights[i] / alphas[row]).abs() >= 1.0 || sparse && trits[i] == 0 {
                    assert_eq!(ours, 0.0, "{what} grad_weight {i} is gated");
                    continue;
                }
                let terms = (0..tokens)
                    .map(|n| f64::from(grad_y[n * rows + row]) * f64::from(x[n * cols + col]));
                let exact: f64 = terms.clone().sum();
                let bound = 1.01 * U * tokens as f64 * terms.map(f64::abs).sum::<f64>();
                assert!(
                    (f64::from(ours) - exact).abs() <= bound,
                    "{what} grad_weight {i}: {ours}, {exact}"
                );
            }
            for (row, &ours) in grads.bias.iter().enumerate() {
                let exact: f64 = (0..tokens).map(|n| f64::from(grad_y[n * rows + row])).sum();
                assert_eq!(ours, exact as f32, "{what} grad_bias {row}");
            }
        }
    }
}

/// The loss `sum c y` is linear in x, so a central difference over a large
/// step has no error but rounding: that of y, over the step.
#[test]
fn the_input_gradient_is_a_finite_difference_of_the_layer() {
    let (tokens, rows, cols, step) = (2, 70, 41, 0.5_f32);
    let mut x = uniform(tokens * cols, 1);
    // Multiples of 2^-10, so that adding the step is exact.
    x.iter_mut()
        .for_each(|x| *x = (*x * 1024.0).round() / 1024.0);
    let c = uniform(tokens * rows, 2);
    let mut layer = BitLinear::kaiming_uniform(rows, cols, 3).unwrap();
    let grads = backward(&mut layer, &x, &c, tokens);
    let alphas = layer.ternary().unwrap().scales().values().to_vec();
    let mut ws = Workspace::new();
    let mut loss = |x: &[f32]| -> f64 {
        let y = forward(&mut layer, x, &mut ws);
        y.iter()
            .zip(&c)
            .map(|(&y, &c)| f64::from(y) * f64::from(c))
            .sum()
    };
    for i in 0..x.len() {
        let token = i / cols;
        let mut moved = x.clone();
        moved[i] = x[i] + step;
        let up = loss(&moved);
        moved[i] = x[i] - step;
        let down = loss(&moved);
        let difference = (up - down) / (2.0 * f64::from(step));
        // |y| <= alpha * sum |x|; both losses sum rounded y.
        let sum_x: f64 = x[token * cols..][..cols]
            .iter()
            .map(|x| f64::from(x.abs()))
            .sum::<f64>()
            + 0.5;
        let size: f64 = (0..rows)
            .map(|m| f64::from(c[token * rows + m]).abs() * f64::from(alphas[m]))
            .sum();
        let bound = U * (canonical_depth(cols) + 1.0) * size * sum_x / f64::from(step)
            + U * (canonical_depth(rows) + 1.0) * size;
        let ours = f64::from(grads.x[i]);
        assert!(
            (ours - difference).abs() <= 1.01 * bound,
            "{i}: {ours} against {difference}"
        );
    }
}

/// What the straight-through gradient differentiates is the layer with its
/// rounding left out: `alpha clamp(w / alpha, -1, 1)`, alpha held. That is
/// piecewise linear, so away from its kinks differences in f64 are exact.
#[test]
fn the_weight_gradient_is_a_finite_difference_of_the_smooth_part() {
    let (tokens, rows, cols, step) = (6, 9, 23, 1e-4);
    let weights = uniform(rows * cols, 7);
    let (x, c) = (uniform(tokens * cols, 8), uniform(tokens * rows, 9));
    let mut layer = BitLinear::new(weights.clone(), rows, cols).unwrap();
    let alphas = layer.ternary().unwrap().scales().values().to_vec();
    let grads = backward(&mut layer, &x, &c, tokens);
    let loss_of = |row: usize, col: usize, w: f64| -> f64 {
        let alpha = f64::from(alphas[row]);
        let effective = alpha * (w / alpha).clamp(-1.0, 1.0);
        (0..tokens)
            .map(|n| f64::from(c[n * rows + row]) * f64::from(x[n * cols + col]) * effective)
            .sum()
    };
    let (mut open, mut gated) = (0, 0);
    for (i, &w) in weights.iter().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let w = f64::from(w);
        if (w.abs() - f64::from(alphas[row])).abs() < 2.0 * step {
            continue;
        }
        let difference = (loss_of(row, col, w + step) - loss_of(row, col, w - step)) / (2.0 * step);
        let size: f64 = (0..tokens)
            .map(|n| (f64::from(c[n * rows + row]) * f64::from(x[n * cols + col])).abs())
            .sum();
        let bound = 1.01 * U * tokens as f64 * size + 1e-15 / step;
        let ours = f64::from(grads.weight[i]);
        assert!(
            (ours - difference).abs() <= bound,
            "{i}: {ours} against {difference}"
        );
        if difference == 0.0 {
            gated += 1
        } else {
            open += 1
        }
    }
    assert!(
        open > 50 && gated > 50,
        "{open} open and {gated} gated weights were compared"
    );
}

#[test]
fn the_transposed_panels_follow_the_weights() {
    let (tokens, rows, cols) = (3, 66, 130);
    let (x, c) = (uniform(tokens * cols, 1), uniform(tokens * rows, 2));
    let mut layer = BitLinear::kaiming_uniform(rows, cols, 3).unwrap();
    let first = backward(&mut layer, &x, &c, tokens);
    layer.weight_mut().reverse();
    let second = backward(&mut layer, &x, &c, tokens);
    assert_ne!(first.x, second.x);
    let mut fresh = BitLinear::new(layer.weight().to_vec(), rows, cols).unwrap();
    let expected = backward(&mut fresh, &x, &c, tokens);
    assert_eq!(bits(&second.x), bits(&expected.x));
}

#[test]
fn strided_inputs_and_threads_change_no_input_gradient() {
    let (tokens, rows, cols, stride) = (19, 200, 300, 310);
    let (x, c) = (uniform(tokens * cols, 1), uniform(tokens * rows, 2));
    let mut layer = BitLinear::kaiming_uniform(rows, cols, 3).unwrap();
    let dense = backward(&mut layer, &x, &c, tokens);
    let spread = |values: &[f32], width: usize| -> Vec<f32> {
        let mut out = vec![f32::NAN; tokens * stride];
        for (out, values) in out.chunks_mut(stride).zip(values.chunks(width)) {
            out[..width].copy_from_slice(values);
        }
        out
    };
    let (x, c) = (spread(&x, cols), spread(&c, rows));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    pool.install(|| {
        let (mut grad_x, mut weight) = (vec![7.0; tokens * stride], vec![0.0; rows * cols]);
        let grads = BitLinearGrads {
            x: Some(MatMut::with_stride(&mut grad_x, tokens, cols, stride).unwrap()),
            weight: Some(&mut weight),
            bias: None,
        };
        let x = MatRef::with_stride(&x, tokens, cols, stride).unwrap();
        let c = MatRef::with_stride(&c, tokens, rows, stride).unwrap();
        layer.backward(x, c, grads, &mut Workspace::new()).unwrap();
        for (strided, dense) in grad_x.chunks(stride).zip(dense.x.chunks(cols)) {
            assert_eq!(bits(&strided[..cols]), bits(dense));
            assert!(
                strided[cols..].iter().all(|&v| v == 7.0),
                "between rows nothing is written"
            );
        }
        for (ours, dense) in weight.iter().zip(&dense.weight) {
            assert!((ours - dense).abs() <= 1e-5, "{ours} against {dense}");
            assert_eq!(*ours == 0.0, *dense == 0.0);
        }
    });
}

#[test]
fn a_bad_weight_is_named_by_either_gradient() {
    let mut layer = BitLinear::new(vec![0.5, f32::NAN, 0.5, 0.5], 2, 2).unwrap();
    let (mut x, mut weight) = ([0.0; 2], [0.0; 4]);
    let grads = [
        BitLinearGrads {
            x: Some(MatMut::new(&mut x, 1, 2).unwrap()),
            ..Default::default()
        },
        BitLinearGrads {
            weight: Some(&mut weight),
            ..Default::default()
        },
    ];
    for grads in grads {
        let data = MatRef::new(&[1.0; 2], 1, 2).unwrap();
        let result = layer.backward(data, data, grads, &mut Workspace::new());
        let error = result.unwrap_err().to_string();
        assert!(error.contains("row 0, column 1 is NaN"), "{error}");
    }
}

#[test]
fn wrong_shapes_are_named() {
    let mut layer = BitLinear::kaiming_uniform(3, 4, 1).unwrap();
    let (x, c) = (vec![0.0; 8], vec![0.0; 6]);
    let mut try_with = |x: [usize; 2], c_shape: [usize; 2], weight: usize, bias: usize| {
        let (mut weight, mut bias) = (vec![0.0; weight], vec![0.0; bias]);
        let grads = BitLinearGrads {
            x: None,
            weight: Some(&mut weight),
            bias: Some(&mut bias),
        };
        let data = vec![0.0; 64];
        let x = MatRef::new(&data, x[0], x[1]).unwrap();
        let c = MatRef::new(&data, c_shape[0], c_shape[1]).unwrap();
        layer
            .backward(x, c, grads, &mut Workspace::new())
            .map_err(|e| e.to_string())
    };
    assert_eq!(try_with([2, 4], [2, 3], 12, 3), Ok(()));
    let named = [
        (
            try_with([2, 4], [2, 5], 12, 3),
            "`grad_y` is 2 x 5, expected 2 x 3",
        ),
        (
            try_with([3, 4], [2, 3], 12, 3),
            "`x` is 3 x 4, expected 2 x 4",
        ),
        (
            try_with([2, 4], [2, 3], 11, 3),
            "`grads.weight` has length 11, expected 12",
        ),
        (
            try_with([2, 4], [2, 3], 12, 2),
            "`grads.bias` has length 2, expected 3",
        ),
    ];
    for (result, message) in named {
        assert_eq!(result, Err(message.to_owned()));
    }
    let mut grad_x = vec![0.0; 8];
    let grads = BitLinearGrads {
        x: Some(MatMut::new(&mut grad_x, 4, 2).unwrap()),
        ..Default::default()
    };
    let (x, c) = (
        MatRef::new(&x, 2, 4).unwrap(),
        MatRef::new(&c, 2, 3).unwrap(),
    );
    let error = layer
        .backward(x, c, grads, &mut Workspace::new())
        .unwrap_err();
    assert_eq!(error.to_string(), "`grads.x` is 4 x 2, expected 2 x 4");
}
