//! Quantisers: latent weights to trits and scales, activations to int8.
//!
//! | function | from | to |
//! |---|---|---|
//! | [`absmean`] | f32 weights | the scale alpha of every tensor, row or group |
//! | [`ternarize`] | f32 weights, alphas | trits |
//! | [`sparsify_2_4`], [`sparsify_trits_2_4`] | weights, trits | the same, 2:4 sparse |
//! | [`quantize_activations`] | f32, f16, bf16 activations | int8 and a scale a token |
//!
//! Matrices are row-major slices with their shape `[rows, cols]` beside them:
//! rows are outputs (M), columns inputs (K). Results are the same bits on every
//! instruction set and for every number of threads. With the `rayon` feature a
//! large matrix is worked on in the caller's pool.
//!
//! ```
//! use tritgemm::Granularity;
//! use tritgemm::quant::{absmean, ternarize};
//!
//! let weights = [0.5, -0.1, 0.2, -0.8, /* next row */ 0.0, 3.0, -1.0, 0.4];
//! let alphas = absmean(&weights, [2, 4], Granularity::PerRow)?;
//! assert_eq!(alphas, [0.4, 1.1]);
//! let trits = ternarize(&weights, [2, 4], Granularity::PerRow, &alphas)?;
//! assert_eq!(trits, [1, 0, 0, -1, 0, 1, -1, 0]);
//! # Ok::<(), tritgemm::quant::WeightError>(())
//! ```

mod activations;
mod weights;

pub use activations::{
    ActivationError, MIN_ABSMAX, quantize_activations, quantize_activations_into,
    quantize_activations_row,
};
pub use weights::{
    MIN_ALPHA, WeightError, absmean, absmean_into, sparsify_2_4, sparsify_trits_2_4, ternarize,
    ternarize_into,
};
