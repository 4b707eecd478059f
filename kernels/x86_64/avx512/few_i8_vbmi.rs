//! int8, few tokens, by `vpermb`: 64-entry tables of the signed sums of three
//! activations, indexed by the packed bits themselves.
//!
//! # The idea
//! `vpermb` looks up 64 bytes at once in a 64-byte table, by the low 6 bits of
//! each lane: exactly three 2-bit codes. A unit is three panel bytes of 64
//! rows. The low 6 bits of each are an index as they stand; the three top codes
//! left over are merged into a fourth:
//!
//! ```text
//! byte 0   aabbccdd      index 0 = bbccdd
//! byte 1   eeffgghh      index 1 = ffgghh
//! byte 2   iijjkkll      index 2 = jjkkll      index 3 = aaeeii
//! ```
//!
//! A sum s of three int8 is `-384..=384`. `u = s + 384` is split into
//! `u & 31` and `u >> 5 <= 24`, one byte table each; both add up in u8 lanes
//! for 8 look-ups (`8 * 31 = 248`) and are then folded into 16 bits. A fold
//! needs no mask: the 16-bit lane accumulates `even + 256 * odd` modulo 2^16,
//! a second one `odd` alone, and the even sum is their difference at the end.
//!
//! # Port arithmetic
//! A unit and panel, 768 MACs: 3 loads, 3 shifts, 2 `vpternlog`, 8 `vpermb`,
//! 8 additions, and 6 + 6 / 2 instructions of folding: 24 vector operations.
//! Zen 4 starts two 512-bit operations a cycle and one `vpermb`: 12 cycles, 64
//! MACs a cycle. Intel (one port for `vpermb`, two for the rest): the same.
//!
//! Two tokens share a unit's indices: 43 operations for both, 10.75 cycles each
//! (11.2 measured on Intel for the bare mix, where one token takes 12.3).
//! One token reads four panels at once instead, which memory answers sooner.

use crate::kernels::contract::{FewCall, FewGroups, FewKernel, FewScaled, FewTile, PANEL_ROWS};
use crate::kernels::x86_64::avx512::byte_sums::{MOST_STRIPS, Sum, less, store, values};
use crate::kernels::x86_64::avx512::few_i8_nibbles::{FEW_I8_MEMORY, FEW_I8_MEMORY_ZEN5};
use crate::kernels::x86_64::avx512::group_scales::add_scaled;
use core::arch::x86_64::*;
use core::mem::MaybeUninit;

/// Bytes of one unit's tables: four pairs of low and high table.
pub(super) const TABLE_BYTES: usize = 8 * 64;
/// Activations of a unit.
const UNIT_WEIGHTS: usize = 12;
/// Strips of a unit.
const UNIT_STRIPS: usize = 3;
/// Units that 16-bit lanes hold: `4 * 512 * 31 = 63488`.
const MAX_UNITS: usize = 512;
/// Bytes ahead of the loads that panels are prefetched into L1: more would wait
/// in the few buffers that L1 has for misses, which the tables need as well.
const PREFETCH_L1: usize = 1152;
/// Bytes ahead that they are prefetched into L2, for weights from memory.
const PREFETCH_L2: usize = 3584;

/// The kernel.
pub static FEW_I8: FewKernel<i8, i32> = FewKernel {
    name: "avx512-vbmi-few_i8",
    unit_strips: UNIT_STRIPS,
    table_bytes: TABLE_BYTES,
    max_units: MAX_UNITS,
    build,
    tiles: &[
        FewTile::new(2, 2, few_2x2),
        FewTile::new(4, 1, few_4x1),
        FewTile::new(2, 1, few_2x1),
        FewTile::new(1, 1, few_1x1),
    ],
    scaled: Some(FewScaled {
        most_strips: MOST_STRIPS,
        run: &[scaled_2x2, scaled_4x1, scaled_2x1, scaled_1x1],
    }),
    from_memory: Some(&FEW_I8_MEMORY),
};

/// The same, but for weights from memory on Zen 5.
pub static FEW_I8_ZEN5: FewKernel<i8, i32> = FewKernel {
    from_memory: Some(&FEW_I8_MEMORY_ZEN5),
    ..FEW_I8
};

