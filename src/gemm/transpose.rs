//! The activations of one column tile, in the order that its kernel reads them.

use super::{segments, strips};
use crate::kernels::call::Element;
use crate::kernels::contract::ColumnKernel;
use crate::kernels::vector::transpose::SQUARE;
use crate::view::MatRef;
use core::ops::Range;

/// Bytes of the tile that are written in turn: they stay in L1. With a quarter of them,
/// which read single lines of the tokens, products of 512 int8 tokens took 4 % longer.
const BLOCK: usize = 16 << 10;

/// Writes tokens `tokens` of `x` as one tile of `kernel`, for matrices whose scales
/// change every `group_bytes` strips. Lanes without a token become zero unless the
/// kernel skips them, k beyond K does.
pub(super) fn lay_out_tile<X: Element>(
    x: MatRef<'_, X>,
    tokens: Range<usize>,
    kernel: &ColumnKernel<X, X::Acc>,
    group_bytes: usize,
    xt: &mut [X],
) {
    if kernel.by_token {
        copy(x, tokens, kernel, group_bytes, xt);
    } else {
        if tokens.len() < kernel.lanes {
            xt.fill(X::zeroed());
        }
        xt[x.cols() * kernel.lanes..].fill(X::zeroed());
        transpose(x, tokens, kernel.lanes, xt);
    }
}

/// Token after token: `xt[chunk][lane][4 * strips]`, for the chunks of each segment.
fn copy<X: Element>(
    x: MatRef<'_, X>,
    tokens: Range<usize>,
    kernel: &ColumnKernel<X, X::Acc>,
    group_bytes: usize,
    xt: &mut [X],
) {
    let (k, chunk) = (x.cols(), kernel.chunk_bytes);
    for (lane, token) in tokens.enumerate() {
        let x = x.row(token);
        for segment in segments(strips(k), group_bytes) {
            for start in segment.clone().step_by(chunk) {
                let len = 4 * chunk.min(segment.end - start);
                let from = &x[4 * start..k.min(4 * start + len)];
                let to = &mut xt[4 * start * kernel.lanes + lane * len..][..len];
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
