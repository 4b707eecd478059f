//! Many tokens: the generic source on pulp's NEON token, four registers an
//! entry, with the index arithmetic and the transposes of this ISA.
//!
//! # The idea
//! [`crate::kernels::many`] explains the algorithm. An entry of 64 bytes is
//! four registers: 32 int8 tokens as 16-bit lanes or 16 f32 tokens. A row and a
//! panel byte cost an offset out of its word, one address, two `ldp` and four
//! additions. What is written here is what the generic source leaves open:
//!
//! ```text
//! expand:  4 strips of 16 bytes -> nibbles -> tbl + tbl -> index 0..81 -> ushll #6
//!          16 rows: per strip ushr, and, 2 tbl, add, 2 ushll; then 2 st4
//! finish:  acc[row][token] -> out[token][row], in squares of 4 rows x 4 tokens
//! ```
//!
//! # Instructions for a byte of a row
//! An offset out of its word (1 or 2), an address, 2 `ldp`, 4 `add`: for 128
//! int8 MACs or 64 f32 MACs; plus per chunk of 12 bytes 4 `ldp`/`stp` for the
//! accumulators, and 0.5 to expand each byte.
//!
//! Per MAC, as compiled by rustc 1.95, the 24 look-ups of a pair of rows,
//! without accumulators, expansion and tables; cycles are llvm-mca 19's models,
//! all loads in L1 (`benches/neon_mca.sh`), not measurements:
//!
//! | loop | instructions | neoverse-n1 | neoverse-v1 | apple-m1 |
//! |---|---|---|---|---|
//! | `many_i8` | 0.060 | 0.018 | 0.012 | 0.013 |
//! | `sdot`, 8 x 12 tile | 0.076 | 0.031 | 0.016 | 0.021 |
//! | `many_f32` | 0.121 | 0.034 | 0.024 | 0.031 |
//! | `fmla`, 8 x 12 tile | 0.302 | 0.126 | 0.063 | 0.084 |

use crate::kernels::aarch64::registers::lanes_u8;
use crate::kernels::contract::{BuildCall, FinishCall, ManyCall, ManyKernel, PANEL_ROWS};
use crate::kernels::contract::{ENTRY, TOKENS_F32, TOKENS_I8};
use crate::kernels::generated::{NIBBLE_INDEX, NIBBLE_INDEX_HIGH};
use crate::kernels::many::{self, Expand, Quad};
use core::arch::aarch64::*;
use pulp::aarch64::Neon;

/// Quads of strips a chunk: as on x86-64, where it was measured.
const QUADS: usize = 3;
/// Registers of an entry.
const VECTORS: usize = ENTRY / 16;

/// The int8 kernel.
pub static MANY_I8: ManyKernel<i8, i32> = ManyKernel::generic(
    "neon-many_i8",
    [TOKENS_I8, ENTRY, 4 * QUADS],
    build_i8,
    [many_i8, scaled_i8],
    finish_i8,
    finish_f32,
);

/// The f32 kernel.
pub static MANY_F32: ManyKernel<f32, f32> = ManyKernel::generic(
    "neon-many_f32",
    [TOKENS_F32, ENTRY, 4 * QUADS],
    build_f32,
    [many_f32, scaled_f32],
    finish_f32,
    finish_f32,
);

/// The expansion by two `tbl` look-ups a byte.
struct ByNibbles;

impl Expand for ByNibbles {
    // An index of 8 bits would cost 15 % more instructions in the look-ups, and
    // save less in the expansion.
    type Word = u64;
    const PARTS: usize = 1;
    const ENTRY: usize = ENTRY;

    #[inline(always)]
    unsafe fn quad(panel: *const u8, quad: &mut Quad<u64>) {
        // SAFETY: precondition 1; the caller's word for 256 readable bytes.
        unsafe { expand(panel, quad) }
    }
}

/// See [`Expand::quad`]. `st4` interleaves the four strips' offsets.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn expand(panel: *const u8, quad: &mut Quad<u64>) {
    const { assert!(ENTRY == 1 << 6) };
    let (low, high) = (lanes_u8(NIBBLE_INDEX), lanes_u8(NIBBLE_INDEX_HIGH));
    let mut codes = panel;
    let mut words = quad.as_mut_ptr().cast::<u16>();
    for _ in 0..PANEL_ROWS / 16 {
        // SAFETY: the caller's word: four strips of 64 bytes; 16 words of four
        // offsets each; at most one past the end.
        unsafe {
            let index = |strip: usize| {
                let bytes = vld1q_u8(codes.add(strip * PANEL_ROWS));
                vaddq_u8(
                    vqtbl1q_u8(high, vshrq_n_u8::<4>(bytes)),
                    vqtbl1q_u8(low, vandq_u8(bytes, vdupq_n_u8(15))),
                )
            };
            let (a, b, c, d) = (index(0), index(1), index(2), index(3));
            codes = codes.add(16);
            let first = |index: uint8x16_t| vshll_n_u8::<6>(vget_low_u8(index));
            let second = |index: uint8x16_t| vshll_high_n_u8::<6>(index);
            vst4q_u16(words, uint16x8x4_t(first(a), first(b), first(c), first(d)));
            words = words.add(32);
            vst4q_u16(
                words,
                uint16x8x4_t(second(a), second(b), second(c), second(d)),
            );
            words = words.add(32);
        }
    }
}

