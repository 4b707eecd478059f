//! Sums of products with a fixed order, vectorised by the compiler where they are inlined into
//! what [`pulp`] dispatches.

/// Sums that are kept at a time.
pub(super) const LANES: usize = 64;

/// The sum of the products of `row`'s values with `x`.
#[inline(always)]
pub(super) fn dot<W: Copy>(row: &[W], x: &[f32], value: impl Fn(W) -> f32) -> f32 {
    let (rows, row_tail) = row.as_chunks::<LANES>();
    let (xs, x_tail) = x.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (row, x) in rows.iter().zip(xs) {
        for i in 0..LANES {
            sums[i] += value(row[i]) * x[i];
        }
    }
    for ((sum, w), x) in sums.iter_mut().zip(row_tail).zip(x_tail) {
        *sum += value(*w) * x;
    }
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
