//! int8, few tokens, by nibbles: the 16-entry tables of
//! [`crate::kernels::x86_64::avx2::few_i8`], a whole strip of a panel at a time.
//!
//! Two kernels share the loop. One is by `vpshufb`, for AVX-512 without VBMI. The other
//! is by VBMI's `vpermb`: every CPU with VBMI decodes one token with it where the weights
//! come from memory.
//!
//! # Port arithmetic
//! By `vpshufb` a strip of a panel, 256 MACs, takes 1 load, 1 shift, 2 `and`, 4
//! `vpshufb`, 4 additions, and 3 / 4 + 3 / 8 of folding: 12.1 vector operations, 6.1
//! cycles at two a cycle, 42 MACs a cycle.
//!
//! `vpermb` takes six bits of an index where the table has 64 bytes. It has 16, four
//! times over, so the upper two bits may be anything and the two `and` are gone: 10.1
//! operations. The 64-entry tables of [`crate::kernels::x86_64::avx512::few_i8_vbmi`]
//! would take more of L2's bandwidth, which weights from memory need.
//!
//! # On Zen 5
//! The loop by `vpermb` computes a third faster than one core reads memory. Let run, it
//! catches up with its prefetches, and then the loads of lines that are on their way take
//! the buffers that further prefetches would need. The bare look-ups read 0.82 to 0.94 of
//! what one plain stream does, 0.92 to 0.98 with one stage of prefetches, and 0.96 to
//! 1.05 where something keeps them at a pace little faster than memory (`lab/loops`,
//! heading "streams"). So tiles of four panels are kept at that pace, by a chain of
//! additions that the addresses of the loads wait for ([`pace`]).

use crate::kernels::contract::{
    FewCall, FewGroups, FewKernel, FewRunScaled, FewScaled, FewTile, PANEL_ROWS,
};
use crate::kernels::x86_64::avx2::few_i8::{MAX_UNITS, TABLE_BYTES, UNITS_PER_FOLD, build};
use crate::kernels::x86_64::avx512::byte_sums::{MOST_STRIPS, Sum, less, store, values};
use crate::kernels::x86_64::avx512::group_scales::add_scaled;
use core::arch::x86_64::*;

/// Bytes ahead of the loads that panels are prefetched into L1.
const PREFETCH_L1: usize = 1152;
/// Bytes ahead that they are prefetched into L2, for weights from memory.
const PREFETCH_L2: usize = 3584;
/// Bytes ahead that they are prefetched into L1, and no further, where loads are paced.
const PREFETCH_PACED: usize = 3072;

/// The kernel by `vpshufb`.
pub static FEW_I8: FewKernel<i8, i32> = FewKernel {
    name: "avx512-few_i8",
    unit_strips: 1,
    table_bytes: TABLE_BYTES,
    max_units: MAX_UNITS,
    build,
    tiles: &FewTile::of_panels([few_4, few_2, few_1]),
    scaled: Some(scaled(&[scaled_4, scaled_2, scaled_1])),
    from_memory: None,
};

/// The kernel by `vpermb`, for weights from memory.
pub static FEW_I8_MEMORY: FewKernel<i8, i32> = FewKernel {
    name: "avx512-vbmi-few_i8-nibbles",
    tiles: &FewTile::of_panels([few_4_vbmi, few_2_vbmi, few_1_vbmi]),
    scaled: Some(scaled(&[scaled_4_vbmi, scaled_2_vbmi, scaled_1_vbmi])),
    ..FEW_I8
};

/// The kernel by `vpermb` whose loads keep the pace of a Zen 5's memory.
pub static FEW_I8_MEMORY_ZEN5: FewKernel<i8, i32> = FewKernel {
    name: "avx512-vbmi-few_i8-nibbles-paced",
    tiles: &FewTile::of_panels([few_4_paced, few_2_vbmi, few_1_vbmi]),
    scaled: Some(scaled(&[scaled_4_paced, scaled_2_vbmi, scaled_1_vbmi])),
    ..FEW_I8
};

/// Of groups whose sums 16 bits hold.
const fn scaled(run: &'static [FewRunScaled]) -> FewScaled {
    FewScaled {
        most_strips: MOST_STRIPS,
        run,
    }
}

