//! Products of a dense table: its rows are streamed from memory once, which is what a token
//! waits for.
//!
//! [`STREAMS`] rows at a time, far apart: as many long streams, which the CPU fetches ahead. One
//! stream leaves a quarter of one thread's bandwidth, and streams as short as a row of int8
//! leave half.
//!
//! Value `i` of a row goes to sum `i % LANES`, and those are added in pairs at the end, so a
//! table gives the same bits on every instruction set and for any number of threads. There is no
//! unsafe code: the compiler vectorises what [`pulp`] dispatches to the CPU's instruction set.

use super::sums::{LANES, part, total};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows that a thread takes at a time.
pub(super) const TASK: usize = 256;
/// Rows whose products are summed at a time.
pub(super) const STREAMS: usize = 4;
/// Values of a row that are multiplied before the next row's are: a cache line of int8.
pub(super) const BLOCK: usize = 64;

/// The products of each row of `values` with each of the `tokens` of `x` `[tokens, cols]`:
/// `[rows, tokens]`.
pub(super) fn products<W: Copy + Sync>(
    values: &[W],
    x: &[f32],
    tokens: usize,
    value: impl Fn(W) -> f32 + Copy + Sync,
) -> Vec<f32> {
    let cols = x.len() / tokens;
    let mut y = vec![0.0; values.len() / cols * tokens];
    let tasks = values.par_chunks(TASK * cols);
    y.par_chunks_mut(TASK * tokens)
        .zip(tasks)
        .for_each(|(y, rows)| {
            Arch::new().dispatch(Task {
                rows,
                x,
                y,
                tokens,
                value,
            });
        });
    y
}

/// Makes f32 of stored values.
#[inline(always)]
pub(super) fn widen<W: Copy>(from: &[W], to: &mut [f32], value: impl Fn(W) -> f32) {
    for (from, to) in from.iter().zip(to) {
        *to = value(*from);
    }
}

/// Products of some rows with all tokens.
struct Task<'a, W, V> {
    rows: &'a [W],
    x: &'a [f32],
    /// `[rows, tokens]`.
    y: &'a mut [f32],
    tokens: usize,
    value: V,
}

impl<W: Copy, V: Fn(W) -> f32 + Copy> WithSimd for Task<'_, W, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (tokens, cols) = (self.tokens, self.x.len() / self.tokens);
        let count = self.rows.len() / cols;
        // Row i of each of the streams; behind the last row it is read again.
        let length = count.div_ceil(STREAMS);
        for (token, x) in self.x.chunks_exact(cols).enumerate() {
            for i in 0..length {
                let number = |stream: usize| stream * length + i;
                let rows = std::array::from_fn(|stream| {
                    &self.rows[number(stream).min(count - 1) * cols..][..cols]
                });
                let sums = sums(rows, x, self.value);
                for (stream, sum) in sums.into_iter().enumerate() {
                    if let Some(y) = self.y.get_mut(number(stream) * tokens + token) {
                        *y = sum;
                    }
                }
            }
        }
    }
}

/// The products of the rows with a token. The compiler makes vectors of sums that are in memory
/// from block to block.
#[inline(always)]
fn sums<W: Copy>(
    rows: [&[W]; STREAMS],
    x: &[f32],
    value: impl Fn(W) -> f32 + Copy,
) -> [f32; STREAMS] {
    let mut sums = [[0.0; LANES]; STREAMS];
    let whole = x.len() - x.len() % LANES;
    for (block, x) in x[..whole].chunks(BLOCK).enumerate() {
        let (xs, _) = x.as_chunks();
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let (values, _) = row[block * BLOCK..][..x.len()].as_chunks();
            *sums = part(*sums, values, xs, value);
        }
    }
    let mut totals = [0.0; STREAMS];
    for ((to, mut sums), row) in totals.iter_mut().zip(sums).zip(&rows) {
        for ((sum, &w), x) in sums.iter_mut().zip(&row[whole..]).zip(&x[whole..]) {
            *sum += value(w) * x;
        }
        *to = total(sums);
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::Scalar;

    /// Rows that fill no stream, whole streams, and some more; tails of every part.
    #[test]
    fn every_instruction_set_has_the_same_bits() {
        for rows in [1, 7, 2 * STREAMS, 5 * STREAMS + 3] {
            for cols in [3, LANES, BLOCK + LANES + 5] {
                let tokens = 2;
                let codes: Vec<i8> = (0..rows * cols).map(|i| (i * 37 % 256) as i8).collect();
                let x: Vec<f32> = (0..tokens * cols).map(|i| (i as f32).sin()).collect();
                let (mut y, mut scalar) = (vec![f32::NAN; rows * tokens], vec![0.0; rows * tokens]);
                let task = |y| Task {
                    rows: &codes[..],
                    x: &x,
                    y,
                    tokens,
                    value: f32::from as fn(i8) -> f32,
                };
                Arch::new().dispatch(task(&mut y));
                task(&mut scalar).with_simd(Scalar::new());
                let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&y), bits(&scalar), "{rows} x {cols}");
            }
        }
    }
}
