//! The float types that activations come in.

use crate::kernels::auto::norm::InverseRms;
use crate::kernels::auto::{activations, hadamard, norm};

/// A float type of activations: `f32`, and with the feature `half` also
/// `half::f16` and `half::bf16`.
///
/// Arithmetic is in f32: 16-bit values are widened exactly on the way in and
/// rounded half to even on the way out, the same on every instruction set.
/// Sealed: no other type implements it.
pub trait Activation: sealed::Sealed + Copy + Send + Sync + 'static {}

pub(crate) mod sealed {
    use crate::kernels::auto::norm::InverseRms;
    use crate::product::compiled::Compiled;

    /// The vectorised loops over an activation type, one token at a time. They
    /// are methods, not generic functions, so that they are compiled with this
    /// crate and its optimisation level, not with the crate that calls them.
    pub trait Sealed: Compiled {
        /// See [`activations::quantize`](super::activations::quantize).
        fn quantize(x: &[Self], q: &mut [i8]) -> Option<f32>;
        /// See [`hadamard::signed`](super::hadamard::signed).
        fn signed(x: &[Self], signs: &[u32], y: &mut [f32]);
        /// See [`hadamard::widen`](super::hadamard::widen).
        fn widen(x: &[Self], y: &mut [f32]);
        /// See [`norm::sum_of_squares`](super::norm::sum_of_squares).
        fn sum_of_squares(x: &[Self]) -> f64;
        /// See [`norm::normalize`](super::norm::normalize).
        fn normalize(x: &[Self], inverse: InverseRms, gain: &[f32], y: &mut [Self]);
        /// See [`norm::normalize_in_place`](super::norm::normalize_in_place).
        fn normalize_in_place(x: &mut [Self], inverse: InverseRms, gain: &[f32]);
        /// See [`norm::gained_dot`](super::norm::gained_dot).
        fn gained_dot(grad_y: &[Self], gain: &[f32], x: &[Self]) -> f64;
        /// See [`norm::input_gradient`](super::norm::input_gradient).
        fn input_gradient(
            grad_y: &[Self],
            gain: &[f32],
            x: &[Self],
            factors: (f64, f64),
            grad_x: &mut [Self],
        );
        /// See [`norm::add_gain_gradient`](super::norm::add_gain_gradient).
        fn add_gain_gradient(
            grad_y: &[Self],
            x: &[Self],
            inverse: InverseRms,
            grad_gain: &mut [f32],
        );
    }
}

macro_rules! activation {
    ($($float:ty),+) => {$(
        impl sealed::Sealed for $float {
            fn signed(x: &[Self], signs: &[u32], y: &mut [f32]) {
                hadamard::signed(x, signs, y);
            }

            fn widen(x: &[Self], y: &mut [f32]) {
                hadamard::widen(x, y);
            }

            fn quantize(x: &[Self], q: &mut [i8]) -> Option<f32> {
                activations::quantize(x, q)
            }

            fn sum_of_squares(x: &[Self]) -> f64 {
                norm::sum_of_squares(x)
            }

            fn normalize(x: &[Self], inverse: InverseRms, gain: &[f32], y: &mut [Self]) {
                norm::normalize(x, inverse, gain, y);
            }

            fn normalize_in_place(x: &mut [Self], inverse: InverseRms, gain: &[f32]) {
                norm::normalize_in_place(x, inverse, gain);
            }

            fn gained_dot(grad_y: &[Self], gain: &[f32], x: &[Self]) -> f64 {
                norm::gained_dot(grad_y, gain, x)
            }

            fn input_gradient(
                grad_y: &[Self],
                gain: &[f32],
                x: &[Self],
                factors: (f64, f64),
                grad_x: &mut [Self],
            ) {
                norm::input_gradient(grad_y, gain, x, factors, grad_x);
            }

            fn add_gain_gradient(
                grad_y: &[Self],
                x: &[Self],
                inverse: InverseRms,
                grad_gain: &mut [f32],
            ) {
                norm::add_gain_gradient(grad_y, x, inverse, grad_gain);
            }
        }

        impl Activation for $float {}
    )+};
}

activation!(f32);

#[cfg(feature = "half")]
activation!(half::f16, half::bf16);
