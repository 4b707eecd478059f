//! f32, few tokens, by `vpermps`: 16-entry tables of the signed sums of two
//! activations, one register each.
//!
//! # The idea
//! `vpermps` looks up 16 floats by the low 4 bits of each 32-bit lane: exactly
//! two 2-bit codes. 64 panel bytes are 16 lanes of 4 rows each, so the raw
//! vector shifted right by 0, 4, ..., 28 holds all the indices with nothing
//! unpacked:
//!
//! ```text
//! lane d:  row 4d+3 | row 4d+2 | row 4d+1 | row 4d     (a byte each)
//! shift 8b      weights 2 and 3 of row 4d+b
//! shift 8b + 4  weights 0 and 1 of row 4d+b
//! ```
//!
//! Accumulator b holds row `4d + b` in lane d; a transposition at the end puts
//! the rows in order. The order of additions is the canonical one.
//!
//! # Port arithmetic
//! A byte and panel, 256 MACs: 8 `vpermps`, 8 additions, and what brings the
//! nibbles down: 7 shifts, or 3 loads that start a byte later each and 4 shifts.
//!
//! - On Intel one port takes permutations, another one shifts, and both take
//!   additions. With 7 shifts that makes 11.5 cycles (11.8 measured), with the loads
//!   10 (11.3, 23 MACs a cycle), which is what runs. VBMI's `vpmultishiftqb`, any bits
//!   of a lane, would take the port of permutations: 16.4 measured.
//! - On Zen 4 shifts, permutations and float additions share three of the four
//!   pipes: 15.3 cycles measured for 7 shifts. `vpmultishiftqb` has pipes that are
//!   freer: 12.7 measured, 20 MACs a cycle; 10.7 remain without any shift.
//! - Zen 5 takes 8.5 with shifts and 6.1 with `vpmultishiftqb`, 45 GB/s of weights.
//!
//! These are measurements of the bare mix (`lab/loops`).

use crate::kernels::contract::{BLOCK_STRIPS, FewCall, FewGroups, FewKernel};
use crate::kernels::contract::{FewRunScaled, FewScaled, FewTile, PANEL_ROWS};
use crate::kernels::x86_64::avx512::group_scales::add_scaled;
use core::arch::x86_64::*;

/// Bytes of one unit's tables.
const TABLE_BYTES: usize = 128;
/// Bytes ahead of the loads that panels are prefetched into L1.
const PREFETCH_L1: usize = 768;
/// Bytes ahead that they are prefetched into L2, for weights from memory.
const PREFETCH_L2: usize = 6144;
/// Bytes ahead that they are prefetched into L1, and no further, on Zen 5 with VBMI.
const PREFETCH_ZEN5: usize = 3072;

/// The kernel by shifts.
pub static FEW_F32: FewKernel<f32, f32> = FewKernel {
    name: "avx512-few_f32",
    unit_strips: 1,
    table_bytes: TABLE_BYTES,
    max_units: usize::MAX / 256,
    build,
    tiles: &FewTile::of_panels([few_4, few_2, few_1]),
    scaled: Some(scaled(&[scaled_4, scaled_2, scaled_1])),
    from_memory: None,
};

/// The kernel by the multishift of VBMI, as Zen 4 prefetches best.
pub static FEW_F32_ZEN4: FewKernel<f32, f32> = FewKernel {
    name: "avx512-vbmi-few_f32",
    tiles: &FewTile::of_panels([few_4_zen4, few_2_zen4, few_1_zen4]),
    scaled: Some(scaled(&[scaled_4_zen4, scaled_2_zen4, scaled_1_zen4])),
    ..FEW_F32
};

/// The kernel by the multishift of VBMI, as Zen 5 prefetches best.
pub static FEW_F32_ZEN5: FewKernel<f32, f32> = FewKernel {
    name: "avx512-vbmi-few_f32-zen5",
    tiles: &FewTile::of_panels([few_4_zen5, few_2_zen5, few_1_zen5]),
    scaled: Some(scaled(&[scaled_4_zen5, scaled_2_zen5, scaled_1_zen5])),
    ..FEW_F32
};

/// Of groups of any length.
const fn scaled(run: &'static [FewRunScaled]) -> FewScaled {
    FewScaled {
        most_strips: usize::MAX,
        run,
    }
}

/// `vpermps` indices of the terms of a pair's first or second weight: `x` at
/// its place, `-x` at 4 further, `+0.0` at 8.
const fn terms(shift: u32, weight: i32) -> [i32; 16] {
    let mut indices = [0; 16];
    let mut entry = 0;
    while entry < 16 {
        indices[entry] = match (entry >> shift) & 3 {
            1 => weight,
            2 => 4 + weight,
            _ => 8,
        };
        entry += 1;
    }
    indices
}

