//! Products of a dense table: its rows are streamed from memory once, which is what a token
//! waits for.
//!
//! [`ROWS`] rows at a time, far apart: as many long streams, which the CPU fetches ahead. One
//! stream leaves a quarter of one thread's bandwidth, and streams as short as a row of int8
//! leave half.
//!
//! Sums have a fixed order ([`Sums`]), so a table gives the same bits on every instruction set
//! and for any number of threads. There is no unsafe code: the compiler vectorises what
//! [`pulp`] dispatches to the CPU's instruction set.

use super::sums::{ROWS, Sums};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows that a thread takes at a time.
pub(super) const TASK: usize = 256;
/// Values of a row that are widened at a time.
pub(super) const BLOCK: usize = 256;

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
    fn with_simd<S: Simd>(self, simd: S) {
        let (tokens, cols) = (self.tokens, self.x.len() / self.tokens);
        let row = |row: usize| &self.rows[row * cols..][..cols];
        let count = self.rows.len() / cols;
        // Row i of each of ROWS streams.
        let stream = count / ROWS;
        let mut wide = [[0.0; BLOCK]; ROWS];
        for (token, x) in self.x.chunks_exact(cols).enumerate() {
            for i in 0..stream {
                let rows: [_; ROWS] = std::array::from_fn(|s| row(s * stream + i));
                for (s, y) in sums(simd, rows, x, &mut wide, self.value)
                    .into_iter()
                    .enumerate()
                {
                    self.y[(s * stream + i) * tokens + token] = y;
                }
            }
            for i in ROWS * stream..count {
                [self.y[i * tokens + token]] = sums(simd, [row(i)], x, &mut wide, self.value);
            }
        }
    }
}

/// The products of `R` rows with a token; `wide` is room for parts of them.
#[inline(always)]
fn sums<S: Simd, const R: usize, W: Copy>(
    simd: S,
    rows: [&[W]; R],
    x: &[f32],
    wide: &mut [[f32; BLOCK]; ROWS],
    value: impl Fn(W) -> f32 + Copy,
) -> [f32; R] {
    let mut sums = Sums::<S, R>::new(simd);
    for (block, x) in x.chunks(BLOCK).enumerate() {
        for (row, wide) in rows.iter().zip(&mut *wide) {
            widen(&row[block * BLOCK..][..x.len()], wide, value);
        }
        sums.add(std::array::from_fn(|r| &wide[r][..x.len()]), x);
    }
    sums.finish()
}
