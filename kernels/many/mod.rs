//! Many tokens, one load-add a panel byte: the generic source of every ISA.
//!
//! # The idea
//! Lanes are tokens. The four activations of a strip have 81 signed sums; each is computed once as a vector over the tile's tokens:
//! 9 + 9 pair sums, then 81 additions. After that a weight byte costs one
//! addition of the table entry it selects, whatever its weights are:
//!
//! ```text
//! for chunk of G strips along K:
//!     T[b][i] = the 81 signed sums of the chunk's b-th strip      (L1 and L2)
//!     for panel, for row r:
//!         acc = A[r]                                               (L2 cache)
//!         for b in 0..G:  acc += T[b][index(panel[b][r])]          (load-add)
//!         A[r] = acc
//! ```
//!
//! One 64-byte entry is 32 int8 tokens (sums of four need 11 bits, so the
//! lanes are 16 bits wide) or 16 f32 tokens: 128 or 64 MACs an instruction.
//!
//! # Width of the accumulators
//! f32 follows the canonical order of [`crate::kernels::contract`]: `A` holds block
//! sums, `total` the totals. int8 needs more than 16 bits, and widening every
//! accumulator to 32 bits would double the traffic. Instead a fold splits `A`:
//! its high part (`A >> 8`) is added to `total`, its low byte stays. The sum
//! is `256 * total + A`. With `0 <= A <= 255` after a fold, activations whose
//! magnitudes add up to [`MANY_MAX_SUM`] cannot leave 16 bits, whatever their
//! signs and weights: at least those of [`BLOCK_STRIPS`] strips, and as many more as
//! the caller sees to be small. A fold moves at most 128 in magnitude, so `total`
//! holds [`MANY_MAX_FOLDS`] of them.
//!
//! [`BLOCK_STRIPS`]: crate::kernels::contract::BLOCK_STRIPS
//! [`MANY_MAX_FOLDS`]: crate::kernels::contract::MANY_MAX_FOLDS
//! [`MANY_MAX_SUM`]: crate::kernels::contract::MANY_MAX_SUM
//!
//! # Groups of K
//! At a group's end the sums of a row are in registers, for all tokens of the tile. There they
//! are scaled, by the row's scale and the tokens', and added to sums of f32 in the order of the
//! entries: of 64 rows and as many tokens as an entry has f32, which are all of f32 and half of int8.
//! `finish` of an f32 kernel with the same entries puts each part in order in the end.
//!
//! # One source
//! | module | what it holds |
//! |---|---|
//! | [`expand`] | panel bytes to places of table entries |
//! | [`tables`] | the 81 signed sums |
//! | [`accumulator`] | accumulators and their folds |
//! | this one | the loop over panels, rows and strips |
//! | [`finish`] | sums by token, in portable code |
//!
//! The functions are generic over the pulp token and inlined into one
//! `#[target_feature]` function per ISA, which is what the registry lists. For f32 on
//! Zen 5 `x86_64/avx512/many_f32_zen5.rs` has the loop, and its stores, once more.
//! None of them takes or holds a closure: what the compiler decides not to inline
//! is compiled without the features, and takes vectors through memory.

mod accumulator;
mod expand;
mod finish;
mod tables;

#[cfg(kernels = "x86_64")]
pub use expand::place;
pub use expand::{ByTable, Expand, Quad, Word};
pub use finish::{finish_f32, finish_i8};
pub use tables::{build_f32, build_i8};

use crate::kernels::contract::{Fold, MANY_ENTRIES, ManyCall, PANEL_ROWS};
use crate::kernels::prefetch;
use accumulator::{Accumulator, F32s, I16s};
use core::mem::size_of;
use expand::row_of;
use pulp::Simd;

