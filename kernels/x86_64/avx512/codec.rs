//! The codec with AVX-512 F and BW; packing has a file of its own.
//!
//! The ideas are those of `avx2/codec.rs`, where the layouts are drawn, in
//! vectors twice as wide and with masks for every tail. What differs:
//!
//! - Encoding takes 256 trits; `vpternlog` selects fields by a mask, so that the
//!   merge and each half of a swap are one operation.
//! - Decoding to trits has no vector comparison to use. Of each word one shift
//!   (`vpsrlvw` by 4 or 0) brings two fields into the low nibbles; masked to
//!   bits 3-2 in one byte and 1-0 in the other they index ONE table of 16:
//!   {0, 4, 8} and {0, 1, 2} do not clash, and 12 and 3 (code 11) hold 0.
//!
//! Zen 4 starts two 512-bit operations a cycle (one of them a shift or shuffle)
//! and stores 32 bytes a cycle: encoding is about 26 operations for 320 bytes,
//! decoding 4 for 80, floats are bound by stores. Measured on a Zen 4 at 3.7 GHz
//! beside other work, in the L2 cache, GB/s read plus written (memcpy: 113;
//! with as many bytes as the floats 98): encode 74, decode 79, floats 74.

use super::pack::pack_panel;
use crate::kernels::contract::CodecKernel;
use crate::kernels::scalar::SCALAR;
use core::arch::x86_64::*;

/// The codec.
pub static CODEC: CodecKernel = CodecKernel {
    name: "avx512-codec",
    encode,
    decode_i8,
    decode_f32,
    pack_panel,
};

/// Trits that `encode` takes at once.
const ENCODE_STEP: usize = 256;
/// Bytes that `decode_i8` and `decode_f32` take at once.
const DECODE_STEP: usize = 64;

/// The first `n` lanes of 64.
#[inline(always)]
fn first(n: usize) -> __mmask64 {
    if n < 64 { (1 << n) - 1 } else { !0 }
}

/// `mask ? a : b`, bit by bit.
#[inline]
#[target_feature(enable = "avx512f")]
fn select(mask: i32, a: __m512i, b: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi32(mask), a, b)
}

/// Packs 256 trits; illegal ones count as 0 and clear `all_legal`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn encode_step(mut v: [__m512i; 4], all_legal: &mut bool) -> __m512i {
    let abs = [
        _mm512_abs_epi8(v[0]),
        _mm512_abs_epi8(v[1]),
        _mm512_abs_epi8(v[2]),
        _mm512_abs_epi8(v[3]),
    ];
    let any = _mm512_or_si512(
        _mm512_ternarylogic_epi32::<0xFE>(abs[0], abs[1], abs[2]),
        abs[3],
    );
    if _mm512_test_epi8_mask(any, _mm512_set1_epi8(!1)) != 0 {
        *all_legal = false;
        for (v, abs) in v.iter_mut().zip(abs) {
            *v = _mm512_maskz_mov_epi8(_mm512_cmple_epu8_mask(abs, _mm512_set1_epi8(1)), *v);
        }
    }
    let [v0, v1, v2, v3] = v;
    let high = select(
        0xC0C0_C0C0_u32 as i32,
        _mm512_slli_epi32::<6>(v0),
        _mm512_slli_epi32::<4>(v1),
    );
    let low = select(0x0C0C_0C0C, _mm512_slli_epi32::<2>(v2), v3);
    let x = select(0xF0F0_F0F0_u32 as i32, high, low);
    let x = select(
        0x0033_0033,
        _mm512_srli_epi32::<10>(x),
        select(0xCC00_CC00_u32 as i32, _mm512_slli_epi32::<10>(x), x),
    );
    let x = select(
        0x0000_0F0F,
        _mm512_srli_epi32::<20>(x),
        select(0xF0F0_0000_u32 as i32, _mm512_slli_epi32::<20>(x), x),
    );
    // 11 becomes 10: x ^ (x >> 1 & 0x55).
    let x = _mm512_ternarylogic_epi32::<0x78>(x, _mm512_srli_epi32::<1>(x), _mm512_set1_epi8(0x55));
    let x = _mm512_shuffle_epi8(
        x,
        _mm512_broadcast_i32x4(_mm_setr_epi8(
            0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
        )),
    );
    _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        x,
    )
}

/// See [`CodecKernel::encode`].
///
/// # Safety
/// As [`CodecKernel::encode`] states.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn encode(src: *const i8, cols: usize, dst: *mut u8) -> bool {
    let mut legal = true;
    let mut offset = 0;
    while offset + ENCODE_STEP <= cols {
        let mut v = [_mm512_setzero_si512(); 4];
        // SAFETY: `at + 256 <= cols`, so 64 bytes of `dst` follow `at / 4`.
        unsafe {
            for (i, v) in v.iter_mut().enumerate() {
                *v = _mm512_loadu_epi8(src.add(offset + 64 * i));
            }
            _mm512_storeu_si512(dst.add(offset / 4).cast(), encode_step(v, &mut legal));
        }
        offset += ENCODE_STEP;
    }
    let rest = cols - offset;
    if rest > 0 {
        let mut v = [_mm512_setzero_si512(); 4];
        // SAFETY: the masks admit only the `rest` trits and their bytes.
        unsafe {
            for (i, v) in v.iter_mut().enumerate() {
                let mask = first(rest.saturating_sub(64 * i));
                *v = _mm512_maskz_loadu_epi8(mask, src.wrapping_add(offset + 64 * i));
            }
            let packed = encode_step(v, &mut legal);
            _mm512_mask_storeu_epi8(dst.add(offset / 4).cast(), first(rest.div_ceil(4)), packed);
        }
    }
    legal
}

