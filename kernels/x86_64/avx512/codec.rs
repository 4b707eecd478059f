//! placeholder
use super::super::super::contract::{CodecKernel, PANEL_ROWS};
use core::arch::x86_64::*;

/// The codec.
pub static CODEC: CodecKernel = CodecKernel {
    name: "avx512-codec",
    encode,
    decode_i8,
    decode_f32,
    pack_panel,
    symbols: &[
        "x86_64::avx512::codec::encode",
        "x86_64::avx512::codec::decode_i8",
        "x86_64::avx512::codec::decode_f32",
        "x86_64::avx512::codec::pack_panel",
    ],
};

/// Trits that `encode` takes at once.
const ENCODE_STEP: usize = 256;
/// Bytes that `decode_i8` takes at once.
const DECODE_STEP: usize = 64;
/// Bytes that `decode_f32` takes at once.
const DECODE_F32_STEP: usize = 16;
/// Columns of a packing block: one cache line of each row.
const BLOCK: usize = 64;

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

/// Packs 256 trits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn encode_block(mut v: [__m512i; 4], all_legal: &mut bool) -> __m512i {
    let abs = v.map(|v| _mm512_abs_epi8(v));
    let any = _mm512_or_si512(_mm512_ternarylogic_epi32::<0xFE>(abs[0], abs[1], abs[2]), abs[3]);
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
    let x = select(0x0033_0033, _mm512_srli_epi32::<10>(x), select(0xCC00_CC00_u32 as i32, _mm512_slli_epi32::<10>(x), x));
    let x = select(0x0000_0F0F, _mm512_srli_epi32::<20>(x), select(0xF0F0_0000_u32 as i32, _mm512_slli_epi32::<20>(x), x));
    // 11 -> 10
    let x = _mm512_ternarylogic_epi32::<0x78>(x, _mm512_srli_epi32::<1>(x), _mm512_set1_epi8(0x55));
    let x = _mm512_shuffle_epi8(
        x,
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)),
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
    let mut at = 0;
    while at + ENCODE_STEP <= cols {
        // SAFETY: `at + 256 <= cols`.
        unsafe {
            let v = [0, 64, 128, 192].map(|i| _mm512_loadu_epi8(src.add(at + i)));
            _mm512_storeu_si512(dst.add(at / 4).cast(), encode_block(v, &mut legal));
        }
        at += ENCODE_STEP;
    }
    let rest = cols - at;
    if rest > 0 {
        // SAFETY: the masks admit only the `rest` trits and their bytes.
        unsafe {
            let v = [0usize, 64, 128, 192].map(|i| {
                _mm512_maskz_loadu_epi8(first(rest.saturating_sub(i)), src.wrapping_add(at + i))
            });
            let packed = encode_block(v, &mut legal);
            _mm512_mask_storeu_epi8(dst.add(at / 4).cast(), first(rest.div_ceil(4)), packed);
        }
    }
    legal
}

/// Decodes 16 bytes held in every 128-bit lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn decode_lanes(bytes: __m512i) -> __m512i {
    let replicate = _mm512_setr_epi32(
        0x0000_0000, 0x0101_0101, 0x0202_0202, 0x0303_0303,
        0x0404_0404, 0x0505_0505, 0x0606_0606, 0x0707_0707,
        0x0808_0808, 0x0909_0909, 0x0A0A_0A0A, 0x0B0B_0B0B,
        0x0C0C_0C0C, 0x0D0D_0D0D, 0x0E0E_0E0E, 0x0F0F_0F0F,
    );
    let x = _mm512_shuffle_epi8(bytes, replicate);
    let x = _mm512_srlv_epi16(x, _mm512_set1_epi32(4));
    let x = _mm512_and_si512(x, _mm512_set1_epi16(0x030C));
    _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, -1, 0, 1, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0)),
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
    let mut at = 0;
    let mut both = _mm512_setzero_si512();
    while at + DECODE_STEP <= bytes {
        // SAFETY: in range
        unsafe {
            let x = _mm512_loadu_si512(src.add(at).cast());
            both = _mm512_ternarylogic_epi32::<0xF8>(both, x, _mm512_srli_epi16::<1>(x));
            for i in 0..4 {
                let lanes = _mm512_broadcast_i32x4(_mm_loadu_si128(src.add(at + 16 * i).cast()));
                _mm512_storeu_si512(dst.add(4 * at + 64 * i).cast(), decode_lanes(lanes));
            }
        }
        at += DECODE_STEP;
    }
    while at < bytes {
        let rest = (bytes - at).min(16);
        // SAFETY: in range
        unsafe {
            let x = _mm512_maskz_loadu_epi8(first(rest), src.add(at).cast());
            both = _mm512_ternarylogic_epi32::<0xF8>(both, x, _mm512_srli_epi16::<1>(x));
            let lanes = _mm512_broadcast_i32x4(_mm512_castsi512_si128(x));
            _mm512_mask_storeu_epi8(dst.add(4 * at), first(4 * rest), decode_lanes(lanes));
        }
        at += rest;
    }
    let legal = _mm512_test_epi8_mask(both, _mm512_set1_epi8(0x55)) == 0;
    // SAFETY: x
    legal & unsafe { (super::super::super::scalar::SCALAR.codec.decode_i8)(src.add(bytes), cols & 3, dst.add(4 * bytes)) }
}

