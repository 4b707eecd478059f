//! Many tokens, with 256-bit vectors: two vectors are one table entry, and
//! share its index. The algorithm is in [`crate::kernels::many`]; here
//! are its look-up of indices and its transpositions.
//!
//! The kernels of half the tokens have one vector an entry. A Zen 4
//! does two of their load-adds in the time of one of 512 bits, so they serve
//! AVX-512 as well: 16 int8 tokens in a tile of their own instead of one that is
//! half empty.

use crate::kernels::contract::{BuildCall, ENTRY, FinishCall, ManyCall, ManyKernel, PANEL_ROWS};
use crate::kernels::contract::{TOKENS_F32, TOKENS_I8};
use crate::kernels::generated::{NIBBLE_INDEX, NIBBLE_INDEX_HIGH};
use crate::kernels::many::{self, Expand, Quad};
use core::arch::x86_64::*;
use pulp::x86::V3;

/// Quads of strips per chunk: as with AVX-512.
const QUADS: usize = 3;

/// The int8 kernel.
pub static MANY_I8: ManyKernel<i8, i32> = ManyKernel::generic(
    "avx2-many_i8",
    [TOKENS_I8, ENTRY, 4 * QUADS],
    build_i8,
    [run_i8, run_scaled_i8],
    finish_i8,
    finish_f32,
);

/// The f32 kernel.
pub static MANY_F32: ManyKernel<f32, f32> = ManyKernel::generic(
    "avx2-many_f32",
    [TOKENS_F32, ENTRY, 4 * QUADS],
    build_f32,
    [run_f32, run_scaled_f32],
    finish_f32,
    finish_f32,
);

/// The int8 kernel for 16 tokens.
pub static MANY_I8_X16: ManyKernel<i8, i32> = ManyKernel::generic(
    "avx2-many_i8-x16",
    [TOKENS_I8 / 2, ENTRY / 2, 4 * QUADS],
    build_i8_x16,
    [run_i8_x16, run_scaled_i8_x16],
    finish_i8_x16,
    finish_f32_x8,
);

/// The f32 kernel for 8 tokens.
pub static MANY_F32_X8: ManyKernel<f32, f32> = ManyKernel::generic(
    "avx2-many_f32-x8",
    [TOKENS_F32 / 2, ENTRY / 2, 4 * QUADS],
    build_f32_x8,
    [run_f32_x8, run_scaled_f32_x8],
    finish_f32_x8,
    finish_f32_x8,
);

/// Two nibble look-ups, for entries of two vectors.
struct Wide;

impl Expand for Wide {
    type Word = u32;
    const PARTS: usize = 2;
    const ENTRY: usize = ENTRY;

    #[inline(always)]
    unsafe fn quad(panel: *const u8, quad: &mut Quad<u32>) {
        // SAFETY: precondition 1 of the contract; 256 readable bytes.
        unsafe { indices_of_quad(panel, quad) }
    }
}

/// The logarithm of the bytes of an entry of one vector.
const HALF_SHIFT: i32 = 5;

/// Two nibble look-ups, widened and scaled to the bytes of an entry of one vector.
struct HalfEntries;

impl Expand for HalfEntries {
    type Word = u64;
    const PARTS: usize = 2;
    const ENTRY: usize = 1 << HALF_SHIFT;

    #[inline(always)]
    unsafe fn quad(panel: *const u8, quad: &mut Quad<u64>) {
        // SAFETY: precondition 1 of the contract; 256 readable bytes.
        unsafe { offsets_of_quad(panel, quad) }
    }
}

/// Base-3 indices of half a strip.
#[inline]
#[target_feature(enable = "avx2")]
fn indices(bytes: __m256i) -> __m256i {
    let nibble = _mm256_set1_epi8(15);
    // SAFETY: the tables have 16 bytes.
    let table =
        |t: &[u8; 16]| _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(t.as_ptr().cast()) });
    let low = _mm256_and_si256(bytes, nibble);
    let high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
    _mm256_add_epi8(
        _mm256_shuffle_epi8(table(&NIBBLE_INDEX), low),
        _mm256_shuffle_epi8(table(&NIBBLE_INDEX_HIGH), high),
    )
}

/// Half of four strips: rows 0 to 31 or 32 to 63.
///
/// # Safety
/// `panel` has 256 readable bytes; `half` is below 2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn half_indices(panel: *const u8, half: usize) -> [__m256i; 4] {
    // SAFETY: the caller's word for four strips of two halves.
    unsafe {
        let strips = panel.cast::<__m256i>().add(half);
        [
            indices(strips.read_unaligned()),
            indices(strips.add(2).read_unaligned()),
            indices(strips.add(4).read_unaligned()),
            indices(strips.add(6).read_unaligned()),
        ]
    }
}

