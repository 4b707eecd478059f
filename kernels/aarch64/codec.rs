//! Encoding and decoding, 64 weights at a time.
//!
//! # The idea
//! A trit plus one, taken as unsigned, is below 3 exactly when it is legal, and
//! `tbl` answers 0 beyond its table: one look-up gives the code and drops what
//! is illegal. Decoding looks up each nibble twice (first weight, second
//! weight) and zips. f32 weights are three constants, so a `tbl` of
//! `{+0.0, scale, -scale, +0.0}` selects their bytes. Packing is a 64-wide byte
//! transpose in 16x16 squares of `trn`s.
//!
//! ```text
//! trits  t0 t1 t2 t3 | t4 ...      one byte each, in order
//! byte   t0 << 6 | t1 << 4 | t2 << 2 | t3
//! square rows r..r+16, bytes k..k+16  ->  strips k..k+16, bytes r..r+16
//! ```
//!
//! # Instructions
//! Encode 64 weights: 12 for codes and checks, 9 to merge, 5 memory. Decode 64:
//! 17 and 5 memory. A 16x16 square: 64 `trn` for 256 bytes, 32 memory.
//!
//! Whatever is shorter than a register goes through a small buffer, so nothing
//! outside the given ranges is touched.

use crate::kernels::aarch64::registers::lanes_u8;
use crate::kernels::contract::{CodecKernel, PANEL_ROWS};
use core::arch::aarch64::*;
use core::convert::identity;

/// The NEON codec.
pub static CODEC: CodecKernel = CodecKernel {
    name: "neon-codec",
    encode,
    decode_i8,
    decode_f32,
    pack_panel,
};

/// Bytes of one register.
const WIDTH: usize = 16;
/// Weights that fill a register when packed.
const STEP: usize = 4 * WIDTH;

