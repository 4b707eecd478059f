//! CPU kernels for ternary neural networks: 2-bit packed weights -1, 0, +1, and
//! matrix products by additions and subtractions only, the same bits on every
//! instruction set.
//!
//! | to | use |
//! |---|---|
//! | encode and decode the 2-bit format | [`codec`] |
//! | quantise weights or activations | [`quant`], [`TernaryMatrix::quantize`] |
//! | hold a matrix and its scales | [`TernaryMatrix`], [`Scales`] |
//! | lay it out for the kernels, save, map, shard | [`Panels`] |
//! | multiply | [`Panels::gemm_i8`], [`Linear`] |
//! | share activations among matrices | [`PreparedActivations`] |
//! | reuse memory, choose threads and kernels | [`Workspace`], [`Options`] |
//! | run products on threads of your own | [`ParallelFor`], [`Team`], [`Workspace::with_pool`] |
//! | ask for or pin kernels of an instruction set | [`Backend`], [`Isa`], [`pin`], [`diagnostics`] |
//! | train and infer | [`nn`] |
//! | return any error by `?` | [`enum@Error`] |
//!
//! ```
//! use tritgemm::{Granularity, Linear, MatMut, MatRef, TernaryMatrix, Workspace};
//!
//! let weights = [0.9, -0.1, 0.5, -0.8, 0.2, 0.7, -0.6, 0.1]; // [M = 2, K = 4]
//! let matrix = TernaryMatrix::quantize(MatRef::new(&weights, 2, 4)?, Granularity::PerRow)?;
//! let layer = Linear::new(&matrix)?;
//! let (x, mut y, mut ws) = ([1.0, 2.0, 3.0, 4.0], [0.0; 2], Workspace::new());
//! layer.forward_f32(MatRef::new(&x, 1, 4)?, MatMut::new(&mut y, 1, 2)?, &mut ws)?;
//! assert_eq!(y, [0.575 * (1.0 + 3.0 - 4.0), 0.4 * (2.0 - 3.0)]);
//! # Ok::<(), tritgemm::Error>(())
//! ```
//!
//! Cargo features: `rayon` (default) shares products among the threads of the
//! rayon pool that the caller is in; `mmap` (default) maps panel files into
//! memory; `half` takes activations in f16 and bf16 too; `train` adds the
//! backward pass of [`nn::BitLinear`]; `log` says which kernels run.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
#[path = "../kernels/mod.rs"]
mod kernels;

#[macro_use]
mod mismatch;

mod activation;
mod activations;
pub mod codec;
pub mod diagnostics;
mod error;
mod experts;
mod gemm_error;
mod inputs;
mod isa;
mod linear;
mod matrix;
mod memory;
pub mod nn;
mod options;
mod output;
mod panel_file;
mod panels;
mod product;
pub mod quant;
mod rotation;
mod scales;
mod team;
mod threads;
mod tokens;
mod view;
mod workspace;

pub use activation::Activation;
pub use activations::PreparedActivations;
pub use error::Error;
pub use experts::{Experts, RoutedActivations, Routes};
pub use gemm_error::GemmError;
pub use inputs::{ExactInput, F32Input, Int8Input};
pub use isa::{Backend, Isa, IsaError, pin};
pub use linear::Linear;
pub use matrix::{MAX_COLS, MatrixError, TernaryMatrix};
pub use memory::OutOfMemory;
pub use options::{Family, NonFinite, Options};
pub use output::{Added, Output};
pub use panel_file::{
    ModelFile, ModelWriter, PanelFile, PanelFileError, PanelFileRef, PanelHeader, Verify,
};
pub use panels::{PanelBytes, Panels};
pub use rotation::Rotation;
pub use scales::{Granularity, GroupSize, Scales};
pub use team::Team;
pub use threads::{Incomplete, ParallelFor, Threads};
pub use tokens::{Grouped, Tokens};
pub use view::{MatMut, MatRef, ViewError};
pub use workspace::Workspace;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The examples of the engine guide, some of which map files or use a pool.
#[cfg(all(doctest, feature = "mmap", feature = "rayon"))]
#[doc = include_str!("../docs/guide.md")]
struct Guide;

/// The examples of the page on layers, some of which train.
#[cfg(all(doctest, feature = "train"))]
#[doc = include_str!("../docs/layer.md")]
struct Layer;
