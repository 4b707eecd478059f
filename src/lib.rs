//! CPU kernels for ternary neural networks.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
#[path = "../kernels/mod.rs"]
mod kernels;

mod activations;
pub mod codec;
mod element;
mod gemm;
mod isa;
mod linear;
mod matrix;
pub mod nn;
mod panels;
mod parallel;
pub mod quant;
mod scales;
mod threads;
mod view;
mod workspace;

pub use activations::{PrepareError, PreparedActivations};
pub use element::Activation;
pub use isa::{Backend, ISA_VARIABLE, Isa, IsaError, KernelInfo, cpu_features, pin};
#[doc(hidden)]
pub use isa::{TableRow, epilogues, kernel_table};
pub use linear::{GemmError, Linear};
pub use matrix::{MAX_COLS, MatrixError, Scales, TernaryMatrix};
pub use panels::{PanelBytes, Panels, SliceError};
pub use scales::{Granularity, GroupSize};
pub use threads::Threads;
pub use view::{MatMut, MatRef, ViewError};
pub use workspace::{Lanes, Options, Workspace};
