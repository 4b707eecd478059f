//! placeholder
use super::super::super::contract::{CodecKernel, PANEL_ROWS};
use core::arch::x86_64::*;

/// The codec.
pub static CODEC: CodecKernel = CodecKernel {
    name: "avx2-codec",
    encode,
    decode_i8,
    decode_f32,
    pack_panel,
    symbols: &[
        "x86_64::avx2::codec::encode",
        "x86_64::avx2::codec::decode_i8",
        "x86_64::avx2::codec::decode_f32",
        "x86_64::avx2::codec::pack_panel",
    ],
};
const BLOCK: usize = 64;

/// Swaps fields
#[inline]
#[target_feature(enable = "avx2")]
fn swap<const DISTANCE: i32>(x: __m256i, low: i32) -> __m256i {
    let t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi32::<DISTANCE>(x)), _mm256_set1_epi32(low));
    _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi32::<DISTANCE>(t)))
}

/// Packs 128 trits.
#[inline]
#[target_feature(enable = "avx2")]
fn encode_block(mut v: [__m256i; 4], all_legal: &mut bool) -> __m256i {
    let abs = v.map(|v| _mm256_abs_epi8(v));
    let any = _mm256_or_si256(_mm256_or_si256(abs[0], abs[1]), _mm256_or_si256(abs[2], abs[3]));
    if _mm256_testz_si256(any, _mm256_set1_epi8(!1)) == 0 {
        *all_legal = false;
        let one = _mm256_set1_epi8(1);
        for (v, abs) in v.iter_mut().zip(abs) {
            *v = _mm256_and_si256(*v, _mm256_cmpeq_epi8(_mm256_max_epu8(abs, one), one));
        }
    }
    let [v0, v1, v2, v3] = v;
    let field = |x, m| _mm256_and_si256(x, _mm256_set1_epi8(m));
    let x = _mm256_or_si256(
        _mm256_or_si256(field(_mm256_slli_epi32::<6>(v0), 0xC0_u8 as i8), field(_mm256_slli_epi32::<4>(v1), 0x30)),
        _mm256_or_si256(field(_mm256_slli_epi32::<2>(v2), 0x0C), field(v3, 0x03)),
    );
    let x = swap::<10>(x, 0x0033_0033);
    let x = swap::<20>(x, 0x0000_0F0F);
    let x = _mm256_xor_si256(x, field(_mm256_srli_epi32::<1>(x), 0x55));
    let x = _mm256_shuffle_epi8(
        x,
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)),
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
    let mut legal = true;
    let mut at = 0;
    while at + 128 <= cols {
        // SAFETY: x
        unsafe {
            let v = [0, 32, 64, 96].map(|i| _mm256_loadu_si256(src.add(at + i).cast()));
            _mm256_storeu_si256(dst.add(at / 4).cast(), encode_block(v, &mut legal));
        }
        at += 128;
    }
    // SAFETY: x
    legal & unsafe { (super::super::super::scalar::SCALAR.codec.encode)(src.add(at), cols - at, dst.add(at / 4)) }
}

/// See [`CodecKernel::decode_i8`].
///
/// # Safety
/// As [`CodecKernel::decode_i8`] states.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub unsafe fn decode_i8(src: *const u8, cols: usize, dst: *mut i8) -> bool {
    let bytes = cols / 4;
    let mut at = 0;
    let mut both = _mm256_setzero_si256();
    let replicate = _mm256_setr_epi32(
        0x0000_0000, 0x0101_0101, 0x0202_0202, 0x0303_0303,
        0x0404_0404, 0x0505_0505, 0x0606_0606, 0x0707_0707,
    );
    while at + 32 <= bytes {
        // SAFETY: in range
        unsafe {
            let x = _mm256_loadu_si256(src.add(at).cast());
            both = _mm256_or_si256(both, _mm256_and_si256(x, _mm256_srli_epi16::<1>(x)));
            for i in 0..4 {
                let x = _mm256_set1_epi64x(src.add(at + 8 * i).cast::<i64>().read_unaligned());
                let x = _mm256_shuffle_epi8(x, replicate);
                let x = _mm256_and_si256(x, _mm256_set1_epi32(0x030C_30C0));
                let n = _mm256_cmpeq_epi8(x, _mm256_set1_epi32(0x0208_2080));
                let p = _mm256_cmpeq_epi8(x, _mm256_set1_epi32(0x0104_1040));
                _mm256_storeu_si256(dst.add(4 * at + 32 * i).cast(), _mm256_sub_epi8(n, p));
            }
        }
        at += 32;
    }
    let legal = _mm256_testz_si256(both, _mm256_set1_epi8(0x55)) != 0;
    // SAFETY: x
    legal & unsafe { (super::super::super::scalar::SCALAR.codec.decode_i8)(src.add(at), cols - 4 * at, dst.add(4 * at)) }
}

