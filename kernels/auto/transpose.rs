//! Transpositions: squares of activations, and packed rows to the panels of the
//! transposed matrix.

#[cfg(feature = "train")]
use crate::kernels::contract::PANEL_ROWS;
#[cfg(feature = "train")]
use multiversion::multiversion;

/// Rows and columns of a square.
pub const SQUARE: usize = 8;

/// A square of bytes, transposed: `[j][i]` becomes `[i][j]`. Three rounds interleave rows,
/// then pairs of bytes, then fours.
#[cfg(kernels = "x86_64")]
#[inline]
pub fn square_i8(rows: [[i8; SQUARE]; SQUARE]) -> [[i8; SQUARE]; SQUARE] {
    use core::arch::x86_64::*;
    // SAFETY: every x86-64 CPU has SSE2.
    let columns = unsafe {
        let rows = rows.map(|row| _mm_cvtsi64_si128(bytemuck::cast(row)));
        let pair = |i: usize| _mm_unpacklo_epi8(rows[i], rows[i + 1]);
        let (ab, cd, ef, gh) = (pair(0), pair(2), pair(4), pair(6));
        let (left, right) = (_mm_unpacklo_epi16(ab, cd), _mm_unpackhi_epi16(ab, cd));
        let (left_below, right_below) = (_mm_unpacklo_epi16(ef, gh), _mm_unpackhi_epi16(ef, gh));
        [
            _mm_unpacklo_epi32(left, left_below),
            _mm_unpackhi_epi32(left, left_below),
            _mm_unpacklo_epi32(right, right_below),
            _mm_unpackhi_epi32(right, right_below),
        ]
    };
    bytemuck::cast(columns)
}

/// A square of bytes, transposed: `[j][i]` becomes `[i][j]`.
///
/// A row is one word, its first byte the lowest. Three rounds exchange the two
/// quarters that lie on the wrong side of the diagonal: 4 x 4 bytes, then 2 x 2
/// in each quarter, then single ones.
#[cfg(not(kernels = "x86_64"))]
#[inline]
pub fn square_i8(rows: [[i8; SQUARE]; SQUARE]) -> [[i8; SQUARE]; SQUARE] {
    let mut words: [u64; SQUARE] = bytemuck::cast(rows);
    for word in &mut words {
        *word = u64::from_le(*word);
    }
    let mut exchange = |pairs: [(usize, usize); 4], shift: u32, low: u64| {
        for (upper, lower) in pairs {
            let exchanged = (words[upper] >> shift ^ words[lower]) & low;
            words[upper] ^= exchanged << shift;
            words[lower] ^= exchanged;
        }
    };
    exchange([(0, 4), (1, 5), (2, 6), (3, 7)], 32, 0x0000_0000_ffff_ffff);
    exchange([(0, 2), (1, 3), (4, 6), (5, 7)], 16, 0x0000_ffff_0000_ffff);
    exchange([(0, 1), (2, 3), (4, 5), (6, 7)], 8, 0x00ff_00ff_00ff_00ff);
    for word in &mut words {
        *word = word.to_le();
    }
    bytemuck::cast(words)
}

/// A square of f32, transposed: its quarters one by one, each to the other side of
/// the diagonal.
#[inline]
pub fn square_f32(rows: [[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
    let mut columns = [[0.0; SQUARE]; SQUARE];
    for top in [0, 4] {
        for left in [0, 4] {
            let mut quarter = [[0.0; 4]; 4];
            for (to, from) in quarter.iter_mut().zip(&rows[top..]) {
                to.copy_from_slice(&from[left..left + 4]);
            }
            for (to, from) in columns[left..].iter_mut().zip(quarter_transposed(quarter)) {
                to[top..top + 4].copy_from_slice(&from);
            }
        }
    }
    columns
}

/// 4 x 4 values, transposed. Left to the compiler they go through the stack one by
/// one: 4 % of a product with 512 tokens.
#[cfg(kernels = "x86_64")]
#[inline]
fn quarter_transposed(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use core::arch::x86_64::*;
    let [a, b, c, d]: [__m128; 4] = bytemuck::cast(rows);
    // SAFETY: every x86-64 CPU has SSE.
    let columns = unsafe {
        let (ab, cd) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        let (first, second) = (_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
        let (ab, cd) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        [first, second, _mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)]
    };
    bytemuck::cast(columns)
}

#[cfg(not(kernels = "x86_64"))]
#[inline]
fn quarter_transposed(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    core::array::from_fn(|i| core::array::from_fn(|j| rows[j][i]))
}

/// Packed bytes of one row that hold a panel's 64 columns.
#[cfg(feature = "train")]
const PANEL_BYTES: usize = PANEL_ROWS / 4;

/// Fills the panel of the transposed matrix whose rows are columns
/// `4 * first_byte ..` of the packed rows `[rows][row_bytes]`: strip s takes
/// rows `4 s .. 4 s + 4`. What lies beyond the rows or columns becomes 0.
#[cfg(feature = "train")]
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn transposed_panel(packed: &[u8], row_bytes: usize, first_byte: usize, panel: &mut [u8]) {
    let rows = packed.len().checked_div(row_bytes).unwrap_or(0);
    let (strips, _) = panel.as_chunks_mut::<PANEL_ROWS>();
    for (s, strip) in strips.iter_mut().enumerate() {
        let mut bytes = [[0_u8; PANEL_BYTES]; 4];
        for (i, bytes) in bytes.iter_mut().enumerate() {
            let row = 4 * s + i;
            if row < rows {
                let row = &packed[row * row_bytes..][..row_bytes];
                let part = &row[first_byte..row_bytes.min(first_byte + PANEL_BYTES)];
                match part.try_into() {
                    Ok(whole) => *bytes = whole,
                    Err(_) => bytes[..part.len()].copy_from_slice(part),
                }
            }
        }
        let [a, b, c, d] = bytes;
        for i in 0..PANEL_BYTES {
            for j in 0..4 {
                // The code of column 4 i + j in each of the four rows.
                let code = |byte: u8| byte >> (6 - 2 * j) & 0b11;
                strip[4 * i + j] = code(a[i]) << 6 | code(b[i]) << 4 | code(c[i]) << 2 | code(d[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SQUARE, square_f32, square_i8};

    #[test]
    fn squares_are_transposed() {
        let value = |i: usize, j: usize| (31 * i + j) as u8 as i8;
        let rows = core::array::from_fn(|i| core::array::from_fn(|j| value(i, j)));
        let floats = rows.map(|row: [i8; SQUARE]| row.map(f32::from));
        for (i, (row, float)) in square_i8(rows).iter().zip(square_f32(floats)).enumerate() {
            for j in 0..SQUARE {
                assert_eq!((row[j], float[j]), (value(j, i), f32::from(value(j, i))));
            }
        }
    }
}
