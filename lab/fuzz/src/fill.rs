//! Any number of values from a few bytes of input.

use arbitrary::Arbitrary;
use tritgemm_testing::Rng;

/// Bytes for a whole matrix.
#[derive(Arbitrary, Clone, Debug)]
pub enum Fill {
    /// These, over and over.
    Repeat(Vec<u8>),
    /// One value with others here and there.
    Spots(u8, Vec<(u16, u8)>),
    /// Random ones.
    Seed(u64),
}

impl Fill {
    /// `len` bytes.
    pub fn bytes(&self, len: usize) -> Vec<u8> {
        match self {
            Fill::Repeat(pattern) if pattern.is_empty() => vec![0; len],
            Fill::Repeat(pattern) => {
                let mut bytes = Vec::with_capacity(len);
                bytes.extend_from_slice(&pattern[..pattern.len().min(len)]);
                // Whole copies, not byte by byte: the fuzzer looks into loops.
                while bytes.len() < len {
                    bytes.extend_from_within(..bytes.len().min(len - bytes.len()));
                }
                bytes
            }
            Fill::Spots(base, spots) => {
                let mut bytes = vec![*base; len];
                for &(at, value) in spots.iter().take_while(|_| len > 0) {
                    bytes[usize::from(at) % len] = value;
                }
                bytes
            }
            Fill::Seed(seed) => Rng::new(*seed).vec(len, |r| r.i8() as u8),
        }
    }

    /// `len` values of -128..=127.
    pub fn i8s(&self, len: usize) -> Vec<i8> {
        self.bytes(len).into_iter().map(|b| b as i8).collect()
    }

    /// `len` values of -1, 0, 1.
    pub fn trits(&self, len: usize) -> Vec<i8> {
        let trit = |b: u8| (b % 3) as i8 - 1;
        self.bytes(len).into_iter().map(trit).collect()
    }

    /// `len` floats.
    pub fn floats(&self, len: usize, style: Style) -> Vec<f32> {
        let bytes = self.bytes(4 * len);
        let (words, _) = bytes.as_chunks();
        let float = |&word: &[u8; 4]| style.float(u32::from_le_bytes(word));
        words.iter().map(float).collect()
    }
}

/// How 32 bits become a float.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// As they are: NaNs of every payload, infinities, subnormals.
    Bits,
    /// Uniform in -1..1.
    Unit,
    /// Magnitudes from 2^-20 to 2^20.
    Wide,
    /// Subnormals and zeros of both signs.
    Tiny,
    /// As `Wide`, finite but near the largest float now and then.
    Huge,
}

impl Style {
    fn float(self, bits: u32) -> f32 {
        let unit = (bits >> 8) as f32 / (1 << 23) as f32 - 1.0;
        match self {
            Style::Bits => f32::from_bits(bits),
            Style::Unit => unit,
            Style::Tiny => f32::from_bits(bits & 0x807f_ffff),
            Style::Huge if bits & 0xff < 8 => f32::MAX.copysign(unit),
            // A power of two by its exponent.
            Style::Wide | Style::Huge => unit * f32::from_bits((bits % 256 % 41 + 107) << 23),
        }
    }
}
