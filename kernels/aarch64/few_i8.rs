//! int8, few tokens: sixteen rows a register, nibbles as `tbl` indices.
//!
//! # The idea
//! A nibble of a panel byte is two weights, so it selects one of 16 signed sums
//! `s` of two activations. `u = s + 256` needs ten bits: two 16-byte tables
//! hold `u & 31` and `u >> 5`, both are added up in unsigned bytes, widened to
//! 16 bits by `uaddw` and to 32 bits once, when the call ends. The bias of 256
//! a nibble leaves as one subtraction at the end.
//!
//! ```text
//! panel strip (one k4):  r0 r1 ... r15 | r16 ... r31 | r32 ... r47 | r48 ... r63
//! byte r:                k0 k1 | k2 k3      (2 bits each, first weight on top)
//! table unit, 64 bytes:  lo(k0,k1) hi(k0,k1) lo(k2,k3) hi(k2,k3)   16 bytes each
//! ```
//!
//! # Why nothing overflows
//! `s` has 513 values, one more than 5 + 4 bits of `hi`, so eight bytes of
//! `hi` could reach 16 * 16 = 256. The tables of high nibbles therefore split
//! their largest value as 15 * 32 + 32: then four bytes keep `lo` below
//! 4 * (32 + 31) = 252, eight bytes keep `hi` below 8 * (15 + 16) = 248, and
//! [`MAX_UNITS`] bytes keep the 16-bit sums below 1032 * 63 = 65016.
//!
//! # Instructions for a byte of 64 rows (256 MACs)
//! 2 `ldp` tables, 2 `ldp` panel, 4 x (`ushr`, `and`, 4 `tbl`, 4 `add`), less
//! the additions that start a sum (1.5), plus 3 `uaddw`: 45.5, or 0.178 a MAC.
//! The 32 registers do not hold all sums, so `hi` is added to memory once in
//! eight bytes. Two tokens share panel and indices but keep all 16-bit sums in
//! memory, which takes back most of the gain; they halve the weight traffic.
//!
//! Per MAC, as compiled by rustc 1.95; cycles are llvm-mca 19's models, all
//! loads in L1 (`benches/neon_mca.sh`), not measurements:
//!
//! | loop | instructions | neoverse-n1 | neoverse-v1 | apple-m1 |
//! |---|---|---|---|---|
//! | `few_i8_1x1` | 0.187 | 0.085 | 0.069 | 0.054 |
//! | `few_i8_1x2` | 0.181 | 0.084 | 0.070 | 0.052 |
//! | `sdot`, 4 rows x 1 token | 0.117 | 0.040 | 0.026 | 0.035 |
//!
//! The `sdot` loop reads weights that are unpacked to 8 bits: four times the
//! bytes, and no cycles for unpacking.

use crate::kernels::aarch64::registers::lanes_s16;
use crate::kernels::contract::{FewCall, FewKernel, FewTile, PANEL_ROWS};
use core::arch::aarch64::*;
use core::arch::asm;
use core::hint::black_box;

/// The kernel.
pub static FEW_I8: FewKernel<i8, i32> = FewKernel {
    name: "neon-few_i8",
    unit_strips: 1,
    table_bytes: TABLE_BYTES,
    max_units: MAX_UNITS,
    build,
    tiles: &[
        FewTile::new(1, 2, few_i8_1x2),
        FewTile::new(1, 1, few_i8_1x1),
    ],
    scaled: None,
    from_memory: None,
};

/// Two tables a nibble, two nibbles a byte.
const TABLE_BYTES: usize = 64;
/// Bytes of one call, so that 63 a byte stays below 2^16; a multiple of
/// [`STEP`] and of the depth multiple, and enough for K = 4096.
const MAX_UNITS: usize = 1032;
const _: () = assert!(MAX_UNITS * 63 <= u16::MAX as usize);
/// Bytes whose `hi` sums fit eight bits; half as many for `lo`.
const STEP: usize = 8;
/// Registers of 16 rows in a strip.
const GROUPS: usize = PANEL_ROWS / 16;