/// `vpermb` indices that gather, for table entry `e`, the term of the weight whose code is
/// `(e >> shift) & 3`, a word of two bytes (`vpermw` would be two operations on Intel); in
/// the order that `vpackuswb` of the two halves puts right. The gathered words hold
/// `128 + x` at `w`, `128 - x` at `16 + w` and 128 at 12.
const fn terms(shift: u32, weight: u8, half: usize) -> [u8; 64] {
    let mut indices = [0; 64];
    let mut byte = 0;
    while byte < 64 {
        let word = byte / 2;
        let entry = word / 8 * 16 + half * 8 + word % 8;
        let from = match (entry >> shift) & 3 {
            1 => weight,
            2 => 16 + weight,
            _ => 12,
        };
        indices[byte] = 2 * from + (byte % 2) as u8;
        byte += 1;
    }
    indices
}

/// Indices of one table: for its first and its last weight, of which both halves have the same
/// terms, and for the two halves of the one between.
#[repr(C, align(64))]
struct Indices([[u8; 64]; 4]);

const fn indices(weights: [u8; 3]) -> Indices {
    let [a, b, c] = weights;
    Indices([
        terms(4, a, 0),
        terms(0, c, 0),
        terms(2, b, 0),
        terms(2, b, 1),
    ])
}

/// The four tables of a unit.
static INDICES: [Indices; 4] = [
    indices([1, 2, 3]),
    indices([5, 6, 7]),
    indices([9, 10, 11]),
    indices([0, 4, 8]),
];

/// Builds the tables of one token. See [`FewKernel::build`].
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline(never)]
unsafe fn build(x: *const i8, units: usize, tables: *mut u8) {
    // SAFETY: the caller's preconditions.
    unsafe { build_tables(x, UNIT_WEIGHTS * units, tables) }
}

/// Builds the tables of one token for `len` activations; a unit of which fewer are left has
/// zeros after them.
///
/// # Safety
/// Precondition 1 of [`crate::kernels::contract`]; `x` has `len` values, and `tables`, which
/// is aligned to a line, [`TABLE_BYTES`] for each of its units.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
pub(super) unsafe fn build_tables(x: *const i8, len: usize, tables: *mut u8) {
    let (mut x, mut left, mut table) = (x, len, tables.cast::<__m512i>());
    let (zero, five_bits) = (_mm256_set1_epi16(128), _mm512_set1_epi16(31));
    while left > 0 {
        let now = left.min(UNIT_WEIGHTS);
        // SAFETY: `left` values are readable, and the mask reads no more.
        let values = unsafe { _mm_maskz_loadu_epi8((1 << now) - 1, x) };
        let wide = _mm256_cvtepi8_epi16(values);
        let gathered = _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm256_add_epi16(zero, wide)),
            _mm256_sub_epi16(zero, wide),
            1,
        );
        for Indices(indices) in &INDICES {
            let term = |i: usize| {
                // SAFETY: 64 bytes.
                let indices = unsafe { _mm512_loadu_si512(indices[i].as_ptr().cast()) };
                _mm512_permutexvar_epi8(indices, gathered)
            };
            let outer = _mm512_add_epi16(term(0), term(1));
            let (u0, u1) = (
                _mm512_add_epi16(outer, term(2)),
                _mm512_add_epi16(outer, term(3)),
            );
            let low = _mm512_packus_epi16(
                _mm512_and_si512(u0, five_bits),
                _mm512_and_si512(u1, five_bits),
            );
            let high = _mm512_packus_epi16(_mm512_srli_epi16(u0, 5), _mm512_srli_epi16(u1, 5));
            // SAFETY: the caller's word: 8 vectors a unit, aligned.
            unsafe {
                table.write(low);
                table.add(1).write(high);
                table = table.add(2);
            }
        }
        left -= now;
        x = x.wrapping_add(now);
    }
}

/// Three bytes of 64 rows as four vectors of indices, in the low 6 bits of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn triple_indices(bytes: [__m512i; 3]) -> [__m512i; 4] {
    // Bit select, first operand where the third (the mask) is set.
    const SELECT: i32 = 0xca;
    let a = _mm512_srli_epi16(bytes[0], 2);
    let b = _mm512_srli_epi16(bytes[1], 4);
    let c = _mm512_srli_epi16(bytes[2], 6);
    let ab = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x30), a, b, SELECT);
    let abc = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x3c), ab, c, SELECT);
    [bytes[0], bytes[1], bytes[2], abc]
}

