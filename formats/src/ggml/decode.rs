//! Rows of each format into rows of the interchange encoding.

use super::TernaryType;
use super::bits::{FIVE_TRITS, gather, interchange, next_trit, threes};
use half::f16;

/// Decodes a row of any type but I2_S, and its scales. False if a code is 3.
/// Lengths are those of the format for a multiple of its block.
pub(super) fn row(ty: TernaryType, bytes: &[u8], packed: &mut [u8], scales: &mut [f32]) -> bool {
    let (block_bytes, block) = (ty.block_bytes(), ty.block());
    let bytes = match ty {
        TernaryType::Iq2Bn => {
            let (scale, blocks) = bytes.split_at(4);
            scales[0] = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
            blocks
        }
        TernaryType::Iq1Bn => {
            let (scale, blocks) = bytes.split_at(2);
            scales[0] = half_at(scale, 0);
            blocks
        }
        _ => bytes,
    };
    let blocks = bytes
        .chunks_exact(block_bytes)
        .zip(packed.chunks_exact_mut(block / 4));
    let mut bad = 0;
    match ty {
        TernaryType::Tq1_0 => {
            for ((block, out), scale) in blocks.zip(scales) {
                tq1_0(block, out);
                *scale = half_at(block, 52);
            }
        }
        TernaryType::Tq2_0 => {
            for ((block, out), scale) in blocks.zip(scales) {
                bad |= planes::<8>(&block[..32], &mut out[..32], LOWEST_FIRST);
                bad |= planes::<8>(&block[32..64], &mut out[32..], LOWEST_FIRST);
                *scale = half_at(block, 64);
            }
        }
        TernaryType::Q2_0 | TernaryType::Pq2_0 => {
            for ((block, out), scale) in blocks.zip(scales) {
                *scale = half_at(block, 0);
                bad |= sequential(&block[2..], out);
            }
        }
        TernaryType::Ptq1_0 => {
            for ((block, out), scale) in blocks.zip(scales) {
                ptq1_0(block, out);
                *scale = half_at(block, 26);
            }
        }
        // Of three layouts: see `i2s`.
        TernaryType::I2S => unreachable!("I2_S has no rows of its own"),
        TernaryType::Iq2Bn => {
            for (block, out) in blocks {
                bad |= planes::<4>(block, out, LOWEST_FIRST);
            }
        }
        TernaryType::Iq1Bn => {
            for (block, out) in blocks {
                iq1_bn(block, out);
            }
        }
    }
    bad == 0
}

/// The code of one weight of a row as stored, 3 if it is none.
pub(super) fn code(ty: TernaryType, bytes: &[u8], col: usize) -> u8 {
    let at = col % ty.block();
    let block = &bytes[ty.row_header() + col / ty.block() * ty.block_bytes()..];
    let (byte, shift) = match ty {
        TernaryType::Tq2_0 => (at / 128 * 32 + at % 32, at % 128 / 32 * 2),
        TernaryType::Q2_0 | TernaryType::Pq2_0 => (2 + at / 4, at % 4 * 2),
        TernaryType::Iq2Bn => (at % 16, at / 16 * 2),
        // Every byte is five trits, or there are no rows.
        TernaryType::Tq1_0 | TernaryType::Ptq1_0 | TernaryType::Iq1Bn | TernaryType::I2S => {
            return 0;
        }
    };
    (block[byte] >> shift) & 3
}

const LOWEST_FIRST: [u32; 4] = [0, 2, 4, 6];

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// `4 * WORDS` bytes of four planes each; not zero if a code is 3.
pub(super) fn planes<const WORDS: usize>(bytes: &[u8], out: &mut [u8], shifts: [u32; 4]) -> u32 {
    let mut words = [0; WORDS];
    let mut bad = 0;
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        let codes = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bad |= threes(codes);
        *word = interchange(codes);
    }
    for (out, shift) in out.chunks_exact_mut(WORDS).zip(shifts) {
        for (out, &word) in out.iter_mut().zip(&words) {
            *out = gather(word, shift);
        }
    }
    bad
}

/// Four consecutive weights a byte, the first in the lowest bits.
fn sequential(bytes: &[u8], out: &mut [u8]) -> u32 {
    let mut bad = 0;
    for (out, &byte) in out.iter_mut().zip(bytes) {
        bad |= threes(byte.into());
        let codes = interchange(byte.into()) as u8;
        let pairs = codes.rotate_left(4);
        *out = ((pairs & 0x33) << 2) | ((pairs >> 2) & 0x33);
    }
    bad
}

/// 48 bytes of five planes, in runs of 32 and 16, then 4 bytes of four planes.
fn tq1_0(block: &[u8], out: &mut [u8]) {
    trit_planes::<32>(&block[..32], &mut out[..40]);
    trit_planes::<16>(&block[32..48], &mut out[40..60]);
    trit_planes::<4>(&block[48..52], &mut out[60..]);
}

/// 24 bytes of five planes, in runs of 16 and 8, then 2 bytes of four planes.
fn ptq1_0(block: &[u8], out: &mut [u8]) {
    trit_planes::<16>(&block[..16], &mut out[..20]);
    trit_planes::<8>(&block[16..24], &mut out[20..30]);
    let [mut even, mut odd] = [block[24], block[25]];
    for out in &mut out[30..] {
        let mut word = [0; 4];
        for pair in word.chunks_exact_mut(2) {
            (pair[0], pair[1]) = (next_trit(&mut even), next_trit(&mut odd));
        }
        *out = gather(interchange(u32::from_be_bytes(word)), 0);
    }
}

fn trit_planes<const BYTES: usize>(bytes: &[u8], out: &mut [u8]) {
    let mut rest = [0; BYTES];
    rest.copy_from_slice(bytes);
    let mut codes = [0; BYTES];
    for out in out.chunks_exact_mut(BYTES / 4) {
        for (code, rest) in codes.iter_mut().zip(&mut rest) {
            *code = next_trit(rest);
        }
        for (out, code) in out.iter_mut().zip(codes.chunks_exact(4)) {
            let word = u32::from_be_bytes([code[0], code[1], code[2], code[3]]);
            *out = gather(interchange(word), 0);
        }
    }
}

/// Sixteen weights are three bytes of five and a digit of the last byte.
fn iq1_bn(block: &[u8], out: &mut [u8]) {
    let five = |byte: u8| u32::from(FIVE_TRITS[usize::from(byte)]);
    let extra = five(block[12]);
    for (i, (ql, out)) in (block.chunks_exact(3).take(4))
        .zip(out.chunks_exact_mut(4))
        .enumerate()
    {
        let last = (extra >> (8 - 2 * i)) & 3;
        let weights = five(ql[0]) << 22 | five(ql[1]) << 12 | five(ql[2]) << 2 | last;
        out.copy_from_slice(&weights.to_be_bytes());
    }
}
