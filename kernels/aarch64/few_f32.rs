//! f32, few tokens: a pair of weights looks up the two halves of its float.
//!
//! # The idea
//! Two weights that are not both 0 have eight signed sums of their activations:
//! eight 16-bit halves fill one `tbl` table, so a nibble needs two tables (low
//! and high halves), and an index out of range is the ninth sum, +0.0. Each
//! nibble is mapped once to the byte offsets `2i, 2i + 1` of its half, two
//! look-ups fetch eight rows' halves, and `zip` joins them to floats.
//!
//! ```text
//! panel strip (one k4):  r0 r1 ... r15 | r16 ...      a byte is k0 k1 | k2 k3
//! table unit, 64 bytes:  low(k0,k1) high(k0,k1) low(k2,k3) high(k2,k3)
//! indices of 8 rows:     2i0 2i0+1 2i1 2i1+1 ...      16 bytes, 0xff for zero
//! look-ups:              low halves of 8 rows, high halves of 8 rows
//! zip1, zip2:            floats of rows 0..4, floats of rows 4..8
//! ```
//!
//! The sums follow the canonical order of the contract: a pair is one table
//! entry, a byte is one addition of two pairs, a block has its own sums.
//!
//! # Instructions for a byte of 64 rows (256 MACs)
//! 2 `ldp` tables, 2 `ldp` panel, 4 x (2 to split, 4 `tbl` to map, 4 `zip` for
//! offsets, 8 `tbl`, 8 `zip`, 8 `fadd`): 140, or 0.547 a MAC. Four byte planes a
//! nibble would take as many and twice the tables and registers; a masked
//! addition a weight takes more than one instruction a MAC. Two tokens share
//! ten index instructions a register but load their tables once for each.
//!
//! Per MAC, as compiled by rustc 1.95; cycles are llvm-mca 19's models, all
//! loads in L1 (`benches/neon_mca.sh`), not measurements:
//!
//! | loop | instructions | neoverse-n1 | neoverse-v1 | apple-m1 |
//! |---|---|---|---|---|
//! | `few_f32_1x1` | 0.574 | 0.266 | 0.225 | 0.188 |
//! | `few_f32_1x2` | 0.504 | 0.227 | 0.192 | 0.157 |
//! | `fmla`, 4 rows x 1 token | 0.469 | 0.158 | 0.127 | 0.143 |
//!
//! The `fmla` loop reads f32 weights: sixteen times the bytes.

use crate::kernels::aarch64::registers::{lanes_u8, lanes_u32};
use crate::kernels::contract::{BLOCK_STRIPS, FewCall, FewKernel, FewTile, PANEL_ROWS};
use core::arch::aarch64::*;
use core::arch::asm;

/// The kernel.
pub static FEW_F32: FewKernel<f32, f32> = FewKernel {
    name: "neon-few_f32",
    unit_strips: 1,
    table_bytes: TABLE_BYTES,
    max_units: MAX_UNITS,
    build,
    tiles: &[
        FewTile::new(1, 2, few_f32_1x2),
        FewTile::new(1, 1, few_f32_1x1),
    ],
    scaled: None,
    from_memory: None,
};

/// Two tables of 16 bytes a nibble.
const TABLE_BYTES: usize = 64;
/// Units of one call: blocks, and tables that stay in an L2 cache.
const MAX_UNITS: usize = 18 * BLOCK_STRIPS;

/// Offset of a nibble's half in its table plus `byte`; out of range where both
/// weights are zero (code 11 counts as zero).
const fn offsets(byte: u8) -> [u8; 16] {
    const DIGIT: [u8; 4] = [0, 1, 2, 0];
    let mut map = [0xff; 16];
    let mut n = 0;
    while n < 16 {
        let (d0, d1) = (DIGIT[n >> 2], DIGIT[n & 3]);
        if d0 + d1 > 0 {
            // Base 3, without the pair (0, 0).
            map[n] = 2 * (3 * d0 + d1 - 1) + byte;
        }
        n += 1;
    }
    map
}

/// `(x ^ sign) & mask`: an activation, its negation or +0.0, lane by lane.
#[inline]
#[target_feature(enable = "neon")]
fn terms(x: f32, weights: [i8; 4]) -> float32x4_t {
    let signs = lanes_u32(weights.map(|w| if w < 0 { 1 << 31 } else { 0 }));
    let masks = lanes_u32(weights.map(|w| if w != 0 { !0 } else { 0 }));
    let x = vreinterpretq_u32_f32(vdupq_n_f32(x));
    vreinterpretq_f32_u32(vandq_u32(veorq_u32(x, signs), masks))
}

