//! The quantisers against loops that read like their definitions, bit for bit.

use half::{bf16, f16};
use proptest::prelude::*;
use tritgemm::quant::{
    QuantError, absmean, absmean_into, quantize_activations, quantize_activations_into,
    quantize_token, sparsify_2_4, sparsify_trits_2_4, ternarize, ternarize_into,
};
use tritgemm::{Granularity, GroupSize, MatMut, MatRef};
use tritgemm_testing::floats::{Float, widened};
use tritgemm_testing::{bits, view, view_mut};

/// Finite floats of every kind: of one size, of all sizes, subnormal, zero,
/// equal magnitudes, the largest.
fn finite() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -2.0_f32..2.0,
        2 => any::<f32>().prop_filter("finite", |v| v.is_finite()),
        1 => prop::num::f32::SUBNORMAL,
        1 => Just(0.0_f32),
        1 => Just(-0.0_f32),
        2 => prop_oneof![Just(0.5_f32), Just(-0.5), Just(1.0), Just(-1.0)],
        1 => prop_oneof![Just(f32::MAX), Just(-f32::MAX)],
    ]
}

fn row() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(finite(), 0..300)
}

fn matrix() -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
    (0_usize..7, 0_usize..300).prop_flat_map(|(rows, cols)| {
        let values = prop::collection::vec(finite(), rows * cols);
        (Just(rows), Just(cols), values)
    })
}

fn granularity() -> impl Strategy<Value = Granularity> {
    prop_oneof![
        Just(Granularity::PerTensor),
        Just(Granularity::PerRow),
        Just(Granularity::PerGroup(GroupSize::G64)),
        Just(Granularity::PerGroup(GroupSize::G128)),
        Just(Granularity::PerGroup(GroupSize::G256)),
    ]
}

/// The documented formula, one value at a time.
fn quantize_scalar(x: &[f32]) -> (Vec<i8>, f32) {
    let absmax = x.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
    let a = absmax.max(1e-5);
    let s = 127.0 / a;
    let q = |v: f32| (v * s).round_ties_even().clamp(-128.0, 127.0) as i8;
    (x.iter().map(|&v| q(v)).collect(), a / 127.0)
}

/// 32 interleaved partial sums, added in pairs.
fn paired_sum(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 32];
    for (k, v) in values.iter().enumerate() {
        sums[k % 32] += f64::from(v.abs());
    }
    for half in [16, 8, 4, 2, 1] {
        for j in 0..half {
            sums[j] += sums[j + half];
        }
    }
    sums[0]
}

fn alpha_scalar(sum: f64, count: usize) -> f32 {
    if count == 0 {
        return 1e-5;
    }
    ((sum / count as f64) as f32).max(1e-5)
}

fn absmean_scalar(w: &[f32], rows: usize, cols: usize, granularity: Granularity) -> Vec<f32> {
    let row = |r: usize| &w[r * cols..(r + 1) * cols];
    match granularity {
        Granularity::PerTensor => {
            let sum = (0..rows).map(|r| paired_sum(row(r))).sum();
            vec![alpha_scalar(sum, w.len())]
        }
        Granularity::PerRow => (0..rows)
            .map(|r| alpha_scalar(paired_sum(row(r)), cols))
            .collect(),
        Granularity::PerGroup(size) => (0..rows)
            .flat_map(|r| row(r).chunks(size.len()))
            .map(|group| alpha_scalar(paired_sum(group), group.len()))
            .collect(),
    }
}

fn ternarize_scalar(w: f32, alpha: f32) -> i8 {
    (w / alpha).clamp(-1.0, 1.0).round_ties_even() as i8
}

/// Index of the alpha of a weight.
fn alpha_index(i: usize, cols: usize, granularity: Granularity) -> usize {
    match granularity {
        Granularity::PerTensor => 0,
        Granularity::PerRow => i / cols,
        Granularity::PerGroup(size) => i / cols * cols.div_ceil(size.len()) + i % cols / size.len(),
    }
}

