//! f32, few tokens, by `vpshufb`: 16-entry tables of the signed sums of two activations,
//! each cut into the four bytes of its floats.
//!
//! # The idea
//! A nibble of a panel byte is the index of a pair's sum. `vpshufb` looks 32 nibbles up in
//! 16 bytes, so four of them find the bytes of 32 floats, and interleaving them twice puts
//! the floats together:
//!
//! ```text
//! byte 0, byte 1   bytes interleaved: low halves of rows 0..8 and 16..24, of 8..16 and 24..32
//! byte 2, byte 3                      high halves likewise
//! both             halves interleaved: floats of rows 0..4 and 16..20, ...
//! ```
//!
//! The order of additions is the canonical one.
//!
//! # Port arithmetic
//! A byte and panel, 256 MACs: 6 operations for the nibbles, 16 `vpshufb`, 32 unpacks and 16
//! additions, 70 in all. On Intel two ports take all but the first, which makes 32 cycles (34
//! measured, 7.5 MACs a cycle); on AMD two pipes take the shuffles, 24 cycles.
//!
//! `vpermps` has 8 entries, so that a look-up is two of them and a blend by the fourth bit: 94
//! operations, which take 1.24 times as long on Intel. Eight magnitudes and a sign, whose index
//! and sign a byte shuffle finds, would be 96 operations, 32 cycles of three ports. Shifts and
//! blends instead of half of the last unpacks, which a third port takes, gain nothing.

use crate::kernels::contract::{BLOCK_STRIPS, FewCall, FewKernel, FewTile, PANEL_ROWS};
use core::arch::x86_64::*;

/// Bytes ahead of the loads that panels are prefetched.
const PREFETCH: usize = 1024;

/// The kernel.
pub static FEW_F32: FewKernel<f32, f32> = FewKernel {
    name: "avx2-few_f32",
    unit_strips: 1,
    table_bytes: 128,
    max_units: usize::MAX / 256,
    build,
    tiles: &[FewTile::new(1, 1, few_1)],
    scaled: None,
    from_memory: None,
};

/// Builds the tables of one token: of each byte, for byte 0 to 3 of a float, 16 entries of
/// weights 0 and 1 and 16 of weights 2 and 3. See [`FewKernel::build`].
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn build(x: *const f32, units: usize, tables: *mut u8) {
    let (mut x, mut table) = (x, tables.cast::<__m256i>());
    let sign = _mm256_set1_ps(-0.0);
    // Entry by entry of the last two bits, the second weight's code: 0, x, -x and nothing.
    let second = _mm256_setr_epi32(0, 1, 5, 0, 0, 3, 7, 0);
    let present = _mm256_castsi256_ps(_mm256_setr_epi32(0, -1, -1, 0, 0, -1, -1, 0));
    let first = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    // Byte 0 of four floats, then byte 1, ...
    let bytes = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
    ));
    for _ in 0..units {
        // SAFETY: precondition 3: 4 values a unit.
        let values = unsafe { _mm_loadu_ps(x) };
        let signed = _mm256_set_m128(_mm_xor_ps(values, _mm256_castps256_ps128(sign)), values);
        let second = _mm256_and_ps(_mm256_permutevar8x32_ps(signed, second), present);
        let first = _mm256_permutevar8x32_ps(signed, first);
        // The first weight's code, in both halves: of weight 0 and of weight 2.
        let entries = |first: __m256| {
            let sums = _mm256_add_ps(first, second);
            _mm256_shuffle_epi8(_mm256_castps_si256(sums), bytes)
        };
        let absent = entries(_mm256_setzero_ps());
        let plus = entries(first);
        let minus = entries(_mm256_xor_ps(first, sign));
        // No weight has the fourth code.
        let (a, b) = (
            _mm256_unpacklo_epi32(absent, plus),
            _mm256_unpackhi_epi32(absent, plus),
        );
        let (c, d) = (
            _mm256_unpacklo_epi32(minus, absent),
            _mm256_unpackhi_epi32(minus, absent),
        );
        // SAFETY: precondition 4: 4 vectors a unit, aligned; 3: 4 more values.
        unsafe {
            table.write(_mm256_unpacklo_epi64(a, c));
            table.add(1).write(_mm256_unpackhi_epi64(a, c));
            table.add(2).write(_mm256_unpacklo_epi64(b, d));
            table.add(3).write(_mm256_unpackhi_epi64(b, d));
            table = table.add(4);
            x = x.add(4);
        }
    }
}

/// See [`FewTile::run`].
///
/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn few_1(call: &FewCall<f32>) {
    for half in 0..2 {
        // SAFETY: the caller's preconditions hold for each half of the rows.
        unsafe { row(call, call.panels.add(32 * half), call.out.add(32 * half)) };
    }
}

