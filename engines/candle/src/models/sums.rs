//! Sums of products with one order on every instruction set: value `i` of a row goes to sum
//! `i % LANES`, and those are added in pairs at the end. There is no unsafe code: the compiler
//! makes vectors of the sums where [`pulp`] dispatches to the CPU's instruction set.

/// Sums of a row.
pub(super) const LANES: usize = 16;
/// Rows at a time.
pub(super) const ROWS: usize = 4;

/// Adds the products of a part of a row with that part of `x`.
#[inline(always)]
pub(super) fn part<W: Copy>(
    mut sums: [f32; LANES],
    row: &[[W; LANES]],
    x: &[[f32; LANES]],
    value: impl Fn(W) -> f32,
) -> [f32; LANES] {
    for (row, x) in row.iter().zip(x) {
        for lane in 0..LANES {
            sums[lane] += value(row[lane]) * x[lane];
        }
    }
    sums
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

/// The products of `R` rows with `x`.
#[inline(always)]
pub(super) fn dots<const R: usize>(rows: [&[f32]; R], x: &[f32]) -> [f32; R] {
    let mut all = [[0.0; LANES]; R];
    let (xs, x_tail) = x.as_chunks();
    let rows = rows.map(|row| row.as_chunks::<LANES>());
    for (i, x) in xs.iter().enumerate() {
        for (sums, (row, _)) in all.iter_mut().zip(&rows) {
            *sums = part(*sums, &[row[i]], &[*x], |w| w);
        }
    }
    for (sums, (_, tail)) in all.iter_mut().zip(&rows) {
        for ((sum, w), x) in sums.iter_mut().zip(*tail).zip(x_tail) {
            *sum += w * x;
        }
    }
    all.map(total)
}

/// Adds `factors[r]` times row `r` to `y`, one row after the other.
#[inline(always)]
pub(super) fn add_scaled<const R: usize>(y: &mut [f32], factors: [f32; R], rows: [&[f32]; R]) {
    for (i, y) in y.iter_mut().enumerate() {
        for (factor, row) in factors.iter().zip(&rows) {
            *y += factor * row[i];
        }
    }
}
