//! The straight-through estimator's two directions.

use crate::kernels::auto::scale::NAN;
use multiversion::multiversion;

/// As in quantisation: adding it rounds half to even.
const ROUND: f32 = 12_582_912.0;

/// Round half to even of clamp(w, -1, 1), with the sign of w on a zero as
/// IEEE 754 rounding keeps it.
#[inline(always)]
fn round_clamped(w: f32) -> f32 {
    let rounded = (w.clamp(-1.0, 1.0) + ROUND) - ROUND;
    if w.is_nan() { NAN } else { rounded.copysign(w) }
}

#[inline(always)]
fn gate(w: f32, grad: f32) -> f32 {
    if w.abs() < 1.0 { grad } else { 0.0 }
}

/// `out[k] = round(clamp(weights[k], -1, 1))`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn forward(weights: &[f32], out: &mut [f32]) {
    for (out, &w) in out.iter_mut().zip(weights) {
        *out = round_clamped(w);
    }
}

/// [`forward`] in place.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn forward_in_place(weights: &mut [f32]) {
    for w in weights {
        *w = round_clamped(*w);
    }
}

/// `grad_in[k] = grad_out[k]` where `|weights[k]| < 1`, else 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn backward(weights: &[f32], grad_out: &[f32], grad_in: &mut [f32]) {
    for ((grad_in, &grad_out), &w) in grad_in.iter_mut().zip(grad_out).zip(weights) {
        *grad_in = gate(w, grad_out);
    }
}