macro_rules! few {
    ($name:ident, $scaled:ident, $($tile:tt),+) => {
        few!("avx512f,avx512bw,avx512vl", $name, $scaled, $($tile),+);
    };
    (vbmi $name:ident, $scaled:ident, $($tile:tt),+) => {
        few!("avx512f,avx512bw,avx512vl,avx512vbmi", $name, $scaled, $($tile),+);
    };
    ($features:literal, $name:ident, $scaled:ident, $($tile:tt),+) => {
        /// See [`FewTile::run`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn $name(call: &FewCall<i32>) {
            // SAFETY: the caller's preconditions, handed on unchanged.
            unsafe { sum::<$($tile),+>(call) }
        }

        /// See [`FewScaled::run`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4, 5, 7, 8 and 10 of [`crate::kernels::contract`].
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn $scaled(call: &FewCall<f32>, groups: &FewGroups) {
            // SAFETY: the caller's preconditions, handed on unchanged.
            unsafe { sum_groups::<$($tile),+>(call, groups) }
        }
    };
}
few!(few_4, scaled_4, ByShuffle, 4, false);
few!(few_2, scaled_2, ByShuffle, 2, false);
few!(few_1, scaled_1, ByShuffle, 1, false);
few!(vbmi few_4_vbmi, scaled_4_vbmi, ByPermutation, 4, false);
few!(vbmi few_2_vbmi, scaled_2_vbmi, ByPermutation, 2, false);
few!(vbmi few_1_vbmi, scaled_1_vbmi, ByPermutation, 1, false);
few!(vbmi few_4_paced, scaled_4_paced, ByPermutation, 4, true);

/// Looks nibbles up in a table of 16 bytes that fills a vector four times.
trait LookUpNibbles {
    /// Indices of the high and of the low nibbles.
    ///
    /// # Safety
    /// Precondition 1 of [`crate::kernels::contract`].
    unsafe fn indices(bytes: __m512i) -> [__m512i; 2];

    /// The entries.
    ///
    /// # Safety
    /// As `indices`.
    unsafe fn look_up(table: __m512i, indices: __m512i) -> __m512i;
}

/// By `vpshufb`, whose index is a nibble below a bit that must be 0.
struct ByShuffle;

impl LookUpNibbles for ByShuffle {
    #[inline(always)]
    unsafe fn indices(bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: precondition 1.
        unsafe {
            let nibble = _mm512_set1_epi8(15);
            let high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
            [high, _mm512_and_si512(bytes, nibble)]
        }
    }

    #[inline(always)]
    unsafe fn look_up(table: __m512i, indices: __m512i) -> __m512i {
        // SAFETY: precondition 1.
        unsafe { _mm512_shuffle_epi8(table, indices) }
    }
}

/// By VBMI's `vpermb`, which reads two bits more that change nothing here.
struct ByPermutation;

impl LookUpNibbles for ByPermutation {
    #[inline(always)]
    unsafe fn indices(bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: precondition 1.
        unsafe { [_mm512_srli_epi16(bytes, 4), bytes] }
    }

    #[inline(always)]
    unsafe fn look_up(table: __m512i, indices: __m512i) -> __m512i {
        // SAFETY: precondition 1.
        unsafe { _mm512_permutexvar_epi8(indices, table) }
    }
}

/// Doubles `delay` 23 times. All callers pass 0 and get 0, but the CPU knows that only 23
/// cycles later, one for each addition. For a unit of four panels that is 48 GB/s at
/// 4.3 GHz, where one core was seen to read 28 to 43.
#[inline(always)]
fn pace(delay: usize) -> usize {
    // Miri runs no assembly, and has no cycles.
    #[cfg(not(miri))]
    let delay = {
        let mut delay = delay;
        // SAFETY: additions in a register.
        unsafe {
            core::arch::asm!(
                ".rept 23",
                "add {delay}, {delay}",
                ".endr",
                delay = inout(reg) delay,
                options(pure, nomem, nostack),
            );
        }
        delay
    };
    delay
}

/// The panels of a tile of `P` panels.
#[inline(always)]
fn panels<const P: usize, Acc>(call: &FewCall<Acc>) -> [*const u8; P] {
    let mut panels = [call.panels; P];
    for p in 1..P {
        panels[p] = panels[p - 1].wrapping_add(call.panel_stride);
    }
    panels
}

