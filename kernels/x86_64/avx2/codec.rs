//! The codec with AVX2.
//!
//! # Encoding: 128 trits at once
//!
//! A trit's two low bits are its code, but for -1, which is 11 instead of 10.
//! Four vectors of 32 trits merge into one vector of 2-bit fields; three steps
//! put the fields where the encoding wants them:
//!
//! ```text
//! dword i of vector s:         trits 32s + 4i .. + 4, one a byte
//! merged, nibbles and words:   byte b, field s  =  trit b of vector s
//! 2-bit transposition (swap):  byte s, field b  =  trit b of vector s
//! byte transposition:          byte 8s + i      =  the four trits, in order
//! ```
//!
//! Legality is one OR of absolute values and one test a step; the repair sits
//! in a branch that legal input never takes.
//!
//! # Decoding
//!
//! A byte is copied to four lanes and masked to a field each; a comparison with
//! each field's -1 and one with its +1 give the trit as their difference, and
//! code 11 equals neither. Floats: `vpsrlvd` brings each lane's field down and
//! `vpermilps`, which reads the low two bits only, looks up {0, +s, -s, 0}.
//!
//! # Packing
//!
//! 64 bytes of 64 rows go through a 4 KiB stage: a power-of-two row stride maps
//! all 64 rows to a few cache sets, and then each line must be read once and
//! whole. From the stage, 32 rows x 16 bytes are transposed by four rounds of
//! byte unpacking, 8 columns at a time so that 16 registers hold them.
//!
//! # Cost
//!
//! Zen 4 starts four 256-bit operations a cycle (two of them shifts or
//! shuffles), Intel three (one or two): encoding takes about 36 for 160 bytes,
//! decoding 5 for 40 and stores bound the floats. Measured on a Zen 4 at 3.7 GHz
//! beside other work, in the L2 cache, GB/s read plus written (memcpy: 113;
//! with as many bytes as the floats 98): encode 52, decode 82, floats 77.
//! Packing swings with the neighbours: 0.42 to 0.50 of the same run's memcpy in
//! L2, 0.3 from memory, where the cause is not yet found.

use crate::kernels::contract::{CodecKernel, PANEL_ROWS};
use crate::kernels::scalar::SCALAR;
use core::arch::x86_64::*;

/// The codec.
pub static CODEC: CodecKernel = CodecKernel {
    name: "avx2-codec",
    encode,
    decode_i8,
    decode_f32,
    pack_panel,
};
/// Trits that `encode` takes at once, and weights that `decode_i8` and
/// `decode_f32` give at once.
const STEP: usize = 128;
/// Columns of a square: one cache line of each row.
const SPAN: usize = 64;

/// Swaps the bits of `low` with those `DISTANCE` above them.
#[inline]
#[target_feature(enable = "avx2")]
fn swap<const DISTANCE: i32>(x: __m256i, low: i32) -> __m256i {
    let t = _mm256_and_si256(
        _mm256_xor_si256(x, _mm256_srli_epi32::<DISTANCE>(x)),
        _mm256_set1_epi32(low),
    );
    _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi32::<DISTANCE>(t)))
}

/// Packs 128 trits; illegal ones count as 0 and clear `all_legal`.
#[inline]
#[target_feature(enable = "avx2")]
fn encode_step(mut v: [__m256i; 4], all_legal: &mut bool) -> __m256i {
    let abs = [
        _mm256_abs_epi8(v[0]),
        _mm256_abs_epi8(v[1]),
        _mm256_abs_epi8(v[2]),
        _mm256_abs_epi8(v[3]),
    ];
    let any = _mm256_or_si256(
        _mm256_or_si256(abs[0], abs[1]),
        _mm256_or_si256(abs[2], abs[3]),
    );
    if _mm256_testz_si256(any, _mm256_set1_epi8(!1)) == 0 {
        *all_legal = false;
        let one = _mm256_set1_epi8(1);
        for (v, abs) in v.iter_mut().zip(abs) {
            *v = _mm256_and_si256(*v, _mm256_cmpeq_epi8(_mm256_max_epu8(abs, one), one));
        }
    }
    let [v0, v1, v2, v3] = v;
    let field = |x, m| _mm256_and_si256(x, _mm256_set1_epi8(m));
    // Two vectors of low nibbles, then the half of the transposition that
    // moves nibbles between the words of a dword.
    let p = _mm256_or_si256(field(_mm256_slli_epi32::<2>(v0), 0x0C), field(v1, 0x03));
    let q = _mm256_or_si256(field(_mm256_slli_epi32::<2>(v2), 0x0C), field(v3, 0x03));
    let first = _mm256_blend_epi16::<0xAA>(p, _mm256_slli_epi32::<16>(q));
    let second = _mm256_blend_epi16::<0xAA>(_mm256_srli_epi32::<16>(p), q);
    let x = _mm256_or_si256(_mm256_slli_epi16::<4>(first), second);
    let x = swap::<10>(x, 0x0033_0033);
    // 11 becomes 10.
    let x = _mm256_xor_si256(x, field(_mm256_srli_epi32::<1>(x), 0x55));
    let x = _mm256_shuffle_epi8(
        x,
        _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
        )),
    );
    _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// See [`CodecKernel::encode`].
