//! int8, many tokens, lanes that are rows: 27 sums of 16 bits in one register, looked
//! up by `vpermw`.
//!
//! # The idea
//! `vpermw` looks up 32 words at once in a register of 32, by the low 5 bits of each
//! lane. Three weights have 27 sums, so an entry is the signed sum of three activations
//! itself: nothing is split in low and high parts, as where `vpermb` looks up bytes
//! ([`crate::kernels::x86_64::avx512::few_i8_vbmi`]), and nothing folded for 60 strips. What an index costs, a
//! `vpermb` that turns three 2-bit codes of 64 rows to base 3, all tokens share. The
//! indices of the even rows are those bytes as they stand, those of the odd rows what a
//! load one byte further has: nothing is widened.
//!
//! The rest is as in the generic source ([`crate::kernels::many`]): the tables
//! of a chunk of K are built once for all panels, and accumulators of 16 bits live in
//! L2 from chunk to chunk, until a fold moves their high parts to the totals. The
//! indices of three panels are written to L1 once and serve all tokens of the tile;
//! four tokens by three panels keep 24 accumulators in registers, and the tables
//! stream by out of L2, four lines for 24 look-ups.
//!
//! | buffer | layout |
//! |---|---|
//! | activations | `[token][4 * bytes]` for each chunk |
//! | tables | `[tile of tokens][step][token][32 entries of i16]` |
//! | `acc`, `total` | `[panel][token][even rows, odd rows]`, 32 words each |
//! | indices | `[step][panel][64 bytes]` |
//!
//! A step is three weights; a unit of three panel bytes has four.
//!
//! # Port arithmetic
//! 768 MACs are 8 `vpermw` and 8 additions. Zen 5 starts two permutations a cycle: 4
//! cycles, 192 MACs each, where `vpdpbusd` makes 128. It starts four `vpaddw`, on all
//! vector pipes, so that some take those of the permutations: 4.6 cycles. The saturating
//! `vpaddsw` starts on the other pipes alone: 4.0 (`lab/loops`). It is the
//! same sum, as no accumulator can overflow: 255 that a fold leaves and the largest sum of
//! magnitudes that precondition 8 allows make `i16::MAX`.
//!
//! 9 operations for the indices of 64 rows serve 32 tokens, and the loads of the odd
//! rows, which cross a line each, cost less than shifts. Zen 4 keeps the generic source: it
//! starts one permutation a cycle. To Intel's CPUs a `vpermw` is two operations, and this
//! kernel makes 131 GMAC/s on a Xeon where `vpdpbusd` makes 373. It was not measured on a
//! mobile Zen 5 with pipes of half the width.

mod tables;

use crate::kernels::contract::{BLOCK_STRIPS, ENTRY, Fold, ManyCall, ManyKernel, PANEL_ROWS};
use crate::kernels::contract::{Scaling, TOKENS_I8};
use crate::kernels::generated::BYTE_INDEX;
use crate::kernels::x86_64::avx512::few_i8_vbmi::triple_indices;
use crate::kernels::x86_64::avx512::row_sums::{
    PANEL, Pair, add_scaled, finish, finish_groups, fold, scales,
};
use crate::kernels::x86_64::avx512::tiles::Tiles;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// Strips of a unit, and its steps.
const UNIT_STRIPS: usize = 3;
const STEPS: usize = 4;
/// Panels and tokens of the largest tile. 3 x 3, 4 x 3, 2 x 4 and 2 x 6 are 1 to 5 %
/// slower.
const PANELS: usize = 3;
const TOKENS: usize = 4;
/// Units of a chunk: the indices of three panels take 7.5 KiB of L1 then, the tables
/// 80 KiB of L2. 20 units are as fast for 32 tokens and more, up to 3 % slower for few.
const UNITS: usize = 10;
/// Bytes ahead of the loads that tables are prefetched out of L2.
const PREFETCH: usize = 1024;
/// Bytes of one token's tables of a unit.
const UNIT_BYTES: usize = STEPS * 64;

const _: () = assert!(BLOCK_STRIPS.is_multiple_of(UNIT_STRIPS * UNITS));

/// The kernel.
pub static MANY_I8: ManyKernel<i8, i32> = ManyKernel {
    name: "avx512-vbmi-many_i8-zen5",
    tokens: TOKENS_I8,
    entry_bytes: ENTRY,
    chunk_strips: UNIT_STRIPS * UNITS,
    token_major: true,
    unit_strips: UNIT_STRIPS,
    table_bytes: TOKENS_I8 * UNIT_BYTES,
    build: tables::build,
    run: run::<false>,
    run_scaled: run::<true>,
    finish,
    finish_groups,
};

