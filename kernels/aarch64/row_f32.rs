//! f32 row lanes: a pair of weights looks up the two halves of its float.
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
//! indices, 8 `tbl`, 8 `zip`, 8 `fadd`): 140, or 0.547 a MAC. (Four byte planes
//! a nibble would take as many, and twice the tables and registers; a masked
//! addition a weight takes more than one instruction a MAC.) Two tokens share
//! the ten index instructions: 0.49.
//!
//! MCA_TABLE

use super::super::contract::{BLOCK_BYTES, PANEL_ROWS, RowCall, RowKernel, RowTile};
use super::{lanes_u8, lanes_u32};
use core::arch::aarch64::*;
use core::arch::asm;

/// The NEON f32 row-lane kernel.
pub static ROW_F32: RowKernel<f32, f32> = RowKernel {
    name: "neon-f32-row",
    unit_bytes: 1,
    table_bytes: TABLE_BYTES,
    max_units: MAX_UNITS,
    build,
    tiles: &[RowTile {
        panels: 1,
        tokens: 1,
        run: row_f32_1x1,
    }],
    symbols: &[
        "aarch64::row_f32::build",
        "aarch64::row_f32::row_f32_1x1",
    ],
};

/// Two tables of 16 bytes a nibble.
const TABLE_BYTES: usize = 64;
/// Units of one call: blocks, and tables that stay in an L2 cache.
const MAX_UNITS: usize = 18 * BLOCK_BYTES;
/// Registers of 16 rows in a strip.
const GROUPS: usize = PANEL_ROWS / 16;

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
    (vreinterpretq_u8_u16(halves.0), vreinterpretq_u8_u16(halves.1))
}

/// The tables of `units` bytes.
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`super::super::contract`].
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

/// The pair sums that 16 nibbles select.
#[inline]
#[target_feature(enable = "neon")]
fn look_up(maps: Maps, nibbles: uint8x16_t, low: uint8x16_t, high: uint8x16_t) -> [float32x4_t; 4] {
    let even = vqtbl1q_u8(maps.even, nibbles);
    let odd = vqtbl1q_u8(maps.odd, nibbles);
    let [a, b] = join(vzip1q_u8(even, odd), low, high);
    let [c, d] = join(vzip2q_u8(even, odd), low, high);
    [a, b, c, d]
}

/// Ends a register of rows in the compiler's eyes, without an instruction: else
/// it delays additions, runs out of registers and spills the sums.
#[inline]
#[target_feature(enable = "neon")]
fn pin([s0, s1, s2, s3]: &mut [float32x4_t; 4]) {
    // SAFETY: no instruction; the operands stay what they are.
    unsafe {
        asm!(
            "// {}{}{}{}",
            inout(vreg) *s0, inout(vreg) *s1, inout(vreg) *s2, inout(vreg) *s3,
            options(nostack, preserves_flags)
        );
    }
}

/// Sums of a panel: four rows a register.
type Sums = [[float32x4_t; 4]; GROUPS];

/// One block: `units <= BLOCK_BYTES` bytes summed from +0.0 on.
///
/// # Safety
/// Preconditions 1, 2 and 4 of [`super::super::contract`] for these units.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block(mut panel: *const u8, mut table: *const u8, units: usize) -> Sums {
    let maps = Maps {
        even: lanes_u8(offsets(0)),
        odd: lanes_u8(offsets(1)),
    };
    let mut sums = [[vdupq_n_f32(0.0); 4]; GROUPS];
    for _ in 0..units {
        // SAFETY: precondition 4: 64 bytes of table a unit; at most one past.
        let [low0, high0, low1, high1] = unsafe {
            let unit = [
                vld1q_u8(table),
                vld1q_u8(table.add(16)),
                vld1q_u8(table.add(32)),
                vld1q_u8(table.add(48)),
            ];
            table = table.add(TABLE_BYTES);
            unit
        };
        for sums in &mut sums {
            // SAFETY: precondition 2: a strip of 64 bytes a unit.
            let codes = unsafe {
                let codes = vld1q_u8(panel);
                panel = panel.add(16);
                codes
            };
            let first = look_up(maps, vshrq_n_u8::<4>(codes), low0, high0);
            let second = look_up(maps, vandq_u8(codes, vdupq_n_u8(15)), low1, high1);
            for ((sum, a), b) in sums.iter_mut().zip(first).zip(second) {
                *sum = vaddq_f32(*sum, vaddq_f32(a, b));
            }
            pin(sums);
        }
    }
    sums
}

/// One panel by one token: block sums added to the totals in order.
///
/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`super::super::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn row_f32_1x1(call: &RowCall<f32>) {
    let (mut panel, mut table) = (call.panels, call.tables);
    let mut left = call.units;
    let mut accumulate = call.accumulate;
    loop {
        let units = left.min(BLOCK_BYTES);
        // SAFETY: preconditions 2 and 4: these units are left.
        let sums = unsafe { block(panel, table, units) };
        let mut out = call.out;
        for sum in sums.into_iter().flatten() {
            // SAFETY: precondition 5: 64 sums of one panel.
            unsafe {
                let total = if accumulate {
                    vld1q_f32(out)
                } else {
                    vdupq_n_f32(0.0)
                };
                vst1q_f32(out, vaddq_f32(total, sum));
                out = out.add(4);
            }
        }
        left -= units;
        if left == 0 {
            break;
        }
        // Shifts by 6: 64 bytes of panel and of table a unit.
        panel = panel.wrapping_add(units << 6);
        table = table.wrapping_add(units << 6);
        accumulate = true;
    }
}

const _: () = assert!(PANEL_ROWS == 1 << 6 && TABLE_BYTES == 1 << 6);
