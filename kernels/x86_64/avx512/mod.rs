//! AVX-512 kernels.

mod byte_sums;
pub mod codec;
pub mod few_f32;
pub mod few_i8_nibbles;
pub mod few_i8_vbmi;
mod group_scales;
pub mod many;
pub mod many_f32_zen5;
pub mod many_i8_vbmi;
pub mod many_i8_zen5;
mod pack;
mod row_sums;
mod tiles;
