//! Tokens to lanes: the activations of one column tile.

use crate::kernels::call::Element;
use crate::kernels::vector::transpose::SQUARE;
use crate::view::MatRef;
use core::ops::Range;

/// Values along K in turn: the part of the tile that is being written, 64 rows
/// of one or two cache lines, stays in L1.
const BLOCK: usize = 64;

/// Writes tokens `tokens` of `x` as the lanes of one tile, `xt[k][lane]`;
/// lanes without a token and k beyond K become zero.
pub(super) fn transpose<X: Element>(
    x: MatRef<'_, X>,
    tokens: Range<usize>,
    lanes: usize,
    xt: &mut [X],
) {
    let k = x.cols();
    if tokens.len() < lanes {
        xt.fill(X::zeroed());
    }
    xt[k * lanes..].fill(X::zeroed());
    for start in (0..k).step_by(BLOCK) {
        let (end, mut lane) = (k.min(start + BLOCK), 0);
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
