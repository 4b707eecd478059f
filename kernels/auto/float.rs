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