macro_rules! few {
    ($name:ident, $scaled:ident, $panels:literal, $tokens:literal) => {
        /// See [`FewTile::run`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
        #[inline(never)]
        unsafe fn $name(call: &FewCall<i32>) {
            if $tokens > 1 {
                align_stack();
            }
            // SAFETY: the caller's preconditions, handed on unchanged.
            unsafe {
                if call.read_before {
                    sum::<$panels, $tokens, false>(call);
                } else {
                    sum::<$panels, $tokens, true>(call);
                }
            }
        }

        /// See [`FewScaled::run`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4, 5, 7, 8 and 10 of [`crate::kernels::contract`].
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
        #[inline(never)]
        unsafe fn $scaled(call: &FewCall<f32>, groups: &FewGroups) {
            if $tokens > 1 {
                align_stack();
            }
            // SAFETY: the caller's preconditions, handed on unchanged.
            unsafe {
                if call.read_before {
                    sum_groups::<$panels, $tokens, false>(call, groups);
                } else {
                    sum_groups::<$panels, $tokens, true>(call, groups);
                }
            }
        }
    };
}
few!(few_2x2, scaled_2x2, 2, 2);
few!(few_4x1, scaled_4x1, 4, 1);
few!(few_2x1, scaled_2x1, 2, 1);
few!(few_1x1, scaled_1x1, 1, 1);

/// Has the function it is inlined into begin its stack at a cache line: vectors that the
/// compiler spills in a loop would else lie across two lines, three times in four by the
/// depth of the calls, which takes up to a third of the speed of a tile of two tokens.
/// (Spills are aligned only where something on the stack asks for it before registers
/// are assigned.)
#[inline(always)]
fn align_stack() {
    #[repr(align(64))]
    struct CacheLine {
        _bytes: [u8; 64],
    }
    let line = MaybeUninit::<CacheLine>::uninit();
    core::hint::black_box(&raw const line);
}

/// Where a tile of `P` panels by `T` tokens reads.
#[derive(Clone, Copy)]
struct At<const P: usize, const T: usize> {
    panels: [*const u8; P],
    tables: [*const __m512i; T],
}

impl<const P: usize, const T: usize> At<P, T> {
    /// The start of a call.
    #[inline(always)]
    fn start<Acc>(call: &FewCall<Acc>) -> Self {
        let mut panels = [call.panels; P];
        for p in 1..P {
            panels[p] = panels[p - 1].wrapping_add(call.panel_stride);
        }
        let mut tables = [call.tables.cast::<__m512i>(); T];
        for t in 1..T {
            tables[t] = tables[t - 1].wrapping_byte_add(call.table_stride);
        }
        Self { panels, tables }
    }
}