/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn build_i8(call: &BuildCall<i8>) {
    // SAFETY: 1 proves the token; the others are handed on unchanged.
    unsafe { many::build_i8::<_, 4>(Neon::new_unchecked(), call) }
}

/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn build_f32(call: &BuildCall<f32>) {
    // SAFETY: 1 proves the token; the others are handed on unchanged.
    unsafe { many::build_f32::<_, 4>(Neon::new_unchecked(), call) }
}

/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn many_i8(call: &ManyCall) {
    // SAFETY: 1 proves the token; the others are handed on unchanged.
    unsafe { many::run_i8::<_, ByNibbles, VECTORS, QUADS>(Neon::new_unchecked(), call) }
}

/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn many_f32(call: &ManyCall) {
    // SAFETY: 1 proves the token; the others are handed on unchanged.
    unsafe { many::run_f32::<_, ByNibbles, VECTORS, QUADS>(Neon::new_unchecked(), call) }
}

/// # Safety
/// Preconditions 1, 2, 4 and 6 to 9 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn scaled_i8(call: &ManyCall) {
    // SAFETY: 1 proves the token; the others are handed on unchanged.
    unsafe { many::run_scaled_i8::<_, ByNibbles, VECTORS, QUADS>(Neon::new_unchecked(), call) }
}

/// # Safety
/// Preconditions 1, 2, 4 and 6 to 9 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn scaled_f32(call: &ManyCall) {
    // SAFETY: 1 proves the token; the others are handed on unchanged.
    unsafe { many::run_scaled_f32::<_, ByNibbles, VECTORS, QUADS>(Neon::new_unchecked(), call) }
}

/// Transposes 4x4 words.
#[inline]
#[target_feature(enable = "neon")]
fn transposed(rows: [uint32x4_t; 4]) -> [uint32x4_t; 4] {
    let [a, b, c, d] = rows;
    let ab = [vtrn1q_u32(a, b), vtrn2q_u32(a, b)];
    let cd = [vtrn1q_u32(c, d), vtrn2q_u32(c, d)];
    let mut columns = rows;
    for i in 0..2 {
        let (ab, cd) = (vreinterpretq_u64_u32(ab[i]), vreinterpretq_u64_u32(cd[i]));
        columns[i] = vreinterpretq_u32_u64(vtrn1q_u64(ab, cd));
        columns[i + 2] = vreinterpretq_u32_u64(vtrn2q_u64(ab, cd));
    }
    columns
}

/// `out[t][r] (+)= 256 * total[r][t] + acc[r][t]`.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn finish_i8(call: &FinishCall<i32>) {
    let (mut acc, mut total) = (call.acc.cast::<i16>(), call.total.cast::<i16>());
    let mut tokens = call.out;
    for _ in 0..TOKENS_I8 / 4 {
        let (mut low, mut high, mut column) = (acc, total, tokens);
        for _ in 0..PANEL_ROWS / 4 {
            let mut rows = [vdupq_n_u32(0); 4];
            for row in &mut rows {
                // SAFETY: precondition 6: four of a row's TOKENS_I8 tokens; at
                // most one row past the end.
                unsafe {
                    let sum = vaddw_s16(vshll_n_s16::<8>(vld1_s16(high)), vld1_s16(low));
                    *row = vreinterpretq_u32_s32(sum);
                }
                (low, high) = (low.wrapping_add(TOKENS_I8), high.wrapping_add(TOKENS_I8));
            }
            let mut out = column;
            for token in transposed(rows) {
                let mut sums = vreinterpretq_s32_u32(token);
                // SAFETY: precondition 5: four of a token's 64 sums.
                unsafe {
                    if call.accumulate {
                        sums = vaddq_s32(sums, vld1q_s32(out));
                    }
                    vst1q_s32(out, sums);
                }
                out = out.wrapping_add(call.out_stride);
            }
            column = column.wrapping_add(4);
        }
        (acc, total) = (acc.wrapping_add(4), total.wrapping_add(4));
        tokens = tokens.wrapping_add(call.out_stride * 4);
    }
}

/// `out[t][r] (+)= total[r][t]`.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn finish_f32(call: &FinishCall<f32>) {
    let (mut total, mut tokens) = (call.total.cast::<u32>(), call.out);
    for _ in 0..TOKENS_F32 / 4 {
        let (mut sum, mut column) = (total, tokens);
        for _ in 0..PANEL_ROWS / 4 {
            let mut rows = [vdupq_n_u32(0); 4];
            for row in &mut rows {
                // SAFETY: precondition 6: four of a row's TOKENS_F32 tokens.
                *row = unsafe { vld1q_u32(sum) };
                sum = sum.wrapping_add(TOKENS_F32);
            }
            let mut out = column;
            for token in transposed(rows) {
                let mut sums = vreinterpretq_f32_u32(token);
                // SAFETY: precondition 5: four of a token's 64 sums.
                unsafe {
                    if call.accumulate {
                        sums = vaddq_f32(vld1q_f32(out), sums);
                    }
                    vst1q_f32(out, sums);
                }
                out = out.wrapping_add(call.out_stride);
            }
            column = column.wrapping_add(4);
        }
        total = total.wrapping_add(4);
        tokens = tokens.wrapping_add(call.out_stride * 4);
    }
}
