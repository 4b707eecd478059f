//! Quantisers: weights to trits, activations to int8.

use bytemuck::Pod;
use half::{bf16, f16};
use tritgemm::{Granularity, GroupSize, TernaryMatrix, quant};
use tritgemm_testing::floats::{Float, narrowed};
use tritgemm_testing::guarded::{Guarded, Place};
use tritgemm_testing::{Rng, bits, quick, view, view_mut};

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
            let wanted = quant::absmean(view(&weights, rows, cols), granularity).expect("finite");
            let mut alphas = Guarded::filled(wanted.len(), place.of_operand(1));
            let out = alphas.get_mut();
            quant::absmean_into(view(input.get(), rows, cols), granularity, out).expect("finite");
            let alphas = alphas.take(&what);
            assert_eq!(bits(&alphas), bits(&wanted), "{what}");

            let alphas = Guarded::new(&alphas, place.of_operand(2));
            let wanted = quant::ternarize(view(&weights, rows, cols), granularity, &wanted);
            let mut trits = Guarded::filled(weights.len(), place.of_operand(1));
            let (weights, alphas) = (input.get(), alphas.get());
            quant::ternarize_into(
                view(weights, rows, cols),
                granularity,
                alphas,
                view_mut(trits.get_mut(), rows, cols),
            )
            .expect("finite");
            assert_eq!(trits.take(&what), wanted.expect("finite"), "{what}");
            TernaryMatrix::quantize(view(weights, rows, cols), granularity).expect("finite");
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
        quant::sparsify_2_4(view_mut(&mut weights, rows, cols)).expect("finite");
        quant::sparsify_2_4(view_mut(beside_weights.get_mut(), rows, cols)).expect("finite");
        quant::sparsify_trits_2_4(view_mut(&mut trits, rows, cols));
        quant::sparsify_trits_2_4(view_mut(beside_trits.get_mut(), rows, cols));
        let what = format!("{rows} x {cols} at {place:?}");
        assert_eq!(bits(&beside_weights.take(&what)), bits(&weights), "{what}");
        assert_eq!(beside_trits.take(&what), trits, "{what}");
    });
}

fn activations_of<T: Float + Pod>() {
    let tokens = 2;
    for_each(|features, place| {
        let wide = Rng::new(features as u64).vec(tokens * features, Rng::unit);
        let x = narrowed::<T>(&wide);
        let wanted = quant::quantize_activations(view(&x, tokens, features)).expect("finite");
        let input = Guarded::new(&x, place);
        let what = format!("{tokens} x {features} at {place:?}");
        let mut q = Guarded::filled(x.len(), place.of_operand(1));
        let mut scales = Guarded::filled(tokens, place.of_operand(2));
        let (q_out, scales_out) = (q.get_mut(), scales.get_mut());
        quant::quantize_activations_into(
            view(input.get(), tokens, features),
            view_mut(q_out, tokens, features),
            scales_out,
        )
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
