//! Latent weights: their mean magnitude, their trits, 2:4 sparsity.

use crate::kernels::auto::float::Float;
use crate::kernels::auto::paired_sum;
use multiversion::multiversion;

/// The largest magnitude's bits; at least those of infinity when a value is
/// not finite.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn largest_magnitude(weights: &[f32]) -> i32 {
    let mut largest = 0;
    for &w in weights {
        largest = largest.max(w.magnitude());
    }
    largest
}

/// The sum of magnitudes: not finite when, and only when, a weight is not.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn sum_of_magnitudes(weights: &[f32]) -> f64 {
    paired_sum(weights, |w| f64::from(w.abs()))
}

/// The largest f32 of which division by `alpha` (finite, positive) rounds to at
/// most one half: a weight is +1 when it is above this, -1 when below minus
/// this.
///
/// Round half to even of clamp(v, -1, 1) is +1 exactly when v > 0.5, so what
/// counts is whether the rounded quotient is above 0.5. The next float is
/// 0.5 + 2^-24, and the middle between the two rounds to the even one, 0.5: the
/// quotient is above 0.5 exactly when w > alpha * (0.5 + 2^-25). That product of
/// a 24-bit and a 25-bit significand is exact in f64, and w is an f32, so
/// rounding the product down to f32 loses nothing. A division a weight is saved,
/// and not one result differs.
#[inline(always)]
pub fn threshold(alpha: f32) -> f32 {
    const HALF_UP: f64 = 0.5 + 1.0 / (1_u64 << 25) as f64;
    let exact = f64::from(alpha) * HALF_UP;
    let nearest = exact as f32;
    if f64::from(nearest) > exact {
        nearest.next_down()
    } else {
        nearest
    }
}

/// `trits[k] = round_half_even(clamp(weights[k] / alpha, -1, 1))` by the
/// [`threshold`] of alpha; a NaN gives 0.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn ternarize(weights: &[f32], threshold: f32, trits: &mut [i8]) {
    for (trit, &w) in trits.iter_mut().zip(weights) {
        *trit = i8::from(w > threshold) - i8::from(w < -threshold);
    }
}

/// A weight or a trit: what 2:4 sparsity compares.
pub trait Magnitude: Copy + Default {
    /// Orders like the magnitudes.
    type Order: Copy + Ord;
    /// The magnitude.
    fn order(self) -> Self::Order;
}

impl Magnitude for f32 {
    type Order = i32;
    #[inline(always)]
    fn order(self) -> i32 {
        self.magnitude()
    }
}

impl Magnitude for i8 {
    type Order = u8;
    #[inline(always)]
    fn order(self) -> u8 {
        self.unsigned_abs()
    }
}

/// Zeroes the two smallest magnitudes of every four, the earlier of equals. The
/// tail counts as filled up with zeros.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn sparsify_2_4<T: Magnitude>(weights: &mut [T]) {
    let (fours, tail) = weights.as_chunks_mut::<4>();
    for four in fours {
        *four = two_largest(*four);
    }
    if !tail.is_empty() {
        let mut four = [T::default(); 4];
        four[..tail.len()].copy_from_slice(tail);
        tail.copy_from_slice(&two_largest(four)[..tail.len()]);
    }
}

/// A weight goes when two others of its four beat it. Of two equal ones the
/// later beats the earlier, so exactly two go.
#[inline(always)]
fn two_largest<T: Magnitude>(four: [T; 4]) -> [T; 4] {
    let [a, b, c, d] = four.map(T::order);
    // `a_b`: b beats the earlier a; if not, a beats b.
    let [a_b, a_c, a_d] = [b >= a, c >= a, d >= a].map(u8::from);
    let [b_c, b_d, c_d] = [c >= b, d >= b, d >= c].map(u8::from);
    let beaten_by = [
        a_b + a_c + a_d,
        (1 - a_b) + b_c + b_d,
        (1 - a_c) + (1 - b_c) + c_d,
        (1 - a_d) + (1 - b_d) + (1 - c_d),
    ];
    core::array::from_fn(|i| {
        if beaten_by[i] < 2 {
            four[i]
        } else {
            T::default()
        }
    })
}
