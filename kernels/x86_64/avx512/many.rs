//! Many tokens, with 512-bit vectors: one vector is one table entry. The
//! algorithm is in [`crate::kernels::many`]; here are its look-up of
//! indices and its transpositions.

use crate::kernels::contract::{BuildCall, ENTRY, FinishCall, ManyCall, ManyKernel, PANEL_ROWS};
use crate::kernels::contract::{TOKENS_F32, TOKENS_I8};
use crate::kernels::generated::{NIBBLE_INDEX, NIBBLE_INDEX_HIGH};
use crate::kernels::many::{self, Expand, Quad};
use core::arch::x86_64::*;
use pulp::x86::V4;

/// Quads of strips per chunk. 12 tables of 5184 bytes come out of L2, which
/// the out-of-order window hides, and the accumulators are loaded and stored
/// once for 12 look-ups: 1.42 cycles a look-up on Zen 4 in the bare loop, where
/// 4 strips (all in L1) take 1.63 and 20 take 1.64.
const QUADS: usize = 3;

/// The int8 kernel.
pub static MANY_I8: ManyKernel<i8, i32> = ManyKernel::generic(
    "avx512-many_i8",
    [TOKENS_I8, ENTRY, 4 * QUADS],
    build_i8,
    [run_i8, run_scaled_i8],
    finish_i8,
    finish_f32,
);

/// The f32 kernel.
pub static MANY_F32: ManyKernel<f32, f32> = ManyKernel::generic(
    "avx512-many_f32",
    [TOKENS_F32, ENTRY, 4 * QUADS],
    build_f32,
    [run_f32, run_scaled_f32],
    finish_f32,
    finish_f32,
);

/// The int8 kernel for Intel's CPUs.
pub static MANY_I8_INTEL: ManyKernel<i8, i32> = ManyKernel::generic(
    "avx512-many_i8-intel",
    [TOKENS_I8, ENTRY, 4 * QUADS],
    build_i8,
    [run_i8_intel, run_scaled_i8_intel],
    finish_i8_intel,
    finish_f32_intel,
);

/// The f32 kernel for Intel's CPUs.
pub static MANY_F32_INTEL: ManyKernel<f32, f32> = ManyKernel::generic(
    "avx512-many_f32-intel",
    [TOKENS_F32, ENTRY, 4 * QUADS],
    build_f32,
    [run_f32_intel, run_scaled_f32_intel],
    finish_f32_intel,
    finish_f32_intel,
);

/// Two nibble look-ups.
struct Indices;

impl Expand for Indices {
    type Word = u32;
    const PARTS: usize = 4;
    const ENTRY: usize = ENTRY;

    #[inline(always)]
    unsafe fn quad(panel: *const u8, quad: &mut Quad<u32>) {
        // SAFETY: precondition 1 of the contract; 256 readable bytes.
        unsafe { indices_of_quad(panel, quad) }
    }
}

/// The logarithm of the bytes of an entry.
const ENTRY_SHIFT: u32 = ENTRY.trailing_zeros();

/// Two nibble look-ups, widened and scaled to the bytes of an entry: an operation less for each
/// look-up, and 16 more for the words of 256. On Intel's CPUs a look-up of the bare loop takes
/// 0.89 cycles instead of 1.10, and a product 0.96 of the time; on Zen 4 it takes 1.04 to 1.05.
struct Offsets;

impl Expand for Offsets {
    type Word = u64;
    const PARTS: usize = 4;
    const ENTRY: usize = ENTRY;

    #[inline(always)]
    unsafe fn quad(panel: *const u8, quad: &mut Quad<u64>) {
        // SAFETY: precondition 1 of the contract; 256 readable bytes.
        unsafe { offsets_of_quad(panel, quad) }
    }
}

/// Base-3 indices of one strip.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn indices(bytes: __m512i) -> __m512i {
    let nibble = _mm512_set1_epi8(15);
    // SAFETY: the tables have 16 bytes.
    let table =
        |t: &[u8; 16]| _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(t.as_ptr().cast()) });
    let low = _mm512_and_si512(bytes, nibble);
    let high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
    _mm512_add_epi8(
        _mm512_shuffle_epi8(table(&NIBBLE_INDEX), low),
        _mm512_shuffle_epi8(table(&NIBBLE_INDEX_HIGH), high),
    )
}

