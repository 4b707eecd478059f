//! When the accumulators of a tile for many tokens are folded into their totals.
//!
//! f32 sums end their blocks where the canonical order says. int8 accumulators of 16
//! bits only must not overflow, and a fold costs half of what a chunk's own traffic
//! does: so they are folded when the magnitudes of some token's activations have
//! added up to what could overflow with the next chunk. 60 strips always fit; of
//! activations spread evenly over int8 it is some 115, of normally distributed ones
//! some 240.

use crate::kernels::auto::activations::{magnitudes, magnitudes_token_major};
use crate::kernels::contract::{BLOCK_STRIPS, Fold, MANY_MAX_FOLDS, MANY_MAX_SUM, ManyKernel};
use crate::kernels::element::Element;
use core::ops::Range;

/// An element type, and when its accumulators are folded.
pub(crate) trait Folded: Element {
    /// Strips of a group that the totals of a tile hold.
    const MOST_STRIPS: usize;
    /// An accumulator starts at zero after a fold.
    const STARTS_ANEW: bool;
    /// What is known of the accumulators since their last fold.
    type Held;

    /// Starts with the activations of a first chunk of so many tokens, ordered as
    /// `kernel` has them.
    fn start(kernel: &ManyKernel<Self, Self::Acc>, tokens: usize, first: &[Self]) -> Self::Held;

    /// What is known, put by for later.
    fn put_by(held: Self::Held) -> Option<Magnitudes>;

    /// What was put by.
    fn taken_up(held: Option<Magnitudes>) -> Self::Held;

    /// Whether to fold after the chunk that ends `done` strips from the start, when
    /// the activations of the `next` one follow, or none.
    fn folds_after(held: &mut Self::Held, done: usize, next: &[Self]) -> bool;
}

impl Folded for f32 {
    const MOST_STRIPS: usize = usize::MAX;
    const STARTS_ANEW: bool = true;
    type Held = ();

    fn start(_: &ManyKernel<f32, f32>, _: usize, _: &[f32]) {}

    fn put_by((): ()) -> Option<Magnitudes> {
        None
    }

    fn taken_up(_: Option<Magnitudes>) {}

    fn folds_after((): &mut (), done: usize, next: &[f32]) -> bool {
        next.is_empty() || done.is_multiple_of(BLOCK_STRIPS)
    }
}

impl Folded for i8 {
    const MOST_STRIPS: usize = MANY_MAX_FOLDS * BLOCK_STRIPS;
    const STARTS_ANEW: bool = false;
    type Held = Magnitudes;

    fn start(kernel: &ManyKernel<i8, i32>, tokens: usize, first: &[i8]) -> Magnitudes {
        let order = Order {
            tile_tokens: kernel.tokens,
            token_major: kernel.token_major.then_some(tokens),
        };
        Magnitudes {
            sums: order.magnitudes(first),
            order,
        }
    }

    fn put_by(held: Magnitudes) -> Option<Magnitudes> {
        Some(held)
    }

    fn taken_up(held: Option<Magnitudes>) -> Magnitudes {
        held.expect("magnitudes were put by")
    }

    fn folds_after(held: &mut Magnitudes, _: usize, next: &[i8]) -> bool {
        let next_sums = held.order.magnitudes(next);
        let mut sums = held.sums;
        for (sum, next) in sums.iter_mut().zip(next_sums) {
            *sum += next;
        }
        let fold = next.is_empty() || sums.iter().any(|&sum| sum > MANY_MAX_SUM);
        held.sums = if fold { next_sums } else { sums };
        fold
    }
}

/// Magnitudes of each token since the last fold.
#[derive(Debug)]
pub(crate) struct Magnitudes {
    /// A sum for each token of a tile of 32; in a tile of 16, tokens come twice.
    sums: [u16; 32],
    order: Order,
}

/// A sum over chunks that has not come to its end.
#[derive(Debug)]
pub(crate) struct Running {
    /// Where it started.
    pub(super) start: usize,
    /// The next chunk, which is begun.
    pub(super) now: Range<usize>,
    pub(super) held: Option<Magnitudes>,
    /// Whether accumulators start at zero, and totals are added to.
    pub(super) first: bool,
    pub(super) total: Fold,
}

/// Where the activations of a token are.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// Tokens of a whole tile.
    tile_tokens: usize,
    /// How many tokens there are, where they come one after the other.
    token_major: Option<usize>,
}

