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

/// A row of Q2_0 (`BYTES` is 16) or PQ2_0 (32): blocks of four times as many weights;
/// `scales` has the f16 bits of each block.
pub(super) fn q2_0<const BYTES: usize>(packed: &[u8], scales: &[u16], out: &mut [u8]) {
    let blocks = packed
        .chunks_exact(BYTES)
        .zip(out.chunks_exact_mut(2 + BYTES));
    for ((packed, out), scale) in blocks.zip(scales) {
        out[..2].copy_from_slice(&scale.to_le_bytes());
        for (out, &packed) in out[2..].iter_mut().zip(packed) {
            let codes = EXPANDED[usize::from(packed)];
            *out = (codes | codes >> 6 | codes >> 12 | codes >> 18) as u8;
        }
    }
}

/// A row of PTQ1_0; `scales` has the f16 bits of each block.
pub(super) fn ptq1_0(packed: &[u8], scales: &[u16], out: &mut [u8]) {
    let blocks = packed.chunks_exact(32).zip(out.chunks_exact_mut(28));
    for ((packed, out), scale) in blocks.zip(scales) {
        trit_planes(&packed[..20], &mut out[..16]);
        trit_planes(&packed[20..30], &mut out[16..24]);
        // Weights of either byte take turns; the fifth digit is 0.
        let codes = [30, 31].map(|at| EXPANDED[usize::from(packed[at])].to_le_bytes());
        for (j, out) in out[24..26].iter_mut().enumerate() {
            let digits = [codes[0][j], codes[0][2 + j], codes[1][j], codes[1][2 + j]];
            let number = digits
                .into_iter()
                .fold(0, |number, digit| 3 * number + digit);
            *out = CEIL[usize::from(3 * number)];
        }
        out[26..].copy_from_slice(&scale.to_le_bytes());
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
