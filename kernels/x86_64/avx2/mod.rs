//! AVX2 kernels.

pub mod codec;
