//! int8, few tokens, by `vpshufb`: 16-entry tables of the signed sums of two
//! activations, indexed by nibbles.
//!
//! # The idea
//! A nibble of a panel byte is two 2-bit codes, the index of `vpshufb` into a
//! table of the 16 signed sums of two activations. A sum s is `-256..=256`;
//! `u = s + 256` is split into `low + 32 * high`, one byte table each, which add
//! up in u8 lanes and are then folded into 16 bits. In the tables of a byte's
//! second pair `high` is at most 15, and `low` then 32 for the largest sum; so
//! lanes hold the low parts of 4 bytes (`4 * (31 + 32) = 252`) and the high
//! parts of 8 (`8 * (16 + 15) = 248`). The 16-bit lane accumulates
//! `even + 256 * odd` modulo 2^16, a second one `odd` alone; the even sum is
//! their difference at the end.
//!
//! ```text
//! panel byte   aabbccdd    high nibble aabb -> tables 0, 1 (low, high part)
//!                          low nibble  ccdd -> tables 2, 3
//! ```
//!
//! # Port arithmetic
//! A byte and panel, 256 MACs: 2 loads of rows, 4 of tables, 2 shifts, 4
//! `and`, 8 `vpshufb`, 8 additions, 6 / 4 + 6 / 8 of folding: 24.3 vector
//! operations, 6.1 cycles at Zen 4's four a cycle, 42 MACs a cycle; 8.1 cycles
//! at Intel's three. Tables loaded for each half of the rows, with all sums of two
//! panels in registers, took 5 loads for 128 MACs and left the compiler moving
//! registers: 7 to 16 % slower on Zen 3, hot and from memory.

use crate::kernels::contract::{FewCall, FewKernel, FewTile, PANEL_ROWS};
use core::arch::x86_64::*;

/// Bytes of one unit's tables.
pub(in crate::kernels::x86_64) const TABLE_BYTES: usize = 64;
/// Units whose low parts u8 lanes hold; of high parts they hold those of twice
/// as many.
pub(in crate::kernels::x86_64) const UNITS_PER_FOLD: usize = 4;
/// Units that 16-bit lanes hold: `1040 * (31 + 32) = 65520`.
pub(in crate::kernels::x86_64) const MAX_UNITS: usize = 1040;
/// Bytes ahead of the loads that panels are prefetched.
const PREFETCH: usize = 2048;

/// The kernel.
pub static FEW_I8: FewKernel<i8, i32> = FewKernel {
    name: "avx2-few_i8",
    unit_strips: 1,
    table_bytes: TABLE_BYTES,
    max_units: MAX_UNITS,
    build,
    tiles: &[FewTile::new(2, 1, few_2), FewTile::new(1, 1, few_1)],
    scaled: None,
    from_memory: None,
};

/// `vpshufb` indices of the terms of a pair's weight over the 16 entries, as
/// bytes of 16-bit words: `x` at word `weight`, `-x` four further, else zero.
const fn terms(shift: u32, weight: u8) -> [u8; 32] {
    let mut indices = [0x80; 32];
    let mut entry = 0;
    while entry < 16 {
        let word = match (entry >> shift) & 3 {
            1 => weight,
            2 => 4 + weight,
            _ => 0x40,
        };
        indices[2 * entry] = word << 1;
        indices[2 * entry + 1] = (word << 1) + 1;
        entry += 1;
    }
    indices
}

#[repr(C, align(32))]
struct Indices32x8([[u8; 32]; 4]);

/// For weights 0 to 3 of a byte; the first of a pair is the upper code.
static INDICES: Indices32x8 = Indices32x8([terms(2, 0), terms(0, 1), terms(2, 2), terms(0, 3)]);

