//! Values of the types that embeddings and heads of ternary models have, by their published
//! definitions. One rounding an operation and in their order, so that the bits are those of
//! ggml's scalar code and of PyPI's `gguf`.
//!
//! | type | weights | bytes | value |
//! |---|---|---|---|
//! | Q4_0 | 32 | f16 d, 16 of two codes | `(code - 8) d` |
//! | Q8_0 | 32 | f16 d, 32 i8 | `code d` |
//! | Q4_K | 256 | f16 d, f16 m, 12 of 8 six-bit pairs, 128 of two codes | `code (d s) - m t` |
//! | Q5_K | 256 | as Q4_K, with 32 of the fifth bits before the codes | the same |
//! | Q6_K | 256 | 128 of low nibbles, 64 of upper pairs, 16 i8 s, f16 d | `(code - 32) (d s)` |

use super::types::TensorType;
use half::{bf16, f16};

/// The types that have values here.
pub(super) const TYPES: &str = "F32, F16, BF16, Q4_0, Q8_0, Q4_K, Q5_K or Q6_K";

/// Their names.
pub(super) const NAMES: [&str; 8] = ["F32", "F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];

/// The values of whole blocks; `None` for another type.
pub(super) fn to_f32(ty: TensorType, data: &[u8]) -> Option<Vec<f32>> {
    let halves = || data.as_chunks::<2>().0.iter();
    Some(match ty.name() {
        "F32" => {
            let words = data.as_chunks::<4>().0.iter();
            words.map(|&b| f32::from_le_bytes(b)).collect()
        }
        "F16" => halves().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        "BF16" => halves().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        "Q4_0" => blocks::<18, 32>(data, q4_0),
        "Q8_0" => blocks::<34, 32>(data, q8_0),
        "Q4_K" => blocks::<144, 256>(data, q4_k),
        "Q5_K" => blocks::<176, 256>(data, q5_k),
        "Q6_K" => blocks::<210, 256>(data, q6_k),
        _ => return None,
    })
}

fn blocks<const BYTES: usize, const WEIGHTS: usize>(
    data: &[u8],
    block: impl Fn(&[u8; BYTES], &mut [f32; WEIGHTS]),
) -> Vec<f32> {
    let (from, _) = data.as_chunks::<BYTES>();
    let mut values = vec![0.0; from.len() * WEIGHTS];
    let (to, _) = values.as_chunks_mut::<WEIGHTS>();
    from.iter().zip(to).for_each(|(from, to)| block(from, to));
    values
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = half(block);
    let (low, high) = values.split_at_mut(16);
    for ((byte, low), high) in block[2..].iter().zip(low).zip(high) {
        let value = |code: u8| (f32::from(code) - 8.0) * d;
        (*low, *high) = (value(byte & 15), value(byte >> 4));
    }
}

fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let d = half(block);
    for (byte, value) in block[2..].iter().zip(values) {
        *value = f32::from(*byte as i8) * d;
    }
}

/// The scale and the minimum of the 32 weights `i` (0 to 7), six bits each: those of the
/// first four lie in the low bits of bytes 0-7; of the others the low four bits lie in bytes
/// 8-11, the upper two in what bytes 0-7 have left.
fn scale_and_min(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => (
            packed[i + 4] & 15 | packed[i - 4] >> 6 << 4,
            packed[i + 4] >> 4 | packed[i] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    k_nibbles(&block[..16], &block[16..], |_, _| 0, values);
}

fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    let fifth = |run: usize, at: usize| (block[16 + at] >> run & 1) << 4;
    k_nibbles(&block[..16], &block[48..], fifth, values);
}

/// Runs of 32 weights, two of which share the nibbles of 32 bytes; `more` has further bits
/// of weight `at` of a run.
fn k_nibbles(
    head: &[u8],
    codes: &[u8],
    more: impl Fn(usize, usize) -> u8,
    values: &mut [f32; 256],
) {
    let (d, m) = (half(head), half(&head[2..]));
    for (run, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&head[4..], run);
        let (scale, min) = (d * scale, m * min);
        let codes = &codes[run / 2 * 32..][..32];
        for (at, (value, byte)) in values.iter_mut().zip(codes).enumerate() {
            let code = (byte >> (run % 2 * 4) & 15) + more(run, at);
            *value = scale * f32::from(code) - min;
        }
    }
}

fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let d = half(&block[208..]);
    for (at, value) in values.iter_mut().enumerate() {
        let (half_at, run, l) = (at / 128, at % 128 / 32, at % 32);
        let low = block[64 * half_at + run % 2 * 32 + l] >> (run / 2 * 4) & 15;
        let high = block[128 + 32 * half_at + l] >> (2 * run) & 3;
        let scale = block[192 + at / 16] as i8;
        *value = d * f32::from(scale) * (f32::from(low | high << 4) - 32.0);
    }
}
