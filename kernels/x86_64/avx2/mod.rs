//! AVX2 kernels.

pub mod codec;
pub mod few_f32;
pub mod few_i8;
pub mod many;
