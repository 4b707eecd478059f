//! What a zero weight meets is never seen.

use crate::{config, forward_f32, layer, shapes};
use proptest::prelude::*;
use tritgemm::Scales;
use tritgemm_testing::case::{Case, Shape, assert_same};
use tritgemm_testing::{Rng, bits, ways};

const STRANGE: [f32; 4] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];

proptest! {
    #![proptest_config(config(24))]

    /// Some columns of weights are zero. There the activations may be anything;
    /// elsewhere they are ordinary, and the outputs are what zeros would give.
    #[test]
    fn columns_of_zeros(shape in shapes()) {
        let case = Case::new(shape);
        let Shape { m, k, n, seed, .. } = case.shape;
        let mut rng = Rng::new(seed);
        let zero = rng.vec(k, |r| r.below(3) == 0);
        let mut trits = case.trits.clone();
        for (i, trit) in trits.iter_mut().enumerate() {
            *trit = if zero[i % k] { 0 } else { *trit };
        }
        let mut with = |value: &mut dyn FnMut(&mut Rng) -> f32| -> Vec<f32> {
            let x = case.x_f32.iter().enumerate();
            x.map(|(i, &x)| if zero[i % k] { value(&mut rng) } else { x }).collect()
        };
        let plain = with(&mut |_| 0.0);
        let strange = with(&mut |r| STRANGE[r.below(4)]);
        let layer = layer(&trits, m, k, Scales::per_tensor(1.5));
        for way in &ways() {
            let what = format!("{:?} {way:?}", case.shape);
            let wanted = forward_f32(&layer, &plain, n, way);
            prop_assert!(wanted.iter().all(|v| v.is_finite()), "{what}");
            let got = forward_f32(&layer, &strange, n, way);
            assert_same("forward_f32", &what, &bits(&got), &bits(&wanted));
        }
    }

    /// One NaN reaches the rows whose weight for it is not 0, and no others.
    #[test]
    fn one_nan(shape in shapes(), at: prop::sample::Index) {
        let case = Case::new(shape);
        let Shape { m, k, n, .. } = case.shape;
        let at = at.index(n * k);
        let mut x = case.x_f32.clone();
        x[at] = f32::NAN;
        for way in &ways() {
            let what = format!("activation {at}, {:?} {way:?}", case.shape);
            let plain = forward_f32(&case.layer, &case.x_f32, n, way);
            let y = forward_f32(&case.layer, &x, n, way);
            for (i, (y, plain)) in y.iter().zip(plain).enumerate() {
                let met = i / m == at / k && case.trits[i % m * k + at % k] != 0;
                let wanted = if met { f32::NAN } else { plain };
                prop_assert_eq!(y.to_bits(), wanted.to_bits(), "output {}: {}", i, what);
            }
        }
    }
}
