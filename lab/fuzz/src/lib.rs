//! What the fuzz targets share, beside what the crate's tests do: how a few bytes
//! of input become matrices, activations and ways to multiply them.
//!
//! | module | what it has |
//! |---|---|
//! | [`capi`] | calls of the C interface, and what its handles stand for |
//! | [`fill`] | any number of values from a few bytes |
//! | [`codec`] | the encoding by definition, one weight at a time |
//! | [`draw`] | a product: shape, weights, activations, scales, strides |
//! | [`ggml`] | ggml's ternary types by definition, one weight at a time |
//! | [`memory`] | memory at an address of any alignment, with canaries around it |
//! | [`way`] | family and threads |
//! | [`panel_file`] | the fields of a panel file, to be repaired |

pub mod capi;
pub mod codec;
pub mod draw;
pub mod fill;
pub mod ggml;
pub mod memory;
pub mod panel_file;
pub mod way;