/// Decodes 16 bytes held in every 128-bit lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn decode_lanes(bytes: __m512i) -> __m512i {
    let replicate = _mm512_setr_epi32(
        0x0000_0000,
        0x0101_0101,
        0x0202_0202,
        0x0303_0303,
        0x0404_0404,
        0x0505_0505,
        0x0606_0606,
        0x0707_0707,
        0x0808_0808,
        0x0909_0909,
        0x0A0A_0A0A,
        0x0B0B_0B0B,
        0x0C0C_0C0C,
        0x0D0D_0D0D,
        0x0E0E_0E0E,
        0x0F0F_0F0F,
    );
    let x = _mm512_shuffle_epi8(bytes, replicate);
    let x = _mm512_srlv_epi16(x, _mm512_set1_epi32(4));
    let x = _mm512_and_si512(x, _mm512_set1_epi16(0x030C));
    _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_setr_epi8(
            0, 1, -1, 0, 1, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0,
        )),
        x,
    )
}

/// See [`CodecKernel::decode_i8`].
///
/// # Safety
/// As [`CodecKernel::decode_i8`] states.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn decode_i8(src: *const u8, cols: usize, dst: *mut i8) -> bool {
    let bytes = cols / 4;
    let mut offset = 0;
    let mut both = _mm512_setzero_si512();
    while offset + DECODE_STEP <= bytes {
        // SAFETY: within `bytes`, or masked to them; four weights for each.
        unsafe {
            let x = _mm512_loadu_si512(src.add(offset).cast());
            both = _mm512_ternarylogic_epi32::<0xF8>(both, x, _mm512_srli_epi16::<1>(x));
            for i in 0..4 {
                let lanes =
                    _mm512_broadcast_i32x4(_mm_loadu_si128(src.add(offset + 16 * i).cast()));
                _mm512_storeu_si512(dst.add(4 * offset + 64 * i).cast(), decode_lanes(lanes));
            }
        }
        offset += DECODE_STEP;
    }
    while offset < bytes {
        let rest = (bytes - offset).min(16);
        // SAFETY: within `bytes`, or masked to them; four weights for each.
        unsafe {
            let x = _mm512_maskz_loadu_epi8(first(rest), src.add(offset).cast());
            both = _mm512_ternarylogic_epi32::<0xF8>(both, x, _mm512_srli_epi16::<1>(x));
            let lanes = _mm512_broadcast_i32x4(_mm512_castsi512_si128(x));
            _mm512_mask_storeu_epi8(dst.add(4 * offset), first(4 * rest), decode_lanes(lanes));
        }
        offset += rest;
    }
    let legal = _mm512_test_epi8_mask(both, _mm512_set1_epi8(0x55)) == 0;
    // SAFETY: the weights of the last byte if it is not full, else none.
    legal & unsafe { (SCALAR.codec.decode_i8)(src.add(bytes), cols & 3, dst.add(4 * bytes)) }
}

/// See [`CodecKernel::decode_f32`].
///
/// # Safety
/// As [`CodecKernel::decode_f32`] states.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn decode_f32(src: *const u8, cols: usize, scale: f32, dst: *mut f32) -> bool {
    let bytes = cols / 4;
    let mut offset = 0;
    let mut both = _mm512_setzero_si512();
    let values = _mm512_broadcast_f32x4(_mm_setr_ps(0.0, scale, -scale, 0.0));
    let shifts = _mm512_setr_epi32(6, 4, 2, 0, 14, 12, 10, 8, 22, 20, 18, 16, 30, 28, 26, 24);
    while offset + 64 <= bytes {
        // SAFETY: within `bytes`, or masked to them; four weights for each.
        unsafe {
            let x = _mm512_loadu_si512(src.add(offset).cast());
            both = _mm512_ternarylogic_epi32::<0xF8>(both, x, _mm512_srli_epi16::<1>(x));
            for i in 0..16 {
                let x = _mm512_set1_epi32(src.add(offset + 4 * i).cast::<i32>().read_unaligned());
                let w = _mm512_permutevar_ps(values, _mm512_srlv_epi32(x, shifts));
                _mm512_storeu_ps(dst.add(4 * offset + 16 * i), w);
            }
        }
        offset += 64;
    }
    let mut rest = bytes - offset;
    let legal_steps = _mm512_test_epi8_mask(both, _mm512_set1_epi8(0x55)) == 0;
    let mut tail = [0_u8; DECODE_STEP];
    // SAFETY: `rest < 64` bytes are left.
    let x = unsafe { _mm512_maskz_loadu_epi8(first(rest), src.wrapping_add(offset).cast()) };
    // SAFETY: `tail` has 64 bytes.
    unsafe { _mm512_storeu_si512(tail.as_mut_ptr().cast(), x) };
    both = _mm512_and_si512(x, _mm512_srli_epi16::<1>(x));
    for four in tail.as_chunks::<4>().0 {
        let x = _mm512_set1_epi32(i32::from_le_bytes(*four));
        let weights = _mm512_permutevar_ps(values, _mm512_srlv_epi32(x, shifts));
        // SAFETY: the mask admits the weights of the bytes that are left.
        unsafe {
            let mask = first(4 * rest.min(4)) as __mmask16;
            _mm512_mask_storeu_ps(dst.wrapping_add(4 * offset), mask, weights);
        }
        if rest <= 4 {
            break;
        }
        offset += 4;
        rest -= 4;
    }
    let legal_tail = _mm512_test_epi8_mask(both, _mm512_set1_epi8(0x55)) == 0;
    // SAFETY: the weights of the last byte if it is not full, else none.
    let legal_end =
        unsafe { (SCALAR.codec.decode_f32)(src.add(bytes), cols & 3, scale, dst.add(4 * bytes)) };
    legal_steps & legal_tail & legal_end
}
