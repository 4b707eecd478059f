//! Ternary linear layers for [candle](https://docs.rs/candle-core): the CPU
//! kernels of [`tritgemm`] as a custom op.
//!
//! | to | use |
//! |---|---|
//! | load a layer as candle models do | [`bit_linear`], [`bit_linear_no_bias`] |
//! | load packed Hugging Face checkpoints, GGUF files | [`bit_linear_hf`], [`BitLinear::from_gguf`] |
//! | make one of tensors | [`BitLinear::quantize`], [`BitLinear::from_packed`] |
//! | make one of a matrix, a packed layer or a panel file | [`BitLinear::new`], [`BitLinear::from`], [`BitLinear::load`] |
//! | load one of a model's panel file by its name | [`BitLinear::from_model`] |
//! | run it | [`Module::forward`](candle_core::Module::forward) |
//! | share one input among layers (Q, K and V; gate and up) | [`forward_many`], [`BitLinear::forward_many`], [`BitLinear::prepare`] |
//! | run the experts of a mixture | [`BitExperts`] |
//! | choose int8 or f32 activations, and threads | [`ActivationMode`], [`Parallelism`] |
//! | scale int8 activations by groups along K | [`BitLinear::with_activation_group`] |
//! | say that the weights are in the cache | [`BitLinear::with_weights_in_cache`] |
//! | pin the kernels | [`tritgemm::pin`] |
//! | load a published model and generate text (feature `models`) | `models` |
//!
//! ```
//! use candle_core::{Device, Module, Tensor};
//! use tritgemm_candle::BitLinear;
//!
//! let w = Tensor::randn(0f32, 1.0, (256, 512), &Device::Cpu)?; // [M, K]
//! let layer = BitLinear::quantize(&w, None)?;
//! let x = Tensor::randn(0f32, 1.0, (2, 7, 512), &Device::Cpu)?;
//! assert_eq!(layer.forward(&x)?.dims(), [2, 7, 256]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! **Inputs** are f32, f16 or bf16 tensors on the CPU device with any leading
//! dimensions; the output has the input's type. Rows that lie a stride apart are
//! read where they are; other layouts are gathered into one copy.
//!
//! **Threads.** candle's own operations use rayon's global pool, and so do these
//! layers by default, or the rayon pool that the caller is in: see
//! [`Parallelism`]. Results do not depend on it.
//!
//! **Gradients** flow to the input, by the transposed ternary weights on the
//! same kernels; int8 activations count as a straight-through estimator. They
//! flow to the weights that a mixture's rows are added by, too. The ternary
//! weights themselves are not variables.
#![forbid(unsafe_code)]

mod experts;
mod float;
mod gguf;
mod gradient;
mod hf;
mod input;
mod layer;
mod load;
#[cfg(feature = "models")]
pub mod models;
mod op;
mod parallelism;
mod product;
mod routing;
mod rows;
mod settings;

pub use experts::BitExperts;
pub use hf::{HfLinearClass, bit_linear_hf};
pub use input::{PreparedInput, forward_many};
pub use layer::BitLinear;
pub use load::{LoadError, bit_linear, bit_linear_b, bit_linear_no_bias};
pub use parallelism::Parallelism;
pub use settings::ActivationMode;

/// The README's examples, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
