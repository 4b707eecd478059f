//! The float types that activations come in, converted without branches so
//! that the loops around them vectorise on every target.

/// A float that widens to f32 exactly and narrows from it by round half to
/// even.
pub trait Float: Copy + Send + Sync + 'static {
    /// Bits of a magnitude; as integers they order like the magnitudes, with
    /// the infinities and NaNs last.
    type Bits: Copy + Ord + Default + Into<i32>;
    /// Bits of infinity: a magnitude of at least this is not finite.
    const INFINITY_BITS: i32;
    /// The bits of `|self|`.
    fn magnitude(self) -> Self::Bits;
    /// The value of a magnitude's bits.
    fn of_magnitude(bits: Self::Bits) -> f32;
    /// The same value.
    fn to_wide(self) -> f32;
    /// The nearest value, halves to even.
    fn of_wide(value: f32) -> Self;
}

impl Float for f32 {
    type Bits = i32;
    const INFINITY_BITS: i32 = 0x7f80_0000;

    #[inline(always)]
    fn magnitude(self) -> i32 {
        (self.to_bits() & 0x7fff_ffff) as i32
    }

    #[inline(always)]
    fn of_magnitude(bits: i32) -> f32 {
        f32::from_bits(bits as u32)
    }

    #[inline(always)]
    fn to_wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of_wide(value: f32) -> f32 {
        value
    }
}

/// Exponent bits of an f32 of `2^e`.
const fn exponent(e: i32) -> u32 {
    ((127 + e) as u32) << 23
}

/// The value of an f16's bits.
#[inline(always)]
pub fn widen_f16(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = bits & 0x7fff;
    // The mantissa in place; the exponent still has f16's bias of 15.
    let shifted = magnitude << 13;
    let rebias = (127 - 15) << 23;
    // A subnormal is read as 2^-14 * (1 + m), then loses the 1 exactly.
    let least = f32::from_bits(exponent(-14));
    let subnormal = f32::from_bits(shifted + exponent(-14)) - least;
    let widened = if magnitude < 0x0400 {
        // Without the sign that a zero has where sums are rounded down.
        subnormal.to_bits() & 0x7fff_ffff
    } else if magnitude < 0x7c00 {
        shifted + rebias
    } else {
        shifted + 2 * rebias
    };
    f32::from_bits(widened | (bits & 0x8000) << 16)
}

/// The bits of the f16 nearest to a value, halves to even.
#[inline(always)]
pub fn narrow_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Adding 0.5 to a magnitude below 2^-14 shifts its mantissa to where an
    // f16 subnormal has it, and the addition rounds half to even.
    let half = f32::from_bits(exponent(-1));
    let subnormal = (f32::from_bits(magnitude) + half)
        .to_bits()
        .wrapping_sub(exponent(-1));
    let odd = magnitude >> 13 & 1;
    // Wraps where the result is not used.
    let normal = magnitude.wrapping_sub(((127 - 15) << 23) - 0x0fff - odd);
    let narrowed = if magnitude > 0x7f80_0000 {
        0x7e00
    } else if magnitude >= exponent(16) {
        0x7c00
    } else if magnitude < exponent(-14) {
        subnormal
    } else {
        normal >> 13
    };
    (narrowed | (bits & 0x8000_0000) >> 16) as u16
}