/// The low and high halves of a pair's eight sums, in the order of [`offsets`].
#[inline]
#[target_feature(enable = "neon")]
fn pair_tables(x0: f32, x1: f32) -> (uint8x16_t, uint8x16_t) {
    let first = vaddq_f32(terms(x0, [0, 0, 1, 1]), terms(x1, [1, -1, 0, 1]));
    let second = vaddq_f32(terms(x0, [1, -1, -1, -1]), terms(x1, [-1, 0, 1, -1]));
    let (a, b) = (vreinterpretq_u16_f32(first), vreinterpretq_u16_f32(second));
    let halves = (vuzp1q_u16(a, b), vuzp2q_u16(a, b));
    (
        vreinterpretq_u8_u16(halves.0),
        vreinterpretq_u8_u16(halves.1),
    )
}

/// The tables of `units` bytes.
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn build(x: *const f32, units: usize, tables: *mut u8) {
    let (mut x, mut table) = (x, tables);
    for _ in 0..units {
        // SAFETY: precondition 3: four activations a unit.
        let [x0, x1, x2, x3] = unsafe { x.cast::<[f32; 4]>().read() };
        let (low0, high0) = pair_tables(x0, x1);
        let (low1, high1) = pair_tables(x2, x3);
        // SAFETY: precondition 4: 64 bytes a unit; 3: at most one past the end.
        unsafe {
            vst1q_u8(table, low0);
            vst1q_u8(table.add(16), high0);
            vst1q_u8(table.add(32), low1);
            vst1q_u8(table.add(48), high1);
            table = table.add(TABLE_BYTES);
            x = x.add(4);
        }
    }
}

/// The constants that turn nibbles into offsets.
#[derive(Clone, Copy)]
struct Maps {
    even: uint8x16_t,
    odd: uint8x16_t,
}

/// The pair sums of the eight rows whose offsets are given. No closures here
/// or below: `array::map` is not always inlined.
#[inline]
#[target_feature(enable = "neon")]
fn join(offsets: uint8x16_t, low: uint8x16_t, high: uint8x16_t) -> [float32x4_t; 2] {
    let low = vreinterpretq_u16_u8(vqtbl1q_u8(low, offsets));
    let high = vreinterpretq_u16_u8(vqtbl1q_u8(high, offsets));
    [
        vreinterpretq_f32_u16(vzip1q_u16(low, high)),
        vreinterpretq_f32_u16(vzip2q_u16(low, high)),
    ]
}

/// The offsets of the halves that 16 nibbles select, eight rows a register.
#[inline]
#[target_feature(enable = "neon")]
fn split(maps: Maps, nibbles: uint8x16_t) -> [uint8x16_t; 2] {
    let even = vqtbl1q_u8(maps.even, nibbles);
    let odd = vqtbl1q_u8(maps.odd, nibbles);
    [vzip1q_u8(even, odd), vzip2q_u8(even, odd)]
}

/// Adds the bytes of 16 rows to their sums; `first` and `second` are the
/// offsets of the high and low nibbles.
#[inline]
#[target_feature(enable = "neon")]
fn add_rows(
    sums: &mut [float32x4_t; 4],
    [low0, high0, low1, high1]: [uint8x16_t; 4],
    first: [uint8x16_t; 2],
    second: [uint8x16_t; 2],
) {
    for ((sums, first), second) in sums.chunks_exact_mut(2).zip(first).zip(second) {
        let first = join(first, low0, high0);
        let second = join(second, low1, high1);
        sums[0] = vaddq_f32(sums[0], vaddq_f32(first[0], second[0]));
        sums[1] = vaddq_f32(sums[1], vaddq_f32(first[1], second[1]));
    }
    pin(sums);
}

/// Ends a register of rows in the compiler's eyes, without an instruction: else
/// it delays additions, runs out of registers and spills the sums.
#[inline]
#[target_feature(enable = "neon")]
fn pin(sums: &mut [float32x4_t; 4]) {
    if !cfg!(miri) {
        // SAFETY: no instruction; the operands stay what they are.
        unsafe {
            asm!(
                "// {:v}{:v}{:v}{:v}",
                inout(vreg) sums[0],
                inout(vreg) sums[1],
                inout(vreg) sums[2],
                inout(vreg) sums[3],
                options(nostack, preserves_flags)
            );
        }
    }
}

