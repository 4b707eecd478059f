//! Ternary weights as other projects store them, to and from [`TernaryMatrix`].
//!
//! [`TernaryMatrix`]: tritgemm::TernaryMatrix
#![forbid(unsafe_code)]

pub mod error;
pub mod ggml;
pub mod gguf;
pub mod hf;
pub mod onnx;
mod parallel;
mod scales;

pub use error::FormatError;
pub use scales::{ScaleRounding, simplify};
