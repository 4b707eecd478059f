//! int8, many tokens, lanes that are rows: bytes looked up by `vpermb`.
//!
//! # The idea
//! Tables and look-ups are those for few tokens
//! ([`crate::kernels::x86_64::avx512::few_i8_vbmi`]): 64 entries, indexed by three packed
//! codes, for the low and the high part of the sum of three activations. There the tables
//! of all of K stream by for each panel. Here those of a chunk of K and of four tokens stay
//! in L1 for all panels, and four tokens share the indices of a panel. Sums are put together
//! to 16 bits at a chunk's end, and live in L2 from chunk to chunk
//! ([`crate::kernels::x86_64::avx512::row_sums`]).
//!
//! | buffer | layout |
//! |---|---|
//! | activations | `[token][4 * bytes]` for each chunk |
//! | tables | `[token][unit][4][low, high]`, 64 bytes each |
//! | `acc` | `[panel][token][even + 256 * odd rows, odd rows]` modulo 2^16, 32 words each |
//! | `total` | `[panel][token][even rows, odd rows]` |
//!
//! # Port arithmetic
//! 768 MACs, a unit of a panel and token, are 8 `vpermb`, 7 additions (the first of eight
//! look-ups starts the sums), 3 operations of folding, a quarter of 5 for the indices, and
//! 0.6 at the chunk's end: 19.9. Intel's CPUs start two 512-bit operations a cycle, so 9.9
//! cycles, 77 MACs each. They have one port for `vpermb`. A saturating addition, which has
//! the other one alone, leaves it to them: 224 GMAC/s in a bare loop where `vpaddb`, which
//! has both, makes 201. Nothing saturates: eight look-ups are at most 248.

use crate::kernels::contract::TOKENS_I8;
use crate::kernels::contract::{BLOCK_STRIPS, BuildCall, ENTRY, FinishCall, Fold};
use crate::kernels::contract::{ManyCall, ManyKernel, PANEL_ROWS};
use crate::kernels::x86_64::avx512::byte_sums::Sum;
use crate::kernels::x86_64::avx512::few_i8_vbmi::{TABLE_BYTES, build_tables, triple_indices};
use crate::kernels::x86_64::avx512::row_sums::{
    PANEL, Pair, add_scaled, finish_groups, finish_token, fold, scales,
};
use crate::kernels::x86_64::avx512::tiles::Tiles;
use core::arch::x86_64::*;

/// Strips of a unit.
const UNIT_STRIPS: usize = 3;
/// Units of a chunk: tables of four tokens take 20 KiB of L1 then.
const UNITS: usize = 10;
/// Most tokens of a tile.
const TOKENS: usize = 4;

const _: () = assert!(BLOCK_STRIPS.is_multiple_of(UNIT_STRIPS * UNITS));

/// The kernel.
pub static MANY_I8: ManyKernel<i8, i32> = ManyKernel {
    name: "avx512-vbmi-many_i8",
    tokens: TOKENS_I8,
    entry_bytes: ENTRY,
    chunk_strips: UNIT_STRIPS * UNITS,
    token_major: true,
    unit_strips: UNIT_STRIPS,
    table_bytes: TOKENS_I8 * TABLE_BYTES,
    build,
    run: run::<false>,
    run_scaled: run::<true>,
    finish,
    finish_groups,
};

/// Builds the tables. See [`ManyKernel::build`].
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline(never)]
unsafe fn build(call: &BuildCall<i8>) {
    let (len, units) = (4 * call.strips, call.strips.div_ceil(UNIT_STRIPS));
    let (mut x, mut tables) = (call.xt, call.tables);
    for _ in 0..call.tokens {
        // SAFETY: precondition 3: `len` activations of each token; 4: its tables.
        unsafe { build_tables(x, len, tables) };
        x = x.wrapping_add(len);
        tables = tables.wrapping_add(units * TABLE_BYTES);
    }
}

