//! Codes of four weights at a time, in the bytes of a word.
//!
//! ggml's formats put neighbouring weights into neighbouring bytes, in the same
//! bits of each (a *plane*); the interchange encoding puts them into one byte.
//! Codes are `w + 1` there and 00, 01, 10 for 0, +1, -1 here.

/// The low bit of each code.
const LOW: u32 = 0x5555_5555;

/// Codes `w + 1` as codes of the interchange encoding. What code 3 becomes has
/// no meaning: [`threes`] finds it.
pub(super) fn interchange(codes: u32) -> u32 {
    let (low, high) = (codes & LOW, (codes >> 1) & LOW);
    high | ((!(low | high) & LOW) << 1)
}

/// Not zero if a code is 3.
pub(super) fn threes(codes: u32) -> u32 {
    codes & (codes >> 1) & LOW
}

/// The codes at bit `shift` of four bytes, the first one on top, in one byte.
pub(super) fn gather(word: u32, shift: u32) -> u8 {
    let codes = (word >> shift) & 0x0303_0303;
    (codes | codes >> 6 | codes >> 12 | codes >> 18) as u8
}

/// `EXPANDED[byte]`: the codes `w + 1` of the four weights of a byte of the
/// interchange encoding, the first weight in the lowest byte.
pub(super) const EXPANDED: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut weight = 0;
        while weight < 4 {
            // Code 11 does not stand in a matrix.
            let code = [1, 2, 0, 0][(byte >> (6 - 2 * weight)) & 3];
            table[byte] |= code << (8 * weight);
            weight += 1;
        }
        byte += 1;
    }
    table
};

/// The byte of a five-digit base-3 number `q`: `ceil(q * 256 / 243)`.
pub(super) const fn trit_byte(q: u8) -> u8 {
    ((q as u32 * 256).div_ceil(243)) as u8
}

/// The next digit, most significant first, of a byte of [`trit_byte`].
pub(super) const fn next_trit(byte: &mut u8) -> u8 {
    let digit = ((*byte as u16 * 3) >> 8) as u8;
    *byte = byte.wrapping_mul(3);
    digit
}

/// `FIVE_TRITS[byte]`: the interchange codes of the five digits of a byte whose
/// first weight is the LEAST significant digit, the first weight in bits 9-8.
pub(super) const FIVE_TRITS: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u8;
        let mut weight = 5;
        while weight > 0 {
            weight -= 1;
            let code = [0b10, 0b00, 0b01][next_trit(&mut rest) as usize];
            table[byte] |= code << (8 - 2 * weight);
        }
        byte += 1;
    }
    table
};
