//! ggml's ternary types by definition, one weight at a time.

use half::f16;
use tritgemm_formats::ggml::TernaryType;

/// Digit `n` of a byte of base-3 digits, the most significant one first.
fn digit(byte: u8, n: usize) -> u8 {
    let shifted = (u32::from(byte) * 3u32.pow(n as u32)) as u8;
    ((u32::from(shifted) * 3) >> 8) as u8
}

/// Code 0, 1, 2 (or 3, which is none) of a weight of a block without its scale.
fn code(ty: TernaryType, block: &[u8], at: usize) -> u8 {
    match ty {
        TernaryType::Tq1_0 if at < 160 => digit(block[at % 32], at / 32),
        TernaryType::Tq1_0 if at < 240 => digit(block[32 + at % 16], (at - 160) / 16),
        TernaryType::Tq1_0 => digit(block[48 + at % 4], (at - 240) / 4),
        TernaryType::Tq2_0 => block[at / 128 * 32 + at % 32] >> (at / 32 % 4 * 2) & 3,
        TernaryType::Q2_0 | TernaryType::Pq2_0 => block[2 + at / 4] >> (at % 4 * 2) & 3,
        TernaryType::Ptq1_0 if at < 80 => digit(block[at % 16], at / 16),
        TernaryType::Ptq1_0 if at < 120 => digit(block[16 + at % 8], (at - 80) / 8),
        TernaryType::Ptq1_0 => digit(block[24 + at % 2], (at - 120) / 2),
        TernaryType::I2S => block[at % 32] >> (6 - at / 32 * 2) & 3,
        TernaryType::Iq2Bn => block[at % 16] >> (at / 16 * 2) & 3,
        // Sixteen weights are fifteen digits of three bytes, the last digit of
        // each byte first, and one of the four last digits of the last byte.
        TernaryType::Iq1Bn if at % 16 == 15 => digit(block[12], 4 - at / 16),
        TernaryType::Iq1Bn => digit(block[at / 16 * 3 + at % 16 / 5], 4 - at % 16 % 5),
        _ => unreachable!("a type that is not in the table"),
    }
}

/// Codes of a tensor whose length is right, and the bits of its scales.
pub fn codes(ty: TernaryType, bytes: &[u8], rows: usize, cols: usize) -> (Vec<u8>, Vec<u32>) {
    let (block, len) = (ty.block(), ty.block_bytes());
    let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    let float = |at: usize| f32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
    let header = match ty {
        TernaryType::Iq2Bn => 4,
        TernaryType::Iq1Bn => 2,
        _ => 0,
    };
    let row_bytes = header + cols / block * len;
    let mut codes = Vec::new();
    for weight in 0..rows * cols {
        let start = match ty {
            TernaryType::I2S => weight / block * len,
            _ => weight / cols * row_bytes + header + weight % cols / block * len,
        };
        let at = match ty {
            TernaryType::I2S => weight % block,
            _ => weight % cols % block,
        };
        codes.push(code(ty, &bytes[start..][..len], at));
    }
    let blocks = rows * cols / block;
    let scales: Vec<f32> = match ty {
        TernaryType::Tq1_0 => (0..blocks).map(|b| half(b * len + 52)).collect(),
        TernaryType::Tq2_0 => (0..blocks).map(|b| half(b * len + 64)).collect(),
        TernaryType::Q2_0 | TernaryType::Pq2_0 => (0..blocks).map(|b| half(b * len)).collect(),
        TernaryType::Ptq1_0 => (0..blocks).map(|b| half(b * len + 26)).collect(),
        TernaryType::I2S => vec![float(rows * cols / 4)],
        TernaryType::Iq2Bn => (0..rows).map(|r| float(r * row_bytes)).collect(),
        TernaryType::Iq1Bn => (0..rows).map(|r| half(r * row_bytes)).collect(),
        _ => unreachable!("a type that is not in the table"),
    };
    (codes, scales.iter().map(|s| s.to_bits()).collect())
}
