//! The types that scales are stored as.

use half::{bf16, f16};

/// A floating-point type of a file. All are little-endian, and all of their
/// values are exact in f32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FloatType {
    /// 32 bits.
    F32,
    /// 16 bits, 11 of precision.
    F16,
    /// 16 bits, 8 of precision, the range of f32.
    Bf16,
}

impl FloatType {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            FloatType::F32 => "f32",
            FloatType::F16 => "f16",
            FloatType::Bf16 => "bf16",
        }
    }

    /// Bytes of a value.
    pub const fn size(self) -> usize {
        match self {
            FloatType::F32 => 4,
            FloatType::F16 | FloatType::Bf16 => 2,
        }
    }

    /// The values that `bytes` hold; an incomplete one at the end is left out.
    ///
    /// ```
    /// use tritgemm_formats::FloatType;
    /// assert_eq!(FloatType::Bf16.decode(&[0x80, 0x3f, 0x00, 0xc0]), [1.0, -2.0]);
    /// ```
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let halves = || bytes.as_chunks::<2>().0.iter();
        match self {
            FloatType::F32 => {
                let values = bytes.as_chunks::<4>().0.iter();
                values.map(|&b| f32::from_le_bytes(b)).collect()
            }
            FloatType::F16 => halves().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            FloatType::Bf16 => halves().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }

    /// The value of this type nearest to `value`, ties to even; infinite where
    /// `value` is out of range.
    pub fn nearest(self, value: f32) -> f32 {
        match self {
            FloatType::F32 => value,
            FloatType::F16 => f16::from_f32(value).to_f32(),
            FloatType::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// The bytes of the nearest value.
    pub fn encode(self, value: f32) -> Vec<u8> {
        match self {
            FloatType::F32 => value.to_le_bytes().to_vec(),
            FloatType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            FloatType::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        }
    }
}

impl core::fmt::Display for FloatType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
