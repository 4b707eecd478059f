//! The reference implementation's results, case by case.
//!
//! Exact: trits, packed bytes, masks, 2:4 results, straight-through outputs and
//! gradients. Alpha: 2 ulp. Sums: the error bound of f32 arithmetic against
//! f64, as formulas in K and [`U`].

use tritgemm::nn::BitLinearGrads;
use tritgemm::nn::{BitLinear, RmsNorm, ste};
use tritgemm::quant::{absmean, sparsify_2_4, sparsify_trits_2_4, ternarize};
use tritgemm::{Granularity, MatMut, MatRef, Scales, TernaryMatrix, Workspace};
use tritgemm_testing::golden::{CASES, Case, Golden};
#[cfg(feature = "train")]
use tritgemm_testing::{bits, view, view_mut};

/// Half an ulp of 1: the most that one f32 operation is wrong by, relatively.
const U: f64 = f32::EPSILON as f64 / 2.0;

fn each_case(check: impl Fn(usize, &Case<'_>)) {
    let golden = Golden::open();
    for index in CASES {
        check(index, &golden.case(index));
    }
}

/// Floats of one sign, counted from one to the other.
fn ulps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

/// The trits as a `BitLinear` makes them from alphas: 2:4 on the trits.
fn trits(case: &Case<'_>, alphas: &[f32]) -> Vec<i8> {
    let [rows, cols] = case.shape("weight");
    let weights = case.f32("weight");
    let mut trits = ternarize(view(&weights, rows, cols), Granularity::PerRow, alphas).unwrap();
    if case.sparse() {
        sparsify_trits_2_4(view_mut(&mut trits, rows, cols));
    }
    trits
}

/// Whether each weight is nonzero.
fn mask(matrix: &TernaryMatrix) -> Vec<u8> {
    let trits = matrix.to_trits().unwrap();
    trits.into_iter().map(|trit| u8::from(trit != 0)).collect()
}

#[test]
fn alpha_is_within_two_ulp() {
    let golden = Golden::open();
    let mut exact = 0;
    let mut rows_seen = 0;
    for index in CASES {
        let case = golden.case(index);
        let [rows, cols] = case.shape("weight");
        let ours = absmean(view(&case.f32("weight"), rows, cols), Granularity::PerRow).unwrap();
        let theirs = case.f32("alpha");
        assert_eq!(ours.len(), theirs.len());
        for (row, (&ours, &theirs)) in ours.iter().zip(&theirs).enumerate() {
            let apart = ulps(ours, theirs);
            assert!(
                apart <= 2,
                "case {index} row {row}: {ours} against {theirs}"
            );
            exact += usize::from(apart == 0);
            rows_seen += 1;
        }
    }
    // Both round a mean once at the end; most means agree to the bit.
    assert!(
        2 * exact > rows_seen,
        "{exact} of {rows_seen} alphas agree exactly"
    );
}

/// q is compared both from the reference's alpha, where it must agree, and
/// from ours, where a weight could sit between half of one alpha and half of
/// the other. No weight of the 8 cases does; should one, this names it.
#[test]
fn trits_are_exact() {
    each_case(|index, case| {
        let [rows, cols] = case.shape("weight");
        let expected = case.i8("q");
        let weights = case.f32("weight");
        assert_eq!(trits(case, &case.f32("alpha")), expected, "case {index}");
        let ours = absmean(view(&weights, rows, cols), Granularity::PerRow).unwrap();
        for (i, (trit, expected)) in trits(case, &ours).into_iter().zip(expected).enumerate() {
            let (row, col) = (i / cols, i % cols);
            assert_eq!(
                trit,
                expected,
                "case {index} row {row} column {col}: weight {} at the boundary of alpha {} or {}",
                weights[i],
                ours[row],
                case.f32("alpha")[row]
            );
        }
    });
}

#[test]
fn packed_bytes_masks_and_dense_weights_are_exact() {
    each_case(|index, case| {
        let [rows, cols] = case.shape("weight");
        let alphas = case.f32("alpha");
        let q = trits(case, &alphas);
        let matrix =
            TernaryMatrix::from_trits(view(&q, rows, cols), Scales::per_row(alphas)).unwrap();
        assert_eq!(matrix.packed(), case.u8("packed"), "case {index}");
        assert_eq!(mask(&matrix), case.u8("mask"), "case {index}");
        assert_eq!(matrix.to_f32().unwrap(), case.f32("dense"), "case {index}");
    });
}

#[test]
fn two_in_four_sparsity_is_exact() {
    each_case(|index, case| {
        let [rows, cols] = case.shape("sparse24_in");
        let mut weights = case.f32("sparse24_in");
        sparsify_2_4(view_mut(&mut weights, rows, cols)).unwrap();
        assert_eq!(
            bits(&weights),
            bits(&case.f32("sparse24_out")),
            "case {index}"
        );
    });
}

#[test]
fn the_straight_through_estimator_is_exact() {
    each_case(|index, case| {
        let weights = case.f32("ste_in");
        let mut out = vec![f32::NAN; weights.len()];
        ste::forward(&weights, &mut out).unwrap();
        assert_eq!(out, case.f32("ste_out"), "case {index}");
        let mut in_place = weights.clone();
        ste::forward_in_place(&mut in_place);
        assert_eq!(bits(&in_place), bits(&out), "case {index}");

        let grad_out = case.f32("ste_grad_out");
        let mut grad_in = vec![f32::NAN; weights.len()];
        ste::backward(&weights, &grad_out, &mut grad_in).unwrap();
        assert_eq!(grad_in, case.f32("ste_grad_in"), "case {index}");
    });
}

/// `y = x r g` with `r = 1 / sqrt(mean(x^2) + eps)`. Our mean is in f64, so
/// ours has the rounding of r, of x r and of the product with g: 3 u.
/// The reference sums K squares in f32, at worst one after the other: the mean
/// is off by (K + 1) u, its root by half of that, plus eps, root, inverse and
/// the two products.
#[test]
fn rms_norm_is_within_its_bound() {
    each_case(|index, case| {
        let [tokens, features] = case.shape("x");
        let (x, gain) = (case.f32("x"), case.f32("rms_gain"));
        let norm = RmsNorm::new(gain.clone()).unwrap();
        let mut y = vec![f32::NAN; x.len()];
        norm.forward(
            view(&x, tokens, features),
            view_mut(&mut y, tokens, features),
        )
        .unwrap();
        let theirs = case.f32("rms_out");
        assert_eq!([tokens * features; 2], [y.len(), theirs.len()]);
        for (i, (&y, &theirs)) in y.iter().zip(&theirs).enumerate() {
            let row = &x[i / features * features..][..features];
            let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / features as f64;
            let r = 1.0 / (mean + f64::from(RmsNorm::EPS)).sqrt();
            let exact = f64::from(x[i]) * r * f64::from(gain[i % features]);
            let ours_bound = 3.01 * U * exact.abs();
            let theirs_bound = ((features as f64 + 1.0) / 2.0 + 5.0) * U * exact.abs();
            let (ours, theirs) = (f64::from(y), f64::from(theirs));
            assert!(
                (ours - exact).abs() <= ours_bound,
                "case {index} value {i}: {ours} against {exact}"
            );
            assert!(
                (ours - theirs).abs() <= ours_bound + theirs_bound,
                "case {index} value {i}: {ours} against the reference's {theirs}"
            );
        }
    });
}

/// The layer of a case, with alphas of our own.
fn layer(case: &Case<'_>) -> BitLinear {
    let [rows, cols] = case.shape("weight");
    let layer = BitLinear::new(case.f32("weight"), rows, cols)
        .unwrap()
        .with_2_4_sparsity(case.sparse());
    if case.has("bias") {
        layer.with_bias(case.f32("bias")).unwrap()
    } else {
        layer
    }
}

/// Most roundings that one term of a sum of `terms` meets in the canonical
/// order: two in its byte, 60 in its block, one for each block.
fn canonical_depth(terms: usize) -> f64 {
    (2 + 60.min(terms.div_ceil(4)) + terms.div_ceil(240)) as f64
}

/// What `roundings` roundings in a row amount to, relatively.
fn gamma(roundings: f64) -> f64 {
    roundings * U / (1.0 - roundings * U)
}

/// A value, what f32 may be off by in our order and in any order, and how much
/// our alphas move it: all from exact sums.
struct Bounded {
    exact: f64,
    ours: f64,
    any: f64,
    moved: f64,
}

fn assert_bounded(what: &str, ours: f32, theirs: f32, bound: &Bounded) {
    let (ours, theirs) = (f64::from(ours), f64::from(theirs));
    assert!(
        (ours - bound.exact).abs() <= bound.ours + bound.moved,
        "{what}: {ours}, exactly {}, bound {}",
        bound.exact,
        bound.ours + bound.moved
    );
    assert!(
        (ours - theirs).abs() <= bound.ours + bound.moved + bound.any,
        "{what}: {ours} against the reference's {theirs}"
    );
}

/// `y = alpha * sum_k q x + bias`. Ours rounds the sum in canonical order, the
/// product with alpha and the sum with the bias; the reference K products with
/// `alpha * q` (a float itself), K - 1 additions in some order and the bias.
#[test]
fn forward_passes_are_within_their_bound() {
    each_case(|index, case| {
        let [rows, cols] = case.shape("weight");
        let [tokens, _] = case.shape("x");
        let (x, q) = (case.f32("x"), case.i8("q"));
        let mut layer = layer(case);
        let ours_alpha = layer.ternary().unwrap().scales().values().to_vec();
        let alpha = case.f32("alpha");
        let bias = if case.has("bias") {
            case.f32("bias")
        } else {
            vec![0.0; rows]
        };
        let mut y = vec![f32::NAN; tokens * rows];
        let mut ws = Workspace::new();
        let (x_view, y_view) = (
            MatRef::new(&x, tokens, cols).unwrap(),
            MatMut::new(&mut y, tokens, rows).unwrap(),
        );
        layer.forward_training(x_view, y_view, &mut ws).unwrap();

        let (train_y, infer_y) = (case.f32("train_y"), case.f32("infer_y"));
        let exact = case.f64("infer_y_f64");
        for (i, &y) in y.iter().enumerate() {
            let (token, row) = (i / rows, i % rows);
            let terms = x[token * cols..]
                .iter()
                .zip(&q[row * cols..(row + 1) * cols]);
            let size: f64 = terms
                .map(|(&x, &q)| (f64::from(x) * f64::from(q)).abs())
                .sum();
            let alpha = f64::from(alpha[row]);
            let bias = f64::from(bias[row]).abs();
            let bound = Bounded {
                exact: exact[i],
                ours: gamma(canonical_depth(cols) + 2.0) * (alpha * size + bias),
                any: gamma(cols as f64 + 1.0) * (alpha * size + bias),
                moved: (f64::from(ours_alpha[row]) - alpha).abs() * size * (1.0 + 1e-6),
            };
            let what = format!("case {index} token {token} row {row}");
            assert_bounded(&format!("{what}, training"), y, train_y[i], &bound);
            assert_bounded(&format!("{what}, inference"), y, infer_y[i], &bound);
        }

        // Frozen, the layer gives the same bits.
        let frozen = layer.prepare_for_inference().unwrap().clone();
        let mut again = vec![f32::NAN; tokens * rows];
        let y_view = MatMut::new(&mut again, tokens, rows).unwrap();
        frozen.forward_f32(x_view, y_view, &mut ws).unwrap();
        assert_eq!(bits(&again), bits(&y), "case {index}");
    });
}

/// `grad_x = sum_m grad_y alpha q` (ours rounds the product with alpha, then
/// sums in canonical order over M; the reference rounds M products and sums),
/// `grad_w = sum_n grad_y x` where the gate is open (N products, fused or not,
/// and sums; the reference also multiplies by alpha and divides by it again).
#[cfg(feature = "train")]
#[test]
fn gradients_are_within_their_bounds_and_gates_exact() {
    each_case(|index, case| {
        let [rows, cols] = case.shape("weight");
        let [tokens, _] = case.shape("x");
        let (x, grad_y, q) = (case.f32("x"), case.f32("grad_y"), case.i8("q"));
        let mut layer = layer(case);
        let ours_alpha = layer.ternary().unwrap().scales().values().to_vec();
        let alpha = case.f32("alpha");
        let mut grad_x = vec![f32::NAN; tokens * cols];
        let mut grad_w = vec![f32::NAN; rows * cols];
        let mut grad_bias = vec![f32::NAN; rows];
        let grads = BitLinearGrads {
            x: Some(MatMut::new(&mut grad_x, tokens, cols).unwrap()),
            weight: Some(&mut grad_w),
            bias: Some(&mut grad_bias),
        };
        let (x_view, grad_view) = (
            MatRef::new(&x, tokens, cols).unwrap(),
            MatRef::new(&grad_y, tokens, rows).unwrap(),
        );
        layer
            .backward(x_view, grad_view, grads, &mut Workspace::new())
            .unwrap();

        let theirs = case.f32("grad_x");
        for (i, &ours) in grad_x.iter().enumerate() {
            let (token, col) = (i / cols, i % cols);
            let (mut exact, mut size, mut moved) = (0.0, 0.0, 0.0);
            for m in 0..rows {
                let g = f64::from(grad_y[token * rows + m]) * f64::from(q[m * cols + col]);
                exact += g * f64::from(alpha[m]);
                size += (g * f64::from(alpha[m])).abs();
                moved += (g * (f64::from(ours_alpha[m]) - f64::from(alpha[m]))).abs();
            }
            let bound = Bounded {
                exact,
                ours: gamma(canonical_depth(rows) + 1.0) * size,
                any: gamma(rows as f64 + 1.0) * size,
                moved: moved * (1.0 + 1e-6),
            };
            let what = format!("case {index} grad_x of token {token} column {col}");
            assert_bounded(&what, ours, theirs[i], &bound);
        }

        let (weights, theirs) = (case.f32("weight"), case.f32("grad_w"));
        let mut gated = 0;
        for (i, &ours) in grad_w.iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let what = format!("case {index} grad_w of row {row} column {col}");
            let open = (weights[i] / alpha[row]).abs() < 1.0 && !(case.sparse() && q[i] == 0);
            if !open {
                assert_eq!((ours, theirs[i]), (0.0, 0.0), "{what} is gated");
                gated += 1;
                continue;
            }
            let term = |n: usize| f64::from(grad_y[n * rows + row]) * f64::from(x[n * cols + col]);
            let exact: f64 = (0..tokens).map(term).sum();
            let size: f64 = (0..tokens).map(|n| term(n).abs()).sum();
            let bound = Bounded {
                exact,
                ours: gamma(tokens as f64) * size,
                any: gamma(tokens as f64 + 2.0) * size,
                moved: 0.0,
            };
            assert_bounded(&what, ours, theirs[i], &bound);
        }
        assert!(
            gated > 0 && gated < grad_w.len(),
            "case {index} tests both sides of the gate"
        );

        for (row, &ours) in grad_bias.iter().enumerate() {
            let exact: f64 = (0..tokens).map(|n| f64::from(grad_y[n * rows + row])).sum();
            assert_eq!(ours, exact as f32, "case {index} grad_bias of row {row}");
        }
    });
}

/// The mask and the bytes as the layer makes them, from its own alphas.
#[test]
fn the_layers_packed_bytes_and_mask_are_exact() {
    each_case(|index, case| {
        let mut layer = layer(case);
        assert_eq!(
            layer.ternary().unwrap().packed(),
            case.u8("packed"),
            "case {index}"
        );
        let mask = mask(layer.ternary().unwrap());
        assert_eq!(mask, case.u8("mask"), "case {index}");
    });
}
