//! int8 row lanes by 512-bit `vpshufb`, for AVX-512 without VBMI: the nibble
//! tables of [`crate::kernels::x86_64::avx2::few_i8`], a whole panel strip at a time.
//!
//! # Port arithmetic
//! A byte and panel, 256 MACs: 1 load, 1 shift, 2 `and`, 4 `vpshufb`, 4
//! additions, and 3 / 4 + 3 / 8 of folding: 12.1 vector operations, 6.1 cycles at
//! two a cycle, 42 MACs a cycle.
//!
//! # With VBMI
//! `vpermb` takes six bits of an index where the table has 64 bytes. It has 16,
//! four times over, so the upper two bits may be anything and the two `and` are
//! gone: 10.1 operations. That is for weights out of memory, where the 64-entry
//! tables of [`super::few_i8_vbmi`] would take more of L2's bandwidth.
//!
//! # On Zen 5
//! That loop computes a third faster than one core of it reads memory. Let run, it
//! catches up with its prefetches, and then the loads of lines that are on their way
//! take the buffers that further ones would need: the bare look-ups read 0.82 to 0.94 of
//! what one plain stream does, 0.92 to 0.98 with one stage of prefetches, 0.96 to 1.05
//! where something keeps them at a pace little faster than memory (`--bin loops` of
//! `peers/`). So for weights out of memory tiles of four panels are kept at one, by a
//! chain of additions that the addresses of the loads wait for ([`pace`]).

use super::few_i8_vbmi::{Sum, store};
use crate::kernels::contract::{FewCall, FewKernel, FewTile, PANEL_ROWS};
use crate::kernels::registry::Cpu;
use crate::kernels::x86_64::avx2::few_i8::{STRETCH, TABLE_BYTES, UNITS_PER_FOLD, build};
use core::arch::x86_64::*;

/// Bytes ahead of the loads that panels are prefetched into L1.
const PREFETCH_L1: usize = 1152;
/// Bytes ahead that they are prefetched into L2, for weights out of memory.
const PREFETCH_L2: usize = 3584;
/// Bytes ahead that they are prefetched into L1, and no further, where loads are paced.
const PREFETCH_PACED: usize = 3072;

/// The kernel.
pub static FEW_I8: FewKernel<i8, i32> = FewKernel {
    name: "avx512-few_i8",
    unit_strips: 1,
    table_bytes: TABLE_BYTES,
    max_units: usize::MAX / TABLE_BYTES,
    build,
    tiles: &[
        FewTile {
            panels: 4,
            tokens: 1,
            run: row_4,
        },
        FewTile {
            panels: 2,
            tokens: 1,
            run: row_2,
        },
        FewTile {
            panels: 1,
            tokens: 1,
            run: row_1,
        },
    ],
    symbols: &[
        "avx2::few_i8::build",
        "avx512::few_i8_nibbles::row_4",
        "avx512::few_i8_nibbles::row_2",
        "avx512::few_i8_nibbles::row_1",
    ],
};

/// The kernel by `vpermb`, for weights out of memory.
pub static FEW_I8_MEMORY: FewKernel<i8, i32> = FewKernel {
    name: "avx512-vbmi-few_i8-nibbles",
    tiles: &[
        FewTile {
            panels: 4,
            tokens: 1,
            run: row_4_vbmi,
        },
        FewTile {
            panels: 2,
            tokens: 1,
            run: row_2_vbmi,
        },
        FewTile {
            panels: 1,
            tokens: 1,
            run: row_1_vbmi,
        },
    ],
    symbols: &[
        "avx2::few_i8::build",
        "avx512::few_i8_nibbles::row_4_vbmi",
        "avx512::few_i8_nibbles::row_2_vbmi",
        "avx512::few_i8_nibbles::row_1_vbmi",
    ],
    ..FEW_I8
};

