//! Quantisers: latent weights to trits and scales, activations to int8.
//!
//! | function | from | to |
//! |---|---|---|
//! | [`absmean`] | f32 weights | the scale alpha of every tensor, row or group |
//! | [`ternarize`] | f32 weights, alphas | trits |
//! | [`sparsify_2_4`], [`sparsify_trits_2_4`] | weights, trits | the same, 2:4 sparse |
//! | [`quantize_token`], [`quantize_activations`] | f32, f16, bf16 activations | int8 and a scale a token |
//!
//! Rows of weights are outputs (M), columns are inputs (K); rows of activations
//! are tokens. New matrices are dense. Results are the same bits on every
//! instruction set and for every number of threads. With the `rayon` feature a
//! large matrix is worked on in the caller's pool.
//!
//! ```
//! use tritgemm::quant::{absmean, ternarize};
//! use tritgemm::{Granularity, MatRef};
//!
//! let weights = [0.5, -0.1, 0.2, -0.8, /* next row */ 0.0, 3.0, -1.0, 0.4];
//! let weights = MatRef::new(&weights, 2, 4)?;
//! let alphas = absmean(weights, Granularity::PerRow)?;
//! assert_eq!(alphas, [0.4, 1.1]);
//! let trits = ternarize(weights, Granularity::PerRow, &alphas)?;
//! assert_eq!(trits, [1, 0, 0, -1, 0, 1, -1, 0]);
//! # Ok::<(), tritgemm::Error>(())
//! ```

mod activations;
mod error;
mod weights;

pub(crate) use activations::{TokensError, non_finite, quantize_tokens};
pub(crate) use weights::{MIN_ALPHA, first_non_finite, row_alpha};

pub use activations::{quantize_activations, quantize_activations_into, quantize_token};
pub use error::QuantError;
pub use weights::{
    absmean, absmean_into, sparsify_2_4, sparsify_trits_2_4, ternarize, ternarize_into,
};
