//! The activations of one column tile, in the order that its kernel reads them.

use super::{segments, strips};
use crate::kernels::call::Element;
use crate::kernels::contract::ColumnKernel;
use crate::kernels::vector::transpose::SQUARE;
use crate::view::MatRef;
use core::ops::Range;

/// Bytes of the tile that are written in turn: they stay in L1. With 2 KiB, which read
/// single lines of int8 tokens, products of 512 tokens took 4 % longer.
const BLOCK: usize = 16 << 10;

/// Writes tokens `tokens` of `x` as one tile of `kernel`, for matrices whose scales
/// change every `group_bytes` strips. Values of k beyond K become zero; so do lanes
/// without a token, except for kernels that read by token and skip them.
pub(super) fn lay_out_tile<X: Element>(
    x: MatRef<'_, X>,
    tokens: Range<usize>,
    kernel: &ColumnKernel<X, X::Acc>,
    group_bytes: usize,
    xt: &mut [X],
) {
    if kernel.by_token {
        copy(
            x,
            tokens,
            [kernel.lanes, kernel.chunk_bytes],
            group_bytes,
            xt,
        );
    } else {
        if tokens.len() < kernel.lanes {
            xt.fill(X::zeroed());
        }
        xt[x.cols() * kernel.lanes..].fill(X::zeroed());
        transpose(x, tokens, kernel.lanes, xt);
    }
}

/// Token after token: `xt[chunk][lane][4 * strips]`, for the chunks of each segment, all
/// but the last of `chunk` strips. The loop over tiles cuts the same chunks, as stretches
/// are whole blocks and blocks whole chunks.
fn copy<X: Element>(
    x: MatRef<'_, X>,
    tokens: Range<usize>,
    [lanes, chunk]: [usize; 2],
    group_bytes: usize,
    xt: &mut [X],
) {
    let k = x.cols();
    for (lane, token) in tokens.enumerate() {
        let x = x.row(token);
        for segment in segments(strips(k), group_bytes) {
            for start in segment.clone().step_by(chunk) {
                let len = 4 * chunk.min(segment.end - start);
                let from = &x[4 * start..k.min(4 * start + len)];
                let to = &mut xt[4 * start * lanes + lane * len..][..len];
                let (to, padding) = to.split_at_mut(from.len());
                to.copy_from_slice(from);
                padding.fill(X::zeroed());
            }
        }
    }
}

/// Tokens to lanes: `xt[k][lane]`.
fn transpose<X: Element>(x: MatRef<'_, X>, tokens: Range<usize>, lanes: usize, xt: &mut [X]) {
    let k = x.cols();
    let block = BLOCK / (lanes * size_of::<X>());
    for start in (0..k).step_by(block) {
        let (end, mut lane) = (k.min(start + block), 0);
        let xt = &mut xt[start * lanes..end * lanes];
        while lane < tokens.len() {
            let first = tokens.start + lane;
            if tokens.end - first >= SQUARE {
                let rows = core::array::from_fn(|i| &x.row(first + i)[start..end]);
                squares(rows, lane, lanes, xt);
                lane += SQUARE;
            } else {
                scatter(&x.row(first)[start..end], lane, lanes, xt);
                lane += 1;
            }
        }
    }
}

/// Eight tokens to lanes `lane..lane + 8`, a square at a time: one store of
/// eight values instead of eight, which took 5 % of a product with 128 tokens.
fn squares<X: Element>(rows: [&[X]; SQUARE], lane: usize, lanes: usize, xt: &mut [X]) {
    let whole = rows[0].len() / SQUARE * SQUARE;
    for (at, to) in (0..whole)
        .step_by(SQUARE)
        .zip(xt.chunks_exact_mut(SQUARE * lanes))
    {
        // Not by `map`, which some builds leave out of line: 3 % of a product of
        // 512 rows.
        let mut square = [[X::zeroed(); SQUARE]; SQUARE];
        for (values, row) in square.iter_mut().zip(&rows) {
            values.copy_from_slice(&row[at..at + SQUARE]);
        }
        for (values, to) in X::transposed(square).iter().zip(to.chunks_exact_mut(lanes)) {
            to[lane..lane + SQUARE].copy_from_slice(values);
        }
    }
    for (i, row) in rows.iter().enumerate() {
        scatter(&row[whole..], lane + i, lanes, &mut xt[whole * lanes..]);
    }
}

/// One token to its lane.
fn scatter<X: Element>(row: &[X], lane: usize, lanes: usize, xt: &mut [X]) {
    for (&from, to) in row.iter().zip(xt.chunks_mut(lanes)) {
        to[lane] = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Activations that differ, of `tokens` tokens, and a tile that is full of others.
    fn activations(tokens: usize, k: usize, lanes: usize) -> (Vec<f32>, Vec<f32>) {
        let x = (1..=tokens * k).map(|i| i as f32).collect();
        (x, vec![-1.0; 4 * strips(k) * lanes])
    }

    #[test]
    fn tiles_by_token() {
        let (lanes, chunk) = (3, 2);
        for (k, group_bytes) in [1, 8, 9, 27, 40]
            .into_iter()
            .flat_map(|k| [usize::MAX, 1, 2, 3, 5].map(|g| (k, g)))
        {
            let (x, mut xt) = activations(4, k, lanes);
            let view = MatRef::new(&x, 4, k).expect("a matrix");
            copy(view, 1..3, [lanes, chunk], group_bytes, &mut xt);
            for token in [1, 2] {
                // Chunk after chunk, as the loop over tiles reads them.
                let mut read = Vec::new();
                for segment in segments(strips(k), group_bytes) {
                    for start in segment.clone().step_by(chunk) {
                        let end = segment.end.min(start + chunk);
                        let all = &xt[4 * start * lanes..4 * end * lanes];
                        let len = all.len() / lanes;
                        read.extend_from_slice(&all[(token - 1) * len..][..len]);
                    }
                }
                let (read, padding) = read.split_at(k);
                assert_eq!(read, &x[token * k..][..k], "{k}, {group_bytes}");
                assert!(padding.iter().all(|&x| x == 0.0), "{k}, {group_bytes}");
            }
        }
    }

    #[test]
    fn tiles_by_lane() {
        // One block and a part of the next, with squares and without.
        let lanes = 16;
        let k = BLOCK / (4 * lanes) + 13;
        for tokens in [1, 7, 8, 16] {
            let (x, mut xt) = activations(tokens, k, lanes);
            let view = MatRef::new(&x, tokens, k).expect("a matrix");
            transpose(view, 0..tokens, lanes, &mut xt);
            for (i, row) in xt.chunks(lanes).take(k).enumerate() {
                let expected = (0..tokens).map(|token| x[token * k + i]);
                assert!(expected.eq(row[..tokens].iter().copied()), "{tokens}, {i}");
            }
        }
    }
}
