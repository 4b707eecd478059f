//! Rows of the interchange encoding into rows of the formats that are written.

use super::bits::{EXPANDED, trit_byte};

const CEIL: [u8; 256] = {
    let mut table = [0; 256];
    let mut q = 0;
    while q < 243 {
        table[q] = trit_byte(q as u8);
        q += 1;
    }
    table
};

/// A row of TQ2_0; `scales` has the f16 bits of each block.
pub(super) fn tq2_0(packed: &[u8], scales: &[u16], out: &mut [u8]) {
    let blocks = packed.chunks_exact(64).zip(out.chunks_exact_mut(66));
    for ((packed, out), scale) in blocks.zip(scales) {
        for (packed, out) in packed.chunks_exact(32).zip(out[..64].chunks_exact_mut(32)) {
            for (i, out) in out.chunks_exact_mut(4).enumerate() {
                let plane = |n: usize| EXPANDED[usize::from(packed[8 * n + i])] << (2 * n);
                let word = plane(0) | plane(1) | plane(2) | plane(3);
                out.copy_from_slice(&word.to_le_bytes());
            }
        }
        out[64..].copy_from_slice(&scale.to_le_bytes());
    }
}

/// A row of TQ1_0; `scales` has the f16 bits of each block.
pub(super) fn tq1_0(packed: &[u8], scales: &[u16], out: &mut [u8]) {
    let blocks = packed.chunks_exact(64).zip(out.chunks_exact_mut(54));
    for ((packed, out), scale) in blocks.zip(scales) {
        trit_planes(&packed[..40], &mut out[..32]);
        trit_planes(&packed[40..60], &mut out[32..48]);
        trit_planes(&packed[60..], &mut out[48..52]);
        out[52..].copy_from_slice(&scale.to_le_bytes());
    }
}

/// The digits of each byte of `out` lie `out.len()` weights apart, the first one
/// most significant; where there are fewer than five the last ones are 0.
fn trit_planes(packed: &[u8], out: &mut [u8]) {
    let words = out.len() / 4;
    for (i, out) in out.chunks_exact_mut(4).enumerate() {
        // Four base-3 numbers side by side: none exceeds 242.
        let mut numbers = 0;
        for n in 0..5 {
            let digits = packed.get(words * n + i);
            numbers = numbers * 3 + digits.map_or(0, |&byte| EXPANDED[usize::from(byte)]);
        }
        for (out, number) in out.iter_mut().zip(numbers.to_le_bytes()) {
            *out = CEIL[usize::from(number)];
        }
    }
}