/// Codes of `trit + 1`.
const CODES: [u8; 16] = [0b10, 0b00, 0b01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A nibble's weight `j`, as a trit or as the code it stands for.
const fn of_nibbles(j: usize, of_code: [u8; 4]) -> [u8; 16] {
    let mut table = [0; 16];
    let mut n = 0;
    while n < 16 {
        table[n] = of_code[(n >> (2 - 2 * j)) & 3];
        n += 1;
    }
    table
}

/// Trits of codes.
const TRITS: [u8; 4] = [0, 1, 0xff, 0];
/// First bytes of codes in `{+0.0, scale, -scale, +0.0}`.
const PLACES: [u8; 4] = [0, 4, 8, 12];

/// 64 trits to 16 bytes; `worst` keeps the largest `trit + 1`.
#[inline]
#[target_feature(enable = "neon")]
fn encode_step(trits: [uint8x16_t; 4], worst: &mut uint8x16_t) -> uint8x16_t {
    let mut codes = trits;
    for codes in &mut codes {
        *codes = vaddq_u8(*codes, vdupq_n_u8(1));
        *worst = vmaxq_u8(*worst, *codes);
        *codes = vqtbl1q_u8(lanes_u8(CODES), *codes);
    }
    let [a, b, c, d] = codes;
    let ab = insert::<2>(vuzp2q_u8(a, b), vuzp1q_u8(a, b));
    let cd = insert::<2>(vuzp2q_u8(c, d), vuzp1q_u8(c, d));
    insert::<4>(vuzp2q_u8(ab, cd), vuzp1q_u8(ab, cd))
}

/// `above` moved up by N bits over the N lowest of `below`: `sli`, or for miri,
/// which does not know it, the same in three steps. Encoding comes before
/// nearly everything, so that all of it would be left uninterpreted.
#[inline]
#[target_feature(enable = "neon")]
fn insert<const N: i32>(below: uint8x16_t, above: uint8x16_t) -> uint8x16_t {
    if cfg!(miri) {
        let lowest = vdupq_n_u8((1 << N) - 1);
        vorrq_u8(vshlq_n_u8::<N>(above), vandq_u8(below, lowest))
    } else {
        vsliq_n_u8::<N>(below, above)
    }
}

/// 16 bytes to what `of_code` gives for each of their 64 codes, in order.
#[inline]
#[target_feature(enable = "neon")]
fn decode_step(bytes: uint8x16_t, of_code: [u8; 4]) -> [uint8x16_t; 4] {
    let first = lanes_u8(of_nibbles(0, of_code));
    let second = lanes_u8(of_nibbles(1, of_code));
    let high = vshrq_n_u8::<4>(bytes);
    let low = vandq_u8(bytes, vdupq_n_u8(15));
    let (w0, w1) = (vqtbl1q_u8(first, high), vqtbl1q_u8(second, high));
    let (w2, w3) = (vqtbl1q_u8(first, low), vqtbl1q_u8(second, low));
    let [a, b] = join(vzip1q_u8(w0, w1), vzip1q_u8(w2, w3));
    let [c, d] = join(vzip2q_u8(w0, w1), vzip2q_u8(w2, w3));
    [a, b, c, d]
}

/// Interleaves the pairs of bytes of two registers.
#[inline]
#[target_feature(enable = "neon")]
fn join(first: uint8x16_t, second: uint8x16_t) -> [uint8x16_t; 2] {
    let (first, second) = (vreinterpretq_u16_u8(first), vreinterpretq_u16_u8(second));
    [
        vreinterpretq_u8_u16(vzip1q_u16(first, second)),
        vreinterpretq_u8_u16(vzip2q_u16(first, second)),
    ]
}

/// Bit 2j of a byte is set where its code j is 11; higher bits are noise.
#[inline]
#[target_feature(enable = "neon")]
fn doubled(bytes: uint8x16_t) -> uint8x16_t {
    vandq_u8(bytes, vshrq_n_u8::<1>(bytes))
}

/// Whether [`doubled`] found no code 11.
#[inline]
#[target_feature(enable = "neon")]
fn is_legal(doubled: uint8x16_t) -> bool {
    vmaxvq_u8(vandq_u8(doubled, vdupq_n_u8(0x55))) == 0
}

/// The bytes of `cols < 64` codes, with 00 beyond them.
///
/// # Safety
/// `src` readable for `ceil(cols / 4)`.
#[inline]
unsafe fn tail_bytes(src: *const u8, cols: usize) -> [u8; WIDTH] {
    let mut bytes = [0u8; WIDTH];
    // SAFETY: the caller's word; at most 16 bytes for fewer than 64 codes.
    unsafe { core::ptr::copy_nonoverlapping(src, bytes.as_mut_ptr(), cols.div_ceil(4)) };
    if !cols.is_multiple_of(4) {
        bytes[cols / 4] &= !(0xff >> (2 * (cols % 4)));
    }
    bytes
}

/// # Safety
/// `src` has 64 readable bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_step(src: *const u8) -> [uint8x16_t; 4] {
    // SAFETY: the caller's word.
    unsafe {
        [
            vld1q_u8(src),
            vld1q_u8(src.add(16)),
            vld1q_u8(src.add(32)),
            vld1q_u8(src.add(48)),
        ]
    }
}

/// See [`CodecKernel::encode`].
///
/// # Safety
/// As [`CodecKernel::encode`] states.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn encode(src: *const i8, cols: usize, dst: *mut u8) -> bool {
    let (mut src, mut dst, mut left) = (src.cast::<u8>(), dst, cols);
    let mut worst = vdupq_n_u8(0);
    while left >= STEP {
        // SAFETY: 64 of the `cols` trits and 16 of the bytes are left.
        unsafe {
            vst1q_u8(dst, encode_step(load_step(src), &mut worst));
            (src, dst) = (src.add(STEP), dst.add(WIDTH));
        }
        left -= STEP;
    }
    if left > 0 {
        let mut trits = [0u8; STEP];
        let mut bytes = [0u8; WIDTH];
        // SAFETY: `left` trits and ceil(left / 4) bytes are left, and fit.
        unsafe {
            core::ptr::copy_nonoverlapping(src, trits.as_mut_ptr(), left);
            let packed = encode_step(load_step(trits.as_ptr()), &mut worst);
            vst1q_u8(bytes.as_mut_ptr(), packed);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), dst, left.div_ceil(4));
        }
    }
    vmaxvq_u8(worst) <= 2
}

