//! The loop, compiled for each type of output.
//!
//! A generic function is compiled with the crate that calls it, at that crate's level of
//! optimisation and once more in each such crate. The loop is all of `product`; so it is
//! reached by functions that are not generic.

use crate::product::operands::Product;
use crate::product::sink::{Canonical, FloatOut, Raw, W1A8};
use crate::product::{Outputs, Products, Room, run};
use crate::threads::Stopped;

/// An output of exact sums: see [`run`].
pub(crate) fn run_raw(
    products: Products<'_, Product<'_, i8, Raw>>,
    ys: Outputs<'_, '_, i32>,
    room: Room<'_>,
) -> Result<(), Stopped> {
    run(products, ys, room)
}

/// An output of floats.
pub trait Compiled: FloatOut {
    /// See [`run`]: of int8 activations.
    fn run_int8(
        products: Products<'_, Product<'_, i8, W1A8<'_, Self>>>,
        ys: Outputs<'_, '_, Self>,
        room: Room<'_>,
    ) -> Result<(), Stopped>;
    /// See [`run`]: of f32 activations.
    fn run_f32(
        products: Products<'_, Product<'_, f32, Canonical<'_, Self>>>,
        ys: Outputs<'_, '_, Self>,
        room: Room<'_>,
    ) -> Result<(), Stopped>;
}

macro_rules! compiled {
    ($($float:ty),+) => {$(
        impl Compiled for $float {
            fn run_int8(
                products: Products<'_, Product<'_, i8, W1A8<'_, Self>>>,
                ys: Outputs<'_, '_, Self>,
                room: Room<'_>,
            ) -> Result<(), Stopped> {
                run(products, ys, room)
            }

            fn run_f32(
                products: Products<'_, Product<'_, f32, Canonical<'_, Self>>>,
                ys: Outputs<'_, '_, Self>,
                room: Room<'_>,
            ) -> Result<(), Stopped> {
                run(products, ys, room)
            }
        }
    )+};
}
compiled!(f32);
#[cfg(feature = "half")]
compiled!(half::f16, half::bf16);
