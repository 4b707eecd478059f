//! Column lanes with 256-bit vectors: two vectors are one table entry, and
//! share its index. The algorithm is in [`super::super::super::column`]; here
//! are its look-up of indices and its transpositions.
//!
//! The narrow kernels have one vector an entry, for half as many tokens. A Zen 4
//! does two of their load-adds in the time of one of 512 bits, so they serve
//! AVX-512 as well: 16 int8 tokens in a tile of their own instead of one that is
//! half empty.

use super::super::super::column::{self, Expand, LANES_F32, LANES_I8, Quad};
use super::super::super::contract::{ColumnCall, ColumnKernel, FinishCall, PANEL_ROWS};
use super::super::super::generated::{NIBBLE_INDEX, NIBBLE_INDEX_HIGH};
use core::arch::x86_64::*;
use pulp::x86::V3;

/// Quads of strips per chunk: as with AVX-512.
const QUADS: usize = 3;

/// The int8 kernel.
pub static COLUMN_I8: ColumnKernel<i8, i32> = ColumnKernel {
    name: "avx2-i8-column",
    lanes: LANES_I8,
    entry_bytes: column::ENTRY,
    chunk_bytes: 4 * QUADS,
    build: build_i8,
    run: run_i8,
    finish: finish_i8,
    symbols: &[
        "avx2::column::build_i8",
        "avx2::column::run_i8",
        "avx2::column::finish_i8",
    ],
};

/// The f32 kernel.
pub static COLUMN_F32: ColumnKernel<f32, f32> = ColumnKernel {
    name: "avx2-f32-column",
    lanes: LANES_F32,
    entry_bytes: column::ENTRY,
    chunk_bytes: 4 * QUADS,
    build: build_f32,
    run: run_f32,
    finish: finish_f32,
    symbols: &[
        "avx2::column::build_f32",
        "avx2::column::run_f32",
        "avx2::column::finish_f32",
    ],
};

/// The int8 kernel for 16 tokens.
pub static NARROW_I8: ColumnKernel<i8, i32> = ColumnKernel {
    name: "avx2-i8-narrow",
    lanes: LANES_I8 / 2,
    entry_bytes: column::ENTRY / 2,
    chunk_bytes: 4 * QUADS,
    build: build_narrow_i8,
    run: run_narrow_i8,
    finish: finish_narrow_i8,
    symbols: &[
        "avx2::column::build_narrow_i8",
        "avx2::column::run_narrow_i8",
        "avx2::column::finish_narrow_i8",
    ],
};

/// The f32 kernel for 8 tokens.
pub static NARROW_F32: ColumnKernel<f32, f32> = ColumnKernel {
    name: "avx2-f32-narrow",
    lanes: LANES_F32 / 2,
    entry_bytes: column::ENTRY / 2,
    chunk_bytes: 4 * QUADS,
    build: build_narrow_f32,
    run: run_narrow_f32,
    finish: finish_narrow_f32,
    symbols: &[
        "avx2::column::build_narrow_f32",
        "avx2::column::run_narrow_f32",
        "avx2::column::finish_narrow_f32",
    ],
};

/// Two nibble look-ups, widened and scaled to entries of `1 << SHIFT` bytes.
struct ByShuffle<const SHIFT: i32>;

type Wide = ByShuffle<6>;
type Narrow = ByShuffle<5>;

impl<const SHIFT: i32> Expand for ByShuffle<SHIFT> {
    const LANES: usize = 2;
    const ENTRY: usize = 1 << SHIFT;

    #[inline(always)]
    unsafe fn quad(panel: *const u8, quad: &mut Quad) {
        // SAFETY: precondition 1 of the contract; 256 readable bytes.
        unsafe { quad_avx2::<SHIFT>(panel, quad) }
    }

