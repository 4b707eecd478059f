//! Layers: the norm, the estimator, training.

use bytemuck::Pod;
use half::{bf16, f16};
use tritgemm::MatMut;
use tritgemm::nn::{RmsNorm, ste};
use tritgemm_testing::floats::{Float, narrowed};
use tritgemm_testing::guarded::{Guarded, Place};
use tritgemm_testing::{Rng, bits, quick, view, view_mut};

fn for_each(check: impl Fn(usize, Place)) {
    let step = if quick() { 17 } else { 1 };
    for features in (1..=70)
        .step_by(step)
        .chain([127, 128, 129, 255, 257, 1030])
    {
        Place::tight()
            .into_iter()
            .for_each(|place| check(features, place));
    }
    for features in [3, 66, 133] {
        Place::all().for_each(|place| check(features, place));
    }
}

fn raw<T: Pod>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

fn norm_of<T: Float + Pod>() {
    let tokens = 2;
    for_each(|features, place| {
        let mut rng = Rng::new(features as u64);
        let mut values = |count: usize| narrowed::<T>(&rng.vec(count, Rng::unit));
        let (x, grad_y) = (values(tokens * features), values(tokens * features));
        let gain = Rng::new(1).vec(features, Rng::unit);
        let norm = RmsNorm::new(gain).expect("a norm");
        let what = format!("{tokens} x {features} at {place:?}");

        let mut wanted = vec![T::zeroed(); x.len()];
        let view = |x| view(x, tokens, features);
        fn to<T>(y: &mut [T], features: usize) -> MatMut<'_, T> {
            let tokens = y.len() / features;
            view_mut(y, tokens, features)
        }
        norm.forward(view(&x), to(&mut wanted, features))
            .expect("fits");
        let input = Guarded::new(&x, place);
        let mut y = Guarded::filled(x.len(), place.of_operand(1));
        norm.forward(view(input.get()), to(y.get_mut(), features))
            .expect("fits");
        assert_eq!(raw(&y.take(&what)), raw(&wanted), "{what}");
        let mut in_place = Guarded::new(&x, place);
        norm.forward_in_place(to(in_place.get_mut(), features))
            .expect("fits");
        assert_eq!(raw(&in_place.take(&what)), raw(&wanted), "{what}");

        let (mut grad_x, mut grad_gain) = (vec![T::zeroed(); x.len()], vec![0.0; features]);
        let into = to(&mut grad_x, features);
        norm.backward(view(&x), view(&grad_y), into, &mut grad_gain)
            .expect("fits");
        let grad_y = Guarded::new(&grad_y, place.of_operand(2));
        let mut out_x = Guarded::filled(x.len(), place.of_operand(1));
        let mut out_gain = Guarded::new(&vec![0.0; features], place.of_operand(3));
        let into = to(out_x.get_mut(), features);
        let (x, grad_y) = (view(input.get()), view(grad_y.get()));
        norm.backward(x, grad_y, into, out_gain.get_mut())
            .expect("fits");
        assert_eq!(raw(&out_x.take(&what)), raw(&grad_x), "{what}");
        assert_eq!(bits(&out_gain.take(&what)), bits(&grad_gain), "{what}");
    });
}

#[test]
fn rms_norm() {
    norm_of::<f32>();
    norm_of::<f16>();
    norm_of::<bf16>();
}