/// See [`CodecKernel::decode_i8`].
///
/// # Safety
/// As [`CodecKernel::decode_i8`] states.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn decode_i8(src: *const u8, cols: usize, dst: *mut i8) -> bool {
    let (mut src, mut dst, mut left) = (src, dst.cast::<u8>(), cols);
    let mut seen = vdupq_n_u8(0);
    while left >= STEP {
        // SAFETY: 16 of the bytes and 64 of the `cols` weights are left.
        unsafe {
            let bytes = vld1q_u8(src);
            seen = vorrq_u8(seen, doubled(bytes));
            for trits in decode_step(bytes, TRITS) {
                vst1q_u8(dst, trits);
                dst = dst.add(WIDTH);
            }
            src = src.add(WIDTH);
        }
        left -= STEP;
    }
    if left > 0 {
        let mut trits = [[0u8; WIDTH]; 4];
        // SAFETY: ceil(left / 4) bytes and `left` weights are left.
        unsafe {
            let bytes = lanes_u8(tail_bytes(src, left));
            seen = vorrq_u8(seen, doubled(bytes));
            for (part, decoded) in trits.iter_mut().zip(decode_step(bytes, TRITS)) {
                vst1q_u8(part.as_mut_ptr(), decoded);
            }
            core::ptr::copy_nonoverlapping(trits.as_ptr().cast(), dst, left);
        }
    }
    is_legal(seen)
}

/// The 16 weights whose places in `choices` are given.
#[inline]
#[target_feature(enable = "neon")]
fn select(places: uint8x16_t, choices: uint8x16_t) -> [float32x4_t; 4] {
    // Byte 0 of each place is replicated four times, then numbered.
    const QUARTERS: [[u8; 16]; 4] = [
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3],
        [4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7],
        [8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 11],
        [
            12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15,
        ],
    ];
    let numbers = vreinterpretq_u8_u32(vdupq_n_u32(0x0302_0100));
    let mut weights = [vdupq_n_f32(0.0); 4];
    for (weights, quarter) in weights.iter_mut().zip(QUARTERS) {
        let index = vorrq_u8(vqtbl1q_u8(places, lanes_u8(quarter)), numbers);
        *weights = vreinterpretq_f32_u8(vqtbl1q_u8(choices, index));
    }
    weights
}

/// See [`CodecKernel::decode_f32`].
///
/// # Safety
/// As [`CodecKernel::decode_f32`] states.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn decode_f32(src: *const u8, cols: usize, scale: f32, dst: *mut f32) -> bool {
    let (mut src, mut dst, mut left) = (src, dst, cols);
    let mut seen = vdupq_n_u8(0);
    let choices = [0.0, scale, -scale, 0.0];
    // SAFETY: the array is 16 bytes.
    let choices = unsafe { vreinterpretq_u8_f32(vld1q_f32(choices.as_ptr())) };
    while left >= STEP {
        // SAFETY: 16 of the bytes and 64 of the `cols` weights are left.
        unsafe {
            let bytes = vld1q_u8(src);
            seen = vorrq_u8(seen, doubled(bytes));
            for places in decode_step(bytes, PLACES) {
                for weights in select(places, choices) {
                    vst1q_f32(dst, weights);
                    dst = dst.add(4);
                }
            }
            src = src.add(WIDTH);
        }
        left -= STEP;
    }
    if left > 0 {
        let mut weights = [[[0f32; 4]; 4]; 4];
        // SAFETY: ceil(left / 4) bytes and `left` weights are left.
        unsafe {
            let bytes = lanes_u8(tail_bytes(src, left));
            seen = vorrq_u8(seen, doubled(bytes));
            for (part, places) in weights.iter_mut().zip(decode_step(bytes, PLACES)) {
                for (part, weights) in part.iter_mut().zip(select(places, choices)) {
                    vst1q_f32(part.as_mut_ptr(), weights);
                }
            }
            core::ptr::copy_nonoverlapping(weights.as_ptr().cast(), dst, left);
        }
    }
    is_legal(seen)
}