/// The indices of the panels of a tile, of which a chunk may have a unit more, and one vector.
type Expanded = MaybeUninit<[__m512i; PANELS * STEPS * (UNITS + 1) + 1]>;

/// The kernel. See [`ManyKernel::run`], and [`ManyKernel::run_scaled`] for one that `SCALES`.
///
/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`crate::kernels::contract`], 9 if it scales.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline(never)]
unsafe fn run<const SCALES: bool>(call: &ManyCall) {
    let mut expanded = Expanded::uninit();
    // What the last loads of odd rows find behind the indices of 1 to 3 panels.
    let steps = STEPS * call.strips.div_ceil(UNIT_STRIPS);
    let mut end = expanded.as_mut_ptr().cast::<__m512i>();
    for _ in 0..PANELS {
        end = end.wrapping_add(steps);
        // SAFETY: there is room for one vector more than PANELS times as many.
        unsafe { end.write(_mm512_setzero_si512()) };
    }
    let mut rest = *call;
    for panels in Tiles::<PANELS>(call.panel_count) {
        // SAFETY: the caller's preconditions, for the panels that are left.
        unsafe {
            match panels {
                PANELS.. => group::<PANELS, SCALES>(&mut rest, &mut expanded),
                2 => group::<2, SCALES>(&mut rest, &mut expanded),
                _ => group::<1, SCALES>(&mut rest, &mut expanded),
            }
        }
    }
}

/// Sums the chunk over `P` panels for all tokens, and leaves the panels after them.
///
/// # Safety
/// Those of [`run`], for at least `P` panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn group<const P: usize, const SCALES: bool>(call: &mut ManyCall, expanded: &mut Expanded) {
    let units = call.strips.div_ceil(UNIT_STRIPS);
    // SAFETY: precondition 2 for P panels; `expanded` has room for them.
    let words = unsafe { expand::<P>(call, expanded) };
    let mut part = TilePart {
        words,
        tables: call.tables,
        acc: call.acc.cast(),
        total: call.total.cast(),
        units,
        next: None,
        first: call.first,
        fold: call.fold,
        scaling: call.scaling,
    };
    // The first tiles ask for the next panels' bytes, one panel each. Few tokens have
    // fewer tiles than there are panels, and leave the others to the CPU's prefetcher.
    let mut next = call.panels.wrapping_add(P * call.panel_stride);
    for (i, tokens) in Tiles::<TOKENS>(call.tokens).enumerate() {
        part.next = (i < P).then_some(next);
        next = next.wrapping_add(call.panel_stride);
        // SAFETY: preconditions 4 and 6: tables and accumulators of so many tokens.
        unsafe {
            match tokens {
                TOKENS.. => tile::<P, TOKENS, SCALES>(&mut part),
                3 => tile::<P, 3, SCALES>(&mut part),
                2 => tile::<P, 2, SCALES>(&mut part),
                _ => tile::<P, 1, SCALES>(&mut part),
            }
        }
    }
    call.panels = call.panels.wrapping_add(P * call.panel_stride);
    call.acc = call.acc.wrapping_add(P * PANEL_ROWS * ENTRY);
    call.total = call.total.wrapping_add(P * PANEL_ROWS * ENTRY);
    call.scaling = call.scaling.of_panel(P, TOKENS_I8);
}

/// Writes the indices of `P` panels and returns them, `[step][panel]`.
///
/// # Safety
/// Preconditions 1 and 2 of [`crate::kernels::contract`], for `P` panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn expand<const P: usize>(call: &ManyCall, expanded: &mut Expanded) -> *const __m512i {
    let words = expanded.as_mut_ptr().cast::<__m512i>();
    // Of three codes: those of a byte whose first weight is zero.
    // SAFETY: it has 256 bytes.
    let base_3 = unsafe { _mm512_loadu_si512(BYTE_INDEX.as_ptr().cast()) };
    let mut panel = call.panels;
    for p in 0..P {
        let mut to = words.wrapping_add(p);
        let (mut strip, mut left) = (panel, call.strips);
        while left > 0 {
            let mut bytes = [_mm512_setzero_si512(); UNIT_STRIPS];
            for bytes in bytes.iter_mut().take(left) {
                // SAFETY: precondition 2: `left` more strips of 64 bytes.
                unsafe {
                    *bytes = _mm512_loadu_si512(strip.cast());
                    strip = strip.wrapping_add(PANEL_ROWS);
                }
            }
            for &codes in &triple_indices(bytes) {
                let words = _mm512_permutexvar_epi8(codes, base_3);
                // SAFETY: a chunk has at most STEPS * (UNITS + 1) steps of PANELS panels.
                unsafe { to.write(words) };
                to = to.wrapping_add(P);
            }
            left = left.saturating_sub(UNIT_STRIPS);
        }
        panel = panel.wrapping_add(call.panel_stride);
    }
    words
}

