//! The epilogues: from sums to outputs. The only multiplications an output
//! sees are here, in functions of their own, never in an accumulation.
//!
//! Every function is elementwise and never fused, so the result does not depend
//! on the vector width that `multiversion` picks. A NaN is stored as the one
//! quiet NaN `0x7fc0_0000`: which of several NaNs survives an addition differs
//! between instruction sets, and this keeps results equal bit for bit.

use crate::kernels::auto::float::Float;
use multiversion::multiversion;

/// The NaN that results hold.
pub const NAN: f32 = f32::from_bits(0x7fc0_0000);

/// From the bias of an f16's exponent to that of an f32's.
const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);

/// `y`, or the one NaN.
#[inline(always)]
pub fn canonical(y: f32) -> f32 {
    if y.is_nan() { NAN } else { y }
}

/// `y[m] = sums[m] as f32 * (scales[m] * token_scale) (+ bias[m])`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn scale_i32(
    sums: &[i32],
    scales: &[f32],
    token_scale: f32,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    match bias {
        Some(bias) => {
            for (((y, &sum), &scale), &bias) in y.iter_mut().zip(sums).zip(scales).zip(bias) {
                *y = canonical(sum as f32 * (scale * token_scale) + bias);
            }
        }
        None => {
            for ((y, &sum), &scale) in y.iter_mut().zip(sums).zip(scales) {
                *y = canonical(sum as f32 * (scale * token_scale));
            }
        }
    }
}

/// `y[m] = sums[m] * scales[m] (+ bias[m])`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn scale_f32(sums: &[f32], scales: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    match bias {
        Some(bias) => {
            for (((y, &sum), &scale), &bias) in y.iter_mut().zip(sums).zip(scales).zip(bias) {
                *y = canonical(sum * scale + bias);
            }
        }
        None => {
            for ((y, &sum), &scale) in y.iter_mut().zip(sums).zip(scales) {
                *y = canonical(sum * scale);
            }
        }
    }
}

/// Folds one group in: `total[m] += sums[m] as f32 * (scales[m] * token_scale)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn fold_group_i32(sums: &[i32], scales: &[f32], token_scale: f32, total: &mut [f32]) {
    for ((total, &sum), &scale) in total.iter_mut().zip(sums).zip(scales) {
        *total += sum as f32 * (scale * token_scale);
    }
}

/// Folds one group in: `total[m] += sums[m] * scales[m]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn fold_group_f32(sums: &[f32], scales: &[f32], total: &mut [f32]) {
    for ((total, &sum), &scale) in total.iter_mut().zip(sums).zip(scales) {
        *total += sum * scale;
    }
}

/// `total[m] (+= bias[m])`, after the last group.
pub fn add_bias(bias: Option<&[f32]>, total: &mut [f32]) {
    match bias {
        Some(bias) => {
            for (total, &bias) in total.iter_mut().zip(bias) {
                *total = canonical(*total + bias);
            }
        }
        None => {
            for total in total {
                *total = canonical(*total);
            }
        }
    }
}

/// `scales[m] = halves[m]`, the bits of finite f16.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn widen(halves: &[u16], scales: &mut [f32]) {
    for (scale, &bits) in scales.iter_mut().zip(halves) {
        // Sign and mantissa in place; the exponent still has f16's bias, which a product
        // with a power of two makes up for, of subnormal ones as well.
        let bits = i32::from(bits as i16) << 13 & 0x8fff_e000_u32 as i32;
        *scale = f32::from_bits(bits as u32) * REBIAS;
    }
}

/// `y[m] = values[m]`, rounded to the type of `y`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn store<T: Float>(values: &[f32], y: &mut [T]) {
    for (y, &value) in y.iter_mut().zip(values) {
        *y = T::of_wide(value);
    }
}

/// `y[m] += values[m]`: one addition in f32, rounded to the type of `y`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn add<T: Float>(values: &[f32], y: &mut [T]) {
    for (y, &value) in y.iter_mut().zip(values) {
        *y = T::of_wide(canonical(y.to_wide() + value));
    }
}

/// `y[m] += weight * values[m]`, rounded after the product and after the sum.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn add_weighted(values: &[f32], weight: f32, y: &mut [f32]) {
    for (y, &value) in y.iter_mut().zip(values) {
        *y = canonical(*y + weight * value);
    }
}