/// 32 rows: bytes `rows + 64 * unit`.
///
/// # Safety
/// As [`few_1`], for the half panel at `rows` and `out`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn row(call: &FewCall<f32>, rows: *const u8, out: *mut f32) {
    let zero = _mm256_setzero_ps();
    let mut totals = [zero; 4];
    if call.accumulate {
        // SAFETY: precondition 5: 64 initialised elements a panel.
        let rows = unsafe {
            [
                _mm256_loadu_ps(out),
                _mm256_loadu_ps(out.add(8)),
                _mm256_loadu_ps(out.add(16)),
                _mm256_loadu_ps(out.add(24)),
            ]
        };
        totals = to_fours(rows);
    }
    let nibble = _mm256_set1_epi8(15);
    let mut rows = rows;
    let mut tables = call.tables.cast::<__m128i>();
    let mut left = call.units;
    while left > 0 {
        let now = left.min(BLOCK_STRIPS);
        let mut block = [zero; 4];
        for _ in 0..now {
            // SAFETY: precondition 2: a strip a unit; prefetches touch no memory.
            let bytes = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(PREFETCH).cast());
                _mm256_loadu_si256(rows.cast())
            };
            // SAFETY: precondition 4: 8 tables of 16 bytes a unit.
            let (first, second) = unsafe {
                (
                    pairs(
                        tables,
                        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble),
                    ),
                    pairs(tables.add(1), _mm256_and_si256(bytes, nibble)),
                )
            };
            for i in 0..4 {
                block[i] = _mm256_add_ps(block[i], _mm256_add_ps(first[i], second[i]));
            }
            rows = rows.wrapping_add(PANEL_ROWS);
            // SAFETY: at most one past the tables.
            tables = unsafe { tables.add(8) };
        }
        for (total, block) in totals.iter_mut().zip(&block) {
            *total = _mm256_add_ps(*total, *block);
        }
        left -= now;
    }
    for (i, &rows) in to_rows(totals).iter().enumerate() {
        // SAFETY: precondition 5: 64 elements a panel.
        unsafe { _mm256_storeu_ps(out.add(8 * i), rows) };
    }
}

/// Looks 32 nibbles up in the tables of the four bytes, of which each second one is taken:
/// vector i has rows `4 i ..+ 4` and `16 + 4 i ..+ 4`.
///
/// # Safety
/// Seven tables of 16 bytes at `tables`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn pairs(tables: *const __m128i, nibbles: __m256i) -> [__m256; 4] {
    let byte = |i: usize| {
        // SAFETY: the caller's word.
        let table = unsafe { _mm256_broadcastsi128_si256(tables.add(2 * i).read_unaligned()) };
        _mm256_shuffle_epi8(table, nibbles)
    };
    let low = [byte(0), byte(1)];
    let high = [byte(2), byte(3)];
    let (low, high) = (
        [
            _mm256_unpacklo_epi8(low[0], low[1]),
            _mm256_unpackhi_epi8(low[0], low[1]),
        ],
        [
            _mm256_unpacklo_epi8(high[0], high[1]),
            _mm256_unpackhi_epi8(high[0], high[1]),
        ],
    );
    [
        _mm256_castsi256_ps(_mm256_unpacklo_epi16(low[0], high[0])),
        _mm256_castsi256_ps(_mm256_unpackhi_epi16(low[0], high[0])),
        _mm256_castsi256_ps(_mm256_unpacklo_epi16(low[1], high[1])),
        _mm256_castsi256_ps(_mm256_unpackhi_epi16(low[1], high[1])),
    ]
}

/// From vectors of rows `4 i ..+ 4` and `16 + 4 i ..+ 4` to rows in order.
#[inline]
#[target_feature(enable = "avx2")]
fn to_rows(t: [__m256; 4]) -> [__m256; 4] {
    [
        _mm256_permute2f128_ps::<0x20>(t[0], t[1]),
        _mm256_permute2f128_ps::<0x20>(t[2], t[3]),
        _mm256_permute2f128_ps::<0x31>(t[0], t[1]),
        _mm256_permute2f128_ps::<0x31>(t[2], t[3]),
    ]
}

/// The inverse of [`to_rows`].
#[inline]
#[target_feature(enable = "avx2")]
fn to_fours([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    [
        _mm256_permute2f128_ps::<0x20>(a, c),
        _mm256_permute2f128_ps::<0x31>(a, c),
        _mm256_permute2f128_ps::<0x20>(b, d),
        _mm256_permute2f128_ps::<0x31>(b, d),
    ]
}