/// What a tile reads and writes, from its first panel and token on.
struct TilePart {
    words: *const __m512i,
    tables: *const u8,
    acc: *mut Pair,
    total: *mut Pair,
    units: usize,
    /// A panel to ask for, a line a step: its chunk, and the start of the one after it.
    next: Option<*const u8>,
    first: bool,
    fold: Fold,
    scaling: Scaling,
}

/// `P` panels by `T` tokens; leaves the tokens after them.
///
/// # Safety
/// Precondition 1 of [`crate::kernels::contract`]; `part` has `units` of indices
/// of `P` panels and of tables of `T` tokens, and as many of the accumulators as
/// precondition 6 asks for, panels [`PANEL_ROWS`] vectors apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn tile<const P: usize, const T: usize, const SCALES: bool>(part: &mut TilePart) {
    let mut sums = [[[_mm512_setzero_si512(); 2]; P]; T];
    if !part.first {
        for (t, sums) in sums.iter_mut().enumerate() {
            for (p, sums) in sums.iter_mut().enumerate() {
                // SAFETY: precondition 6.
                *sums = unsafe { *part.acc.add(p * PANEL + t) };
            }
        }
    }
    let mut words = part.words;
    let mut tables = part.tables.cast::<[__m512i; T]>();
    let (mut next, next_step) = match part.next {
        Some(next) => (next, 64),
        None => (part.tables, 0),
    };
    for _ in 0..STEPS * part.units {
        // SAFETY: prefetches touch no memory; the caller's word for the tables.
        let tables_now = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(next.cast());
            for line in 0..T {
                let ahead = tables.wrapping_byte_add(PREFETCH + 64 * line);
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            }
            tables.read()
        };
        (next, tables) = (next.wrapping_add(next_step), tables.wrapping_add(1));
        for p in 0..P {
            // SAFETY: the caller's word for the indices; the byte after them is the next
            // ones', or [`run`] wrote it.
            let indices = unsafe {
                let odd = words.cast::<u8>().wrapping_add(1);
                [words.read(), _mm512_loadu_si512(odd.cast())]
            };
            words = words.wrapping_add(1);
            for (sums, &table) in sums.iter_mut().zip(&tables_now) {
                for (sum, &indices) in sums[p].iter_mut().zip(&indices) {
                    // Saturating for its pipes: see above.
                    let term = _mm512_permutexvar_epi16(indices, table);
                    *sum = _mm512_adds_epi16(*sum, term);
                }
            }
        }
    }
    for (t, sums) in sums.iter().enumerate() {
        for (p, &sums) in sums.iter().enumerate() {
            let place = p * PANEL + t;
            let (acc, total) = (part.acc.wrapping_add(place), part.total.wrapping_add(place));
            // SAFETY: preconditions 6 and 9.
            unsafe {
                if SCALES {
                    let totals = match part.fold {
                        Fold::ScaleTotals => Some(total.read()),
                        _ => None,
                    };
                    let scaling = part.scaling.of_panel(p, TOKENS_I8);
                    add_scaled(sums, totals, (scaling, &scales(scaling.scales)), t);
                } else if part.fold == Fold::Keep {
                    acc.write(sums);
                } else {
                    acc.write(fold(sums, part.fold, total));
                }
            }
        }
    }
    part.scaling.token_scales = part.scaling.token_scales.wrapping_add(T);
    part.scaling.sums = part.scaling.sums.wrapping_add(T * PANEL_ROWS);
    part.tables = part.tables.wrapping_add(T * part.units * UNIT_BYTES);
    part.acc = part.acc.wrapping_add(T);
    part.total = part.total.wrapping_add(T);
}