///
/// # Safety
/// As [`CodecKernel::encode`] states.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub unsafe fn encode(src: *const i8, cols: usize, dst: *mut u8) -> bool {
    let load = |src: *const i8| {
        let offset = |i| src.wrapping_add(i).cast();
        // SAFETY: the callers below pass 128 readable bytes.
        unsafe {
            [
                _mm256_loadu_si256(offset(0)),
                _mm256_loadu_si256(offset(32)),
                _mm256_loadu_si256(offset(64)),
                _mm256_loadu_si256(offset(96)),
            ]
        }
    };
    let mut legal = true;
    let mut offset = 0;
    while cols - offset >= STEP {
        // SAFETY: `at + 128 <= cols`, so 32 bytes of `dst` follow `at / 4`.
        unsafe {
            let packed = encode_step(load(src.add(offset)), &mut legal);
            _mm256_storeu_si256(dst.add(offset / 4).cast(), packed);
        }
        offset += STEP;
    }
    let rest = cols - offset;
    if rest > 0 {
        let mut trits = [0; STEP];
        let mut packed = [0_u8; STEP / 4];
        // SAFETY: `rest < 128` trits are left, and room for their bytes.
        unsafe {
            trits
                .as_mut_ptr()
                .copy_from_nonoverlapping(src.add(offset), rest);
            let bytes = encode_step(load(trits.as_ptr()), &mut legal);
            _mm256_storeu_si256(packed.as_mut_ptr().cast(), bytes);
            dst.add(offset / 4)
                .copy_from_nonoverlapping(packed.as_ptr(), rest.div_ceil(4));
        }
    }
    legal
}

/// Decodes 32 bytes; returns the bits that show a code 11, under 0x55.
///
/// # Safety
/// `src` has 32 readable bytes, `dst` 128 writable ones.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn decode_step_i8(src: *const u8, dst: *mut i8) -> __m256i {
    let replicate = _mm256_setr_epi32(
        0x0000_0000,
        0x0101_0101,
        0x0202_0202,
        0x0303_0303,
        0x0404_0404,
        0x0505_0505,
        0x0606_0606,
        0x0707_0707,
    );
    for i in 0..4 {
        // SAFETY: 8 bytes from 8i < 32, and 32 from 32i < 128.
        unsafe {
            let x = _mm256_set1_epi64x(src.add(8 * i).cast::<i64>().read_unaligned());
            let x = _mm256_shuffle_epi8(x, replicate);
            let x = _mm256_and_si256(x, _mm256_set1_epi32(0x030C_30C0));
            let minus = _mm256_cmpeq_epi8(x, _mm256_set1_epi32(0x0208_2080));
            let plus = _mm256_cmpeq_epi8(x, _mm256_set1_epi32(0x0104_1040));
            _mm256_storeu_si256(dst.add(32 * i).cast(), _mm256_sub_epi8(minus, plus));
        }
    }
    // SAFETY: 32 readable bytes.
    let x = unsafe { _mm256_loadu_si256(src.cast()) };
    _mm256_and_si256(x, _mm256_srli_epi16::<1>(x))
}

