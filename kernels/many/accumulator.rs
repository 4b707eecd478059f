//! Accumulators as vectors of tokens.

use crate::kernels::contract::{PANEL_ROWS, Scaling, TOKENS_I8};
use core::mem::size_of;
use pulp::Simd;

/// The vector operations of one accumulator type.
pub trait Accumulator<S: Simd>: Copy + bytemuck::Pod {
    /// `a + b`.
    fn add(simd: S, a: Self, b: Self) -> Self;
    /// `0 - a`. The sign of a zero or a NaN is never seen in a result.
    fn neg(simd: S, a: Self) -> Self;
    /// Tokens of a vector.
    const LANES: usize;
    /// Turns a finished accumulator and the total before it, none at first, into
    /// what is stored of each.
    fn fold<const N: usize>(
        simd: S,
        sum: [Self; N],
        total: Option<[Self; N]>,
    ) -> ([Self; N], [Self; N]);
    /// Adds a finished accumulator and the total before it, if there is one, to the scaled sums
    /// of a row. The tokens of an entry of int8 are two parts, whose sums are 64 rows apart.
    ///
    /// # Safety
    /// Precondition 9 of [`crate::kernels::contract`] for the row.
    unsafe fn add_scaled<const N: usize>(
        simd: S,
        sum: [Self; N],
        total: Option<[Self; N]>,
        scaling: Scaling,
    );
}

/// The i16 vectors of a token.
#[repr(transparent)]
pub struct I16s<S: Simd>(pub S::i16s);
/// The f32 vectors of a token.
#[repr(transparent)]
pub struct F32s<S: Simd>(pub S::f32s);

macro_rules! accumulator {
    ($name:ident, $vector:ident, $value:ty, $splat:ident, $add:ident, $sub:ident, $fold:ident, $scale:ident) => {
        impl<S: Simd> Clone for $name<S> {
            #[inline(always)]
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<S: Simd> Copy for $name<S> {}
        // SAFETY: a transparent wrapper of a type that is Pod.
        unsafe impl<S: Simd> bytemuck::Zeroable for $name<S> {}
        // SAFETY: as above.
        unsafe impl<S: Simd> bytemuck::Pod for $name<S> {}
        impl<S: Simd> Accumulator<S> for $name<S> {
            #[inline(always)]
            fn add(simd: S, a: Self, b: Self) -> Self {
                Self(simd.$add(a.0, b.0))
            }
            #[inline(always)]
            fn neg(simd: S, a: Self) -> Self {
                Self(simd.$sub(simd.$splat(0 as $value), a.0))
            }
            #[inline(always)]
            fn fold<const N: usize>(
                simd: S,
                sum: [Self; N],
                total: Option<[Self; N]>,
            ) -> ([Self; N], [Self; N]) {
                $fold(simd, sum, total)
            }
            const LANES: usize = size_of::<Self>() / size_of::<$value>();
            #[inline(always)]
            unsafe fn add_scaled<const N: usize>(
                simd: S,
                sum: [Self; N],
                total: Option<[Self; N]>,
                scaling: Scaling,
            ) {
                // SAFETY: the caller's word.
                unsafe { $scale(simd, sum, total, scaling) }
            }
        }
    };
}
accumulator!(
    I16s, i16s, i16, splat_i16s, add_i16s, sub_i16s, fold_i16s, scale_i16s
);
accumulator!(
    F32s, f32s, f32, splat_f32s, add_f32s, sub_f32s, fold_f32s, scale_f32s
);

/// Moves the high part of `sum` to `total`: see [`super`].
#[inline(always)]
fn fold_i16s<S: Simd, const N: usize>(
    _simd: S,
    sum: [I16s<S>; N],
    total: Option<[I16s<S>; N]>,
) -> ([I16s<S>; N], [I16s<S>; N]) {
    let mut low = sum;
    let mut high = match total {
        Some(total) => total,
        None => [bytemuck::Zeroable::zeroed(); N],
    };
    let lows: &mut [i16] = bytemuck::cast_slice_mut(&mut low);
    let highs: &mut [i16] = bytemuck::cast_slice_mut(&mut high);
    for (low, high) in lows.iter_mut().zip(highs) {
        *high = high.wrapping_add(*low >> 8);
        *low &= 0xff;
    }
    (low, high)
}

/// Adds `sum` to `total`.
#[inline(always)]
fn fold_f32s<S: Simd, const N: usize>(
    simd: S,
    sum: [F32s<S>; N],
    total: Option<[F32s<S>; N]>,
) -> ([F32s<S>; N], [F32s<S>; N]) {
    let Some(mut total) = total else {
        return (sum, sum);
    };
    for (total, &sum) in total.iter_mut().zip(&sum) {
        *total = F32s::add(simd, *total, sum);
    }
    (sum, total)
}

/// See [`Accumulator::add_scaled`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn scale_i16s<S: Simd, const N: usize>(
    simd: S,
    sum: [I16s<S>; N],
    total: Option<[I16s<S>; N]>,
    scaling: Scaling,
) {
    let high = match total {
        Some(total) => total,
        None => [bytemuck::Zeroable::zeroed(); N],
    };
    let (lows, highs): (&[i16], &[i16]) = (bytemuck::cast_slice(&sum), bytemuck::cast_slice(&high));
    let mut values = [0.0; TOKENS_I8];
    for ((value, &low), &high) in values.iter_mut().zip(lows).zip(highs) {
        *value = (i32::from(low) + (i32::from(high) << 8)) as f32;
    }
    // SAFETY: precondition 9: a scale for the row and for each token; sums of both parts,
    // initialised unless they are the first.
    unsafe {
        let scale = simd.splat_f32s(scaling.scales.read());
        let lanes = size_of::<F32s<S>>() / size_of::<f32>();
        let part = lows.len() / 2;
        for first in (0..lows.len()).step_by(lanes) {
            let sums = scaling
                .sums
                .add(PANEL_ROWS * (first / part * part) + first % part);
            let scale = simd.mul_f32s(scale, load::<S>(scaling.token_scales.add(first)));
            let value = simd.mul_f32s(load::<S>(values.as_ptr().add(first)), scale);
            let before = match scaling.first {
                true => simd.splat_f32s(0.0),
                false => load::<S>(sums),
            };
            let scaled = F32s::<S>(simd.add_f32s(before, value));
            sums.cast::<F32s<S>>().write_unaligned(scaled);
        }
    }
}

/// A vector from anywhere.
///
/// # Safety
/// It is readable.
#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    // SAFETY: the caller's word.
    unsafe { from.cast::<F32s<S>>().read_unaligned() }.0
}

/// See [`Accumulator::add_scaled`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn scale_f32s<S: Simd, const N: usize>(
    simd: S,
    sum: [F32s<S>; N],
    total: Option<[F32s<S>; N]>,
    scaling: Scaling,
) {
    // SAFETY: precondition 9: a scale for the row; sums of an entry's tokens, initialised
    // unless they are the first.
    unsafe {
        let scale = F32s::<S>(simd.splat_f32s(scaling.scales.read()));
        let sums = scaling.sums.cast::<[F32s<S>; N]>();
        let mut scaled = match scaling.first {
            true => [bytemuck::Zeroable::zeroed(); N],
            false => sums.read(),
        };
        for (i, scaled) in scaled.iter_mut().enumerate() {
            let sum = match total {
                Some(total) => F32s::add(simd, total[i], sum[i]),
                None => sum[i],
            };
            *scaled = F32s::add(simd, *scaled, F32s(simd.mul_f32s(sum.0, scale.0)));
        }
        sums.write(scaled);
    }
}