/// The indices of four strips, a row's four bytes side by side, in the order of a [`Quad`] of
/// words of 32 bits.
///
/// # Safety
/// `panel` has 256 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn interleaved_indices(panel: *const u8) -> [__m512i; 4] {
    // SAFETY: the caller's word for four strips.
    let [a, b, c, d] = unsafe {
        let strips = panel.cast::<__m512i>();
        [
            indices(strips.read_unaligned()),
            indices(strips.add(1).read_unaligned()),
            indices(strips.add(2).read_unaligned()),
            indices(strips.add(3).read_unaligned()),
        ]
    };
    let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(ab, cd),
        _mm512_unpackhi_epi16(ab, cd),
        _mm512_unpacklo_epi16(ab_high, cd_high),
        _mm512_unpackhi_epi16(ab_high, cd_high),
    ]
}

/// Writes a quad of indices: see [`many::Expand::quad`].
///
/// # Safety
/// `panel` has 256 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn indices_of_quad(panel: *const u8, quad: &mut Quad<u32>) {
    let to = quad.as_mut_ptr().cast::<[__m512i; 4]>();
    // SAFETY: the caller's word; a quad is four vectors.
    unsafe { to.write(interleaved_indices(panel)) };
}

/// Writes a quad of offsets: see [`many::Expand::quad`].
///
/// # Safety
/// `panel` has 256 readable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn offsets_of_quad(panel: *const u8, quad: &mut Quad<u64>) {
    let zero = _mm512_setzero_si512();
    let mut to = quad.as_mut_ptr().cast::<[__m512i; 2]>();
    // SAFETY: the caller's word.
    for &bytes in &unsafe { interleaved_indices(panel) } {
        let words = [
            _mm512_slli_epi16::<ENTRY_SHIFT>(_mm512_unpacklo_epi8(bytes, zero)),
            _mm512_slli_epi16::<ENTRY_SHIFT>(_mm512_unpackhi_epi8(bytes, zero)),
        ];
        // SAFETY: a quad is eight vectors.
        unsafe {
            to.write(words);
            to = to.add(1);
        }
    }
}

macro_rules! kernel {
    ($vis:vis $name:ident($($arg:ident: $type:ty),*), $body:expr) => {
        /// See [`ManyKernel`].
        ///
        /// # Safety
        /// Preconditions 1 to 8 of [`crate::kernels::contract`], as far as
        /// its field of [`ManyKernel`] names them.
        #[target_feature(enable = "sse3,ssse3,sse4.1,sse4.2,popcnt,avx,avx2,bmi1,bmi2,fma,lzcnt,fxsr,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
        #[inline(never)]
        $vis unsafe fn $name($($arg: $type),*) {
            // SAFETY: precondition 1 proves the token; the rest is handed on.
            unsafe { $body(V4::new_unchecked(), $($arg),*) }
        }
    };
}
kernel!(build_i8(call: &BuildCall<i8>), many::build_i8::<V4, 1>);
kernel!(build_f32(call: &BuildCall<f32>), many::build_f32::<V4, 1>);
kernel!(run_i8(call: &ManyCall), many::run_i8::<V4, Indices, 1, QUADS>);
kernel!(run_scaled_i8(call: &ManyCall), many::run_scaled_i8::<V4, Indices, 1, QUADS>);
kernel!(pub(super) run_f32(call: &ManyCall), many::run_f32::<V4, Indices, 1, QUADS>);
kernel!(run_scaled_f32(call: &ManyCall), many::run_scaled_f32::<V4, Indices, 1, QUADS>);
kernel!(run_i8_intel(call: &ManyCall), many::run_i8::<V4, Offsets, 1, QUADS>);
kernel!(run_scaled_i8_intel(call: &ManyCall), many::run_scaled_i8::<V4, Offsets, 1, QUADS>);
kernel!(run_f32_intel(call: &ManyCall), many::run_f32::<V4, Offsets, 1, QUADS>);
kernel!(run_scaled_f32_intel(call: &ManyCall), many::run_scaled_f32::<V4, Offsets, 1, QUADS>);