/// Builds the tables of one token: of each byte, low and high part of the
/// sums of weights 0 and 1, then of weights 2 and 3 with high parts up to 15.
/// See [`FewKernel::build`].
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx2")]
#[inline(never)]
pub(in crate::kernels::x86_64) unsafe fn build(x: *const i8, units: usize, tables: *mut u8) {
    let (mut x, mut table) = (x.cast::<i32>(), tables.cast::<__m256i>());
    // SAFETY: four times 32 bytes.
    let indices = unsafe { *(&raw const INDICES).cast::<[__m256i; 4]>() };
    let (bias, fifteen) = (_mm256_set1_epi16(256), _mm256_set1_epi16(15));
    for _ in 0..units {
        // SAFETY: precondition 3: 4 values a unit.
        let wide = _mm_cvtepi8_epi16(_mm_cvtsi32_si128(unsafe { x.read_unaligned() }));
        let negative = _mm_sub_epi16(_mm_setzero_si128(), wide);
        let signed = _mm256_broadcastsi128_si256(_mm_unpacklo_epi64(wide, negative));
        for pair in 0..2 {
            let term = |i: usize| _mm256_shuffle_epi8(signed, indices[2 * pair + i]);
            let u = _mm256_add_epi16(bias, _mm256_add_epi16(term(0), term(1)));
            let mut high = _mm256_srli_epi16(u, 5);
            if pair == 1 {
                high = _mm256_min_epi16(high, fifteen);
            }
            let low = _mm256_sub_epi16(u, _mm256_slli_epi16(high, 5));
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(low, high));
            // SAFETY: precondition 4: 64 bytes a unit, aligned.
            unsafe {
                table.write(packed);
                table = table.add(1);
            }
        }
        // SAFETY: at most one past the activations.
        x = unsafe { x.add(1) };
    }
}

/// Sums of one half (low or high tables) of 32 rows.
#[derive(Clone, Copy)]
struct HalfSum {
    /// `even + 256 * odd` modulo 2^16.
    both: __m256i,
    /// `odd`.
    odd: __m256i,
}

impl HalfSum {
    /// Adds u8 lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn fold(&mut self, bytes: __m256i) {
        self.both = _mm256_add_epi16(self.both, bytes);
        self.odd = _mm256_add_epi16(self.odd, _mm256_srli_epi16(bytes, 8));
    }

    /// Rows 0..8 and 16..24, rows 8..16 and 24..32.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn rows(self) -> [__m256i; 2] {
        let even = _mm256_sub_epi16(self.both, _mm256_slli_epi16(self.odd, 8));
        [
            _mm256_unpacklo_epi16(even, self.odd),
            _mm256_unpackhi_epi16(even, self.odd),
        ]
    }
}

macro_rules! few {
    ($name:ident, $panels:literal) => {
        /// See [`FewTile::run`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
        #[target_feature(enable = "avx2")]
        #[inline(never)]
        unsafe fn $name(call: &FewCall<i32>) {
            // SAFETY: the caller's preconditions, handed on unchanged.
            unsafe { sum::<$panels>(call) }
        }
    };
}
few!(few_2, 2);
few!(few_1, 1);

/// Sums of 64 rows, by halves.
#[derive(Clone, Copy)]
struct PanelSums {
    low: [HalfSum; 2],
    high: [HalfSum; 2],
}