/// The kernel. See [`ManyKernel::run`], and [`ManyKernel::run_scaled`] for one that `SCALES`.
///
/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`crate::kernels::contract`], 9 if it scales.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline(never)]
unsafe fn run<const SCALES: bool>(call: &ManyCall) {
    let mut rest = *call;
    for tokens in Tiles::<TOKENS>(call.tokens) {
        // SAFETY: the caller's preconditions, for the tokens that are left.
        unsafe {
            match tokens {
                TOKENS.. => group::<TOKENS, SCALES>(&rest),
                3 => group::<3, SCALES>(&rest),
                2 => group::<2, SCALES>(&rest),
                _ => group::<1, SCALES>(&rest),
            }
        }
        let units = call.strips.div_ceil(UNIT_STRIPS);
        rest.tables = rest.tables.wrapping_add(tokens * units * TABLE_BYTES);
        rest.acc = rest.acc.wrapping_add(tokens * size_of::<Pair>());
        rest.total = rest.total.wrapping_add(tokens * size_of::<Pair>());
        rest.scaling.token_scales = rest.scaling.token_scales.wrapping_add(tokens);
        rest.scaling.sums = rest.scaling.sums.wrapping_add(tokens * PANEL_ROWS);
    }
}

/// Sums the chunk for `T` tokens over all panels.
///
/// # Safety
/// Those of [`run`], for at least `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline(never)]
unsafe fn group<const T: usize, const SCALES: bool>(call: &ManyCall) {
    let mut panel = call.panels;
    let (mut acc, mut total) = (call.acc.cast::<Pair>(), call.total.cast::<Pair>());
    // Each look-up is 384 too large.
    let bias = -384 * look_ups::<SCALES>(call.strips) as i16;
    let bias = [
        _mm512_set1_epi16(bias.wrapping_mul(257)),
        _mm512_set1_epi16(bias),
    ];
    for number in 0..call.panel_count {
        let mut sums = [bias; T];
        if !call.first {
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: precondition 6.
                let [both, odd] = unsafe { acc.add(t).read() };
                *sums = [
                    _mm512_add_epi16(sums[0], both),
                    _mm512_add_epi16(sums[1], odd),
                ];
            }
        }
        let next = panel.wrapping_add(call.panel_stride);
        let part = Part {
            panel,
            strips: call.strips,
            tables: call.tables,
            next,
        };
        // SAFETY: preconditions 2 and 4.
        let sums = unsafe { sum::<T, SCALES>(&part, sums) };
        let scaling = call.scaling.of_panel(number, TOKENS_I8);
        // SAFETY: precondition 9: 64 scales.
        let scales = SCALES.then(|| unsafe { scales(scaling.scales) });
        for (t, &[both, odd]) in sums.iter().enumerate() {
            let (acc, total) = (acc.wrapping_add(t), total.wrapping_add(t));
            // SAFETY: preconditions 6 and 9.
            unsafe {
                if let Some(scales) = &scales {
                    let totals = match call.fold {
                        Fold::ScaleTotals => Some(total.read()),
                        _ => None,
                    };
                    let sums = [even([both, odd]), odd];
                    add_scaled(sums, totals, (scaling, scales), t);
                } else if call.fold == Fold::Keep {
                    acc.write([both, odd]);
                } else {
                    let [even, odd] = fold([even([both, odd]), odd], call.fold, total);
                    acc.write([_mm512_add_epi16(even, _mm512_slli_epi16(odd, 8)), odd]);
                }
            }
        }
        panel = next;
        acc = acc.wrapping_add(PANEL);
        total = total.wrapping_add(PANEL);
    }
}

/// Look-ups of so many strips. Of a group's last unit those are left out that no weight is in,
/// where it ends as the usual ones do.
#[inline]
fn look_ups<const SCALES: bool>(strips: usize) -> usize {
    match strips % (2 * UNIT_STRIPS) {
        2 | 4 if SCALES => (4 * strips).div_ceil(3),
        _ => 4 * strips.div_ceil(UNIT_STRIPS),
    }
}

