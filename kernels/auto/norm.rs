//! RMSNorm, one token at a time: reductions in f64 over fixed partial sums, the
//! elementwise part of the forward pass in f32, that of the backward pass in
//! f64, where a difference of close values would cost f32 its digits.

use crate::kernels::auto::float::Float;
use crate::kernels::auto::scale::NAN;
use crate::kernels::auto::{PARTIALS, PartialSums, padded, paired_sum, widened};
use multiversion::multiversion;

/// `sum_k x[k]^2`. A square of two f32 significands is exact in f64, and no
/// f32 is large enough to overflow the sum.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn sum_of_squares<T: Float>(x: &[T]) -> f64 {
    paired_sum(x, |x| {
        let x = f64::from(x);
        x * x
    })
}

/// `1 / rms` as two factors, both f32: their product would be subnormal, and
/// short of digits, where the token is very large.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct InverseRms {
    /// 1, or `2^-64` for a very large token.
    pub shrink: f32,
    /// The rest of `1 / rms`.
    pub rest: f32,
}

impl InverseRms {
    /// Splits `1 / rms`.
    pub fn new(inverse_rms: f64) -> Self {
        let two_64 = 2.0_f64.powi(64);
        if inverse_rms < 2.0_f64.powi(-100) {
            Self {
                shrink: 2.0_f32.powi(-64),
                rest: (inverse_rms * two_64) as f32,
            }
        } else {
            Self {
                shrink: 1.0,
                rest: inverse_rms as f32,
            }
        }
    }

    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        (x * self.shrink) * self.rest
    }
}

#[inline(always)]
fn canonical(y: f32) -> f32 {
    if y.is_nan() { NAN } else { y }
}

/// `y[k] = (x[k] / rms) * gain[k]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn normalize<T: Float>(x: &[T], inverse: InverseRms, gain: &[f32], y: &mut [T]) {
    for ((y, &x), &gain) in y.iter_mut().zip(x).zip(gain) {
        *y = T::of_wide(canonical(inverse.apply(x.to_wide()) * gain));
    }
}

/// [`normalize`] in place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn normalize_in_place<T: Float>(x: &mut [T], inverse: InverseRms, gain: &[f32]) {
    for (x, &gain) in x.iter_mut().zip(gain) {
        *x = T::of_wide(canonical(inverse.apply(x.to_wide()) * gain));
    }
}

/// `sum_k grad_y[k] * gain[k] * x[k]`, in the partial sums of [`paired_sum`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn gained_dot<T: Float>(grad_y: &[T], gain: &[f32], x: &[T]) -> f64 {
    let term = |grad_y: &[f32; PARTIALS], gain: &[f32; PARTIALS], x: &[f32; PARTIALS], j: usize| {
        f64::from(grad_y[j]) * f64::from(gain[j]) * f64::from(x[j])
    };
    let mut sums = PartialSums::new();
    let (grads, grads_tail) = grad_y.as_chunks::<PARTIALS>();
    let (gains, gains_tail) = gain.as_chunks::<PARTIALS>();
    let (xs, xs_tail) = x.as_chunks::<PARTIALS>();
    for ((grads, gains), xs) in grads.iter().zip(gains).zip(xs) {
        let (grads, xs) = (widened(grads), widened(xs));
        sums.add(|j| term(&grads, gains, &xs, j));
    }
    if !grads_tail.is_empty() {
        let (grads, gains, xs) = (padded(grads_tail), padded(gains_tail), padded(xs_tail));
        sums.add(|j| term(&grads, &gains, &xs, j));
    }
    sums.sum()
}

/// `grad_x[k] = grad_y[k] * gain[k] * inverse_rms - x[k] * along_x`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn input_gradient<T: Float>(
    grad_y: &[T],
    gain: &[f32],
    x: &[T],
    (inverse_rms, along_x): (f64, f64),
    grad_x: &mut [T],
) {
    for (((grad_x, &grad_y), &gain), &x) in grad_x.iter_mut().zip(grad_y).zip(gain).zip(x) {
        let across = f64::from(grad_y.to_wide()) * f64::from(gain) * inverse_rms;
        let value = across - f64::from(x.to_wide()) * along_x;
        *grad_x = T::of_wide(canonical(value as f32));
    }
}

/// `grad_gain[k] += grad_y[k] * (x[k] / rms)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn add_gain_gradient<T: Float>(
    grad_y: &[T],
    x: &[T],
    inverse: InverseRms,
    grad_gain: &mut [f32],
) {
    for ((grad_gain, &grad_y), &x) in grad_gain.iter_mut().zip(grad_y).zip(x) {
        *grad_gain = canonical(*grad_gain + grad_y.to_wide() * inverse.apply(x.to_wide()));
    }
}