/// Adds to the sums of two rows what `words` say of the next `strips` tables, and
/// returns the table after them.
///
/// # Safety
/// Precondition 4 of [`crate::kernels::contract`] for `strips` tables at `table`, at most
/// four; `X::quad` wrote the words.
#[inline(always)]
unsafe fn look_up<S: Simd, V: Accumulator<S>, X: Expand, const VECTORS: usize>(
    simd: S,
    sums: &mut [[V; VECTORS]; 2],
    mut words: [X::Word; 2],
    strips: usize,
    mut table: *const u8,
) -> *const u8 {
    for _ in 0..strips {
        for (sum, word) in sums.iter_mut().zip(&mut words) {
            // SAFETY: precondition 4; at most the entry 80.
            let entry = unsafe { &*table.add(word.next(X::ENTRY)).cast::<[V; VECTORS]>() };
            for (sum, &entry) in sum.iter_mut().zip(entry) {
                *sum = V::add(simd, *sum, entry);
            }
        }
        // SAFETY: at most one past the tables of the chunk.
        table = unsafe { table.add(MANY_ENTRIES * X::ENTRY) };
    }
    table
}

/// Stores the sum of one row as `fold` says.
///
/// # Safety
/// Precondition 6 of [`crate::kernels::contract`], for the row's entries at `acc` and
/// `total`; `fold` does not scale.
#[inline(always)]
unsafe fn store<S: Simd, V: Accumulator<S>, const VECTORS: usize>(
    simd: S,
    fold: Fold,
    sum: [V; VECTORS],
    acc: *mut [V; VECTORS],
    total: *mut [V; VECTORS],
) {
    // SAFETY: the caller's word for both.
    unsafe {
        match fold {
            Fold::Start => (*acc, *total) = V::fold(simd, sum, None),
            Fold::Add => (*acc, *total) = V::fold(simd, sum, Some(*total)),
            _ => *acc = sum,
        }
    }
}

/// The loop over panels and rows, for both accumulator types. `FULL` chunks have
/// `4 * QUADS` strips, a constant that unrolls the look-ups. Sums go to accumulators and
/// totals, or are scaled where it `SCALES`.
///
/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`crate::kernels::contract`], 9 if it scales; `VECTORS` vectors
/// of type `V` make one entry, which `acc`, `total` and `tables` are aligned to.
#[inline(always)]
unsafe fn run<
    S: Simd,
    V: Accumulator<S>,
    X: Expand,
    const VECTORS: usize,
    const QUADS: usize,
    const FULL: bool,
    const SCALES: bool,
