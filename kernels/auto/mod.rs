//! Helpers that the compiler vectorises: quantisers, straight-through
//! estimator, RMSNorm, random numbers, what training needs. `multiversion`
//! compiles each for several instruction sets and picks one on first use.
//!
//! Which one it picks never shows in a result. Elementwise code rounds every
//! operation once, wherever it runs; a maximum does not depend on the order;
//! and a sum is split over [`PARTIALS`] partial sums, value k going to partial sum
//! `k % PARTIALS`, which are then added in pairs. The vector width divides `PARTIALS`
//! on every target, so the compiler reorders nothing.
//!
//! The functions are safe and check nothing: shapes are the caller's business,
//! and a shorter slice ends the loop.

pub mod activations;
pub mod float;
pub mod hadamard;
#[cfg(feature = "half")]
mod half;
pub mod noise;
pub mod norm;
pub mod scale;
pub mod ste;
#[cfg(feature = "train")]
pub mod training;
pub mod transpose;
pub mod weights;

use float::Float;

/// Interleaved partial sums: wide enough to hide the latency of an addition
/// with 512-bit vectors, and still in registers with 128-bit ones.
pub const PARTIALS: usize = 32;

/// [`PARTIALS`] partial sums.
#[derive(Clone, Copy)]
pub struct PartialSums([[f64; 8]; PARTIALS / 8]);

impl PartialSums {
    /// All zero.
    #[inline(always)]
    pub fn new() -> Self {
        Self([[0.0; 8]; PARTIALS / 8])
    }

    /// Adds `term(j)` to every sum j.
    #[inline(always)]
    pub fn add(&mut self, term: impl Fn(usize) -> f64) {
        for (i, sums) in self.0.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum += term(8 * i + j);
            }
        }
    }

    /// The sums added in pairs: sum j takes sum j + 16, then j + 8, ...
    #[inline(always)]
    pub fn sum(self) -> f64 {
        let [a, b, c, d] = self.0;
        let mut eight: [f64; 8] = core::array::from_fn(|j| (a[j] + c[j]) + (b[j] + d[j]));
        let mut half = 4;
        while half > 0 {
            for j in 0..half {
                eight[j] += eight[j + half];
            }
            half /= 2;
        }
        eight[0]
    }
}

/// [`PARTIALS`] values in f32.
#[inline(always)]
pub fn widened<T: Float>(chunk: &[T; PARTIALS]) -> [f32; PARTIALS] {
    let mut wide = [0.0; PARTIALS];
    for (wide, &value) in wide.iter_mut().zip(chunk) {
        *wide = value.to_wide();
    }
    wide
}

/// At most [`PARTIALS`] values in f32, filled up with zeros.
#[inline(always)]
pub fn padded<T: Float>(tail: &[T]) -> [f32; PARTIALS] {
    let mut wide = [0.0; PARTIALS];
    for (wide, &value) in wide.iter_mut().zip(tail) {
        *wide = value.to_wide();
    }
    wide
}

/// The sum of `term(value)`; `term(0)` is zero.
#[inline(always)]
pub fn paired_sum<T: Float>(values: &[T], term: impl Fn(f32) -> f64) -> f64 {
    let mut sums = PartialSums::new();
    let (chunks, tail) = values.as_chunks::<PARTIALS>();
    for chunk in chunks {
        let wide = widened(chunk);
        sums.add(|j| term(wide[j]));
    }
    if !tail.is_empty() {
        let wide = padded(tail);
        sums.add(|j| term(wide[j]));
    }
    sums.sum()
}