#[repr(C, align(64))]
struct Indices16x32([[i32; 16]; 4]);

/// For weights 0 to 3 of a byte.
static INDICES: Indices16x32 = Indices16x32([terms(2, 0), terms(0, 1), terms(2, 2), terms(0, 3)]);

/// Builds the tables of one token: of each byte, the 16 sums of weights 0 and
/// 1, then those of weights 2 and 3. See [`FewKernel::build`].
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline(never)]
unsafe fn build(x: *const f32, units: usize, tables: *mut u8) {
    let (mut x, mut table) = (x, tables.cast::<__m512>());
    // SAFETY: four times 64 bytes.
    let indices = unsafe { *(&raw const INDICES).cast::<[__m512i; 4]>() };
    let sign = _mm_castsi128_ps(_mm_set1_epi32(i32::MIN));
    for _ in 0..units {
        // SAFETY: precondition 3: 4 values a unit.
        let values = unsafe { _mm_loadu_ps(x) };
        let signed = _mm256_set_m128(_mm_xor_ps(values, sign), values);
        let gathered = _mm512_insertf32x8::<0>(_mm512_setzero_ps(), signed);
        let term = |i: usize| _mm512_permutexvar_ps(indices[i], gathered);
        // SAFETY: precondition 4: 2 vectors a unit, aligned; 3: 4 more values.
        unsafe {
            table.write(_mm512_add_ps(term(0), term(1)));
            table.add(1).write(_mm512_add_ps(term(2), term(3)));
            table = table.add(2);
            x = x.add(4);
        }
    }
}

