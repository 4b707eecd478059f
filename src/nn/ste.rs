//! The straight-through estimator: a rounding that gradients pass.
//!
//! Forward, weights become `round_half_even(clamp(w, -1, 1))`; backward, the
//! rounding counts as the identity, so the gradient is the clamp's: it passes
//! where `|w| < 1` and is zero outside. At ±1 itself, where a clamp has no
//! derivative, it is zero, as in the reference implementation. Bengio, Léonard
//! and Courville, "Estimating or Propagating Gradients Through Stochastic
//! Neurons" (<https://arxiv.org/abs/1308.3432>, section 5). Without the gate,
//! weights beyond the clamp keep growing under gradients that change nothing.
//!
//! ```
//! use tritgemm::nn::ste;
//! let weights = [0.4, 0.6, -1.0, 0.5];
//! let mut ternary = [0.0; 4];
//! ste::forward(&weights, &mut ternary)?;
//! assert_eq!(ternary, [0.0, 1.0, -1.0, 0.0]);
//! let mut grad = [0.0; 4];
//! ste::backward(&weights, &[0.1, 0.2, 0.3, 0.4], &mut grad)?;
//! assert_eq!(grad, [0.1, 0.2, 0.0, 0.4]);
//! # Ok::<(), tritgemm::Error>(())
//! ```

use crate::kernels::auto::ste as vector;
use crate::kernels::environment::in_default;
use crate::mismatch::check_length;
use crate::nn::error::LayerError;

/// `out[i] = round_half_even(clamp(weights[i], -1, 1))`; a NaN stays one, and a
/// zero keeps the sign of its weight.
///
/// # Errors
/// If the lengths differ.
pub fn forward(weights: &[f32], out: &mut [f32]) -> Result<(), LayerError> {
    in_default(|| {
        check_length("out", out.len(), weights.len())?;
        vector::forward(weights, out);
        Ok(())
    })
}

/// [`forward`] in place.
pub fn forward_in_place(weights: &mut [f32]) {
    in_default(|| {
        vector::forward_in_place(weights);
    })
}

/// `grad_in[i] = grad_out[i]` where `|weights[i]| < 1`, else 0.
///
/// `weights` are those that went into [`forward`].
///
/// # Errors
/// If the lengths differ.
pub fn backward(weights: &[f32], grad_out: &[f32], grad_in: &mut [f32]) -> Result<(), LayerError> {
    in_default(|| {
        check_length("grad_out", grad_out.len(), weights.len())?;
        check_length("grad_in", grad_in.len(), weights.len())?;
        vector::backward(weights, grad_out, grad_in);
        Ok(())
    })
}
