//! Packed rows to the panels of the transposed matrix.

use crate::kernels::contract::PANEL_ROWS;
use multiversion::multiversion;

/// Packed bytes of one row that hold a panel's 64 columns.
const PANEL_BYTES: usize = PANEL_ROWS / 4;

/// Fills the panel of the transposed matrix whose rows are columns
/// `4 * first_byte ..` of the packed rows `[rows][row_bytes]`: strip s takes
/// rows `4 s .. 4 s + 4`. What lies beyond the rows or columns becomes 0.
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
