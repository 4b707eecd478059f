//! CPU kernels for ternary neural networks.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
#[path = "../kernels/mod.rs"]
mod kernels;

pub mod codec;
mod isa;

pub use isa::{Backend, ISA_VARIABLE, Isa, IsaError, KernelInfo, cpu_features, pin};