/// Adds the look-ups of `units` units, after which `rest` bytes of the call's range are left,
/// to sums of low parts, which start at `low`, and of high parts.
///
/// # Safety
/// Preconditions 1, 2 and 4 of [`crate::kernels::contract`], for these units.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
unsafe fn add_units<const P: usize, const T: usize, const PREFETCH: bool, Acc>(
    call: &FewCall<Acc>,
    at: &mut At<P, T>,
    (units, rest): (usize, usize),
    low: Sum,
) -> [[[Sum; P]; T]; 2] {
    let zero = _mm512_setzero_si512();
    let none = Sum {
        both: zero,
        odd: zero,
    };
    let mut low = [[low; P]; T];
    let mut high = [[none; P]; T];
    let mut left = units;
    while left > 0 {
        let bytes = 3 * PANEL_ROWS * left + rest;
        let near = call.prefetch(PREFETCH_L1, bytes);
        let far = call.prefetch(PREFETCH_L2, bytes);
        let mut low8 = [[zero; P]; T];
        let mut high8 = [[zero; P]; T];
        // Two units are 8 look-ups, what u8 lanes hold.
        let now = if left >= 2 { 2 } else { 1 };
        for _ in 0..now {
            for p in 0..P {
                // SAFETY: precondition 2: three strips of 64 bytes a unit.
                let bytes = unsafe {
                    let strip = at.panels[p];
                    for line in 0..if PREFETCH { 3 } else { 0 } {
                        let line = strip.wrapping_add(64 * line);
                        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(near).cast());
                        _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(far).cast());
                    }
                    [
                        _mm512_loadu_si512(strip.cast()),
                        _mm512_loadu_si512(strip.add(PANEL_ROWS).cast()),
                        _mm512_loadu_si512(strip.add(2 * PANEL_ROWS).cast()),
                    ]
                };
                at.panels[p] = at.panels[p].wrapping_add(3 * PANEL_ROWS);
                let indices = triple_indices(bytes);
                for t in 0..T {
                    // SAFETY: precondition 4: 8 vectors a unit, aligned.
                    let table = unsafe { *at.tables[t].cast::<[__m512i; 8]>() };
                    for i in 0..4 {
                        let lookup = |table| _mm512_permutexvar_epi8(indices[i], table);
                        low8[t][p] = _mm512_add_epi8(low8[t][p], lookup(table[2 * i]));
                        high8[t][p] = _mm512_add_epi8(high8[t][p], lookup(table[2 * i + 1]));
                    }
                }
            }
            for table in &mut at.tables {
                // SAFETY: at most one past the tables.
                *table = unsafe { table.add(8) };
            }
        }
        for t in 0..T {
            for p in 0..P {
                low[t][p].fold(low8[t][p]);
                high[t][p].fold(high8[t][p]);
            }
        }
        left -= now;
    }
    [low, high]
}

/// The kernel of `P` panels by `T` tokens.
///
/// # Safety
/// As [`few_4x1`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
unsafe fn sum<const P: usize, const T: usize, const PREFETCH: bool>(call: &FewCall<i32>) {
    let mut at = At::<P, T>::start(call);
    // SAFETY: the caller's preconditions.
    let [low, high] =
        unsafe { add_units::<P, T, PREFETCH, _>(call, &mut at, (call.units, 0), less(0)) };
    // 4 look-ups a unit, each 384 too large.
    let bias = _mm512_set1_epi32(4 * 384 * call.units as i32);
    let mut column = call.out;
    for t in 0..T {
        let mut out = column;
        for p in 0..P {
            let (low, high) = (low[t][p].rows(), high[t][p].rows());
            // SAFETY: precondition 5: 64 elements a panel.
            unsafe { store(low, high, bias, call.accumulate, out) };
            out = out.wrapping_add(call.panel_sums);
        }
        column = column.wrapping_add(call.out_stride);
    }
}

/// The kernel that scales, of `P` panels by `T` tokens.
///
/// # Safety
/// As [`scaled_4x1`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
unsafe fn sum_groups<const P: usize, const T: usize, const PREFETCH: bool>(
    call: &FewCall<f32>,
    groups: &FewGroups,
) {
    let start = At::<P, T>::start(call);
    let last = groups.end(UNIT_STRIPS);
    let mut groups = groups.clone();
    while let Some(group) = groups.next(UNIT_STRIPS) {
        let mut at = start;
        for panel in &mut at.panels {
            *panel = panel.wrapping_add(UNIT_STRIPS * PANEL_ROWS * group.first);
        }
        for tables in &mut at.tables {
            *tables = tables.wrapping_byte_add(TABLE_BYTES * group.table);
        }
        let rest = UNIT_STRIPS * PANEL_ROWS * (last - group.first - group.units);
        // 4 look-ups a unit, each 384 too large.
        let bias = less(4 * 384 * group.units);
        // SAFETY: the caller's preconditions.
        let [low, high] =
            unsafe { add_units::<P, T, PREFETCH, _>(call, &mut at, (group.units, rest), bias) };
        for t in 0..T {
            // SAFETY: precondition 10: a scale for each token, and 64 for each panel's rows; 5:
            // 64 elements a panel.
            unsafe {
                let token_scale = group.token_scale + t * groups.token_stride;
                let token_scale = _mm512_set1_ps(groups.token_scales.add(token_scale).read());
                for p in 0..P {
                    let values = values(low[t][p], high[t][p]);
                    let place = p * call.panel_sums;
                    let out = call.out.add(t * call.out_stride + place);
                    let scales = group.scales + place;
                    add_scaled(values, groups.scales, scales, Some(token_scale), out);
                }
            }
        }
    }
}