/// The sums of the even rows: see the layout above.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn even([both, odd]: Pair) -> __m512i {
    _mm512_sub_epi16(both, _mm512_slli_epi16(odd, 8))
}

/// `out[t][r] (+)= 256 * total[t][r] + acc[t][r]`. See [`ManyKernel::finish`].
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline(never)]
unsafe fn finish(call: &FinishCall<i32>) {
    let (acc, total) = (call.acc.cast::<Pair>(), call.total.cast::<Pair>());
    for t in 0..call.tokens {
        let out = call.out.wrapping_add(t * call.out_stride);
        // SAFETY: preconditions 5 and 6: 64 rows of each token.
        unsafe {
            let sums = acc.add(t).read();
            let sums = [even(sums), sums[1]];
            finish_token(sums, total.add(t).read(), out, call.accumulate);
        }
    }
}

/// What a tile of one panel reads.
struct Part {
    /// The panel's chunk, and its strips: at least one.
    panel: *const u8,
    strips: usize,
    /// Those of the first token, then those of the others.
    tables: *const u8,
    /// The next panel's chunk.
    next: *const u8,
}

/// The sums over a panel's chunk for `T` tokens, added to those at its start.
///
/// # Safety
/// Precondition 1 of [`crate::kernels::contract`]; the panel has its strips of 64 bytes, and
/// `tables` those of their units for each token.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
unsafe fn sum<const T: usize, const SCALES: bool>(part: &Part, start: [Pair; T]) -> [Pair; T] {
    let (panel, strips) = (part.panel, part.strips);
    let zero = _mm512_setzero_si512();
    // Loops instead of `map`, which Rust 1.89 leaves a call of.
    let (both, odd) = (zero, zero);
    let mut sums = [[Sum { both, odd }; 2]; T];
    for ([low, _], &[both, odd]) in sums.iter_mut().zip(&start) {
        *low = Sum { both, odd };
    }
    let units = strips.div_ceil(UNIT_STRIPS);
    let mut at = 0;
    while at + 2 * UNIT_STRIPS <= strips {
        let place = at * PANEL_ROWS;
        // SAFETY: two whole units are left; prefetches touch no memory.
        let indices = unsafe {
            // The next panel, and the next chunk of this one, which comes soon enough out of
            // memory then: 3 tokens take 0.9 of the time, and out of the cache 1.01.
            for strip in 0..2 * UNIT_STRIPS {
                let line = place + strip * PANEL_ROWS;
                _mm_prefetch::<_MM_HINT_T0>(part.next.wrapping_add(line).cast());
                let far = line + strips * PANEL_ROWS;
                _mm_prefetch::<_MM_HINT_T1>(panel.wrapping_add(far).cast());
            }
            let strip = panel.add(place).cast::<__m512i>();
            let read = |i| strip.add(i).read_unaligned();
            [
                triple_indices([read(0), read(1), read(2)]),
                triple_indices([read(3), read(4), read(5)]),
            ]
        };
        for (t, sums) in sums.iter_mut().enumerate() {
            let unit = t * units + at / UNIT_STRIPS;
            // SAFETY: the caller's word: 8 vectors a unit, aligned.
            let tables = unsafe {
                &*part
                    .tables
                    .add(unit * TABLE_BYTES)
                    .cast::<[[__m512i; 8]; 2]>()
            };
            add::<8, false>(sums, indices.as_flattened(), tables.as_flattened());
        }
        at += 2 * UNIT_STRIPS;
    }
    // What groups of 64 and 128 weights end in.
    if SCALES && strips - at == 4 {
        // SAFETY: four more strips; the caller's word.
        unsafe { add_end::<T, 4, 6>(part, at, &mut sums) };
        at = strips;
    }
    if SCALES && strips - at == 2 {
        // SAFETY: two more strips; the caller's word.
        unsafe { add_end::<T, 2, 3>(part, at, &mut sums) };
        at = strips;
    }
    while at < strips {
        // SAFETY: so many more strips; the masks leave out what is behind them.
        let bytes = unsafe {
            let strip = |i| {
                let mask = if at + i < strips { !0 } else { 0 };
                let strip = panel.wrapping_add((at + i) * PANEL_ROWS);
                _mm512_maskz_loadu_epi8(mask, strip.cast())
            };
            [strip(0), strip(1), strip(2)]
        };
        let indices = triple_indices(bytes);
        for (t, sums) in sums.iter_mut().enumerate() {
            let unit = t * units + at / UNIT_STRIPS;
            // SAFETY: the caller's word: 8 vectors a unit, aligned.
            let tables = unsafe { &*part.tables.add(unit * TABLE_BYTES).cast::<[__m512i; 8]>() };
            add::<4, false>(sums, &indices, tables);
        }
        at += UNIT_STRIPS;
    }
    let mut totals = start;
    for (total, [low, high]) in totals.iter_mut().zip(&sums) {
        let place = |high| _mm512_slli_epi16(high, 5);
        *total = [
            _mm512_add_epi16(low.both, place(high.both)),
            _mm512_add_epi16(low.odd, place(high.odd)),
        ];
    }
    totals
}