/// As `decode_step_i8`, into floats.
///
/// # Safety
/// `src` has 32 readable bytes, `dst` 128 writable floats.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn decode_step_f32(src: *const u8, values: __m256, dst: *mut f32) -> __m256i {
    let low = _mm256_setr_epi32(6, 4, 2, 0, 14, 12, 10, 8);
    let high = _mm256_setr_epi32(22, 20, 18, 16, 30, 28, 26, 24);
    for i in 0..8 {
        // SAFETY: 4 bytes from 4i < 32, and 16 floats from 16i < 128.
        unsafe {
            let x = _mm256_set1_epi32(src.add(4 * i).cast::<i32>().read_unaligned());
            let first = _mm256_permutevar_ps(values, _mm256_srlv_epi32(x, low));
            let second = _mm256_permutevar_ps(values, _mm256_srlv_epi32(x, high));
            _mm256_storeu_ps(dst.add(16 * i), first);
            _mm256_storeu_ps(dst.add(16 * i + 8), second);
        }
    }
    // SAFETY: 32 readable bytes.
    let x = unsafe { _mm256_loadu_si256(src.cast()) };
    _mm256_and_si256(x, _mm256_srli_epi16::<1>(x))
}

/// See [`CodecKernel::decode_i8`].
///
/// # Safety
/// As [`CodecKernel::decode_i8`] states.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub unsafe fn decode_i8(src: *const u8, cols: usize, dst: *mut i8) -> bool {
    let bytes = cols / 4;
    let mut both = _mm256_setzero_si256();
    let mut offset = 0;
    while bytes - offset >= STEP / 4 {
        // SAFETY: `at + 32 <= bytes`, so 128 weights follow `4 * at`.
        let bad = unsafe { decode_step_i8(src.add(offset), dst.add(4 * offset)) };
        both = _mm256_or_si256(both, bad);
        offset += STEP / 4;
    }
    let rest = bytes - offset;
    if rest > 0 {
        let mut packed = [0; STEP / 4];
        let mut weights = [0_i8; STEP];
        // SAFETY: `rest < 32` bytes are left, and room for their weights.
        unsafe {
            packed
                .as_mut_ptr()
                .copy_from_nonoverlapping(src.add(offset), rest);
            let bad = decode_step_i8(packed.as_ptr(), weights.as_mut_ptr());
            both = _mm256_or_si256(both, bad);
            dst.add(4 * offset)
                .copy_from_nonoverlapping(weights.as_ptr(), 4 * rest);
        }
    }
    let legal = _mm256_testz_si256(both, _mm256_set1_epi8(0x55)) != 0;
    // SAFETY: the weights of the last byte if it is not full, else none.
    legal & unsafe { (SCALAR.codec.decode_i8)(src.add(bytes), cols & 3, dst.add(4 * bytes)) }
}

/// See [`CodecKernel::decode_f32`].
///
/// # Safety
/// As [`CodecKernel::decode_f32`] states.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub unsafe fn decode_f32(src: *const u8, cols: usize, scale: f32, dst: *mut f32) -> bool {
    let values = _mm256_setr_ps(0.0, scale, -scale, 0.0, 0.0, scale, -scale, 0.0);
    let bytes = cols / 4;
    let mut both = _mm256_setzero_si256();
    let mut offset = 0;
    while bytes - offset >= STEP / 4 {
        // SAFETY: `at + 32 <= bytes`, so 128 weights follow `4 * at`.
        let bad = unsafe { decode_step_f32(src.add(offset), values, dst.add(4 * offset)) };
        both = _mm256_or_si256(both, bad);
        offset += STEP / 4;
    }
    let rest = bytes - offset;
    if rest > 0 {
        let mut packed = [0; STEP / 4];
        let mut weights = [0.0_f32; STEP];
        // SAFETY: `rest < 32` bytes are left, and room for their weights.
        unsafe {
            packed
                .as_mut_ptr()
                .copy_from_nonoverlapping(src.add(offset), rest);
            let bad = decode_step_f32(packed.as_ptr(), values, weights.as_mut_ptr());
            both = _mm256_or_si256(both, bad);
            dst.add(4 * offset)
                .copy_from_nonoverlapping(weights.as_ptr(), 4 * rest);
        }
    }
    let legal = _mm256_testz_si256(both, _mm256_set1_epi8(0x55)) != 0;
    // SAFETY: the weights of the last byte if it is not full, else none.
    legal
        & unsafe { (SCALAR.codec.decode_f32)(src.add(bytes), cols & 3, scale, dst.add(4 * bytes)) }
}

/// One round of the transposition: vectors i and i + 4, byte by byte in turn.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave(a: [__m256i; 8]) -> [__m256i; 8] {
    let lo = |x, y| _mm256_unpacklo_epi8(x, y);
    let hi = |x, y| _mm256_unpackhi_epi8(x, y);
    [
        lo(a[0], a[4]),
        hi(a[0], a[4]),
        lo(a[1], a[5]),
        hi(a[1], a[5]),
        lo(a[2], a[6]),
        hi(a[2], a[6]),
        lo(a[3], a[7]),
        hi(a[3], a[7]),
    ]
}

