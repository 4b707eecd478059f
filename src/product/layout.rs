//! The activations of one tile of many tokens, in the order that its kernel reads them.

use crate::kernels::auto::transpose::SQUARE;
use crate::kernels::contract::ManyKernel;
use crate::kernels::element::Element;
use crate::product::plan::{LAYOUT_SPAN, chunk_strips, groups, strips};
use crate::view::MatRef;
use core::ops::Range;

/// Tokens of activations: all rows of a matrix, or those of some numbers.
#[derive(Clone, Copy)]
pub(crate) struct TokenRows<'a, X> {
    x: MatRef<'a, X>,
    chosen: Option<&'a [usize]>,
}

impl<'a, X> TokenRows<'a, X> {
    pub(crate) fn all(x: MatRef<'a, X>) -> Self {
        Self { x, chosen: None }
    }

    /// Each number is of a row.
    pub(crate) fn chosen(x: MatRef<'a, X>, numbers: &'a [usize]) -> Self {
        Self {
            x,
            chosen: Some(numbers),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.chosen.map_or(self.x.rows(), <[usize]>::len)
    }

    pub(crate) fn cols(&self) -> usize {
        self.x.cols()
    }

    pub(crate) fn row(&self, token: usize) -> &'a [X] {
        self.x
            .row(self.chosen.map_or(token, |numbers| numbers[token]))
    }
}

/// Writes tokens `tokens` of `x` as one tile of `kernel`, for matrices whose scales
/// change every `group_strips` strips. Values of k beyond K become zero; so do those of
/// tokens that are not there, except for kernels that are token-major and skip them.
pub(super) fn lay_out_tile<X: Element>(
    x: TokenRows<'_, X>,
    tokens: Range<usize>,
    kernel: &ManyKernel<X, X::Acc>,
    group_strips: usize,
    xt: &mut [X],
) {
    if kernel.token_major {
        copy(
            x,
            tokens,
            [kernel.tokens, chunk_strips(kernel, group_strips)],
            group_strips,
            xt,
        );
    } else {
        if tokens.len() < kernel.tokens {
            xt.fill(X::zeroed());
        }
        xt[x.cols() * kernel.tokens..].fill(X::zeroed());
        transpose(x, tokens, kernel.tokens, xt);
    }
}

/// Token after token: `xt[chunk][lane][4 * strips]`, for the chunks of each group, all
/// but the last of `chunk` strips. The loop over tiles cuts the same chunks, as the pieces
/// of a group are whole blocks, and blocks whole chunks of a token-major kernel.
fn copy<X: Element>(
    x: TokenRows<'_, X>,
    tokens: Range<usize>,
    [lanes, chunk]: [usize; 2],
    group_strips: usize,
    xt: &mut [X],
) {
    let k = x.cols();
    for (lane, token) in tokens.enumerate() {
        let x = x.row(token);
        for group in groups(strips(k), group_strips) {
            for start in group.clone().step_by(chunk) {
                let len = 4 * chunk.min(group.end - start);
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
fn transpose<X: Element>(x: TokenRows<'_, X>, tokens: Range<usize>, lanes: usize, xt: &mut [X]) {
    let k = x.cols();
    let span = LAYOUT_SPAN / (lanes * size_of::<X>());
    for start in (0..k).step_by(span) {
        let (end, mut lane) = (k.min(start + span), 0);
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
    use crate::isa::Backend;
    use crate::kernels::contract::BLOCK_STRIPS;

    /// An activation like no other nearby, and never zero.
    trait Numbered: Element + PartialEq {
        fn number(i: usize) -> Self;
    }
    impl Numbered for i8 {
        fn number(i: usize) -> Self {
            (i % 127) as i8 + 1
        }
    }
    impl Numbered for f32 {
        fn number(i: usize) -> Self {
            i as f32 + 1.0
        }
    }

    /// What a tile that was full of other values has for each lane and k, chunk after
    /// chunk; token-major, those that the loop over tiles reads.
    fn read<X: Element>(
        xt: &[X],
        token_major: bool,
        [lanes, chunk]: [usize; 2],
        k: usize,
        group_strips: usize,
    ) -> Vec<Vec<X>> {
        let mut read = vec![Vec::new(); lanes];
        for group in groups(strips(k), group_strips) {
            for start in group.clone().step_by(chunk) {
                let end = group.end.min(start + chunk);
                let all = &xt[4 * start * lanes..4 * end * lanes];
                for (lane, read) in read.iter_mut().enumerate() {
                    if token_major {
                        let len = all.len() / lanes;
                        read.extend_from_slice(&all[lane * len..][..len]);
                    } else {
                        read.extend(all.iter().skip(lane).step_by(lanes));
                    }
                }
            }
        }
        read
    }

    /// Compares with `x`, whose token `first` is in lane 0; lanes after `tokens` are zero.
    fn check<X: Numbered>(read: &[Vec<X>], x: &[X], k: usize, first: usize, tokens: usize) {
        for (lane, read) in read.iter().enumerate() {
            let (read, padding) = read.split_at(k);
            assert!(padding.iter().all(|&x| x == X::zeroed()), "lane {lane}");
            if lane < tokens {
                assert!(read == &x[(first + lane) * k..][..k], "lane {lane} of {k}");
            } else {
                assert!(read.iter().all(|&x| x == X::zeroed()), "lane {lane}");
            }
        }
    }

    fn every_kernel<X: Numbered>() {
        for choice in Backend::available().flat_map(|b| X::many(b.runnable().set())) {
            let kernel = choice.kernel;
            // What makes `copy` and the loop over tiles cut the same chunks.
            if kernel.token_major {
                assert_eq!(BLOCK_STRIPS % kernel.chunk_strips, 0, "{}", kernel.name);
            }
            // The last of them takes several spans, and part of one.
            let long = 2 * LAYOUT_SPAN / (kernel.tokens * size_of::<X>()) + 13;
            for (k, group_strips) in [(1, usize::MAX), (125, 16), (259, 32), (long, usize::MAX)] {
                for tokens in [1, 7, 8, kernel.tokens] {
                    let x: Vec<X> = (0..(tokens + 1) * k).map(X::number).collect();
                    let mut xt = vec![X::number(0); 4 * strips(k) * kernel.tokens];
                    let view = MatRef::new(&x, tokens + 1, k).expect("a matrix");
                    let view = TokenRows::all(view);
                    lay_out_tile(view, 1..tokens + 1, kernel, group_strips, &mut xt);
                    let shape = [kernel.tokens, chunk_strips(kernel, group_strips)];
                    let mut read = read(&xt, kernel.token_major, shape, k, group_strips);
                    if kernel.token_major {
                        read.truncate(tokens);
                    }
                    check(&read, &x, k, 1, tokens);
                }
            }
        }
    }

    #[test]
    fn tiles_of_every_kernel() {
        every_kernel::<i8>();
        every_kernel::<f32>();
    }

    /// Where no kernel is token-major, too.
    #[test]
    fn token_major_tiles() {
        let shape = [3, 2];
        for k in [1, 8, 9, 27, 40] {
            for group_strips in [usize::MAX, 1, 2, 3, 5] {
                let x: Vec<f32> = (0..4 * k).map(Numbered::number).collect();
                let mut xt = vec![-1.0; 4 * strips(k) * 3];
                let view = TokenRows::all(MatRef::new(&x, 4, k).expect("a matrix"));
                copy(view, 1..3, shape, group_strips, &mut xt);
                check(&read(&xt, true, shape, k, group_strips)[..2], &x, k, 1, 2);
            }
        }
    }
}
