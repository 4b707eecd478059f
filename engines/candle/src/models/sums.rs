//! Sums of products with one order on every instruction set: value `i` of a row goes to sum
//! `i % LANES`, and those are added in pairs at the end. Vectors of any width hold them.

use pulp::Simd;

/// Sums of a row.
pub(super) const LANES: usize = 16;
/// Rows at a time.
pub(super) const ROWS: usize = 4;

/// The sums of `R` rows.
pub(super) struct Sums<S: Simd, const R: usize> {
    simd: S,
    vectors: [[S::f32s; LANES]; R],
    /// Of the values after the last whole [`LANES`].
    tails: [[f32; LANES]; R],
}

impl<S: Simd, const R: usize> Sums<S, R> {
    /// Vectors that hold the sums of a row.
    const VECTORS: usize = LANES / S::F32_LANES;

    #[inline(always)]
    pub(super) fn new(simd: S) -> Self {
        Self {
            simd,
            vectors: [[simd.splat_f32s(0.0); LANES]; R],
            tails: [[0.0; LANES]; R],
        }
    }

    /// Adds the products of parts of the rows with that part of `x`; only the last part may
    /// not be whole [`LANES`].
    #[inline(always)]
    pub(super) fn add(&mut self, rows: [&[f32]; R], x: &[f32]) {
        let (xs, x_tail) = x.as_chunks::<LANES>();
        let rows = rows.map(|row| row.as_chunks::<LANES>());
        for (i, x) in xs.iter().enumerate() {
            let (x, _) = S::as_simd_f32s(x);
            for (sums, row) in self.vectors.iter_mut().zip(&rows) {
                let (row, _) = S::as_simd_f32s(&row.0[i]);
                for v in 0..Self::VECTORS {
                    let product = self.simd.mul_f32s(row[v], x[v]);
                    sums[v] = self.simd.add_f32s(sums[v], product);
                }
            }
        }
        for (sums, row) in self.tails.iter_mut().zip(&rows) {
            for ((sum, w), x) in sums.iter_mut().zip(row.1).zip(x_tail) {
                *sum += w * x;
            }
        }
    }

    #[inline(always)]
    pub(super) fn finish(self) -> [f32; R] {
        let mut totals = [0.0; R];
        let rows = self.vectors.iter().zip(&self.tails);
        for (total, (vectors, tails)) in totals.iter_mut().zip(rows) {
            let mut sums = [0.0; LANES];
            let (all, _) = S::as_mut_simd_f32s(&mut sums);
            all.copy_from_slice(&vectors[..Self::VECTORS]);
            for (sum, tail) in sums.iter_mut().zip(tails) {
                *sum += tail;
            }
            *total = self::total(sums);
        }
        totals
    }
}

/// The sum of a row's sums.
#[inline(always)]
pub(super) fn total(mut sums: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}

/// Adds `factor` times `x` to `y`.
#[inline(always)]
pub(super) fn add_scaled(y: &mut [f32], factor: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += factor * x;
    }
}
