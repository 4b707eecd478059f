//! AVX-512 kernels.

pub mod codec;
