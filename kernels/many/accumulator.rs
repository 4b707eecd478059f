//! Accumulators as vectors of tokens.

use pulp::Simd;

/// The vector operations of one accumulator type.
pub trait Accumulator<S: Simd>: Copy + bytemuck::Pod {
    /// `a + b`.
    fn add(simd: S, a: Self, b: Self) -> Self;
    /// `0 - a`. The sign of a zero or a NaN is never seen in a result.
    fn neg(simd: S, a: Self) -> Self;
    /// Turns a finished accumulator and the total before it, none at first, into
    /// what is stored of each.
    fn fold<const N: usize>(
        simd: S,
        sum: [Self; N],
        total: Option<[Self; N]>,
    ) -> ([Self; N], [Self; N]);
}

/// The i16 vectors of a token.
#[repr(transparent)]
pub struct I16s<S: Simd>(pub S::i16s);
/// The f32 vectors of a token.
#[repr(transparent)]
pub struct F32s<S: Simd>(pub S::f32s);

macro_rules! accumulator {
    ($name:ident, $vector:ident, $zero:expr, $splat:ident, $add:ident, $sub:ident, $fold:ident) => {
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
                Self(simd.$sub(simd.$splat($zero), a.0))
            }
            #[inline(always)]
            fn fold<const N: usize>(
                simd: S,
                sum: [Self; N],
                total: Option<[Self; N]>,
            ) -> ([Self; N], [Self; N]) {
                $fold(simd, sum, total)
            }
        }
    };
}
accumulator!(I16s, i16s, 0i16, splat_i16s, add_i16s, sub_i16s, fold_i16s);
accumulator!(F32s, f32s, 0f32, splat_f32s, add_f32s, sub_f32s, fold_f32s);

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