/// The four tables of one byte.
type Tables = [uint8x16_t; 4];

/// `u = 256 + (±x0) + (±x1)` for the 16 nibbles, `(u - 32 * hi, hi)` with
/// `hi = min(u >> 5, cap)`.
#[inline]
#[target_feature(enable = "neon")]
fn nibble_tables(x0: i8, x1: i8, cap: u8) -> (uint8x16_t, uint8x16_t) {
    const PLUS: [i16; 8] = [0, -1, 0, 0, 0, -1, 0, 0];
    const MINUS: [i16; 8] = [0, 0, -1, 0, 0, 0, -1, 0];
    const UPPER: [i16; 8] = [0, 0, 0, 0, -1, -1, -1, -1];
    let (x0, x1) = (vdupq_n_s16(x0.into()), vdupq_n_s16(x1.into()));
    let upper = lanes_s16(UPPER);
    let plus = vandq_s16(x1, lanes_s16(PLUS));
    let second = vsubq_s16(plus, vandq_s16(x1, lanes_s16(MINUS)));
    let second = vaddq_s16(second, vdupq_n_s16(256));
    // Nibbles 0..8 have first codes 00 and 01, nibbles 8..16 have 10 and 11.
    let below = vreinterpretq_u16_s16(vaddq_s16(second, vandq_s16(x0, upper)));
    let above = vreinterpretq_u16_s16(vsubq_s16(second, vbicq_s16(x0, upper)));
    let hi = vshrn_high_n_u16::<5>(vshrn_n_u16::<5>(below), above);
    let hi = vminq_u8(hi, vdupq_n_u8(cap));
    let low_bytes = vuzp1q_u8(vreinterpretq_u8_u16(below), vreinterpretq_u8_u16(above));
    (vsubq_u8(low_bytes, vshlq_n_u8::<5>(hi)), hi)
}

/// The tables of `units` bytes.
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn build(x: *const i8, units: usize, tables: *mut u8) {
    let (mut x, mut table) = (x, tables);
    for _ in 0..units {
        // SAFETY: precondition 3: four activations a unit.
        let [x0, x1, x2, x3] = unsafe { x.cast::<[i8; 4]>().read() };
        let (lo_high, hi_high) = nibble_tables(x0, x1, 15);
        let (lo_low, hi_low) = nibble_tables(x2, x3, 16);
        // SAFETY: precondition 4: 64 bytes a unit; 3: at most one past the end.
        unsafe {
            vst1q_u8(table, lo_high);
            vst1q_u8(table.add(16), hi_high);
            vst1q_u8(table.add(32), lo_low);
            vst1q_u8(table.add(48), hi_low);
            table = table.add(TABLE_BYTES);
            x = x.add(4);
        }
    }
}

/// 16-bit sums of one token over a panel.
type Wide = [uint16x8_t; 2 * GROUPS];

/// 8-bit sums of one token over a panel.
#[derive(Clone, Copy)]
struct Bytes {
    lo: [uint8x16_t; GROUPS],
    hi: [uint8x16_t; GROUPS],
}

impl Bytes {
    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> Self {
        let zero = vdupq_n_u8(0);
        Self {
            lo: [zero; GROUPS],
            hi: [zero; GROUPS],
        }
    }

    /// Ends a unit in the compiler's eyes, without an instruction: else it
    /// makes trees of the additions of several units, runs out of registers
    /// and spills the sums.
    #[inline]
    #[target_feature(enable = "neon")]
    fn pin(&mut self) {
        let Self { lo, hi } = self;
        if !cfg!(miri) {
            // SAFETY: no instruction; the operands stay what they are. It may be
            // taken to touch memory, so that loads stay on their side of it.
            unsafe {
                asm!(
                    "// {:v}{:v}{:v}{:v}{:v}{:v}{:v}{:v}",
                    inout(vreg) lo[0],
                    inout(vreg) lo[1],
                    inout(vreg) lo[2],
                    inout(vreg) lo[3],
                    inout(vreg) hi[0],
                    inout(vreg) hi[1],
                    inout(vreg) hi[2],
                    inout(vreg) hi[3],
                    options(nostack, preserves_flags)
                );
            }
        }
    }
}