/// Adds the look-ups of `units` units of `P` panels, after which the call has `rest` left, to
/// sums of low parts, which start at `low`, and of high parts; `PACED` or as fast as it can.
/// `inline(always)`: only its callers declare the features of `N`.
///
/// # Safety
/// Preconditions 1, 2 and 4 of [`crate::kernels::contract`], for these units; the caller
/// declares the features of [`few_4`] and those that `N` needs.
#[inline(always)]
unsafe fn add_units<N: LookUpNibbles, const P: usize, const PACED: bool, Acc>(
    call: &FewCall<Acc>,
    (mut panels, tables): ([*const u8; P], *const u8),
    (units, rest): (usize, usize),
    low: Sum,
) -> [[Sum; P]; 2] {
    let mut tables = tables.cast::<__m128i>();
    let mut left = units;
    let near = if PACED { PREFETCH_PACED } else { PREFETCH_L1 };
    // Always 0, which the CPU finds out in its own time.
    let mut delay = 0;
    // SAFETY: precondition 1 for all intrinsics; the pointers as said below.
    unsafe {
        let zero = _mm512_setzero_si512();
        let none = Sum {
            both: zero,
            odd: zero,
        };
        let (mut low, mut high) = ([low; P], [none; P]);
        while left > 0 {
            let mut high8 = [zero; P];
            for _ in 0..2 {
                let mut low8 = [zero; P];
                let now = left.min(UNITS_PER_FOLD);
                let near = call.prefetch(near, (left + rest) * PANEL_ROWS);
                let far = call.prefetch(PREFETCH_L2, (left + rest) * PANEL_ROWS);
                for _ in 0..now {
                    // Precondition 4: 4 vectors of 16 bytes a unit, aligned; at
                    // most one past the tables.
                    let mut table = [zero; 4];
                    for (i, table) in table.iter_mut().enumerate() {
                        *table = _mm512_broadcast_i32x4(*tables.add(i));
                    }
                    tables = tables.add(4);
                    if PACED {
                        delay = pace(delay);
                    }
                    for p in 0..P {
                        // Precondition 2: one strip of 64 bytes a unit.
                        _mm_prefetch::<_MM_HINT_T0>(panels[p].wrapping_add(near).cast());
                        if !PACED {
                            _mm_prefetch::<_MM_HINT_T1>(panels[p].wrapping_add(far).cast());
                        }
                        let bytes = _mm512_loadu_si512(panels[p].cast());
                        panels[p] = panels[p].wrapping_add(PANEL_ROWS + delay);
                        for (index, i) in N::indices(bytes).into_iter().zip([0, 2]) {
                            low8[p] = _mm512_add_epi8(low8[p], N::look_up(table[i], index));
                            high8[p] = _mm512_add_epi8(high8[p], N::look_up(table[i + 1], index));
                        }
                    }
                }
                for p in 0..P {
                    low[p].fold(low8[p]);
                }
                left -= now;
            }
            for p in 0..P {
                high[p].fold(high8[p]);
            }
        }
        [low, high]
    }
}

/// The kernel of `P` panels by one token. `inline(always)`: only its callers declare the
/// features of `N`.
///
/// # Safety
/// As [`few_4`]; the caller declares its features and those that `N` needs.
#[inline(always)]
unsafe fn sum<N: LookUpNibbles, const P: usize, const PACED: bool>(call: &FewCall<i32>) {
    let from = (panels(call), call.tables);
    // SAFETY: the caller's preconditions.
    unsafe {
        let [low, high] = add_units::<N, P, PACED, _>(call, from, (call.units, 0), less(0));
        // 2 look-ups a unit, each 256 too large.
        let bias = _mm512_set1_epi32((call.units << 9) as i32);
        let mut out = call.out;
        for p in 0..P {
            // Precondition 5: 64 elements a panel.
            store(low[p].rows(), high[p].rows(), bias, call.accumulate, out);
            out = out.wrapping_add(call.panel_sums);
        }
    }
}

/// The kernel that scales, of `P` panels by one token. `inline(always)`: only its callers
/// declare the features of `N`.
///
/// # Safety
/// As [`scaled_4`]; the caller declares its features and those that `N` needs.
#[inline(always)]
unsafe fn sum_groups<N: LookUpNibbles, const P: usize, const PACED: bool>(
    call: &FewCall<f32>,
    groups: &FewGroups,
) {
    let start = panels(call);
    let last = groups.end(1);
    let mut groups = groups.clone();
    while let Some(group) = groups.next(1) {
        let mut panels: [_; P] = start;
        for panel in &mut panels {
            *panel = panel.wrapping_add(PANEL_ROWS * group.first);
        }
        let tables = call.tables.wrapping_add(TABLE_BYTES * group.table);
        let units = (group.units, last - group.first - group.units);
        // SAFETY: the caller's preconditions; 10: a scale for the token and 64 for each panel's
        // rows; 5: 64 elements a panel.
        unsafe {
            // 2 look-ups a unit, each 256 too large.
            let bias = less(group.units << 9);
            let [low, high] = add_units::<N, P, PACED, _>(call, (panels, tables), units, bias);
            let token_scale = groups.token_scales.add(group.token_scale).read();
            let token_scale = Some(_mm512_set1_ps(token_scale));
            for p in 0..P {
                let place = p * call.panel_sums;
                let (scales, out) = (group.scales + place, call.out.add(place));
                let values = values(low[p], high[p]);
                add_scaled(values, groups.scales, scales, token_scale, out);
            }
        }
    }
}