/// Stores halves of strips, as many as `count` admits.
///
/// # Safety
/// `count` (or 8) strips from `strips` on have 32 writable bytes each.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store_strips(lines: [__m256i; 8], strips: *mut u8, count: usize) {
    if count >= 8 {
        for (i, &line) in lines.iter().enumerate() {
            // SAFETY: `i < count`, by the precondition.
            unsafe { _mm256_storeu_si256(strips.add(i * PANEL_ROWS).cast(), line) };
        }
    } else {
        for (i, line) in lines.iter().enumerate().take(count) {
            // SAFETY: `i < count`, by the precondition.
            unsafe { _mm256_storeu_si256(strips.add(i * PANEL_ROWS).cast(), *line) };
        }
    }
}

/// 64 bytes of 64 rows.
#[repr(C, align(64))]
struct Stage([[u8; SPAN]; PANEL_ROWS]);

/// See [`CodecKernel::pack_panel`].
///
/// # Safety
/// As [`CodecKernel::pack_panel`] states.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub unsafe fn pack_panel(
    src: *const u8,
    stride: usize,
    rows: usize,
    bytes: usize,
    dst: *mut u8,
    depth: usize,
) {
    let mut stage = Stage([[0; SPAN]; PANEL_ROWS]);
    let mut offset = 0;
    while offset < bytes {
        let cols = (bytes - offset).min(SPAN);
        let mut row = src.wrapping_add(offset);
        // The 64 rows that follow are the next panel's; read in order, they are
        // in L2 when their columns are wanted 64 rows at a time.
        let mut next = src.wrapping_add((stride + offset) * PANEL_ROWS);
        for line in &mut stage.0[..rows] {
            // SAFETY: the row has `cols` bytes from `at` on, a line of the stage
            // 64 aligned ones; a prefetch never faults.
            unsafe {
                if cols == SPAN {
                    for o in (0..SPAN).step_by(64) {
                        let a = _mm256_loadu_si256(row.add(o).cast());
                        let b = _mm256_loadu_si256(row.add(o + 32).cast());
                        _mm_prefetch::<_MM_HINT_T1>(next.cast());
                        next = next.wrapping_add(64);
                        _mm256_store_si256(line.as_mut_ptr().add(o).cast(), a);
                        _mm256_store_si256(line.as_mut_ptr().add(o + 32).cast(), b);
                    }
                } else {
                    core::ptr::copy_nonoverlapping(row, line.as_mut_ptr(), cols);
                }
            }
            row = row.wrapping_add(stride);
        }
        let mut c = 0;
        while c < cols {
            for half in 0..2 {
                let load = |i: usize| {
                    // SAFETY: `c + 16 <= 64`, the bytes of a line; aligned to 16.
                    unsafe {
                        let low = _mm_load_si128(stage.0[i + 32 * half].as_ptr().add(c).cast());
                        let high =
                            _mm_load_si128(stage.0[i + 32 * half + 16].as_ptr().add(c).cast());
                        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
                    }
                };
                let strips = dst.wrapping_add((offset + c) * PANEL_ROWS + 32 * half);
                let lo = |i: usize| _mm256_unpacklo_epi8(load(i), load(i + 8));
                let hi = |i: usize| _mm256_unpackhi_epi8(load(i), load(i + 8));
                let low = [lo(0), lo(1), lo(2), lo(3), lo(4), lo(5), lo(6), lo(7)];
                // SAFETY: strips `at + c ..` of the `cols` that `dst` has room for.
                unsafe { store_strips(interleave(interleave(interleave(low))), strips, cols - c) };
                if cols - c > 8 {
                    let high = [hi(0), hi(1), hi(2), hi(3), hi(4), hi(5), hi(6), hi(7)];
                    let strips = strips.wrapping_add(8 * PANEL_ROWS);
                    // SAFETY: as above, eight strips on.
                    unsafe {
                        store_strips(
                            interleave(interleave(interleave(high))),
                            strips,
                            cols - c - 8,
                        )
                    };
                }
            }
            c += 16;
        }
        offset += cols;
    }
    // SAFETY: strips `bytes .. depth` of `dst`.
    unsafe { core::ptr::write_bytes(dst.add(bytes * PANEL_ROWS), 0, (depth - bytes) * PANEL_ROWS) };
}
