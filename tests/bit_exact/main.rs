//! Every backend gives the bits that the definition asks for.
//!
//! | module | what it shows |
//! |---|---|
//! | [`grid`] | edge shapes: every tile and block constant, one less, one more |
//! | [`weights_in_cache`] | weights said to come from cache or memory |
//! | [`random`] | random shapes, strides, scales, values; every entry point |
//! | [`extremes`] | long K, largest sums, NaN, infinities, zeros, illegal codes |
//! | [`tables`] | tables for few tokens follow the activations; many of them |
//! | [`threads`] | any number of threads |
//!
//! What must follow without knowing any result is in `tests/properties/`.

mod extremes;
mod grid;
mod random;
mod tables;
#[cfg(feature = "rayon")]
mod threads;
mod weights_in_cache;