/// As [`Bytes::pin`], after each register of rows: two tokens need it.
#[inline]
#[target_feature(enable = "neon")]
fn pin(lo: &mut uint8x16_t, hi: &mut uint8x16_t) {
    if !cfg!(miri) {
        // SAFETY: as there.
        unsafe {
            asm!(
                "// {:v}{:v}",
                inout(vreg) * lo,
                inout(vreg) * hi,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// `wide += bytes`.
#[inline]
#[target_feature(enable = "neon")]
fn widen(wide: &mut Wide, bytes: &[uint8x16_t; GROUPS]) {
    for (pair, &bytes) in wide.chunks_exact_mut(2).zip(bytes) {
        pair[0] = vaddw_u8(pair[0], vget_low_u8(bytes));
        pair[1] = vaddw_high_u8(pair[1], bytes);
    }
}

/// Adds one unit to the 8-bit sums and steps the pointers.
///
/// # Safety
/// Preconditions 1, 2 and 4 of [`crate::kernels::contract`] for one unit.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_unit<const TOKENS: usize>(
    panel: &mut *const u8,
    tables: &mut [*const u8; TOKENS],
    bytes: &mut [Bytes; TOKENS],
) {
    let mut unit = [[vdupq_n_u8(0); 4]; TOKENS];
    for (unit, table) in unit.iter_mut().zip(tables) {
        // SAFETY: precondition 4: 64 bytes of table a unit.
        unsafe {
            *unit = load_tables(*table);
            *table = table.add(TABLE_BYTES);
        }
    }
    for g in 0..GROUPS {
        // SAFETY: precondition 2: a strip of 64 bytes a unit.
        let codes = unsafe {
            let codes = vld1q_u8(*panel);
            *panel = panel.add(16);
            codes
        };
        let high = vshrq_n_u8::<4>(codes);
        let low = vandq_u8(codes, vdupq_n_u8(15));
        for (bytes, [lo_high, hi_high, lo_low, hi_low]) in bytes.iter_mut().zip(unit) {
            bytes.lo[g] = vaddq_u8(bytes.lo[g], vqtbl1q_u8(lo_high, high));
            bytes.hi[g] = vaddq_u8(bytes.hi[g], vqtbl1q_u8(hi_high, high));
            bytes.lo[g] = vaddq_u8(bytes.lo[g], vqtbl1q_u8(lo_low, low));
            bytes.hi[g] = vaddq_u8(bytes.hi[g], vqtbl1q_u8(hi_low, low));
            if TOKENS > 1 {
                pin(&mut bytes.lo[g], &mut bytes.hi[g]);
            }
        }
    }
    if TOKENS == 1 {
        for bytes in bytes {
            bytes.pin();
        }
    }
}

/// Adds `STEP` units to the 16-bit sums. Written out: the compiler does not
/// unroll a loop of this size, and the sums must stay in registers.
///
/// # Safety
/// Preconditions 1, 2 and 4 of [`crate::kernels::contract`] for `STEP` units.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn step<const TOKENS: usize>(
    panel: &mut *const u8,
    tables: &mut [*const u8; TOKENS],
    lo: &mut [Wide; TOKENS],
    hi: &mut [Wide; TOKENS],
) {
    let mut bytes = [Bytes::zero(); TOKENS];
    // SAFETY: preconditions 2 and 4 for the eight units.
    unsafe {
        add_unit(panel, tables, &mut bytes);
        add_unit(panel, tables, &mut bytes);
        add_unit(panel, tables, &mut bytes);
        add_unit(panel, tables, &mut bytes);
    }
    for (lo, bytes) in lo.iter_mut().zip(&mut bytes) {
        widen(lo, &bytes.lo);
        bytes.lo = Bytes::zero().lo;
    }
    // SAFETY: as above.
    unsafe {
        add_unit(panel, tables, &mut bytes);
        add_unit(panel, tables, &mut bytes);
        add_unit(panel, tables, &mut bytes);
        add_unit(panel, tables, &mut bytes);
    }
    for ((lo, hi), bytes) in lo.iter_mut().zip(hi).zip(&bytes) {
        widen(lo, &bytes.lo);
        widen(hi, &bytes.hi);
    }
}

/// # Safety
/// 64 readable bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_tables(table: *const u8) -> Tables {
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

/// `out (+)= lo + 32 * hi - 512 * units` for one token.
///
/// # Safety
/// Precondition 5 of [`crate::kernels::contract`] for one token and one panel.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn finish(lo: &Wide, hi: &Wide, units: usize, mut out: *mut i32, accumulate: bool) {
    let bias = vdupq_n_s32((units << 9) as i32);
    for (&lo, &hi) in lo.iter().zip(hi) {
        let quads = [
            vaddw_u16(vshll_n_u16::<5>(vget_low_u16(hi)), vget_low_u16(lo)),
            vaddw_high_u16(vshll_high_n_u16::<5>(hi), lo),
        ];
        for quad in quads {
            let mut sum = vsubq_s32(vreinterpretq_s32_u32(quad), bias);
            // SAFETY: precondition 5: 64 sums a panel; at most one past the end.
            unsafe {
                if accumulate {
                    sum = vaddq_s32(sum, vld1q_s32(out));
                }
                vst1q_s32(out, sum);
                out = out.add(4);
            }
        }
    }
}

/// One panel by `TOKENS` tokens.
///
/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile<const TOKENS: usize>(call: &FewCall<i32>) {
    let zero = vdupq_n_u16(0);
    let mut lo = [[zero; 2 * GROUPS]; TOKENS];
    let mut hi = lo;
    // The black boxes keep these sums in memory, where they are wanted once in
    // a step, and the registers free: left alone, the compiler spills others.
    let hi = black_box(&mut hi);
    let lo = if TOKENS > 1 {
        black_box(&mut lo)
    } else {
        &mut lo
    };
    let mut panel = call.panels;
    let mut tables = [call.tables; TOKENS];
    for t in 1..TOKENS {
        // Not dereferenced if there are no units, so it may leave the tables.
        tables[t] = tables[t - 1].wrapping_add(call.table_stride);
    }
    let mut left = call.units;
    while left >= STEP {
        // SAFETY: preconditions 2 and 4 for the STEP units that are left.
        unsafe { step(&mut panel, &mut tables, lo, hi) };
        left -= STEP;
    }
    while left > 0 {
        let mut bytes = [Bytes::zero(); TOKENS];
        // SAFETY: preconditions 2 and 4 for the one unit.
        unsafe { add_unit(&mut panel, &mut tables, &mut bytes) };
        for ((lo, hi), bytes) in lo.iter_mut().zip(hi.iter_mut()).zip(&bytes) {
            widen(lo, &bytes.lo);
            widen(hi, &bytes.hi);
        }
        left -= 1;
    }
    let mut out = call.out;
    for (lo, hi) in lo.iter().zip(hi.iter()) {
        // SAFETY: precondition 5 for each token of the tile.
        unsafe { finish(lo, hi, call.units, out, call.accumulate) };
        out = out.wrapping_add(call.out_stride);
    }
}

/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn few_i8_1x1(call: &FewCall<i32>) {
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe { tile::<1>(call) }
}

/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn few_i8_1x2(call: &FewCall<i32>) {
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe { tile::<2>(call) }
}
