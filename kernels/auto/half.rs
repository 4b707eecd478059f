//! The 16-bit floats, converted without branches.

use crate::kernels::auto::float::{Float, narrow_f16, widen_f16};
use half::{bf16, f16};

/// A magnitude is the bits without the sign.
macro_rules! magnitudes {
    () => {
        #[inline(always)]
        fn magnitude(self) -> i16 {
            (self.to_bits() & 0x7fff) as i16
        }

        #[inline(always)]
        fn of_magnitude(bits: i16) -> f32 {
            Self::from_bits(bits as u16).to_wide()
        }
    };
}

impl Float for bf16 {
    type Bits = i16;
    const INFINITY_BITS: i32 = 0x7f80;

    magnitudes!();

    #[inline(always)]
    fn to_wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn of_wide(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // A NaN stays one whatever its payload: the carry could clear it.
        let quiet = bits >> 16 | 0x40;
        bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
    }
}

impl Float for f16 {
    type Bits = i16;
    const INFINITY_BITS: i32 = 0x7c00;

    magnitudes!();

    #[inline(always)]
    fn to_wide(self) -> f32 {
        widen_f16(self.to_bits())
    }

    #[inline(always)]
    fn of_wide(value: f32) -> f16 {
        f16::from_bits(narrow_f16(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_value_widens_as_half_says() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (
                f16::from_bits(bits).to_wide(),
                f16::from_bits(bits).to_f32(),
            );
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "f16 {bits:#06x}: {ours} against {theirs}"
            );
            let (ours, theirs) = (
                bf16::from_bits(bits).to_wide(),
                bf16::from_bits(bits).to_f32(),
            );
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "bf16 {bits:#06x}: {ours} against {theirs}"
            );
        }
    }

    /// Every value, every midpoint to the next and its two neighbours: where
    /// rounding can go wrong.
    #[test]
    fn every_rounding_boundary_narrows_as_half_says() {
        let check = |value: f32| {
            let (ours, theirs) = (f16::of_wide(value), f16::from_f32(value));
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "f16 of {:#010x}: {:#06x} against {:#06x}",
                value.to_bits(),
                ours.to_bits(),
                theirs.to_bits()
            );
            let (ours, theirs) = (bf16::of_wide(value), bf16::from_f32(value));
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "bf16 of {:#010x}: {:#06x} against {:#06x}",
                value.to_bits(),
                ours.to_bits(),
                theirs.to_bits()
            );
        };
        for bits in 0..=u16::MAX {
            // Top 16 bits with the low ones around each of bf16's boundaries.
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                check(f32::from_bits(u32::from(bits) << 16 | low));
            }
            let value = f16::from_bits(bits).to_f32();
            let next = f16::from_bits(bits.wrapping_add(1)).to_f32();
            let middle = ((f64::from(value) + f64::from(next)) / 2.0) as f32;
            for v in [value, middle, middle.next_up(), middle.next_down()] {
                check(v);
            }
        }
        for v in [
            65519.0,
            65519.996,
            65520.0,
            65536.0,
            f32::MAX,
            1e-8,
            2.980_232_2e-8,
        ] {
            check(v);
            check(-v);
        }
    }
}