#[test]
fn straight_through_estimator() {
    for_each(|count, place| {
        let mut rng = Rng::new(count as u64);
        let (weights, grad) = (
            rng.vec(count, |r| 2.0 * r.unit()),
            rng.vec(count, Rng::unit),
        );
        let what = format!("{count} at {place:?}");
        let mut wanted = vec![0.0; count];
        ste::forward(&weights, &mut wanted).expect("fits");
        let input = Guarded::new(&weights, place);
        let mut out = Guarded::filled(count, place.of_operand(1));
        ste::forward(input.get(), out.get_mut()).expect("fits");
        assert_eq!(bits(&out.take(&what)), bits(&wanted), "{what}");
        let mut in_place = Guarded::new(&weights, place);
        ste::forward_in_place(in_place.get_mut());
        assert_eq!(bits(&in_place.take(&what)), bits(&wanted), "{what}");

        ste::backward(&weights, &grad, &mut wanted).expect("fits");
        let grad_in = Guarded::new(&grad, place.of_operand(2));
        let mut out = Guarded::filled(count, place.of_operand(1));
        ste::backward(input.get(), grad_in.get(), out.get_mut()).expect("fits");
        assert_eq!(bits(&out.take(&what)), bits(&wanted), "{what}");
    });
}

/// The gradients of a layer, their slices at places of their own.
/// The weights' own product is the `gemm` crate's, on our pointers.
#[cfg(feature = "train")]
mod training {
    use super::*;
    use tritgemm::Workspace;
    use tritgemm::nn::{BitLinear, BitLinearGrads};
    use tritgemm_testing::{view, view_mut};

    fn gradients([m, k, n]: [usize; 3], sparse: bool, place: Place) -> [Vec<u32>; 4] {
        let mut rng = Rng::new((m * k) as u64);
        let layer = BitLinear::new(rng.vec(m * k, Rng::unit), m, k).expect("a layer");
        let layer = layer.with_bias(rng.vec(m, Rng::unit)).expect("a bias");
        let mut layer = layer.with_2_4_sparsity(sparse);
        let at = |i| place.of_operand(i);
        let x = Guarded::new(&rng.vec(n * k, Rng::unit), at(0));
        let grad_y = Guarded::new(&rng.vec(n * m, Rng::unit), at(1));
        let mut y = Guarded::filled(n * m, at(2));
        let mut grad_x = Guarded::filled(n * k, at(3));
        let mut grad_weight = Guarded::filled(m * k, at(4));
        let mut grad_bias = Guarded::filled(m, at(5));
        let ws = &mut Workspace::new();
        let x = view(x.get(), n, k);
        layer
            .forward_training(x, view_mut(y.get_mut(), n, m), ws)
            .expect("fits");
        let grads = BitLinearGrads {
            x: Some(view_mut(grad_x.get_mut(), n, k)),
            weight: Some(grad_weight.get_mut()),
            bias: Some(grad_bias.get_mut()),
        };
        layer
            .backward(x, view(grad_y.get(), n, m), grads, ws)
            .expect("fits");
        [y, grad_x, grad_weight, grad_bias].map(|out| bits(&out.take(&([m, k, n], place))))
    }

    /// Not under an emulator: qemu's `vmaskmovps`, which the `gemm` crate loads
    /// its tails with, touches the lanes that are masked out. CPUs do not.
    #[test]
    fn gradients_of_a_layer() {
        if quick() {
            return;
        }
        let sizes = [1, 2, 3, 5, 15, 17, 33, 64, 66];
        for (i, &m) in sizes.iter().enumerate() {
            for (j, &k) in sizes.iter().enumerate() {
                let shape = [m, k, sizes[(i + j) % sizes.len()]];
                let sparse = (i + j) % 2 == 0;
                let [end, start] = Place::tight().map(|p| gradients(shape, sparse, p));
                assert_eq!(end, start, "{shape:?}");
                assert!(end.iter().flatten().any(|&v| v != 0), "{shape:?}");
            }
        }
    }

    #[test]
    fn gradients_at_every_alignment() {
        for shape in [[66, 29, 3], [17, 70, 9]] {
            let wanted = gradients(shape, false, Place::end(0));
            // The product that is not ours need not give the same bits wherever
            // its operands lie, but it does.
            for place in Place::all() {
                assert_eq!(
                    gradients(shape, false, place),
                    wanted,
                    "{shape:?} {place:?}"
                );
            }
        }
    }
}