/// The four tables of one unit.
///
/// # Safety
/// 64 readable bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_tables(table: *const u8) -> [uint8x16_t; 4] {
    // SAFETY: the caller's word.
    unsafe {
        [
            vld1q_u8(table),
            vld1q_u8(table.add(16)),
            vld1q_u8(table.add(32)),
            vld1q_u8(table.add(48)),
        ]
    }
}

/// Block sums of `TOKENS` tokens over `GROUPS` registers of rows, four rows a
/// register: 64 rows of one token or 32 of two are what the registers hold.
type Sums<const TOKENS: usize, const GROUPS: usize> = [[[float32x4_t; 4]; TOKENS]; GROUPS];

/// One block: `units <= BLOCK_STRIPS` bytes summed from +0.0 on.
///
/// # Safety
/// Preconditions 1, 2 and 4 of [`crate::kernels::contract`] for these units and
/// the 16 * GROUPS rows from `panel` on.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block<const TOKENS: usize, const GROUPS: usize>(
    mut panel: *const u8,
    mut tables: [*const u8; TOKENS],
    units: usize,
) -> Sums<TOKENS, GROUPS> {
    let maps = Maps {
        even: lanes_u8(offsets(0)),
        odd: lanes_u8(offsets(1)),
    };
    let mut sums = [[[vdupq_n_f32(0.0); 4]; TOKENS]; GROUPS];
    for _ in 0..units {
        let mut rows = panel;
        // SAFETY: precondition 4: 64 bytes of table a unit.
        let only = unsafe { load_tables(tables[0]) };
        for sums in &mut sums {
            // SAFETY: precondition 2: a strip of 64 bytes a unit.
            let codes = unsafe { vld1q_u8(rows) };
            rows = rows.wrapping_add(16);
            let first = split(maps, vshrq_n_u8::<4>(codes));
            let second = split(maps, vandq_u8(codes, vdupq_n_u8(15)));
            for (sums, &table) in sums.iter_mut().zip(&tables) {
                let unit = if TOKENS == 1 {
                    only
                } else {
                    // Again for each register of rows: two tokens' tables do
                    // not stay in registers. SAFETY: precondition 4, as above.
                    unsafe { load_tables(table) }
                };
                add_rows(sums, unit, first, second);
            }
        }
        panel = panel.wrapping_add(PANEL_ROWS);
        for table in &mut tables {
            *table = table.wrapping_add(TABLE_BYTES);
        }
    }
    sums
}

/// One panel by `TOKENS` tokens: block sums added to the totals in order.
///
/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile<const TOKENS: usize, const GROUPS: usize>(call: &FewCall<f32>) {
    let mut panel = call.panels;
    let mut tables = [call.tables; TOKENS];
    for t in 1..TOKENS {
        tables[t] = tables[t - 1].wrapping_add(call.table_stride);
    }
    let mut left = call.units;
    let mut accumulate = call.accumulate;
    loop {
        let units = left.min(BLOCK_STRIPS);
        for part in 0..PANEL_ROWS / 16 / GROUPS {
            let row = part * 16 * GROUPS;
            // SAFETY: preconditions 2 and 4: these units are left.
            let sums = unsafe { block::<TOKENS, GROUPS>(panel.add(row), tables, units) };
            for (g, sums) in sums.iter().enumerate() {
                let mut token = call.out.wrapping_add(row + 16 * g);
                for sums in sums {
                    let mut out = token;
                    for &sum in sums {
                        // SAFETY: precondition 5: 64 sums a token.
                        unsafe {
                            let total = if accumulate {
                                vld1q_f32(out)
                            } else {
                                vdupq_n_f32(0.0)
                            };
                            vst1q_f32(out, vaddq_f32(total, sum));
                        }
                        out = out.wrapping_add(4);
                    }
                    token = token.wrapping_add(call.out_stride);
                }
            }
        }
        left -= units;
        if left == 0 {
            break;
        }
        // Shifts by 6: 64 bytes of panel and of table a unit.
        panel = panel.wrapping_add(units * PANEL_ROWS);
        for table in &mut tables {
            *table = table.wrapping_add(units * TABLE_BYTES);
        }
        accumulate = true;
    }
}

/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn few_f32_1x1(call: &FewCall<f32>) {
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe { tile::<1, 4>(call) }
}

/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn few_f32_1x2(call: &FewCall<f32>) {
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe { tile::<2, 2>(call) }
}
