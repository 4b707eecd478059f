//! The tables: for each token and step, 64 sums of three activations, in the order
//! of the codes.

use super::super::super::super::column::LANES_I8;
use super::super::super::super::contract::BuildCall;
use super::{Pair, STEPS, Tiles, UNIT_BYTES, UNIT_SHIFT, UNITS_OF};
use core::arch::x86_64::*;

/// `vpermw` indices that gather the term of `weight` for each of 32 words, of which
/// word i has the code `codes[(i >> shift) % codes.len()]`: the gathered vector holds
/// `x` at `weight`, `-x` at `16 + weight` and zero at 12.
const fn terms(weight: u16, codes: &[u16], shift: u32) -> [u16; 32] {
    let mut indices = [0; 32];
    let mut word = 0;
    while word < 32 {
        indices[word] = match codes[(word >> shift) % codes.len()] {
            1 => weight,
            2 => 16 + weight,
            _ => 12,
        };
        word += 1;
    }
    indices
}

/// For a table of weights a, b and c: the terms of c and of b in either half of it,
/// and those of a in the first and in the second half.
#[repr(C, align(64))]
struct Indices([[u16; 32]; 4]);

const fn indices([a, b, c]: [u16; 3]) -> Indices {
    Indices([
        terms(c, &[0, 1, 2, 3], 0),
        terms(b, &[0, 1, 2, 3], 2),
        terms(a, &[0, 1], 4),
        terms(a, &[2, 3], 4),
    ])
}

/// The tables of a unit: the low three codes of each byte, and the three high ones.
static INDICES: [Indices; STEPS] = [
    indices([1, 2, 3]),
    indices([5, 6, 7]),
    indices([9, 10, 11]),
    indices([0, 4, 8]),
];

/// Builds the tables. See [`ColumnKernel::build`](super::ColumnKernel::build).
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`super::super::super::super::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline(never)]
pub(super) unsafe fn build(call: &BuildCall<i8>) {
    let units = usize::from(UNITS_OF[call.bytes]);
    // Where each token's next table goes, and how far the one after it is: those of
    // tokens in one tile take turns.
    let mut at = [(call.tables.cast::<Pair>(), 0); LANES_I8];
    let (mut tables, mut left) = (call.tables, call.tokens);
    for tile in Tiles(call.tokens) {
        for i in 0..tile {
            at[call.tokens - left] = (tables.cast::<Pair>().wrapping_add(i), tile);
            left -= 1;
        }
        for _ in 0..tile {
            // Opaque, or the compiler multiplies.
            tables = core::hint::black_box(tables.wrapping_add(units << UNIT_SHIFT));
        }
    }
    let mut x = call.xt.cast::<__m256i>();
    let mut left = 4 * call.bytes;
    for _ in 0..units {
        let mut rows = [_mm256_setzero_si256(); 16];
        for row in rows.iter_mut().take(left.min(4 * UNIT_BYTES)) {
            // SAFETY: precondition 3: a row has 32 tokens.
            unsafe {
                *row = x.read_unaligned();
                x = x.add(1);
            }
        }
        left = left.saturating_sub(4 * UNIT_BYTES);
        let values = signed(transpose(rows));
        for Indices(indices) in &INDICES {
            let mut gather = [_mm512_setzero_si512(); 4];
            for (gather, indices) in gather.iter_mut().zip(indices) {
                // SAFETY: 32 words are 64 bytes.
                *gather = unsafe { _mm512_loadu_si512(indices.as_ptr().cast()) };
            }
            let [c, b, a, high_a] = gather;
            for ((table, step), &values) in at.iter_mut().zip(&values).take(call.tokens) {
                let low = _mm512_add_epi16(
                    _mm512_permutexvar_epi16(b, values),
                    _mm512_permutexvar_epi16(c, values),
                );
                let first = _mm512_permutexvar_epi16(a, values);
                let second = _mm512_permutexvar_epi16(high_a, values);
                // SAFETY: precondition 4: four tables a unit for each token.
                unsafe {
                    table.write([_mm512_add_epi16(low, first), _mm512_add_epi16(low, second)]);
                }
                *table = table.wrapping_add(*step);
            }
        }
    }
}

/// The 12 activations of each of 32 tokens as words, then four zeros, then the same
/// with the other sign.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn signed(tokens: [__m256i; 16]) -> [__m512i; LANES_I8] {
    let signed = |x| {
        let wide = _mm256_cvtepi8_epi16(x);
        let negated = _mm256_sub_epi16(_mm256_setzero_si256(), wide);
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(wide), negated)
    };
    let mut values = [_mm512_setzero_si512(); LANES_I8];
    for (t, both) in tokens.into_iter().enumerate() {
        values[t] = signed(_mm256_castsi256_si128(both));
        values[16 + t] = signed(_mm256_extracti128_si256::<1>(both));
    }
    values
}

/// Transposes 16 rows of 32 bytes: vector t has token t in its low half and token
/// 16 + t in its high one, 16 values each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn transpose(mut rows: [__m256i; 16]) -> [__m256i; 16] {
    // Four perfect shuffles of the rows' bytes, in both lanes.
    for _ in 0..4 {
        let from = rows;
        for i in 0..8 {
            rows[2 * i] = _mm256_unpacklo_epi8(from[i], from[i + 8]);
            rows[2 * i + 1] = _mm256_unpackhi_epi8(from[i], from[i + 8]);
        }
    }
    rows
}
