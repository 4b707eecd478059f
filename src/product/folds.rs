//! When the accumulators of a tile for many tokens are folded into their totals.
//!
//! f32 sums end their blocks where the canonical order says. int8 accumulators of 16
//! bits only must not overflow, and a fold costs half of what a chunk's own traffic
//! does: so they are folded when the magnitudes of some token's activations have
//! added up to what could overflow with the next chunk. 60 strips always fit; of
//! activations spread evenly over int8 it is some 115, of normally distributed ones
//! some 240.

use crate::kernels::contract::{BLOCK_STRIPS, MANY_MAX_SUM, ManyKernel};
use crate::kernels::element::Element;
use core::marker::PhantomData;

/// What the accumulators of a tile hold since their last fold.
pub(super) struct Folds<X> {
    /// Magnitudes of each token; of types that fold anywhere.
    sums_now: Sums,
    order: Order,
    element: PhantomData<X>,
}

/// Where the activations of a token are.
#[derive(Clone, Copy)]
struct Order {
    lanes: usize,
    /// How many tokens there are, where they come one after the other.
    token_major: Option<usize>,
}

/// A sum for each token of a tile of 32; in a tile of 16, tokens come twice.
type Sums = [u16; 32];

impl<X: Element> Folds<X> {
    /// Starts with the activations of a first chunk of so many tokens, ordered as
    /// `kernel` has them.
    pub(super) fn start(kernel: &ManyKernel<X, X::Acc>, tokens: usize, first: &[X]) -> Self {
        let order = Order {
            lanes: kernel.tokens,
            token_major: kernel.token_major.then_some(tokens),
        };
        Self::ordered(order, first)
    }

    fn ordered(order: Order, first: &[X]) -> Self {
        let Order { lanes, token_major } = order;
        assert!(!X::FOLDS_ANYWHERE || lanes == 32 || (lanes == 16 && token_major.is_none()));
        Self {
            sums_now: magnitudes(order, first),
            order,
            element: PhantomData,
        }
    }

    /// Whether to fold after the chunk that ends `done` strips from the start, when
    /// the activations of the `next` one follow, or none.
    pub(super) fn after(&mut self, done: usize, next: &[X]) -> bool {
        if !X::FOLDS_ANYWHERE {
            return next.is_empty() || done.is_multiple_of(BLOCK_STRIPS);
        }
        let next_sums = magnitudes(self.order, next);
        let mut sums = self.sums_now;
        for (sum, next) in sums.iter_mut().zip(next_sums) {
            *sum += next;
        }
        let fold = next.is_empty() || sums.iter().any(|&sum| sum > MANY_MAX_SUM);
        self.sums_now = if fold { next_sums } else { sums };
        fold
    }
}

/// The magnitudes of each token in the activations of a chunk.
fn magnitudes<X: Element>(Order { lanes, token_major }: Order, x: &[X]) -> Sums {
    if !X::FOLDS_ANYWHERE {
        return [0; 32];
    }
    let mut sums = match token_major {
        Some(tokens) => X::magnitudes_token_major(x, tokens),
        None => X::magnitudes(x),
    };
    if lanes == 16 {
        // Two rows of tokens were taken for one. Strips have four.
        let (even, odd) = sums.split_at_mut(16);
        for (even, odd) in even.iter_mut().zip(odd) {
            *even += *odd;
            *odd = *even;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strips of a chunk, and lanes of a tile.
    type Shape = [usize; 2];
    const SMALL: Shape = [12, 16];
    const LONG: Shape = [30, 32];

    /// Strips after which `chunks` of activations are folded, in either order of them.
    fn folds<X: Element>([strips, lanes]: Shape, chunks: &[Vec<X>]) -> Vec<usize> {
        let ends = |token_major, chunks: &[Vec<X>]| -> Vec<usize> {
            let mut folds = Folds::ordered(Order { lanes, token_major }, &chunks[0]);
            (1..=chunks.len())
                .filter(|&i| folds.after(strips * i, chunks.get(i).map_or(&[], |c| c)))
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
        assert_eq!(
            folds(SMALL, &chunks(SMALL, 12, |_, _| 0_f32)),
            [60, 120, 144]
        );
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
            let order = Order {
                lanes,
                token_major: Some(tokens),
            };
            let mut folds = Folds::ordered(order, &chunk);
            (1..=8)
                .map(|i| folds.after(strips * i, &chunk))
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
