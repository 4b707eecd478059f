//! The ends of groups of K in kernels for few tokens: sums of 64 rows, in their order, scaled
//! and added to sums of f32.

use crate::kernels::contract::ScalePointer;
use core::arch::x86_64::*;

/// `out[r] += values[r] * scales[r]`, or `values[r] * (scales[r] * token_scale)`, for 64 rows.
///
/// # Safety
/// Precondition 1 of [`crate::kernels::contract`]; `scales` has 64 values from `at` on, and
/// `out` is valid for 64, initialised.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn add_scaled(
    values: [__m512; 4],
    scales: ScalePointer,
    at: usize,
    token_scale: Option<__m512>,
    out: *mut f32,
) {
    // SAFETY: the caller's word.
    let mut scales = unsafe {
        match scales {
            ScalePointer::F32(from) => {
                let from = from.wrapping_add(at);
                [
                    _mm512_loadu_ps(from),
                    _mm512_loadu_ps(from.add(16)),
                    _mm512_loadu_ps(from.add(32)),
                    _mm512_loadu_ps(from.add(48)),
                ]
            }
            ScalePointer::F16(from) => {
                let from = from.wrapping_add(at);
                [
                    _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
                    _mm512_cvtph_ps(_mm256_loadu_si256(from.add(16).cast())),
                    _mm512_cvtph_ps(_mm256_loadu_si256(from.add(32).cast())),
                    _mm512_cvtph_ps(_mm256_loadu_si256(from.add(48).cast())),
                ]
            }
        }
    };
    if let Some(token_scale) = token_scale {
        for scale in &mut scales {
            *scale = _mm512_mul_ps(*scale, token_scale);
        }
    }
    for i in 0..4 {
        // SAFETY: the caller's word for 64 values.
        unsafe {
            let out = out.add(16 * i);
            let sum = _mm512_add_ps(_mm512_loadu_ps(out), _mm512_mul_ps(values[i], scales[i]));
            _mm512_storeu_ps(out, sum);
        }
    }
}