>(
    simd: S,
    call: &ManyCall,
) {
    const { assert!(VECTORS * size_of::<V>() == X::ENTRY) };
    const { assert!(X::ENTRY.is_power_of_two()) };
    let (quads, rest) = if FULL {
        (QUADS, 0)
    } else {
        (call.strips / 4, call.strips % 4)
    };
    let mut panel = call.panels;
    let mut acc = call.acc.cast::<[V; VECTORS]>();
    let mut total = call.total.cast::<[V; VECTORS]>();
    let mut expanded = [const { Quad([X::Word::ZERO; PANEL_ROWS]) }; QUADS];
    for number in 0..call.panel_count {
        let scaling = call.scaling.of_panel(number, V::LANES * VECTORS);
        let mut strip = panel;
        for quad in expanded.iter_mut().take(quads) {
            // The next panel is a page or more away: no hardware prefetcher
            // sees it coming.
            for line in 0..4 {
                prefetch::line(
                    strip
                        .wrapping_add(call.panel_stride)
                        .wrapping_add(64 * line),
                );
            }
            // SAFETY: precondition 2: four more strips of 64 bytes.
            unsafe {
                X::quad(strip, quad);
                strip = strip.add(4 * PANEL_ROWS);
            }
        }
        if !FULL && rest > 0 {
            let mut strips = [[0u8; PANEL_ROWS]; 4];
            for to in strips.iter_mut().take(rest) {
                // SAFETY: precondition 2: `rest` more strips of 64 bytes.
                unsafe {
                    *to = *strip.cast::<[u8; PANEL_ROWS]>();
                    strip = strip.add(PANEL_ROWS);
                }
            }
            // SAFETY: four strips.
            unsafe { X::quad(strips.as_ptr().cast(), &mut expanded[quads]) };
        }
        // Two rows at a time, in the order of the words: two chains of additions.
        for word in (0..PANEL_ROWS).step_by(2) {
            let mut sums = [[V::zeroed(); VECTORS]; 2];
            if !call.first {
                // SAFETY: precondition 6: acc holds 64 entries a panel.
                sums = unsafe { [*acc, *acc.add(1)] };
            }
            let mut table = call.tables;
            // SAFETY: precondition 4: tables for all strips of the chunk.
            unsafe {
                for quad in expanded.iter().take(quads) {
                    let words = [quad.0[word], quad.0[word + 1]];
                    table = look_up::<S, V, X, VECTORS>(simd, &mut sums, words, 4, table);
                }
                if !FULL && rest > 0 {
                    let words = [expanded[quads].0[word], expanded[quads].0[word + 1]];
                    look_up::<S, V, X, VECTORS>(simd, &mut sums, words, rest, table);
                }
            }
            // Not a loop: it would be one, and index the sums in memory.
            let [first_sum, second_sum] = sums;
            // SAFETY: precondition 6: 64 entries a panel, for acc and total; 9: as many scales
            // and scaled sums.
            unsafe {
                if SCALES {
                    let totals = call.fold == Fold::ScaleTotals;
                    let first_total = if totals { Some(*total) } else { None };
                    let second_total = if totals { Some(*total.add(1)) } else { None };
                    let row = scaling.of_row(row_of::<X>(word), word, X::ENTRY);
                    V::add_scaled(simd, first_sum, first_total, row);
                    let row = scaling.of_row(row_of::<X>(word + 1), word + 1, X::ENTRY);
                    V::add_scaled(simd, second_sum, second_total, row);
                } else {
                    store(simd, call.fold, first_sum, acc, total);
                    store(simd, call.fold, second_sum, acc.add(1), total.add(1));
                }
                acc = acc.add(2);
                total = total.add(2);
            }
        }
        panel = panel.wrapping_add(call.panel_stride);
    }
}

macro_rules! kernel {
    ($name:ident, $scaled:ident, $vector:ident) => {
        /// See [`crate::kernels::contract::ManyKernel::run`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4, 6, 7 and 8 of [`crate::kernels::contract`].
        #[inline(always)]
        pub unsafe fn $name<S: Simd, X: Expand, const VECTORS: usize, const QUADS: usize>(
            simd: S,
            call: &ManyCall,
        ) {
            // SAFETY: the caller's preconditions, handed on unchanged.
            unsafe {
                if call.strips == 4 * QUADS {
                    run::<S, $vector<S>, X, VECTORS, QUADS, true, false>(simd, call)
                } else {
                    run::<S, $vector<S>, X, VECTORS, QUADS, false, false>(simd, call)
                }
            }
        }

        /// See [`crate::kernels::contract::ManyKernel::run_scaled`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4 and 6 to 9 of [`crate::kernels::contract`].
        #[inline(always)]
        pub unsafe fn $scaled<S: Simd, X: Expand, const VECTORS: usize, const QUADS: usize>(
            simd: S,
            call: &ManyCall,
        ) {
            // SAFETY: the caller's preconditions, handed on unchanged.
            unsafe {
                match call.strips {
                    // What most groups end with.
                    8 => run::<S, $vector<S>, X, VECTORS, 2, true, true>(simd, call),
                    4 => run::<S, $vector<S>, X, VECTORS, 1, true, true>(simd, call),
                    _ => run::<S, $vector<S>, X, VECTORS, QUADS, false, true>(simd, call),
                }
            }
        }
    };
}
kernel!(run_i8, run_scaled_i8, I16s);
kernel!(run_f32, run_scaled_f32, F32s);