/// Writes a quad of indices: see [`many::Expand::quad`].
///
/// # Safety
/// `panel` has 256 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn indices_of_quad(panel: *const u8, quad: &mut Quad<u32>) {
    let mut to = quad.as_mut_ptr().cast::<__m256i>();
    for half in 0..2 {
        // SAFETY: as the caller's, `half` is below 2; a quad is eight vectors, four
        // for each half.
        unsafe {
            let [a, b, c, d] = half_indices(panel, half);
            let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            to.write(_mm256_unpacklo_epi16(ab, cd));
            to.add(1).write(_mm256_unpackhi_epi16(ab, cd));
            let (ab, cd) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            to.add(2).write(_mm256_unpacklo_epi16(ab, cd));
            to.add(3).write(_mm256_unpackhi_epi16(ab, cd));
            to = to.add(4);
        }
    }
}

/// Writes a quad of offsets: see [`many::Expand::quad`].
///
/// # Safety
/// `panel` has 256 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn offsets_of_quad(panel: *const u8, quad: &mut Quad<u64>) {
    let zero = _mm256_setzero_si256();
    let mut to = quad.as_mut_ptr().cast::<__m256i>();
    for half in 0..2 {
        // SAFETY: as the caller's; `half` is below 2.
        let index = unsafe { half_indices(panel, half) };
        for &high in &[false, true] {
            let mut w = index;
            for w in &mut w {
                let wide = if high {
                    _mm256_unpackhi_epi8(*w, zero)
                } else {
                    _mm256_unpacklo_epi8(*w, zero)
                };
                *w = _mm256_slli_epi16::<HALF_SHIFT>(wide);
            }
            let [a, b, c, d] = w;
            let (ab, cd) = (_mm256_unpacklo_epi16(a, b), _mm256_unpacklo_epi16(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi16(a, b), _mm256_unpackhi_epi16(c, d));
            // SAFETY: sixteen vectors of a quad, four for each half and part.
            unsafe {
                to.write(_mm256_unpacklo_epi32(ab, cd));
                to.add(1).write(_mm256_unpackhi_epi32(ab, cd));
                to.add(2).write(_mm256_unpacklo_epi32(ab_high, cd_high));
                to.add(3).write(_mm256_unpackhi_epi32(ab_high, cd_high));
                to = to.add(4);
            }
        }
    }
}

macro_rules! kernel {
    ($name:ident($($arg:ident: $type:ty),*), $body:expr) => {
        /// See [`ManyKernel`].
        ///
        /// # Safety
        /// Preconditions 1 to 8 of [`crate::kernels::contract`], as far as
        /// its field of [`ManyKernel`] names them.
        #[target_feature(enable = "sse3,ssse3,sse4.1,sse4.2,popcnt,avx,avx2,bmi1,bmi2,fma,lzcnt,fxsr")]
        #[inline(never)]
        unsafe fn $name($($arg: $type),*) {
            // SAFETY: precondition 1 proves the token; the rest is handed on.
            unsafe { $body(V3::new_unchecked(), $($arg),*) }
        }
    };
}
kernel!(build_i8(call: &BuildCall<i8>), many::build_i8::<V3, 2>);
kernel!(build_f32(call: &BuildCall<f32>), many::build_f32::<V3, 2>);
kernel!(run_i8(call: &ManyCall), many::run_i8::<V3, Wide, 2, QUADS>);
kernel!(run_scaled_i8(call: &ManyCall), many::run_scaled_i8::<V3, Wide, 2, QUADS>);
kernel!(run_f32(call: &ManyCall), many::run_f32::<V3, Wide, 2, QUADS>);
kernel!(run_scaled_f32(call: &ManyCall), many::run_scaled_f32::<V3, Wide, 2, QUADS>);
kernel!(build_i8_x16(call: &BuildCall<i8>), many::build_i8::<V3, 1>);
kernel!(build_f32_x8(call: &BuildCall<f32>), many::build_f32::<V3, 1>);
kernel!(run_i8_x16(call: &ManyCall), many::run_i8::<V3, HalfEntries, 1, QUADS>);
kernel!(run_scaled_i8_x16(call: &ManyCall), many::run_scaled_i8::<V3, HalfEntries, 1, QUADS>);
kernel!(run_f32_x8(call: &ManyCall), many::run_f32::<V3, HalfEntries, 1, QUADS>);
kernel!(run_scaled_f32_x8(call: &ManyCall), many::run_scaled_f32::<V3, HalfEntries, 1, QUADS>);