/// By sorting, which the crate does not.
fn sparsify_scalar<T: Copy + Default>(w: &mut [T], magnitude: impl Fn(T) -> f32) {
    for four in w.chunks_mut(4) {
        let padded = |i: usize| four.get(i).map_or(0.0, |&v| magnitude(v));
        let mut order = [0, 1, 2, 3];
        order.sort_by(|&a, &b| padded(a).total_cmp(&padded(b)).then(a.cmp(&b)));
        for &i in &order[..2] {
            if let Some(v) = four.get_mut(i) {
                *v = T::default();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn tokens_quantise_as_defined(x in row()) {
        let mut q = vec![99; x.len()];
        let scale = quantize_token(&x, &mut q).unwrap();
        let (expected, expected_scale) = quantize_scalar(&x);
        prop_assert_eq!(q, expected);
        prop_assert_eq!(scale.to_bits(), expected_scale.to_bits());
    }

    #[test]
    fn half_tokens_quantise_as_their_f32_values(words in prop::collection::vec(any::<u16>(), 0..300)) {
        fn check<T: Float>(x: &[T]) {
            let wide = widened(x);
            let (mut q, mut expected) = (vec![99; x.len()], vec![99; x.len()]);
            let scale = quantize_token(x, &mut q);
            // The errors hold a NaN, which does not equal itself.
            assert_eq!(format!("{scale:?}"), format!("{:?}", quantize_token(&wide, &mut expected)));
            assert_eq!(q, expected);
        }
        let finite = |w: &u16, infinity: u16| if w & 0x7fff < infinity { *w } else { w & 0x83ff };
        check(&words.iter().map(|w| f16::from_bits(*w)).collect::<Vec<_>>());
        check(&words.iter().map(|w| bf16::from_bits(*w)).collect::<Vec<_>>());
        check(&words.iter().map(|w| f16::from_bits(finite(w, 0x7c00))).collect::<Vec<_>>());
        check(&words.iter().map(|w| bf16::from_bits(finite(w, 0x7f80))).collect::<Vec<_>>());
    }

    #[test]
    fn alphas_are_means_as_defined((rows, cols, w) in matrix(), granularity in granularity()) {
        let alphas = absmean(view(&w, rows, cols), granularity).unwrap();
        prop_assert_eq!(bits(&alphas), bits(&absmean_scalar(&w, rows, cols, granularity)));
        prop_assert_eq!(Some(alphas.len()), granularity.scales(rows, cols));
    }

    #[test]
    fn trits_are_rounded_quotients((rows, cols, w) in matrix(), granularity in granularity()) {
        let alphas = absmean(view(&w, rows, cols), granularity).unwrap();
        let trits = ternarize(view(&w, rows, cols), granularity, &alphas).unwrap();
        for (i, (&w, trit)) in w.iter().zip(trits).enumerate() {
            let alpha = alphas[alpha_index(i, cols, granularity)];
            prop_assert_eq!(trit, ternarize_scalar(w, alpha), "weight {} of alpha {}", w, alpha);
        }
    }

    /// The crate compares instead of dividing; here are the weights where that
    /// could show, for every kind of alpha.
    #[test]
    fn trits_are_exact_around_half_of_alpha(alpha in prop_oneof![
        1e-5_f32..10.0,
        any::<f32>().prop_map(f32::abs).prop_filter("usable", |a| a.is_finite() && *a > 0.0),
        prop::num::f32::SUBNORMAL.prop_map(f32::abs),
        Just(f32::MAX),
        Just(f32::MIN_POSITIVE),
        Just(f32::from_bits(1)),
    ]) {
        let middle = (alpha / 2.0).to_bits() as i64;
        let near: Vec<f32> = (middle - 40..=middle + 40)
            .filter(|&b| (0..0x7f80_0000).contains(&b))
            .map(|b| f32::from_bits(b as u32))
            .flat_map(|w| [w, -w])
            .collect();
        let trits = ternarize(view(&near, 1, near.len()), Granularity::PerTensor, &[alpha]).unwrap();
        for (&w, trit) in near.iter().zip(trits) {
            prop_assert_eq!(trit, ternarize_scalar(w, alpha), "weight {} of alpha {}", w, alpha);
        }
    }

    #[test]
    fn two_in_four_stay((rows, cols, w) in matrix()) {
        let mut sparse = w.clone();
        sparsify_2_4(view_mut(&mut sparse, rows, cols)).unwrap();
        let mut expected = w;
        expected.chunks_mut(cols.max(1)).for_each(|row| sparsify_scalar(row, f32::abs));
        prop_assert_eq!(bits(&sparse), bits(&expected));
    }

    #[test]
    fn two_in_four_trits_stay(cols in 0_usize..40, words in prop::collection::vec(any::<u8>(), 120)) {
        let rows = 3;
        let trits: Vec<i8> = words[..rows * cols].iter().map(|w| (w % 3) as i8 - 1).collect();
        let mut sparse = trits.clone();
        sparsify_trits_2_4(view_mut(&mut sparse, rows, cols));
        let mut expected = trits;
        expected.chunks_mut(cols.max(1)).for_each(|row| sparsify_scalar(row, |t| f32::from(t).abs()));
        prop_assert_eq!(sparse, expected);
    }

    #[test]
    fn a_bad_weight_is_named(
        rows in 1_usize..6, cols in 1_usize..200, at in any::<prop::sample::Index>(),
        bad in prop_oneof![Just(f32::NAN), Just(-f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
        granularity in granularity(),
    ) {
        let mut w = vec![0.25; rows * cols];
        let at = at.index(w.len());
        w[at] = bad;
        // A second one further on must not be the one that is named.
        *w.last_mut().unwrap() = if at + 1 == w.len() { bad } else { f32::NAN };
        let named = |result: Result<(), QuantError>| match result {
            Err(QuantError::Weight { row, col, value }) => {
                assert_eq!((row, col), (at / cols, at % cols));
                assert_eq!(value.to_bits(), bad.to_bits());
            }
            other => panic!("expected the weight to be named, got {other:?}"),
        };
        named(absmean(view(&w, rows, cols), granularity).map(|_| ()));
        let alphas = vec![1.0; granularity.scales(rows, cols).unwrap()];
        named(ternarize(view(&w, rows, cols), granularity, &alphas).map(|_| ()));
        let before = bits(&w);
        named(sparsify_2_4(view_mut(&mut w, rows, cols)));
        prop_assert_eq!(bits(&w), before, "an error leaves the weights as they were");
    }

    #[test]
    fn a_bad_activation_is_named(
        tokens in 1_usize..5, features in 1_usize..200, at in any::<prop::sample::Index>(),
        bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let mut x = vec![1.0_f32; tokens * features];
        let at = at.index(x.len());
        x[at] = bad;
        match quantize_activations(view(&x, tokens, features)) {
            Err(QuantError::Activation { token, index, value }) => {
                prop_assert_eq!((token, index), (at / features, at % features));
                prop_assert_eq!(value.to_bits(), bad.to_bits());
            }
            other => prop_assert!(false, "expected the activation to be named, got {:?}", other),
        }
        let mut q = vec![77; features];
        let row = &x[at / features * features..][..features];
        prop_assert!(quantize_token(row, &mut q).is_err());
        prop_assert!(q.iter().all(|&q| q == 77), "an error leaves q as it was");
    }
}

#[test]
fn every_token_of_zeros_has_the_least_scale() {
    let mut q = [5; 33];
    let scale = quantize_token(&[0.0_f32; 33], &mut q).unwrap();
    assert_eq!((q, scale), ([0; 33], 1e-5 / 127.0));
    let (q, scales) = quantize_activations(view(&[0.0_f32; 0], 3, 0)).unwrap();
    assert_eq!((q, scales), (vec![], vec![1e-5 / 127.0; 3]));
}

#[test]
fn halves_round_to_even() {
    // absmax 127 makes the scale 1, so values are their own quotients.
    let x = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5, 127.0_f32];
    let mut q = [0; 9];
    assert_eq!(quantize_token(&x, &mut q).unwrap(), 1.0);
    assert_eq!(q, [0, 2, 2, 0, -2, -2, 126, -126, 127]);
}

#[test]
fn no_value_leaves_int8_however_large_or_small() {
    for absmax in [f32::MAX, 1.0, 1e-5, 3.3e-7, f32::MIN_POSITIVE, 1e-45] {
        let mut q = [0; 2];
        quantize_token(&[absmax, -absmax], &mut q).unwrap();
        let expected = (absmax * (127.0 / absmax.max(1e-5))).round_ties_even();
        assert_eq!(q, [expected as i8, -(expected as i8)], "absmax {absmax}");
        assert!((0.0..=127.0).contains(&expected));
    }
}

/// The result for a large matrix is the same inside a pool as outside.
#[test]
fn threads_change_nothing() {
    let (rows, cols) = (300, 1000);
    let mut seed = 9_u32;
    let w: Vec<f32> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed as i32 as f32 / 2.0_f32.powi(31)
    })
    .take(rows * cols)
    .collect();
    let run = || {
        let mut all = Vec::new();
        for granularity in [Granularity::PerTensor, Granularity::PerRow] {
            let alphas = absmean(view(&w, rows, cols), granularity).unwrap();
            let trits = ternarize(view(&w, rows, cols), granularity, &alphas).unwrap();
            all.push((bits(&alphas), trits));
        }
        let mut sparse = w.clone();
        sparsify_2_4(view_mut(&mut sparse, rows, cols)).unwrap();
        let (q, scales) = quantize_activations(view(&w, rows, cols)).unwrap();
        (all, bits(&sparse), q, bits(&scales))
    };
    let alone = run();
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert!(
            pool.install(run) == alone,
            "{threads} threads differ from none"
        );
    }
}

#[test]
fn wrong_lengths_and_shapes_are_named() {
    let per_row = Granularity::PerRow;
    let weights = || view(&[0.0; 6], 2, 3);
    let length = |argument, len, expected| {
        Err(QuantError::Length {
            argument,
            len,
            expected,
        })
    };
    let shape = |argument, shape| {
        Err(QuantError::Shape {
            argument,
            shape,
            expected: [2, 3],
        })
    };
    for alphas in [1, 3] {
        let mut a = vec![1.0; alphas];
        let wrong = length("alphas", alphas, 2);
        assert_eq!(absmean_into(weights(), per_row, &mut a), wrong);
        assert_eq!(a, vec![1.0; alphas]);
        let mut trits = [7; 6];
        let into = ternarize_into(weights(), per_row, &a, view_mut(&mut trits, 2, 3));
        assert_eq!(into, wrong);
        assert_eq!(trits, [7; 6]);
        assert_eq!(ternarize(weights(), per_row, &a).map(|_| ()), wrong);
    }
    for [rows, cols] in [[2, 2], [3, 3], [3, 2], [0, 3], [2, 0]] {
        let (mut out, mut scales) = ([7; 9], [7.0; 2]);
        let trits = view_mut(&mut out, rows, cols);
        let into = ternarize_into(weights(), per_row, &[1.0; 2], trits);
        assert_eq!(into, shape("trits", [rows, cols]));
        let q = view_mut(&mut out, rows, cols);
        let into = quantize_activations_into(weights(), q, &mut scales);
        assert_eq!(into, shape("q", [rows, cols]));
        assert_eq!((out, scales), ([7; 9], [7.0; 2]));
    }
    for len in [1, 3] {
        let (mut q, mut scales) = ([7; 6], vec![7.0; len]);
        let into = quantize_activations_into(weights(), view_mut(&mut q, 2, 3), &mut scales);
        assert_eq!(into, length("token_scales", len, 2));
        assert_eq!((q, scales), ([7; 6], vec![7.0; len]));
    }
    let token = quantize_token(&[0.0_f32; 3], &mut [0; 2]).map(|_| ());
    assert_eq!(token, length("q", 2, 3));
    assert_eq!(
        length("alphas", 3, 2).unwrap_err().to_string(),
        "`alphas` has length 3, expected 2"
    );
    assert_eq!(
        shape("q", [2, 2]).unwrap_err().to_string(),
        "`q` is 2 x 2, expected 2 x 3"
    );
}

/// Rows may lie apart, in and out: what is between them is neither read nor
/// written, inside a pool or outside.
#[test]
fn gaps_between_rows_do_not_count() {
    for (rows, cols) in [(3, 70), (300, 1000)] {
        let w: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
        let stride = cols + 5;
        let apart: Vec<f32> = w
            .chunks(cols)
            .flat_map(|row| row.iter().copied().chain([f32::NAN; 5]))
            .collect();
        let last = apart.len() - 5;
        // With and without a gap after the last row, and with rows after it.
        let inputs = [&apart[..], &apart[..last], &apart.repeat(2)];
        let gapped = |values: &[i8]| -> Vec<i8> {
            let rows = values.chunks(cols);
            rows.flat_map(|row| row.iter().copied().chain([77; 5]))
                .collect()
        };
        let run = || {
            for input in inputs {
                let x = MatRef::with_stride(input, rows, cols, stride).unwrap();
                let mut out = vec![77; apart.len()];
                for granularity in [
                    Granularity::PerTensor,
                    Granularity::PerRow,
                    Granularity::PerGroup(GroupSize::G64),
                ] {
                    let alphas = absmean(view(&w, rows, cols), granularity).unwrap();
                    assert_eq!(bits(&absmean(x, granularity).unwrap()), bits(&alphas));
                    let trits = ternarize(view(&w, rows, cols), granularity, &alphas).unwrap();
                    let to = MatMut::with_stride(&mut out, rows, cols, stride).unwrap();
                    ternarize_into(x, granularity, &alphas, to).unwrap();
                    assert_eq!(out, gapped(&trits));
                    let to = MatMut::with_stride(&mut out, rows, cols, stride).unwrap();
                    sparsify_trits_2_4(to);
                    let mut sparse = trits;
                    sparsify_trits_2_4(view_mut(&mut sparse, rows, cols));
                    assert_eq!(out, gapped(&sparse));
                }
                let (q, scales) = quantize_activations(view(&w, rows, cols)).unwrap();
                let mut token_scales = vec![0.0; rows];
                let to = MatMut::with_stride(&mut out, rows, cols, stride).unwrap();
                quantize_activations_into(x, to, &mut token_scales).unwrap();
                assert_eq!((&out, token_scales), (&gapped(&q), scales));

                let (mut dense, mut wide) = (w.clone(), input.to_vec());
                sparsify_2_4(view_mut(&mut dense, rows, cols)).unwrap();
                sparsify_2_4(MatMut::with_stride(&mut wide, rows, cols, stride).unwrap()).unwrap();
                for (i, (&wide, &input)) in wide.iter().zip(input).enumerate() {
                    let (row, col) = (i / stride, i % stride);
                    let inside = row < rows && col < cols;
                    let wanted = if inside {
                        dense[row * cols + col]
                    } else {
                        input
                    };
                    assert_eq!(wide.to_bits(), wanted.to_bits(), "{row}, {col}");
                }
            }
        };
        run();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
        pool.unwrap().install(run);
    }
}

#[test]
fn an_alpha_must_be_a_divisor() {
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = ternarize(view(&[0.1; 4], 2, 2), Granularity::PerRow, &[1.0, bad]).unwrap_err();
        match error {
            QuantError::Alpha { index: 1, value } => {
                assert_eq!(value.to_bits(), bad.to_bits());
                assert!(
                    error
                        .to_string()
                        .starts_with(&format!("alpha 1 is {bad}, "))
                );
            }
            other => panic!("alpha {bad}: {other:?}"),
        }
    }
    assert_eq!(
        absmean(view(&[0.0; 6], 2, 3), Granularity::PerRow).unwrap(),
        [1e-5; 2]
    );
    assert_eq!(
        absmean(view(&[], 2, 0), Granularity::PerRow).unwrap(),
        [1e-5; 2]
    );
}
