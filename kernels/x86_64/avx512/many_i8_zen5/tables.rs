//! The tables: for each token and step, the 27 sums of three activations, and five
//! words that no index selects.

use crate::kernels::contract::BuildCall;
use crate::kernels::contract::TOKENS_I8;
use crate::kernels::prefetch;
use crate::kernels::x86_64::avx512::many_i8_zen5::{STEPS, TOKENS, UNIT_STRIPS};
use crate::kernels::x86_64::avx512::tiles::Tiles;
use core::arch::x86_64::*;

/// `vpermw` indices that gather the term of activation `x` for each of 32 sums, whose
/// digit at `place` in base 3 says how it enters: the gathered vector holds the
/// activation at `x`, its negative at `16 + x` and zero at 12.
const fn terms(x: u16, place: u32) -> [u16; 32] {
    let mut indices = [12; 32];
    let mut sum = 0;
    while sum < 27 {
        indices[sum as usize] = match sum / 3_u32.pow(place) % 3 {
            1 => x,
            2 => 16 + x,
            _ => 12,
        };
        sum += 1;
    }
    indices
}

/// The terms of the three activations of a table.
#[repr(C, align(64))]
struct Indices32x16([[u16; 32]; 3]);

const fn indices([a, b, c]: [u16; 3]) -> Indices32x16 {
    Indices32x16([terms(a, 2), terms(b, 1), terms(c, 0)])
}

/// The tables of a unit: the low three codes of each byte, and the three high ones.
static INDICES: [Indices32x16; STEPS] = [
    indices([1, 2, 3]),
    indices([5, 6, 7]),
    indices([9, 10, 11]),
    indices([0, 4, 8]),
];

/// Builds the tables. See [`ManyKernel::build`](crate::kernels::contract::ManyKernel::build).
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline(never)]
pub(super) unsafe fn build(call: &BuildCall<i8>) {
    let mut rest = Rest {
        x: call.xt,
        len: 4 * call.strips,
        tables: call.tables.cast(),
    };
    for tokens in Tiles::<TOKENS>(call.tokens) {
        // SAFETY: the caller's preconditions for so many tokens more.
        unsafe {
            match tokens {
                TOKENS.. => tile::<TOKENS>(&mut rest),
                3 => tile::<3>(&mut rest),
                2 => tile::<2>(&mut rest),
                _ => tile::<1>(&mut rest),
            }
        }
    }
}

/// What is left to do, from the next tile of tokens on.
struct Rest {
    /// The activations, `len` of each token.
    x: *const i8,
    len: usize,
    tables: *mut __m512i,
}

/// Builds the tables of `T` tokens, those of each step side by side, and leaves the
/// tokens after them.
///
/// # Safety
/// Those of [`build`], for at least `T` tokens.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn tile<const T: usize>(rest: &mut Rest) {
    let mut tokens = [rest.x; T];
    for token in &mut tokens {
        *token = rest.x;
        rest.x = rest.x.wrapping_add(rest.len);
    }
    // The same tokens in the next chunk: the activations of many come from L3. Steps of
    // 12 bytes ask for a line five times, which costs less than to count them.
    let mut next = tokens[0].wrapping_add(TOKENS_I8 * rest.len);
    let mut left = rest.len;
    while left > 0 {
        let now = left.min(4 * UNIT_STRIPS);
        let mut values = [_mm512_setzero_si512(); T];
        for (values, token) in values.iter_mut().zip(&mut tokens) {
            prefetch::line(next);
            next = next.wrapping_add(4 * UNIT_STRIPS);
            // SAFETY: precondition 3: `left` more activations of each token.
            *values = unsafe { signed(*token, (1 << now) - 1) };
            *token = token.wrapping_add(now);
        }
        left -= now;
        for Indices32x16(indices) in &INDICES {
            let mut gather = [_mm512_setzero_si512(); 3];
            for (gather, indices) in gather.iter_mut().zip(indices) {
                // SAFETY: 32 words are 64 bytes.
                *gather = unsafe { _mm512_loadu_si512(indices.as_ptr().cast()) };
            }
            for &values in &values {
                let a = _mm512_permutexvar_epi16(gather[0], values);
                let b = _mm512_permutexvar_epi16(gather[1], values);
                let c = _mm512_permutexvar_epi16(gather[2], values);
                let table = _mm512_add_epi16(_mm512_add_epi16(a, b), c);
                // SAFETY: precondition 4: four tables a unit for each token.
                unsafe { rest.tables.write(table) };
                rest.tables = rest.tables.wrapping_add(1);
            }
        }
    }
}

/// The activations at `x` that `mask` has, at most 12, as words; then zeros up to word
/// 16, and then the same with the other sign.
///
/// # Safety
/// Precondition 1 of [`crate::kernels::contract`]; those are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn signed(x: *const i8, mask: __mmask16) -> __m512i {
    // SAFETY: the caller's word; what the mask leaves out is not read.
    let wide = _mm256_cvtepi8_epi16(unsafe { _mm_maskz_loadu_epi8(mask, x) });
    let negated = _mm256_sub_epi16(_mm256_setzero_si256(), wide);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(wide), negated)
}
