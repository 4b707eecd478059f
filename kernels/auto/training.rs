//! The elementwise and columnwise parts of a backward pass.

use multiversion::multiversion;

/// `out[m] = grad[m] * alphas[m]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn scale_gradient(grad: &[f32], alphas: &[f32], out: &mut [f32]) {
    for ((out, &grad), &alpha) in out.iter_mut().zip(grad).zip(alphas) {
        *out = grad * alpha;
    }
}

/// Zeroes `grad[k]` where not `|weights[k]| < alpha`, and where `trits`, if
/// given, are 0.
///
/// `|w| < alpha` is `|w / alpha| < 1`: the float next below alpha is so far
/// from it that its quotient cannot round to 1.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn gate_gradient(weights: &[f32], alpha: f32, trits: Option<&[i8]>, grad: &mut [f32]) {
    match trits {
        None => {
            for (grad, &w) in grad.iter_mut().zip(weights) {
                *grad = if w.abs() < alpha { *grad } else { 0.0 };
            }
        }
        Some(trits) => {
            for ((grad, &w), &trit) in grad.iter_mut().zip(weights).zip(trits) {
                *grad = if w.abs() < alpha && trit != 0 {
                    *grad
                } else {
                    0.0
                };
            }
        }
    }
}

/// `sums[m] += values[m]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn add_to_sums(values: &[f32], sums: &mut [f64]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += f64::from(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_is_that_of_the_rounded_quotient() {
        for mantissa in (0..1_u32 << 23).step_by(4099).chain([0, 1, (1 << 23) - 1]) {
            for exponent in [0x0080_0000, 0x3780_0000, 0x3f80_0000, 0x7f00_0000] {
                let alpha = f32::from_bits(exponent | mantissa);
                for w in [alpha.next_down(), alpha, alpha.next_up()] {
                    let expected = if (w / alpha).abs() < 1.0 { 5.0 } else { 0.0 };
                    let mut grad = [5.0, 5.0];
                    gate_gradient(&[w, -w], alpha, None, &mut grad);
                    assert_eq!(grad, [expected; 2], "weight {w} of alpha {alpha}");
                }
            }
        }
    }
}
