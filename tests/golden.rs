//! The reference implementation's results, case by case.
//!
//! Exact: trits, packed bytes, masks, 2:4 results, straight-through outputs and
//! gradients. Alpha: 2 ulp. Sums: the error bound of f32 arithmetic against
//! f64, as formulas in K and [`U`].

#[path = "common/golden.rs"]
mod golden;

use golden::{CASES, Case, Golden};
use tritgemm::nn::{RmsNorm, ste};
use tritgemm::quant::{absmean, sparsify_2_4, sparsify_trits_2_4, ternarize};
use tritgemm::{Granularity, Scales, TernaryMatrix};

/// Half an ulp of 1: the most that one f32 operation is wrong by, relatively.
const U: f64 = f32::EPSILON as f64 / 2.0;

fn each_case(check: impl Fn(usize, &Case<'_>)) {
    let golden = Golden::open();
    for index in CASES {
        check(index, &golden.case(index));
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Floats of one sign, counted from one to the other.
fn ulps(a: f32, b: f32) -> u32 {
    a.to_bits().abs_diff(b.to_bits())
}

/// The trits as a `BitLinear` makes them from alphas: 2:4 on the trits.
fn trits(case: &Case<'_>, alphas: &[f32]) -> Vec<i8> {
    let [rows, cols] = case.shape("weight");
    let weights = case.f32("weight");
    let mut trits = ternarize(&weights, rows, cols, Granularity::PerRow, alphas).unwrap();
    if case.sparse() {
        sparsify_trits_2_4(&mut trits, rows, cols).unwrap();
    }
    trits
}

#[test]
fn alpha_is_within_two_ulp() {
    let golden = Golden::open();
    let mut exact = 0;
    let mut rows_seen = 0;
    for index in CASES {
        let case = golden.case(index);
        let [rows, cols] = case.shape("weight");
        let ours = absmean(&case.f32("weight"), rows, cols, Granularity::PerRow).unwrap();
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
        let ours = absmean(&weights, rows, cols, Granularity::PerRow).unwrap();
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
        let matrix = TernaryMatrix::from_trits(&q, rows, cols, Scales::per_row(alphas)).unwrap();
        assert_eq!(matrix.packed(), case.u8("packed"), "case {index}");
        let mask: Vec<u8> = matrix.nonzero_mask().into_iter().map(u8::from).collect();
        assert_eq!(mask, case.u8("mask"), "case {index}");
        assert_eq!(matrix.to_f32(), case.f32("dense"), "case {index}");
    });
}

#[test]
fn two_in_four_sparsity_is_exact() {
    each_case(|index, case| {
        let [rows, cols] = case.shape("sparse24_in");
        let mut weights = case.f32("sparse24_in");
        sparsify_2_4(&mut weights, rows, cols).unwrap();
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
        let mut in_place = grad_out;
        ste::backward_in_place(&weights, &mut in_place).unwrap();
        assert_eq!(bits(&in_place), bits(&grad_in), "case {index}");
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
        norm.forward(&x, &mut y).unwrap();
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