    #[inline(always)]
    fn prefetch(panel: *const u8) {
        // SAFETY: every x86-64 CPU has SSE; a prefetch touches no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(panel.cast()) }
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

/// # Safety
/// `panel` has 256 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn quad_avx2<const SHIFT: i32>(panel: *const u8, quad: &mut Quad) {
    let zero = _mm256_setzero_si256();
    let mut to = quad.as_mut_ptr().cast::<__m256i>();
    for half in 0..2 {
        // SAFETY: the caller's word for four strips of two halves.
        let index = unsafe {
            let strips = panel.cast::<__m256i>().add(half);
            [0, 2, 4, 6].map(|i| indices(strips.add(i).read_unaligned()))
        };
        let mut rows = |w: [__m256i; 4]| {
            let w = w.map(|w| _mm256_slli_epi16::<SHIFT>(w));
            for (a, b) in [
                (
                    _mm256_unpacklo_epi16(w[0], w[1]),
                    _mm256_unpacklo_epi16(w[2], w[3]),
                ),
                (
                    _mm256_unpackhi_epi16(w[0], w[1]),
                    _mm256_unpackhi_epi16(w[2], w[3]),
                ),
            ] {
                // SAFETY: sixteen vectors of a quad, four in each of four calls.
                unsafe {
                    to.write(_mm256_unpacklo_epi32(a, b));
                    to.add(1).write(_mm256_unpackhi_epi32(a, b));
                    to = to.add(2);
                }
            }
        };
        rows(index.map(|i| _mm256_unpacklo_epi8(i, zero)));
        rows(index.map(|i| _mm256_unpackhi_epi8(i, zero)));
    }
}

macro_rules! kernel {
    ($name:ident($($arg:ident: $type:ty),*), $body:expr) => {
        /// See [`ColumnKernel`].
        ///
        /// # Safety
        /// Preconditions 1 to 8 of [`super::super::super::contract`], as far as
        /// its field of [`ColumnKernel`] names them.
        #[target_feature(enable = "sse3,ssse3,sse4.1,sse4.2,popcnt,avx,avx2,bmi1,bmi2,fma,lzcnt,fxsr")]
        #[inline(never)]
        unsafe fn $name($($arg: $type),*) {
            // SAFETY: precondition 1 proves the token; the rest is handed on.
            unsafe { $body(V3::new_unchecked(), $($arg),*) }
        }
    };
}
kernel!(build_i8(xt: *const i8, bytes: usize, tables: *mut u8), column::build_i8::<V3, 2>);
kernel!(build_f32(xt: *const f32, bytes: usize, tables: *mut u8), column::build_f32::<V3, 2>);
kernel!(run_i8(call: &ColumnCall), column::run_i8::<V3, Wide, 2, QUADS>);
kernel!(run_f32(call: &ColumnCall), column::run_f32::<V3, Wide, 2, QUADS>);
kernel!(build_narrow_i8(xt: *const i8, bytes: usize, tables: *mut u8), column::build_i8::<V3, 1>);
kernel!(build_narrow_f32(xt: *const f32, bytes: usize, tables: *mut u8), column::build_f32::<V3, 1>);
kernel!(run_narrow_i8(call: &ColumnCall), column::run_i8::<V3, Narrow, 1, QUADS>);
kernel!(run_narrow_f32(call: &ColumnCall), column::run_f32::<V3, Narrow, 1, QUADS>);

macro_rules! finish {
    ($name:ident, $acc:ty, $body:expr) => {
        /// See [`ColumnKernel::finish`].
        ///
        /// # Safety
        /// Preconditions 1, 5, 6 and 7 of [`super::super::super::contract`].
        #[target_feature(enable = "avx2")]
        #[inline(never)]
        unsafe fn $name(call: &FinishCall<$acc>) {
            // SAFETY: handed on unchanged; the shift is that of the entry.
            unsafe { $body(call) }
        }
    };
}
finish!(finish_i8, i32, quarters::<2>);
finish!(finish_narrow_i8, i32, quarters::<1>);
finish!(finish_f32, f32, halves::<1>);
finish!(finish_narrow_f32, f32, halves::<0>);

/// `out[t][r] (+)= 256 * total[r][t] + acc[r][t]`, 8 rows at a time; an entry is
/// `1 << SHIFT` times 8 tokens.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`super::super::super::contract`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn quarters<const SHIFT: u32>(call: &FinishCall<i32>) {
    let (acc, total) = (call.acc.cast::<__m128i>(), call.total.cast::<__m128i>());
    for first in (0..PANEL_ROWS).step_by(8) {
        let mut out = call.out.wrapping_add(first);
        for quarter in 0..1 << SHIFT {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (r, row) in rows.iter_mut().enumerate() {
                // SAFETY: precondition 6: 64 rows of an entry.
                let (low, high) = unsafe {
                    let at = ((first + r) << SHIFT) + quarter;
                    (*acc.add(at), *total.add(at))
                };
                let high = _mm256_slli_epi32(_mm256_cvtepi16_epi32(high), 8);
                *row = _mm256_add_epi32(high, _mm256_cvtepi16_epi32(low));
            }
            for column in transpose(rows) {
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
                // Opaque, or the compiler multiplies the stride to check aliasing.
                out = core::hint::black_box(out.wrapping_add(call.out_stride));
            }
        }
    }
}

/// `out[t][r] (+)= total[r][t]`, 8 rows at a time; an entry is `1 << SHIFT`
/// times 8 tokens.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`super::super::super::contract`].
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn halves<const SHIFT: u32>(call: &FinishCall<f32>) {
    let total = call.total.cast::<__m256i>();
    for first in (0..PANEL_ROWS).step_by(8) {
        let mut out = call.out.wrapping_add(first);
        for half in 0..1 << SHIFT {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (r, row) in rows.iter_mut().enumerate() {
                // SAFETY: precondition 6: 64 rows of an entry.
                *row = unsafe { *total.add(((first + r) << SHIFT) + half) };
            }
            for column in transpose(rows) {
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
                // Opaque, or the compiler multiplies the stride to check aliasing.
                out = core::hint::black_box(out.wrapping_add(call.out_stride));
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
    for i in [0, 4] {
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