/// Adds the look-ups of the last `STRIPS` strips of a panel, from `at` on, which are `LOOK_UPS`.
///
/// # Safety
/// As [`sum`], with so many strips left.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
unsafe fn add_end<const T: usize, const STRIPS: usize, const LOOK_UPS: usize>(
    part: &Part,
    at: usize,
    sums: &mut [[Sum; 2]; T],
) {
    let mut bytes = [_mm512_setzero_si512(); 2 * UNIT_STRIPS];
    for (i, bytes) in bytes.iter_mut().enumerate().take(STRIPS) {
        let strip = part.panel.wrapping_add((at + i) * PANEL_ROWS);
        // SAFETY: the caller's word.
        *bytes = unsafe { _mm512_loadu_si512(strip.cast()) };
    }
    let [a, b, c, d, e, f] = bytes;
    // The index that weights of all strips are in comes first: those left out are of no strip.
    let [a, b, c, first] = triple_indices([a, b, c]);
    let [d, e, f, second] = triple_indices([d, e, f]);
    let indices = [first, a, b, c, second, d, e, f];
    let units = part.strips.div_ceil(UNIT_STRIPS);
    for (t, sums) in sums.iter_mut().enumerate() {
        let unit = t * units + at / UNIT_STRIPS;
        let tables = part.tables.wrapping_add(unit * TABLE_BYTES).cast();
        // SAFETY: the caller's word: 8 vectors a unit, aligned.
        let tables =
            unsafe { core::slice::from_raw_parts(tables, 8 * STRIPS.div_ceil(UNIT_STRIPS)) };
        add::<LOOK_UPS, true>(sums, &indices, tables);
    }
}

/// Looks up `LOOK_UPS` indices, at most eight, in a pair of tables each, and adds to the sums.
/// Where they are `ROTATED` the last table of a unit is that of its first index.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
fn add<const LOOK_UPS: usize, const ROTATED: bool>(
    [low, high]: &mut [Sum; 2],
    indices: &[__m512i],
    tables: &[__m512i],
) {
    let look_up = |i: usize, half| {
        let table = if ROTATED { i / 4 * 4 + (i + 3) % 4 } else { i };
        _mm512_permutexvar_epi8(indices[i], tables[2 * table + half])
    };
    let mut bytes = [look_up(0, 0), look_up(0, 1)];
    for i in 1..LOOK_UPS {
        for (half, bytes) in bytes.iter_mut().enumerate() {
            // Saturating for its port: see above.
            *bytes = _mm512_adds_epu8(*bytes, look_up(i, half));
        }
    }
    low.fold(bytes[0]);
    high.fold(bytes[1]);
}
