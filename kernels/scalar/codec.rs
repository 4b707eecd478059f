//! Encoding and decoding, one value at a time.

use crate::kernels::contract::{CodecKernel, PANEL_ROWS};
use crate::kernels::generated::{CODE_LEGAL, DECODE};

/// The reference codec.
pub static CODEC: CodecKernel = CodecKernel {
    name: "scalar-codec",
    encode,
    decode_i8,
    decode_f32,
    pack_panel,
};

/// The code of a trit, and whether it was one.
#[inline(always)]
fn encode_trit(trit: i8) -> (u8, bool) {
    match trit {
        0 => (0b00, true),
        1 => (0b01, true),
        -1 => (0b10, true),
        _ => (0b00, false),
    }
}

/// See [`CodecKernel::encode`].
///
/// # Safety
/// As [`CodecKernel::encode`] states.
#[inline(never)]
pub unsafe fn encode(src: *const i8, cols: usize, dst: *mut u8) -> bool {
    // SAFETY: the caller's word for `cols` readable and ceil(cols / 4) writable bytes.
    let (src, dst) = unsafe {
        (
            core::slice::from_raw_parts(src, cols),
            core::slice::from_raw_parts_mut(dst, cols.div_ceil(4)),
        )
    };
    let mut legal = true;
    for (byte, trits) in dst.iter_mut().zip(src.chunks(4)) {
        // Each code pushes the ones before it up by two bits: a shift that
        // depends on j becomes a multiplication where vectors cannot shift so.
        let mut codes = 0;
        for &trit in trits {
            let (code, ok) = encode_trit(trit);
            codes = codes << 2 | code;
            legal &= ok;
        }
        *byte = codes << (8 - 2 * trits.len());
    }
    legal
}

/// See [`CodecKernel::decode_i8`].
///
/// # Safety
/// As [`CodecKernel::decode_i8`] states.
#[inline(never)]
pub unsafe fn decode_i8(src: *const u8, cols: usize, dst: *mut i8) -> bool {
    // SAFETY: the caller's word for the two lengths.
    let (src, dst) = unsafe {
        (
            core::slice::from_raw_parts(src, cols.div_ceil(4)),
            core::slice::from_raw_parts_mut(dst, cols),
        )
    };
    let mut legal = true;
    for (&byte, trits) in src.iter().zip(dst.chunks_mut(4)) {
        for (j, trit) in trits.iter_mut().enumerate() {
            *trit = DECODE[byte as usize][j];
            legal &= CODE_LEGAL[byte as usize] & (1 << j) != 0;
        }
    }
    legal
}

/// See [`CodecKernel::decode_f32`].
///
/// # Safety
/// As [`CodecKernel::decode_f32`] states.
#[inline(never)]
pub unsafe fn decode_f32(src: *const u8, cols: usize, scale: f32, dst: *mut f32) -> bool {
    // SAFETY: the caller's word for the two lengths.
    let (src, dst) = unsafe {
        (
            core::slice::from_raw_parts(src, cols.div_ceil(4)),
            core::slice::from_raw_parts_mut(dst, cols),
        )
    };
    let mut legal = true;
    for (&byte, weights) in src.iter().zip(dst.chunks_mut(4)) {
        for (j, weight) in weights.iter_mut().enumerate() {
            *weight = match DECODE[byte as usize][j] {
                1 => scale,
                -1 => -scale,
                _ => 0.0,
            };
            legal &= CODE_LEGAL[byte as usize] & (1 << j) != 0;
        }
    }
    legal
}

/// See [`CodecKernel::pack_panel`].
///
/// # Safety
/// As [`CodecKernel::pack_panel`] states.
#[inline(never)]
pub unsafe fn pack_panel(
    src: *const u8,
    stride: usize,
    rows: usize,
    bytes: usize,
    dst: *mut u8,
    depth: usize,
) {
    // SAFETY: the caller's word: `dst` holds `depth` strips of 64 bytes; they are
    // initialised before they are borrowed.
    let strips = unsafe {
        dst.write_bytes(0, depth * PANEL_ROWS);
        core::slice::from_raw_parts_mut(dst.cast::<[u8; PANEL_ROWS]>(), depth)
    };
    let mut row_start = src;
    for r in 0..rows {
        // SAFETY: the caller's word: row r < rows has `bytes` readable bytes.
        let row = unsafe { core::slice::from_raw_parts(row_start, bytes) };
        for (strip, &byte) in strips.iter_mut().zip(row) {
            strip[r] = byte;
        }
        // Not dereferenced after the last row, so it may leave the allocation.
        row_start = row_start.wrapping_add(stride);
    }
}

#[cfg(test)]
mod tests {
    use crate::kernels::generated::*;

    /// Every generated table against the encoding's own words.
    #[test]
    fn generated_tables_state_the_encoding() {
        for byte in 0..=255u8 {
            let mut index = 0;
            for (j, &decoded) in DECODE[byte as usize].iter().enumerate() {
                let code = (byte >> (6 - 2 * j)) & 0b11;
                let trit: i8 = match code {
                    0b01 => 1,
                    0b10 => -1,
                    _ => 0,
                };
                assert_eq!(decoded, trit);
                assert_eq!(CODE_LEGAL[byte as usize] >> j & 1 == 1, code != 0b11);
                index = 3 * index + i32::from(trit).rem_euclid(3);
            }
            assert_eq!(i32::from(BYTE_INDEX[byte as usize]), index);
            let (high, low) = ((byte >> 4) as usize, (byte & 15) as usize);
            assert_eq!(
                BYTE_INDEX[byte as usize],
                NIBBLE_INDEX_HIGH[high] + NIBBLE_INDEX[low]
            );
        }
    }
}
