//! Quantisers: weights to trits, activations to int8, and the float types.

use bytemuck::Pod;
use half::{bf16, f16};
use tritgemm::{Activation, Granularity, GroupSize, TernaryMatrix, quant};
use tritgemm_testing::guarded::{Guarded, Place};
use tritgemm_testing::{Rng, bits, quick};

const GRANULARITIES: [Granularity; 3] = [
    Granularity::PerTensor,
    Granularity::PerRow,
    Granularity::PerGroup(GroupSize::G64),
];

/// Widths around every vector and block, at both guards; some at all places.
fn for_each(check: impl Fn(usize, Place)) {
    let step = if quick() { 17 } else { 1 };
    for cols in (0..=150).step_by(step).chain([255, 256, 257, 1027]) {
        Place::tight()
            .into_iter()
            .for_each(|place| check(cols, place));
    }
    for cols in [3, 66, 133] {
        Place::all().for_each(|place| check(cols, place));
    }
}

#[test]
fn weights() {
    let rows = 2;
    for_each(|cols, place| {
        let weights = Rng::new(cols as u64).vec(rows * cols, Rng::unit);
        let input = Guarded::new(&weights, place);
        for granularity in GRANULARITIES {
            let what = format!("{rows} x {cols} {granularity:?} at {place:?}");
            let wanted = quant::absmean(&weights, rows, cols, granularity).expect("finite");
            let mut alphas = Guarded::filled(wanted.len(), place.of_operand(1));
            let out = alphas.get_mut();
            quant::absmean_into(input.get(), rows, cols, granularity, out).expect("finite");
            let alphas = alphas.take(&what);
            assert_eq!(bits(&alphas), bits(&wanted), "{what}");

            let alphas = Guarded::new(&alphas, place.of_operand(2));
            let wanted = quant::ternarize(&weights, rows, cols, granularity, &wanted);
            let mut trits = Guarded::filled(weights.len(), place.of_operand(1));
            let (weights, alphas) = (input.get(), alphas.get());
            quant::ternarize_into(weights, rows, cols, granularity, alphas, trits.get_mut())
                .expect("finite");
            assert_eq!(trits.take(&what), wanted.expect("finite"), "{what}");
            TernaryMatrix::quantize(weights, rows, cols, granularity).expect("finite");
        }
    });
}

#[test]
fn two_of_four() {
    let rows = 3;
    for_each(|cols, place| {
        let mut rng = Rng::new(cols as u64);
        let mut weights = rng.vec(rows * cols, Rng::unit);
        let mut trits = rng.vec(rows * cols, Rng::trit);
        let mut beside_weights = Guarded::new(&weights, place);
        let mut beside_trits = Guarded::new(&trits, place);
        quant::sparsify_2_4(&mut weights, rows, cols).expect("finite");
        quant::sparsify_2_4(beside_weights.get_mut(), rows, cols).expect("finite");
        quant::sparsify_trits_2_4(&mut trits, rows, cols).expect("fits");
        quant::sparsify_trits_2_4(beside_trits.get_mut(), rows, cols).expect("fits");
        let what = format!("{rows} x {cols} at {place:?}");
        assert_eq!(bits(&beside_weights.take(&what)), bits(&weights), "{what}");
        assert_eq!(beside_trits.take(&what), trits, "{what}");
    });
}

/// Values of type `T` that are those of random f32.
fn values<T: Activation + Pod>(count: usize, seed: usize) -> Vec<T> {
    let wide = Rng::new(seed as u64).vec(count, Rng::unit);
    let mut values = vec![T::zeroed(); count];
    T::narrow(&wide, &mut values);
    values
}

fn activations_of<T: Activation + Pod>() {
    let tokens = 2;
    for_each(|features, place| {
        let x = values::<T>(tokens * features, features);
        let wanted = quant::quantize_activations(&x, tokens, features).expect("finite");
        let input = Guarded::new(&x, place);
        let what = format!("{tokens} x {features} at {place:?}");
        let mut q = Guarded::filled(x.len(), place.of_operand(1));
        let mut scales = Guarded::filled(tokens, place.of_operand(2));
        let (q_out, scales_out) = (q.get_mut(), scales.get_mut());
        quant::quantize_activations_into(input.get(), tokens, features, q_out, scales_out)
            .expect("finite");
        assert_eq!(q.take(&what), wanted.0, "{what}");
        assert_eq!(bits(&scales.take(&what)), bits(&wanted.1), "{what}");

        let mut q = Guarded::filled(x.len(), place.of_operand(1));
        quant::quantize_token(input.get(), q.get_mut()).expect("finite");
        q.take(&what);
    });
}

#[test]
fn activations() {
    activations_of::<f32>();
    activations_of::<f16>();
    activations_of::<bf16>();
}

fn conversions_of<T: Activation + Pod>() {
    for_each(|count, place| {
        let narrow = values::<T>(count, count);
        let mut wide = vec![0.0; count];
        T::widen(&narrow, &mut wide);
        let what = format!("{count} at {place:?}");
        let input = Guarded::new(&narrow, place);
        let mut out = Guarded::filled(count, place.of_operand(1));
        T::widen(input.get(), out.get_mut());
        assert_eq!(bits(&out.take(&what)), bits(&wide), "{what}");

        let input = Guarded::new(&wide, place);
        let mut out = Guarded::<T>::filled(count, place.of_operand(1));
        T::narrow(input.get(), out.get_mut());
        let (got, wanted) = (out.take(&what), narrow);
        assert_eq!(
            bytemuck::cast_slice::<T, u8>(&got),
            bytemuck::cast_slice::<T, u8>(&wanted),
            "{what}"
        );
    });
}

#[test]
fn conversions() {
    conversions_of::<f32>();
    conversions_of::<f16>();
    conversions_of::<bf16>();
}
