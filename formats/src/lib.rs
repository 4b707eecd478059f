//! Ternary weights as other projects store them, to and from
//! [`TernaryMatrix`](tritgemm::TernaryMatrix), with every bit of their scales.
//!
//! | format | in | bits a weight | scales | read | written |
//! |---|---|---|---|---|---|
//! | TQ1_0 (llama.cpp) | GGUF | 1.69 | f16 a block of 256 | [`ggml`] | [`ggml`] |
//! | TQ2_0 (llama.cpp) | GGUF | 2.06 | f16 a block of 256 | [`ggml`] | [`ggml`] |
//! | Q2_0 (llama.cpp) | GGUF | 2.25 | f16 a block of 64 | [`ggml`] | [`ggml`] |
//! | PQ2_0 (PrismML) | GGUF | 2.125 | f16 a block of 128 | [`ggml`] | [`ggml`] |
//! | PTQ1_0 (PrismML) | GGUF | 1.75 | f16 a block of 128 | [`ggml`] | [`ggml`] |
//! | I2_S (bitnet.cpp) | GGUF | 2 | f32 a tensor | [`ggml`] | |
//! | IQ2_BN (ik_llama.cpp) | GGUF | 2 | f32 a row | [`ggml`] | |
//! | IQ1_BN (ik_llama.cpp) | GGUF | 1.625 | f16 a row | [`ggml`] | |
//! | packed uint8 (BitNet) | safetensors | 2 | one a tensor | [`hf`] | [`hf`] |
//! | `MatMulNBits`, bits = 2 | ONNX | 2 | | [`onnx`] | |
//!
//! [`open`] opens a whole model of any of these, in one file or in many, as one
//! [`Model`]. [`gguf`] reads the container (versions 2 and 3) from bytes that the caller
//! has read or mapped, and writes version 3. [`simplify`] turns equal scales of
//! groups into scales of rows or of the matrix. `linear` of a format
//! ([`gguf::Tensor::linear`], [`hf::linear`], [`onnx::MatMulNBits::linear`])
//! reads a packed [`Linear`](tritgemm::Linear) in one pass.
//!
//! Nothing is guessed. A code that is no ternary weight, a size that does not
//! fit the shape, a K that does not fill its blocks, a scale that is no number
//! or that the target cannot hold: each is a [`FormatError`] that names the
//! tensor and the place. Sizes in files are checked before they are believed.
//!
//! ```no_run
//! use tritgemm::Linear;
//! use tritgemm_formats::gguf::Gguf;
//!
//! let file = std::fs::read("model.gguf")?; // or a memory map of it
//! let gguf = Gguf::parse(&file)?;
//! for tensor in gguf.tensors().filter(|t| t.tensor_type().ternary().is_some()) {
//!     let matrix = tritgemm_formats::simplify(tensor.ternary()?);
//!     let layer = Linear::new(&matrix)?;
//!     println!("{} {} {}", tensor.name(), tensor.tensor_type(), matrix.scales().granularity());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Cargo feature `rayon` (default): rows are decoded and encoded in parallel in
//! the rayon pool that the caller is in.
#![deny(unsafe_code)] // But for the one call that maps files: `model::mapped`.

pub mod error;
mod float;
pub mod ggml;
pub mod gguf;
pub mod hf;
pub mod model;
pub mod onnx;
mod parallel;
mod rows;
mod scales;

pub use error::FormatError;
pub use float::FloatType;
pub use model::{Model, OpenOptions, open, open_with};
pub use scales::{ScaleRounding, simplify};

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
