//! Per-token int8 quantisation: the largest magnitude, then one multiply and
//! one rounding addition a value.

use crate::kernels::auto::float::Float;
use multiversion::multiversion;

/// The least absmax that a token is scaled by.
pub const MIN_ABSMAX: f32 = 1e-5;

/// `1.5 * 2^23`: the floats next to it are the integers, so adding it rounds
/// half to even, and the low byte of the sum is the integer. Exact for
/// `|v| < 2^22`, and it needs no instruction that the baseline lacks.
const ROUND: f32 = 12_582_912.0;

/// Quantises a token and returns its absmax, or `None`, `q` untouched, if a
/// value is not finite.
///
/// The clamp to [-128, 127] of the formula has nothing to do: `|x| <= absmax`,
/// so `|x * s|` is at most 127 (1 + 2^-24)^2, which rounds to 127.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn quantize<T: Float>(x: &[T], q: &mut [i8]) -> Option<f32> {
    let mut largest = T::Bits::default();
    for &value in x {
        largest = largest.max(value.magnitude());
    }
    // As integers, infinity and every NaN are larger than all finite values.
    if largest.into() >= T::INFINITY_BITS {
        return None;
    }
    let absmax = T::of_magnitude(largest);
    let scale = 127.0 / absmax.max(MIN_ABSMAX);
    for (q, &value) in q.iter_mut().zip(x) {
        *q = (value.to_wide() * scale + ROUND).to_bits() as i8;
    }
    Some(absmax)
}

/// The magnitudes of each of the first `tokens` tokens of `x[32][k]`, added up. At most
/// 511 values each: the sums of more could overflow.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn magnitudes_token_major(x: &[i8], tokens: usize) -> [u16; 32] {
    let mut sums = [0_u16; 32];
    // Not 0, which chunks may not be long.
    let len = (x.len() / 32).max(1);
    for (sum, row) in sums.iter_mut().zip(x.chunks_exact(len)).take(tokens) {
        for &x in row {
            *sum = sum.wrapping_add(u16::from(x.unsigned_abs()));
        }
    }
    sums
}

/// The magnitudes of each column of `x[k][32]`, added up. At most 511 rows: the
/// sums of more could overflow.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn magnitudes(x: &[i8]) -> [u16; 32] {
    let (rows, _) = x.as_chunks::<32>();
    let mut sums = [0_u16; 32];
    for row in rows {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum = sum.wrapping_add(u16::from(x.unsigned_abs()));
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::{magnitudes, magnitudes_token_major};

    #[test]
    fn magnitudes_in_either_order() {
        let value = |token: usize, k: usize| (37 * token + 101 * k) as u8 as i8;
        for len in [0, 1, 12, 120] {
            let token_major: Vec<i8> = (0..32 * len).map(|i| value(i / len, i % len)).collect();
            let by_lane: Vec<i8> = (0..32 * len).map(|i| value(i % 32, i / 32)).collect();
            let expected: [u16; 32] = core::array::from_fn(|token| {
                (0..len)
                    .map(|k| u16::from(value(token, k).unsigned_abs()))
                    .sum()
            });
            assert_eq!(magnitudes(&by_lane), expected);
            for tokens in [0, 1, 5, 32] {
                let sums = magnitudes_token_major(&token_major, tokens);
                assert_eq!(sums[..tokens], expected[..tokens]);
                assert!(sums[tokens..].iter().all(|&sum| sum == 0));
            }
        }
    }
}
