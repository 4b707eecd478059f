//! f32, few tokens, by `vpermps`: 16-entry tables of the signed sums of two
//! activations in two registers, and a blend.
//!
//! # The idea
//! As with AVX-512 ([`crate::kernels::x86_64::avx512::few_f32`]), the raw bytes are the
//! indices: 32 panel bytes are 8 lanes of 4 rows, shifted by 0, 4, ..., 28.
//! `vpermps` has 8 entries of 3 index bits, so each look-up takes two and a
//! blend by the fourth bit, which a left shift brings to the lane's sign.
//! The order of additions is the canonical one.
//!
//! # Port arithmetic
//! A byte and panel, 256 MACs: 2 loads, 30 shifts, 32 `vpermps`, 16 blends, 16
//! additions: 94 vector operations, 24 cycles at four a cycle, 11 MACs a cycle.

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
    from_memory: None,
};

/// `vpermps` indices of the terms of a pair's first or second weight over 8 of
/// the 16 entries: `x` at its place, `-x` at 4 further, or 8 for `+0.0`.
const fn terms(shift: u32, weight: i32, first_entry: usize) -> [i32; 8] {
    let mut indices = [0; 8];
    let mut i = 0;
    while i < 8 {
        indices[i] = match ((first_entry + i) >> shift) & 3 {
            1 => weight,
            2 => 4 + weight,
            _ => 8,
        };
        i += 1;
    }
    indices
}

#[repr(C, align(32))]
struct Indices8x32([[i32; 8]; 8]);

/// For weights 0 to 3 of a byte, lower and upper half of the entries.
static INDICES: Indices8x32 = Indices8x32([
    terms(2, 0, 0),
    terms(2, 0, 8),
    terms(0, 1, 0),
    terms(0, 1, 8),
    terms(2, 2, 0),
    terms(2, 2, 8),
    terms(0, 3, 0),
    terms(0, 3, 8),
]);

/// Builds the tables of one token: of each byte, the 16 sums of weights 0 and
/// 1, then those of weights 2 and 3. See [`FewKernel::build`].
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn build(x: *const f32, units: usize, tables: *mut u8) {
    let (mut x, mut table) = (x, tables.cast::<__m256>());
    // SAFETY: eight times 32 bytes.
    let indices = unsafe { *(&raw const INDICES).cast::<[__m256i; 8]>() };
    let sign = _mm_castsi128_ps(_mm_set1_epi32(i32::MIN));
    for _ in 0..units {
        // SAFETY: precondition 3: 4 values a unit.
        let values = unsafe { _mm_loadu_ps(x) };
        let signed = _mm256_set_m128(_mm_xor_ps(values, sign), values);
        let term = |i: usize| {
            let found = _mm256_permutevar8x32_ps(signed, indices[i]);
            let absent = _mm256_cmpeq_epi32(indices[i], _mm256_set1_epi32(8));
            _mm256_andnot_ps(_mm256_castsi256_ps(absent), found)
        };
        // SAFETY: precondition 4: 4 vectors a unit, aligned; 3: 4 more values.
        unsafe {
            table.write(_mm256_add_ps(term(0), term(2)));
            table.add(1).write(_mm256_add_ps(term(1), term(3)));
            table.add(2).write(_mm256_add_ps(term(4), term(6)));
            table.add(3).write(_mm256_add_ps(term(5), term(7)));
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
        totals = deinterleave(rows);
    }
    let mut rows = rows;
    let mut tables = call.tables.cast::<__m256>();
    let mut left = call.units;
    while left > 0 {
        let now = left.min(BLOCK_STRIPS);
        let mut block = [zero; 4];
        for _ in 0..now {
            // SAFETY: preconditions 2 and 4: a strip and 4 vectors a unit.
            let (bytes, table) = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(PREFETCH).cast());
                (
                    _mm256_loadu_si256(rows.cast()),
                    *tables.cast::<[__m256; 4]>(),
                )
            };
            macro_rules! lookup {
                ($shift:literal, $low:expr, $high:expr) => {{
                    let index = _mm256_srli_epi32::<$shift>(bytes);
                    let upper = _mm256_slli_epi32::<{ 28 - $shift }>(bytes);
                    _mm256_blendv_ps(
                        _mm256_permutevar8x32_ps($low, index),
                        _mm256_permutevar8x32_ps($high, index),
                        _mm256_castsi256_ps(upper),
                    )
                }};
            }
            macro_rules! rows {
                ($b:literal, $low:literal, $high:literal) => {{
                    let value = _mm256_add_ps(
                        lookup!($high, table[0], table[1]),
                        lookup!($low, table[2], table[3]),
                    );
                    block[$b] = _mm256_add_ps(block[$b], value);
                }};
            }
            rows!(0, 0, 4);
            rows!(1, 8, 12);
            rows!(2, 16, 20);
            rows!(3, 24, 28);
            rows = rows.wrapping_add(PANEL_ROWS);
            // SAFETY: at most one past the tables.
            tables = unsafe { tables.add(4) };
        }
        for b in 0..4 {
            totals[b] = _mm256_add_ps(totals[b], block[b]);
        }
        left -= now;
    }
    for (i, &rows) in interleave(totals).iter().enumerate() {
        // SAFETY: precondition 5: 64 elements a panel.
        unsafe { _mm256_storeu_ps(out.add(8 * i), rows) };
    }
}

/// From `v[b]` holding row `4d + b` in lane d to rows in order.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave(v: [__m256; 4]) -> [__m256; 4] {
    transpose_halves(transpose_lanes(v))
}

/// The inverse of [`interleave`].
#[inline]
#[target_feature(enable = "avx2")]
fn deinterleave(v: [__m256; 4]) -> [__m256; 4] {
    let [a, b, c, d] = v;
    transpose_lanes([
        _mm256_permute2f128_ps::<0x20>(a, c),
        _mm256_permute2f128_ps::<0x31>(a, c),
        _mm256_permute2f128_ps::<0x20>(b, d),
        _mm256_permute2f128_ps::<0x31>(b, d),
    ])
}

/// Transposes the 4 x 4 floats in each 128-bit lane of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_lanes(v: [__m256; 4]) -> [__m256; 4] {
    let a = _mm256_unpacklo_ps(v[0], v[1]);
    let b = _mm256_unpackhi_ps(v[0], v[1]);
    let c = _mm256_unpacklo_ps(v[2], v[3]);
    let d = _mm256_unpackhi_ps(v[2], v[3]);
    [
        _mm256_shuffle_ps::<0x44>(a, c),
        _mm256_shuffle_ps::<0xee>(a, c),
        _mm256_shuffle_ps::<0x44>(b, d),
        _mm256_shuffle_ps::<0xee>(b, d),
    ]
}

/// Four vectors of rows `4 i ..+ 4` and `16 + 4 i ..+ 4` to rows in order.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_halves(t: [__m256; 4]) -> [__m256; 4] {
    [
        _mm256_permute2f128_ps::<0x20>(t[0], t[1]),
        _mm256_permute2f128_ps::<0x20>(t[2], t[3]),
        _mm256_permute2f128_ps::<0x31>(t[0], t[1]),
        _mm256_permute2f128_ps::<0x31>(t[2], t[3]),
    ]
}