macro_rules! row {
    ($name:ident, $panels:literal, $by:ty, $features:literal) => {
        /// See [`FewTile::run`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn $name(call: &FewCall<i32>) {
            let mut rest = *call;
            loop {
                let mut part = rest;
                part.units = rest.units.min(STRETCH);
                if part.units < rest.units {
                    part.ahead = 0;
                }
                // SAFETY: the caller's preconditions hold for each part of K.
                unsafe {
                    if <$by>::STREAMS && $panels == 4 && part.cpu == Cpu::Zen5 {
                        row::<$by, $panels, true>(&part);
                    } else {
                        row::<$by, $panels, false>(&part);
                    }
                }
                rest.units -= part.units;
                if rest.units == 0 {
                    return;
                }
                rest.panels = rest.panels.wrapping_add(STRETCH * PANEL_ROWS);
                rest.tables = rest.tables.wrapping_add(STRETCH * TABLE_BYTES);
                rest.accumulate = true;
            }
        }
    };
}
row!(row_4, 4, ByShuffle, "avx512f,avx512bw,avx512vl");
row!(row_2, 2, ByShuffle, "avx512f,avx512bw,avx512vl");
row!(row_1, 1, ByShuffle, "avx512f,avx512bw,avx512vl");
row!(
    row_4_vbmi,
    4,
    ByPermutation,
    "avx512f,avx512bw,avx512vl,avx512vbmi"
);
row!(
    row_2_vbmi,
    2,
    ByPermutation,
    "avx512f,avx512bw,avx512vl,avx512vbmi"
);
row!(
    row_1_vbmi,
    1,
    ByPermutation,
    "avx512f,avx512bw,avx512vl,avx512vbmi"
);

/// Looks nibbles up in a table of 16 bytes that fills a vector four times.
trait Nibbles {
    /// Whether it is for weights out of memory.
    const STREAMS: bool;

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

impl Nibbles for ByShuffle {
    const STREAMS: bool = false;

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

impl Nibbles for ByPermutation {
    const STREAMS: bool = true;

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

/// Doubles `late` 23 times. All callers pass 0 and get 0, but the CPU knows that only 23
/// cycles later, one for each addition. For a unit of four panels that is 48 GB/s at
/// 4.3 GHz, where one core was seen to read 28 to 43.
#[inline(always)]
fn pace(late: usize) -> usize {
    // Miri runs no assembly, and has no cycles.
    #[cfg(not(miri))]
    let late = {
        let mut late = late;
        // SAFETY: additions in a register.
        unsafe {
            core::arch::asm!(
                ".rept 23",
                "add {late}, {late}",
                ".endr",
                late = inout(reg) late,
                options(pure, nomem, nostack),
            );
        }
        late
    };
    late
}

/// Sums at most [`STRETCH`] units, `PACED` or as fast as it can. `inline(always)`: only
/// its callers declare the features of `N`.
///
/// # Safety
/// As [`row_4`]; the caller declares its features and those that `N` needs.
#[inline(always)]
unsafe fn row<N: Nibbles, const P: usize, const PACED: bool>(call: &FewCall<i32>) {
    let mut panels = [call.panels; P];
    for p in 1..P {
        panels[p] = panels[p - 1].wrapping_add(call.panel_stride);
    }
    let mut tables = call.tables.cast::<__m128i>();
    let mut left = call.units;
    let near = if PACED { PREFETCH_PACED } else { PREFETCH_L1 };
    // Always 0, which the CPU finds out in its own time.
    let mut late = 0;
    // SAFETY: precondition 1 for all intrinsics; the pointers as said below.
    unsafe {
        let zero = _mm512_setzero_si512();
        let none = Sum {
            both: zero,
            odd: zero,
        };
        let (mut low, mut high) = ([none; P], [none; P]);
        while left > 0 {
            let mut high8 = [zero; P];
            for _ in 0..2 {
                let mut low8 = [zero; P];
                let now = left.min(UNITS_PER_FOLD);
                let near = call.prefetch(near, left << 6);
                let far = call.prefetch(PREFETCH_L2, left << 6);
                for _ in 0..now {
                    // Precondition 4: 4 vectors of 16 bytes a unit, aligned; at
                    // most one past the tables.
                    let mut table = [zero; 4];
                    for (i, table) in table.iter_mut().enumerate() {
                        *table = _mm512_broadcast_i32x4(*tables.add(i));
                    }
                    tables = tables.add(4);
                    if PACED {
                        late = pace(late);
                    }
                    for p in 0..P {
                        // Precondition 2: one strip of 64 bytes a unit.
                        _mm_prefetch::<_MM_HINT_T0>(panels[p].wrapping_add(near).cast());
                        if !PACED {
                            _mm_prefetch::<_MM_HINT_T1>(panels[p].wrapping_add(far).cast());
                        }
                        let bytes = _mm512_loadu_si512(panels[p].cast());
                        panels[p] = panels[p].wrapping_add(PANEL_ROWS + late);
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