/// Adds at most eight units of a panel to its sums. The tables of a unit are loaded once for
/// both halves of its rows; 16-bit sums stay in memory, as the registers hold tables and u8
/// sums.
///
/// # Safety
/// `rows` has a strip and `table` 64 bytes for every unit.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn add_units(mut rows: *const u8, mut table: *const u8, units: usize, sums: &mut PanelSums) {
    let zero = _mm256_setzero_si256();
    let nibble = _mm256_set1_epi8(15);
    let mut high8 = [zero; 2];
    macro_rules! add {
        ($units:expr) => {{
            let mut low8 = [zero; 2];
            for _ in 0..$units {
                // SAFETY: the caller's precondition.
                let (halves, tables) = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(PREFETCH).cast());
                    let table = table.cast::<__m128i>();
                    let load = |i| _mm256_broadcastsi128_si256(*table.add(i));
                    let half = |h| _mm256_loadu_si256(rows.cast::<__m256i>().add(h));
                    ([half(0), half(1)], [load(0), load(1), load(2), load(3)])
                };
                for h in 0..2 {
                    let first = _mm256_and_si256(_mm256_srli_epi16(halves[h], 4), nibble);
                    let second = _mm256_and_si256(halves[h], nibble);
                    low8[h] = _mm256_add_epi8(low8[h], _mm256_shuffle_epi8(tables[0], first));
                    high8[h] = _mm256_add_epi8(high8[h], _mm256_shuffle_epi8(tables[1], first));
                    low8[h] = _mm256_add_epi8(low8[h], _mm256_shuffle_epi8(tables[2], second));
                    high8[h] = _mm256_add_epi8(high8[h], _mm256_shuffle_epi8(tables[3], second));
                }
                rows = rows.wrapping_add(PANEL_ROWS);
                table = table.wrapping_add(TABLE_BYTES);
            }
            for h in 0..2 {
                sums.low[h].fold(low8[h]);
            }
        }};
    }
    if units == 2 * UNITS_PER_FOLD {
        add!(UNITS_PER_FOLD);
        add!(UNITS_PER_FOLD);
    } else {
        for _ in 0..units {
            add!(1);
        }
    }
    for (sum, &high8) in sums.high.iter_mut().zip(&high8) {
        sum.fold(high8);
    }
}

/// The kernel of `P` panels by one token.
///
/// # Safety
/// As [`few_2`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn sum<const P: usize>(call: &FewCall<i32>) {
    let none = HalfSum {
        both: _mm256_setzero_si256(),
        odd: _mm256_setzero_si256(),
    };
    let mut sums = [PanelSums {
        low: [none; 2],
        high: [none; 2],
    }; P];
    // In memory, as the compiler would move them from register to register.
    let sums = core::hint::black_box(&mut sums);
    let mut panel = call.panels;
    let mut tables = call.tables;
    let mut left = call.units;
    while left > 0 {
        let now = left.min(2 * UNITS_PER_FOLD);
        let mut part = panel;
        for sums in &mut *sums {
            // SAFETY: precondition 2: a strip of 64 bytes a unit; 4: 64 bytes of tables a
            // unit.
            unsafe { add_units(part, tables, now, sums) };
            part = part.wrapping_add(call.panel_stride);
        }
        panel = panel.wrapping_add(now * PANEL_ROWS);
        tables = tables.wrapping_add(now * TABLE_BYTES);
        left -= now;
    }
    // 2 look-ups a unit, each 256 too large.
    let bias = _mm256_set1_epi32((call.units << 9) as i32);
    let mut panel_out = call.out;
    for sums in &*sums {
        let mut out = panel_out;
        panel_out = panel_out.wrapping_add(call.panel_sums);
        for h in 0..2 {
            let (low, high) = (sums.low[h].rows(), sums.high[h].rows());
            macro_rules! eight {
                ($lane:literal, $half:literal) => {{
                    let wide = |rows: [__m256i; 2]| {
                        _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<$lane>(rows[$half]))
                    };
                    let sum = _mm256_add_epi32(wide(low), _mm256_slli_epi32(wide(high), 5));
                    let mut sum = _mm256_sub_epi32(sum, bias);
                    // SAFETY: precondition 5: 64 elements a panel.
                    unsafe {
                        let out = out.cast::<__m256i>();
                        if call.accumulate {
                            sum = _mm256_add_epi32(sum, out.read_unaligned());
                        }
                        out.write_unaligned(sum);
                    }
                    out = out.wrapping_add(8);
                }};
            }
            eight!(0, 0);
            eight!(0, 1);
            eight!(1, 0);
            eight!(1, 1);
        }
    }
}