/// Transposes a 16x16 byte square: swaps ever smaller quarters, 8x8 bytes
/// first. (A last round of `zip`s instead would be compiled to slow `st2`s.)
#[inline]
#[target_feature(enable = "neon")]
fn transposed(mut rows: [uint8x16_t; 16]) -> [uint8x16_t; 16] {
    macro_rules! swap {
        ($distance:expr, $to:ident, $from:ident, $first:ident, $second:ident) => {
            for i in 0..16 {
                if i & $distance == 0 {
                    let (a, b) = ($to(rows[i]), $to(rows[i + $distance]));
                    rows[i] = $from($first(a, b));
                    rows[i + $distance] = $from($second(a, b));
                }
            }
        };
    }
    swap!(
        8,
        vreinterpretq_u64_u8,
        vreinterpretq_u8_u64,
        vtrn1q_u64,
        vtrn2q_u64
    );
    swap!(
        4,
        vreinterpretq_u32_u8,
        vreinterpretq_u8_u32,
        vtrn1q_u32,
        vtrn2q_u32
    );
    swap!(
        2,
        vreinterpretq_u16_u8,
        vreinterpretq_u8_u16,
        vtrn1q_u16,
        vtrn2q_u16
    );
    swap!(1, identity, identity, vtrn1q_u8, vtrn2q_u8);
    rows
}

/// Transposes the 16x16 square whose rows are `stride` apart into strips.
///
/// # Safety
/// 16 bytes are readable at each row, and the first `strips` strips of `dst`
/// have 16 writable bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn transpose(src: *const u8, stride: usize, dst: *mut u8, strips: usize) {
    let mut rows = [vdupq_n_u8(0); 16];
    // Two chains of steps: one of sixteen would be the latency of a square.
    let mut starts = [src.cast_mut(), src.wrapping_add(8 * stride).cast_mut()];
    for i in 0..8 {
        for (half, row) in starts.iter_mut().enumerate() {
            // SAFETY: the caller's word; not dereferenced after the last row.
            rows[i + 8 * half] = unsafe { vld1q_u8(*row) };
            *row = row.wrapping_add(stride);
        }
    }
    let columns = transposed(rows);
    let mut strip = dst;
    for column in columns.iter().take(strips) {
        // SAFETY: the caller's word for each of the strips.
        unsafe { vst1q_u8(strip, *column) };
        strip = strip.wrapping_add(PANEL_ROWS);
    }
}

/// See [`CodecKernel::pack_panel`].
///
/// # Safety
/// As [`CodecKernel::pack_panel`] states.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn pack_panel(
    src: *const u8,
    stride: usize,
    rows: usize,
    bytes: usize,
    dst: *mut u8,
    depth: usize,
) {
    // Squares go down the rows first, so that a strip's cache line is finished
    // while it is still in L1.
    let (mut column, mut strips, mut left) = (src, dst, bytes);
    while left > 0 {
        let width = left.min(WIDTH);
        let (mut first, mut out, mut rows_left) = (column, strips, rows);
        for _ in 0..PANEL_ROWS / WIDTH {
            if width == WIDTH && rows_left >= WIDTH {
                // SAFETY: the caller's word: 16 rows of 16 bytes, 16 strips.
                unsafe { transpose(first, stride, out, WIDTH) };
            } else {
                let mut square = [[0u8; WIDTH]; WIDTH];
                let mut row = first;
                for part in square.iter_mut().take(rows_left) {
                    // SAFETY: the caller's word: this row has `width` bytes
                    // left; not dereferenced after the last row.
                    unsafe { core::ptr::copy_nonoverlapping(row, part.as_mut_ptr(), width) };
                    row = row.wrapping_add(stride);
                }
                // SAFETY: the square is 256 bytes; `width` strips are left.
                unsafe { transpose(square.as_ptr().cast(), WIDTH, out, width) };
            }
            first = first.wrapping_add(16 * stride);
            out = out.wrapping_add(WIDTH);
            rows_left = rows_left.saturating_sub(WIDTH);
        }
        column = column.wrapping_add(width);
        strips = strips.wrapping_add(width * PANEL_ROWS);
        left -= width;
    }
    // SAFETY: the caller's word: `depth` strips, of which `bytes` are written.
    unsafe { core::ptr::write_bytes(strips, 0, (depth - bytes) * PANEL_ROWS) };
}