impl Order {
    /// The magnitudes of each token in the activations of a chunk.
    fn magnitudes(self, x: &[i8]) -> [u16; 32] {
        match (self.tile_tokens, self.token_major) {
            (32, Some(tokens)) => magnitudes_token_major(x, tokens),
            (32, None) => magnitudes(x),
            (16, None) => {
                // Two rows of tokens were taken for one. Strips have four.
                let mut sums = magnitudes(x);
                let (even, odd) = sums.split_at_mut(16);
                for (even, odd) in even.iter_mut().zip(odd) {
                    *even += *odd;
                    *odd = *even;
                }
                sums
            }
            (tokens, _) => unreachable!("tiles of {tokens} int8 tokens"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strips of a chunk, and tokens of a tile.
    type Shape = [usize; 2];
    const SMALL: Shape = [12, 16];
    const LONG: Shape = [30, 32];

    fn held(tile_tokens: usize, token_major: Option<usize>, first: &[i8]) -> Magnitudes {
        let order = Order {
            tile_tokens,
            token_major,
        };
        Magnitudes {
            sums: order.magnitudes(first),
            order,
        }
    }

    /// Strips after which `chunks` of activations are folded, in either order of them.
    fn folds([strips, lanes]: Shape, chunks: &[Vec<i8>]) -> Vec<usize> {
        let ends = |token_major, chunks: &[Vec<i8>]| -> Vec<usize> {
            let mut held = held(lanes, token_major, &chunks[0]);
            let next = |i: usize| chunks.get(i).map_or(&[][..], |c| c);
            (1..=chunks.len())
                .filter(|&i| i8::folds_after(&mut held, strips * i, next(i)))
                .map(|i| strips * i)
                .collect()
        };
        let by_lane = ends(None, chunks);
        if lanes == 32 {
            let turned = chunks.iter().map(|chunk| {
                let token = |lane| chunk.iter().skip(lane).step_by(lanes).copied();
                (0..lanes).flat_map(token).collect()
            });
            assert_eq!(ends(Some(lanes), &turned.collect::<Vec<_>>()), by_lane);
        }
        by_lane
    }

    /// `count` chunks of activations `value(k, lane)`.
    fn chunks<X>(
        [strips, lanes]: Shape,
        count: usize,
        mut value: impl FnMut(usize, usize) -> X,
    ) -> Vec<Vec<X>> {
        let mut chunk = |i| {
            let places =
                (0..4 * strips * lanes).map(|at| (4 * strips * i + at / lanes, at % lanes));
            places.map(|(k, lane)| value(k, lane)).collect()
        };
        (0..count).map(&mut chunk).collect()
    }

    #[test]
    fn floats_follow_the_canonical_order() {
        let ends = [12, 24, 60, 119, 120, 121].map(|done| f32::folds_after(&mut (), done, &[0.0]));
        assert_eq!(ends, [false, false, true, false, true, false]);
        assert!(f32::folds_after(&mut (), 144, &[]));
    }

    /// A block of the largest magnitudes fits, and 254 of them do: 32512.
    #[test]
    fn integers_are_folded_before_they_overflow() {
        assert_eq!(
            folds(SMALL, &chunks(SMALL, 12, |_, _| -128_i8)),
            [60, 120, 144]
        );
        assert_eq!(
            folds(SMALL, &chunks(SMALL, 12, |_, _| 127_i8)),
            [60, 120, 144]
        );
        assert_eq!(folds(SMALL, &chunks(SMALL, 12, |_, _| 64_i8)), [120, 144]);
        assert_eq!(folds(SMALL, &chunks(SMALL, 200, |_, _| 0_i8)), [2400]);
        // One token of the tile is enough.
        for (largest, expected) in [(254, vec![72]), (255, vec![60, 72])] {
            let x = chunks(
                SMALL,
                6,
                |k, lane| {
                    if lane == 5 && k < largest { -128_i8 } else { 0 }
                },
            );
            assert_eq!(folds(SMALL, &x), expected, "{largest}");
        }
    }

    /// What lanes without a token hold, where they are skipped.
    #[test]
    fn tokens_that_are_not_there_fold_nothing() {
        let [strips, lanes] = LONG;
        let row = |lane| vec![if lane < 5 { 1_i8 } else { -128 }; 4 * strips];
        let chunk: Vec<i8> = (0..lanes).flat_map(row).collect();
        let folds_after = |tokens| {
            let mut held = held(lanes, Some(tokens), &chunk);
            (1..=8)
                .map(|i| i8::folds_after(&mut held, strips * i, &chunk))
                .collect::<Vec<_>>()
        };
        assert_eq!(folds_after(5), [false; 8]);
        assert_eq!(folds_after(6).iter().filter(|&&fold| fold).count(), 4);
    }

    /// The accumulator's bound, step by step, for activations of all kinds.
    #[test]
    fn nothing_can_overflow() {
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for (limit, shape) in [1, 20, 64, 128]
            .into_iter()
            .flat_map(|l| [(l, SMALL), (l, LONG)])
        {
            let [strips, lanes] = shape;
            let all = chunks(shape, 400, |_, _| (random() % (2 * limit)) as u8 as i8);
            let ends = folds(shape, &all);
            // At least a block each, so MANY_MAX_FOLDS blocks have no more.
            assert!(
                ends.len() <= (400 * strips).div_ceil(BLOCK_STRIPS),
                "{limit}"
            );
            let mut start = 0;
            for end in ends {
                let span = &all[start / strips..end / strips];
                for lane in 0..lanes {
                    let sum: u32 = span
                        .iter()
                        .flat_map(|c| c.iter().skip(lane).step_by(lanes))
                        .map(|x| u32::from(x.unsigned_abs()))
                        .sum();
                    assert!(sum <= u32::from(MANY_MAX_SUM), "{limit}: {sum}");
                }
                start = end;
            }
            assert_eq!(start, 400 * strips);
        }
    }
}
