//! CPU kernels for ternary neural networks.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
#[path = "../kernels/mod.rs"]
mod kernels;

mod activation;
mod isa;
pub mod nn;
mod parallel;
pub mod quant;
mod scales;

pub use activation::Activation;
pub use isa::{Backend, ISA_VARIABLE, Isa, IsaError, KernelInfo, cpu_features, pin};
pub use scales::{Granularity, GroupSize};