macro_rules! finish {
    ($name:ident, $acc:ty, $body:expr) => {
        /// See [`ManyKernel::finish`].
        ///
        /// # Safety
        /// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
        #[target_feature(enable = "avx2")]
        #[inline(never)]
        unsafe fn $name(call: &FinishCall<$acc>) {
            // SAFETY: handed on unchanged; the shift is that of the entry.
            unsafe { $body(call) }
        }
    };
}
finish!(finish_i8, i32, quarters::<Wide, 2>);
finish!(finish_i8_x16, i32, quarters::<HalfEntries, 1>);
finish!(finish_f32, f32, halves::<Wide, 1>);
finish!(finish_f32_x8, f32, halves::<HalfEntries, 0>);

/// `out[t][r] (+)= 256 * total[r][t] + acc[r][t]`, 8 rows at a time; an entry is
/// `1 << SHIFT` times 8 tokens.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn quarters<X: Expand, const SHIFT: u32>(call: &FinishCall<i32>) {
    let (acc, total) = (call.acc.cast::<__m128i>(), call.total.cast::<__m128i>());
    for first in (0..PANEL_ROWS).step_by(8) {
        let from = many::place::<X>(first);
        let mut out = call.out.wrapping_add(first);
        for quarter in 0..1 << SHIFT {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (r, row) in rows.iter_mut().enumerate() {
                // SAFETY: precondition 6: 64 rows of an entry.
                let (low, high) = unsafe {
                    let place = ((from + many::place::<X>(r)) << SHIFT) + quarter;
                    (*acc.add(place), *total.add(place))
                };
                let high = _mm256_slli_epi32(_mm256_cvtepi16_epi32(high), 8);
                *row = _mm256_add_epi32(high, _mm256_cvtepi16_epi32(low));
            }
            for &column in &transpose(rows) {
                // SAFETY: precondition 5: 64 elements for each token.
                unsafe {
                    let to = out.cast::<__m256i>();
                    let sum = if call.accumulate {
                        _mm256_add_epi32(column, to.read_unaligned())
                    } else {
                        column
                    };
                    to.write_unaligned(sum);
                }
                out = out.wrapping_add(call.out_stride);
            }
        }
    }
}

/// `out[t][r] (+)= total[r][t]`, 8 rows at a time; an entry is `1 << SHIFT`
/// times 8 tokens.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn halves<X: Expand, const SHIFT: u32>(call: &FinishCall<f32>) {
    let total = call.total.cast::<__m256i>();
    for first in (0..PANEL_ROWS).step_by(8) {
        let from = many::place::<X>(first);
        let mut out = call.out.wrapping_add(first);
        for half in 0..1 << SHIFT {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (r, row) in rows.iter_mut().enumerate() {
                // SAFETY: precondition 6: 64 rows of an entry.
                *row = unsafe {
                    let place = ((from + many::place::<X>(r)) << SHIFT) + half;
                    *total.add(place)
                };
            }
            for &column in &transpose(rows) {
                let column = _mm256_castsi256_ps(column);
                // SAFETY: precondition 5: 64 elements for each token.
                unsafe {
                    let sum = if call.accumulate {
                        _mm256_add_ps(column, _mm256_loadu_ps(out))
                    } else {
                        column
                    };
                    _mm256_storeu_ps(out, sum);
                }
                out = out.wrapping_add(call.out_stride);
            }
        }
    }
}

/// Transposes 8 x 8 values of 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    // 4 x 4 inside the 128-bit lanes: t[4 i + j] lane L holds, of rows
    // 4 i ..+ 4, column 4 L + j.
    let mut t = rows;
    for &i in &[0, 4] {
        let a = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        let b = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
        let c = _mm256_unpacklo_epi32(rows[i + 2], rows[i + 3]);
        let d = _mm256_unpackhi_epi32(rows[i + 2], rows[i + 3]);
        t[i] = _mm256_unpacklo_epi64(a, c);
        t[i + 1] = _mm256_unpackhi_epi64(a, c);
        t[i + 2] = _mm256_unpacklo_epi64(b, d);
        t[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    let mut columns = t;
    for j in 0..4 {
        columns[j] = _mm256_permute2x128_si256::<0x20>(t[j], t[4 + j]);
        columns[4 + j] = _mm256_permute2x128_si256::<0x31>(t[j], t[4 + j]);
    }
    columns
}