/// See [`CodecKernel::decode_f32`].
///
/// # Safety
/// As [`CodecKernel::decode_f32`] states.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn decode_f32(src: *const u8, cols: usize, scale: f32, dst: *mut f32) -> bool {
    let bytes = cols / 4;
    let mut at = 0;
    let mut both = _mm512_setzero_si512();
    let values = _mm512_broadcast_f32x4(_mm_setr_ps(0.0, scale, -scale, 0.0));
    let shifts = _mm512_setr_epi32(6, 4, 2, 0, 14, 12, 10, 8, 22, 20, 18, 16, 30, 28, 26, 24);
    while at + 64 <= bytes {
        // SAFETY: in range
        unsafe {
            let x = _mm512_loadu_si512(src.add(at).cast());
            both = _mm512_ternarylogic_epi32::<0xF8>(both, x, _mm512_srli_epi16::<1>(x));
            for i in 0..16 {
                let x = _mm512_set1_epi32(src.add(at + 4 * i).cast::<i32>().read_unaligned());
                let w = _mm512_permutevar_ps(values, _mm512_srlv_epi32(x, shifts));
                _mm512_storeu_ps(dst.add(4 * at + 16 * i), w);
            }
        }
        at += 64;
    }
    let legal = _mm512_test_epi8_mask(both, _mm512_set1_epi8(0x55)) == 0;
    // SAFETY: x
    legal & unsafe { (super::super::super::scalar::SCALAR.codec.decode_f32)(src.add(at), cols - 4 * at, scale, dst.add(4 * at)) }
}

#[repr(C, align(64))]
struct Stage([[u8; BLOCK]; PANEL_ROWS]);

/// One transposes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose16(v: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = v;
    for _ in 0..4 {
        let mut b = a;
        for i in 0..8 {
            b[2 * i] = _mm512_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm512_unpackhi_epi8(a[i], a[i + 8]);
        }
        a = b;
    }
    a
}

/// See [`CodecKernel::pack_panel`].
///
/// # Safety
/// As [`CodecKernel::pack_panel`] states.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pack_panel(
    src: *const u8,
    stride: usize,
    rows: usize,
    bytes: usize,
    dst: *mut u8,
    depth: usize,
) {
    let mut stage = Stage([[0; BLOCK]; PANEL_ROWS]);
    let mut at = 0;
    while at < bytes {
        let cols = (bytes - at).min(BLOCK);
        let mask = first(cols);
        let mut row = src.wrapping_add(at);
        for line in &mut stage.0[..rows] {
            // SAFETY: x
            unsafe {
                let x = _mm512_maskz_loadu_epi8(mask, row.cast());
                if PREFETCH { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(BLOCK).cast()); }
                _mm512_store_si512(line.as_mut_ptr().cast(), x);
            }
            row = row.wrapping_add(stride);
        }
        let mut c = 0;
        while c < cols {
            let mut v = [_mm512_setzero_si512(); 16];
            for (i, v) in v.iter_mut().enumerate() {
                // SAFETY: x
                unsafe {
                    let p = stage.0.as_ptr().cast::<u8>().add(c + i * BLOCK);
                    let l = |k: usize| _mm512_broadcast_i32x4(_mm_load_si128(p.add(16 * k * BLOCK).cast()));
                    let x = _mm512_castsi128_si512(_mm_load_si128(p.cast()));
                    let x = _mm512_mask_mov_epi32(x, 0x00F0, l(1));
                    let x = _mm512_mask_mov_epi32(x, 0x0F00, l(2));
                    *v = _mm512_mask_mov_epi32(x, 0xF000, l(3));
                }
            }
            let lines = transpose16(v);
            if c + 16 <= cols {
                for (i, line) in lines.into_iter().enumerate() {
                    // SAFETY: x
                    unsafe { _mm512_storeu_si512(dst.add(((at + c + i) * PANEL_ROWS)).cast(), line) };
                }
            } else {
                for (i, line) in lines.into_iter().enumerate() {
                    if c + i < cols {
                        // SAFETY: x
                        unsafe { _mm512_storeu_si512(dst.add(((at + c + i) * PANEL_ROWS)).cast(), line) };
                    }
                }
            }
            c += 16;
        }
        at += cols;
    }
    // SAFETY: x
    unsafe { core::ptr::write_bytes(dst.add(bytes * PANEL_ROWS), 0, (depth - bytes) * PANEL_ROWS) };
}
const PREFETCH: bool = true;
