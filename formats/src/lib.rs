//! Ternary weights as other projects store them, to and from [`TernaryMatrix`].
//!
//! [`TernaryMatrix`]: tritgemm::TernaryMatrix
#![forbid(unsafe_code)]

pub mod error;
mod float;
pub mod ggml;
pub mod gguf;
pub mod hf;
pub mod onnx;
mod parallel;
mod rows;
mod scales;

pub use error::FormatError;
pub use float::FloatType;
pub use scales::{ScaleRounding, simplify};