macro_rules! finish {
    ($name:ident, $acc:ty, $body:expr) => {
        /// See [`ManyKernel::finish`].
        ///
        /// # Safety
        /// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        #[inline(never)]
        unsafe fn $name(call: &FinishCall<$acc>) {
            // SAFETY: handed on unchanged.
            unsafe { $body(call) }
        }
    };
}
finish!(finish_i8, i32, sums_i8::<Indices>);
finish!(finish_f32, f32, sums_f32::<Indices>);
finish!(finish_i8_intel, i32, sums_i8::<Offsets>);
finish!(finish_f32_intel, f32, sums_f32::<Offsets>);

/// `out[t][r] (+)= 256 * total[r][t] + acc[r][t]`, 16 rows at a time.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
unsafe fn sums_i8<X: Expand>(call: &FinishCall<i32>) {
    let (acc, total) = (call.acc.cast::<__m512i>(), call.total.cast::<__m512i>());
    for first in (0..PANEL_ROWS).step_by(16) {
        let from = many::place::<X>(first);
        let (mut head, mut tail) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
        for (r, (head, tail)) in head.iter_mut().zip(&mut tail).enumerate() {
            // SAFETY: precondition 6: 64 rows of one vector.
            let (low, high) = unsafe {
                let place = from + many::place::<X>(r);
                (*acc.add(place), *total.add(place))
            };
            let half = |low: __m256i, high: __m256i| {
                let high = _mm512_slli_epi32(_mm512_cvtepi16_epi32(high), 8);
                _mm512_add_epi32(high, _mm512_cvtepi16_epi32(low))
            };
            *head = half(_mm512_castsi512_si256(low), _mm512_castsi512_si256(high));
            *tail = half(
                _mm512_extracti64x4_epi64::<1>(low),
                _mm512_extracti64x4_epi64::<1>(high),
            );
        }
        let mut out = call.out.wrapping_add(first);
        for &rows in &[head, tail] {
            for &column in &transpose(rows) {
                // SAFETY: precondition 5: 64 elements for each of 32 tokens.
                unsafe {
                    let to = out.cast::<__m512i>();
                    let sum = if call.accumulate {
                        _mm512_add_epi32(column, to.read_unaligned())
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

/// `out[t][r] (+)= total[r][t]`, 16 rows at a time.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
unsafe fn sums_f32<X: Expand>(call: &FinishCall<f32>) {
    let total = call.total.cast::<__m512i>();
    for first in (0..PANEL_ROWS).step_by(16) {
        let from = many::place::<X>(first);
        let mut rows = [_mm512_setzero_si512(); 16];
        for (r, row) in rows.iter_mut().enumerate() {
            // SAFETY: precondition 6: 64 rows of one vector.
            *row = unsafe { *total.add(from + many::place::<X>(r)) };
        }
        let mut out = call.out.wrapping_add(first);
        for &column in &transpose(rows) {
            let column = _mm512_castsi512_ps(column);
            // SAFETY: precondition 5: 64 elements for each of 16 tokens.
            unsafe {
                let sum = if call.accumulate {
                    _mm512_add_ps(column, _mm512_loadu_ps(out))
                } else {
                    column
                };
                _mm512_storeu_ps(out, sum);
            }
            out = out.wrapping_add(call.out_stride);
        }
    }
}

/// Transposes 16 x 16 values of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // 4 x 4 inside the 128-bit lanes: t[4 i + j] lane L holds, of rows
    // 4 i ..+ 4, column 4 L + j.
    let mut t = rows;
    for i in (0..16).step_by(4) {
        let a = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        let b = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        let c = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]);
        let d = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // 4 x 4 lanes: column 4 L + j gathers lane L of t[j], t[4 + j], ...
    let mut columns = t;
    for j in 0..4 {
        let a = _mm512_shuffle_i32x4::<0x44>(t[j], t[4 + j]);
        let b = _mm512_shuffle_i32x4::<0xee>(t[j], t[4 + j]);
        let c = _mm512_shuffle_i32x4::<0x44>(t[8 + j], t[12 + j]);
        let d = _mm512_shuffle_i32x4::<0xee>(t[8 + j], t[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0x88>(a, c);
        columns[4 + j] = _mm512_shuffle_i32x4::<0xdd>(a, c);
        columns[8 + j] = _mm512_shuffle_i32x4::<0x88>(b, d);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(b, d);
    }
    columns
}