macro_rules! few {
    ($name:ident, $scaled:ident, $($tile:tt),+) => {
        few!("avx512f,avx512bw,avx512vl,avx512dq", $name, $scaled, $($tile),+);
    };
    (vbmi $name:ident, $scaled:ident, $($tile:tt),+) => {
        few!("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi", $name, $scaled, $($tile),+);
    };
    ($features:literal, $name:ident, $scaled:ident, $($tile:tt),+) => {
        /// See [`FewTile::run`].
        ///
        /// # Safety
        /// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
        #[target_feature(enable = $features)]
        #[inline(never)]
        unsafe fn $name(call: &FewCall<f32>) {
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
few!(few_4, scaled_4, ByShift, 4, false);
few!(few_2, scaled_2, ByShift, 2, false);
few!(few_1, scaled_1, ByShift, 1, false);
few!(vbmi few_4_zen4, scaled_4_zen4, ByMultishift, 4, false);
few!(vbmi few_2_zen4, scaled_2_zen4, ByMultishift, 2, false);
few!(vbmi few_1_zen4, scaled_1_zen4, ByMultishift, 1, false);
few!(vbmi few_4_zen5, scaled_4_zen5, ByMultishift, 4, true);
few!(vbmi few_2_zen5, scaled_2_zen5, ByMultishift, 2, true);
few!(vbmi few_1_zen5, scaled_1_zen5, ByMultishift, 1, true);

/// Brings each nibble of a 32-bit lane into its low 4 bits.
trait SplitNibbles {
    /// Vector i has nibble i of each lane of the strip in its low 4 bits, anything
    /// above.
    ///
    /// # Safety
    /// Precondition 1 of [`crate::kernels::contract`]; `strip` has 64 readable
    /// bytes, and 3 more if it is `FOLLOWED`.
    unsafe fn nibbles<const FOLLOWED: bool>(strip: *const u8) -> [__m512i; 8];
}

/// By shifts of a nibble and loads that start 1 to 3 bytes later, or shifts in
/// their place where the panel's range ends.
struct ByShift;

impl SplitNibbles for ByShift {
    #[inline(always)]
    unsafe fn nibbles<const FOLLOWED: bool>(strip: *const u8) -> [__m512i; 8] {
        // SAFETY: precondition 1; the caller's word for 64 bytes, or 67.
        unsafe {
            let first = _mm512_loadu_si512(strip.cast());
            let bytes = if FOLLOWED {
                [
                    first,
                    _mm512_loadu_si512(strip.add(1).cast()),
                    _mm512_loadu_si512(strip.add(2).cast()),
                    _mm512_loadu_si512(strip.add(3).cast()),
                ]
            } else {
                [
                    first,
                    _mm512_srli_epi32::<8>(first),
                    _mm512_srli_epi32::<16>(first),
                    _mm512_srli_epi32::<24>(first),
                ]
            };
            [
                bytes[0],
                _mm512_srli_epi32::<4>(bytes[0]),
                bytes[1],
                _mm512_srli_epi32::<4>(bytes[1]),
                bytes[2],
                _mm512_srli_epi32::<4>(bytes[2]),
                bytes[3],
                _mm512_srli_epi32::<4>(bytes[3]),
            ]
        }
    }
}

/// By VBMI's multishift.
struct ByMultishift;

impl SplitNibbles for ByMultishift {
    #[inline(always)]
    unsafe fn nibbles<const FOLLOWED: bool>(strip: *const u8) -> [__m512i; 8] {
        // SAFETY: precondition 1; the caller's word for 64 bytes.
        unsafe {
            let bytes = _mm512_loadu_si512(strip.cast());
            [
                bytes,
                from_bit(bytes, 4),
                from_bit(bytes, 8),
                from_bit(bytes, 12),
                from_bit(bytes, 16),
                from_bit(bytes, 20),
                from_bit(bytes, 24),
                from_bit(bytes, 28),
            ]
        }
    }
}

/// 32-bit lanes whose lowest byte, what an index is taken from, starts at `bit`.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi")]
fn from_bit(bytes: __m512i, bit: i64) -> __m512i {
    let control = _mm512_set1_epi64((32 + bit) << 32 | bit);
    _mm512_multishift_epi64_epi8(control, bytes)
}

/// The panels of a tile of `P` panels.
#[inline(always)]
fn panels<const P: usize>(call: &FewCall<f32>) -> [*const u8; P] {
    let mut panels = [call.panels; P];
    for p in 1..P {
        panels[p] = panels[p - 1].wrapping_add(call.panel_stride);
    }
    panels
}

/// Adds so many strips to the sums of a block, `near` and `far` ahead of which it prefetches.
///
/// # Safety
/// As [`add_units`]; another strip follows each where they are `FOLLOWED`.
#[inline(always)]
unsafe fn add_strips<N: SplitNibbles, const P: usize, const ZEN5: bool, const FOLLOWED: bool>(
    count: usize,
    (panels, tables): (&mut [*const u8; P], &mut *const __m512),
    [near, far]: [usize; 2],
    block: &mut [[__m512; 4]; P],
) {
    for _ in 0..count {
        // SAFETY: precondition 1 for all intrinsics; the pointers as said below.
        unsafe {
            // Precondition 4: 2 vectors a unit, aligned; at most one past the tables.
            let [first, second] = *tables.cast::<[__m512; 2]>();
            *tables = tables.add(2);
            for p in 0..P {
                // Precondition 2: one strip of 64 bytes a unit; the next one follows it.
                _mm_prefetch::<_MM_HINT_T0>(panels[p].wrapping_add(near).cast());
                if !ZEN5 {
                    _mm_prefetch::<_MM_HINT_T1>(panels[p].wrapping_add(far).cast());
                }
                let nibbles = N::nibbles::<FOLLOWED>(panels[p]);
                panels[p] = panels[p].wrapping_add(PANEL_ROWS);
                for b in 0..4 {
                    let value = _mm512_add_ps(
                        _mm512_permutexvar_ps(nibbles[2 * b + 1], first),
                        _mm512_permutexvar_ps(nibbles[2 * b], second),
                    );
                    block[p][b] = _mm512_add_ps(block[p][b], value);
                }
            }
        }
    }
}

/// Adds the blocks of `units` units, after which the call has `rest` left, to the totals.
/// `inline(always)`: only its callers declare the features of `N`.
///
/// # Safety
/// Preconditions 1, 2 and 4 of [`crate::kernels::contract`], for these units; the caller
/// declares the features of [`few_4`] and those that `N` needs.
#[inline(always)]
unsafe fn add_units<N: SplitNibbles, const P: usize, const ZEN5: bool>(
    call: &FewCall<f32>,
    (mut panels, tables): ([*const u8; P], *const u8),
    (units, rest): (usize, usize),
    totals: &mut [[__m512; 4]; P],
) {
    let mut tables = tables.cast::<__m512>();
    let mut left = units;
    // SAFETY: precondition 1 for all intrinsics; the pointers as said below.
    unsafe {
        let zero = _mm512_setzero_ps();
        while left > 0 {
            let now = left.min(BLOCK_STRIPS);
            let near = if ZEN5 { PREFETCH_ZEN5 } else { PREFETCH_L1 };
            let near = call.prefetch(near, (left + rest) * PANEL_ROWS);
            let far = call.prefetch(PREFETCH_L2, (left + rest) * PANEL_ROWS);
            let mut block = [[zero; 4]; P];
            // Only the last strip of all is not followed by another one.
            let alone = usize::from(left + rest == now);
            let ahead = [near, far];
            let at = (&mut panels, &mut tables);
            add_strips::<N, P, ZEN5, true>(now - alone, at, ahead, &mut block);
            let at = (&mut panels, &mut tables);
            add_strips::<N, P, ZEN5, false>(alone, at, ahead, &mut block);
            for p in 0..P {
                for b in 0..4 {
                    totals[p][b] = _mm512_add_ps(totals[p][b], block[p][b]);
                }
            }
            left -= now;
        }
    }
}

/// `inline(always)`: only its callers declare the features of `N`.
///
/// # Safety
/// As [`few_4`]; the caller declares its features and those that `N` needs.
#[inline(always)]
unsafe fn sum<N: SplitNibbles, const P: usize, const ZEN5: bool>(call: &FewCall<f32>) {
    // SAFETY: precondition 1 for all intrinsics; the pointers as said below.
    unsafe {
        let mut totals = [[_mm512_setzero_ps(); 4]; P];
        if call.accumulate {
            let mut out = call.out;
            for totals in &mut totals {
                // Precondition 5: 64 initialised elements a panel.
                let rows = [
                    _mm512_loadu_ps(out),
                    _mm512_loadu_ps(out.add(16)),
                    _mm512_loadu_ps(out.add(32)),
                    _mm512_loadu_ps(out.add(48)),
                ];
                *totals = deinterleave(rows);
                out = out.wrapping_add(call.panel_sums);
            }
        }
        let from = (panels(call), call.tables);
        add_units::<N, P, ZEN5>(call, from, (call.units, 0), &mut totals);
        let mut out = call.out;
        for &totals in &totals {
            // Precondition 5: 64 elements a panel.
            for (i, &rows) in interleave(totals).iter().enumerate() {
                _mm512_storeu_ps(out.add(16 * i), rows);
            }
            out = out.wrapping_add(call.panel_sums);
        }
    }
}

/// `inline(always)`: only its callers declare the features of `N`.
///
/// # Safety
/// As [`scaled_4`]; the caller declares its features and those that `N` needs.
#[inline(always)]
unsafe fn sum_groups<N: SplitNibbles, const P: usize, const ZEN5: bool>(
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
        // SAFETY: the caller's preconditions; 10: 64 scales for each panel's rows; 5: 64
        // elements a panel.
        unsafe {
            let mut totals = [[_mm512_setzero_ps(); 4]; P];
            add_units::<N, P, ZEN5>(call, (panels, tables), units, &mut totals);
            for (p, &totals) in totals.iter().enumerate() {
                let place = p * call.panel_sums;
                let (scales, out) = (group.scales + place, call.out.add(place));
                add_scaled(interleave(totals), groups.scales, scales, None, out);
            }
        }
    }
}

/// From `v[b]` holding row `4d + b` in lane d to rows in order.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleave(v: [__m512; 4]) -> [__m512; 4] {
    // 4 x 4 transpositions inside the 128-bit lanes: t[i] lane L holds rows
    // 16 L + 4 i ..+ 4.
    let t = transpose_lanes(v);
    transpose_quarters(t)
}

/// The inverse of [`interleave`]: both of its steps undo themselves.
#[inline]
#[target_feature(enable = "avx512f")]
fn deinterleave(v: [__m512; 4]) -> [__m512; 4] {
    transpose_lanes(transpose_quarters(v))
}

/// Transposes the 4 x 4 floats in each 128-bit lane of four vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_lanes(v: [__m512; 4]) -> [__m512; 4] {
    let a = _mm512_unpacklo_ps(v[0], v[1]);
    let b = _mm512_unpackhi_ps(v[0], v[1]);
    let c = _mm512_unpacklo_ps(v[2], v[3]);
    let d = _mm512_unpackhi_ps(v[2], v[3]);
    [
        _mm512_shuffle_ps::<0x44>(a, c),
        _mm512_shuffle_ps::<0xee>(a, c),
        _mm512_shuffle_ps::<0x44>(b, d),
        _mm512_shuffle_ps::<0xee>(b, d),
    ]
}

/// Transposes the 4 x 4 128-bit lanes of four vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_quarters(v: [__m512; 4]) -> [__m512; 4] {
    let a = _mm512_shuffle_f32x4::<0x44>(v[0], v[1]);
    let b = _mm512_shuffle_f32x4::<0xee>(v[0], v[1]);
    let c = _mm512_shuffle_f32x4::<0x44>(v[2], v[3]);
    let d = _mm512_shuffle_f32x4::<0xee>(v[2], v[3]);
    [
        _mm512_shuffle_f32x4::<0x88>(a, c),
        _mm512_shuffle_f32x4::<0xdd>(a, c),
        _mm512_shuffle_f32x4::<0x88>(b, d),
        _mm512_shuffle_f32x4::<0xdd>(b, d),
    ]
}