/// See [`CodecKernel::decode_f32`].
///
/// # Safety
/// As [`CodecKernel::decode_f32`] states.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub unsafe fn decode_f32(src: *const u8, cols: usize, scale: f32, dst: *mut f32) -> bool {
    let bytes = cols / 4;
    let mut at = 0;
    let mut both = _mm256_setzero_si256();
    let values = _mm256_setr_ps(0.0, scale, -scale, 0.0, 0.0, scale, -scale, 0.0);
    let s0 = _mm256_setr_epi32(6, 4, 2, 0, 14, 12, 10, 8);
    let s1 = _mm256_setr_epi32(22, 20, 18, 16, 30, 28, 26, 24);
    while at + 32 <= bytes {
        // SAFETY: in range
        unsafe {
            let x = _mm256_loadu_si256(src.add(at).cast());
            both = _mm256_or_si256(both, _mm256_and_si256(x, _mm256_srli_epi16::<1>(x)));
            for i in 0..8 {
                let x = _mm256_set1_epi32(src.add(at + 4 * i).cast::<i32>().read_unaligned());
                _mm256_storeu_ps(dst.add(4 * at + 16 * i), _mm256_permutevar_ps(values, _mm256_srlv_epi32(x, s0)));
                _mm256_storeu_ps(dst.add(4 * at + 16 * i + 8), _mm256_permutevar_ps(values, _mm256_srlv_epi32(x, s1)));
            }
        }
        at += 32;
    }
    let legal = _mm256_testz_si256(both, _mm256_set1_epi8(0x55)) != 0;
    // SAFETY: x
    legal & unsafe { (super::super::super::scalar::SCALAR.codec.decode_f32)(src.add(at), cols - 4 * at, scale, dst.add(4 * at)) }
}


/// One stage.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave(a: [__m256i; 16]) -> [__m256i; 16] {
    let lo = |x, y| _mm256_unpacklo_epi8(x, y);
    let hi = |x, y| _mm256_unpackhi_epi8(x, y);
    [lo(a[0], a[8]), hi(a[0], a[8]), lo(a[1], a[9]), hi(a[1], a[9]), lo(a[2], a[10]), hi(a[2], a[10]), lo(a[3], a[11]), hi(a[3], a[11]), lo(a[4], a[12]), hi(a[4], a[12]), lo(a[5], a[13]), hi(a[5], a[13]), lo(a[6], a[14]), hi(a[6], a[14]), lo(a[7], a[15]), hi(a[7], a[15])]
}

#[repr(C, align(64))]
struct Stage([[u8; BLOCK]; PANEL_ROWS]);

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
    let mut stage = Stage([[0; BLOCK]; PANEL_ROWS]);
    let mut at = 0;
    while at < bytes {
        let cols = (bytes - at).min(BLOCK);
        let mut row = src.wrapping_add(at);
        for line in &mut stage.0[..rows] {
            // SAFETY: x
            unsafe {
                if cols == BLOCK {
                    for o in (0..BLOCK).step_by(64) {
                    let a = _mm256_loadu_si256(row.add(o).cast());
                    let b = _mm256_loadu_si256(row.add(o + 32).cast());
                    if PREFETCH { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(BLOCK + o).cast()); }
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
                    // SAFETY: x
                    unsafe {
                        let low = _mm_load_si128(stage.0[i + 32 * half].as_ptr().add(c).cast());
                        let high = _mm_load_si128(stage.0[i + 32 * half + 16].as_ptr().add(c).cast());
                        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
                    }
                };
                let lines = interleave(interleave(interleave(interleave([
                    load(0), load(1), load(2), load(3), load(4), load(5), load(6), load(7),
                    load(8), load(9), load(10), load(11), load(12), load(13), load(14), load(15),
                ]))));
                let strips = dst.wrapping_add((at + c) * PANEL_ROWS + 32 * half);
                if c + 16 <= cols {
                    for (i, line) in lines.into_iter().enumerate() {
                        // SAFETY: x
                        unsafe { _mm256_storeu_si256(strips.add(i * PANEL_ROWS).cast(), line) };
                    }
                } else {
                    for (i, line) in lines.iter().enumerate().take(cols - c) {
                        // SAFETY: x
                        unsafe { _mm256_storeu_si256(strips.add(i * PANEL_ROWS).cast(), *line) };
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
