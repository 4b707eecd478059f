//! Weights from a seed: initialisation and perturbation.

use super::BitLinear;
use crate::kernels::auto::noise;
use crate::kernels::environment::in_default;
use crate::memory;
use crate::nn::error::LayerError;
use crate::quant::QuantError;
use crate::threads::each_row_mut;

/// Weights that one task makes: a multiple of the noise's batch.
const SPAN: usize = 64 * noise::BATCH;

impl BitLinear {
    /// A layer of `out_features` (M) outputs and `in_features` (K) inputs with
    /// Kaiming-uniform weights, `a = sqrt(5)` as PyTorch's `Linear` has them:
    /// uniform in `[-b, b)` with
    /// `b = sqrt(2 / (1 + a^2)) * sqrt(3 / K) = 1 / sqrt(K)`.
    ///
    /// He et al., "Delving Deep into Rectifiers"
    /// (<https://arxiv.org/abs/1502.01852>). The weights depend on the seed and
    /// the shape alone.
    ///
    /// # Errors
    /// If the shape is more than memory can hold, or `in_features` is larger
    /// than [`MAX_COLS`](crate::MAX_COLS).
    pub fn kaiming_uniform(
        out_features: usize,
        in_features: usize,
        seed: u64,
    ) -> Result<Self, LayerError> {
        in_default(|| {
            let (rows, cols) = (out_features, in_features);
            let len = rows
                .checked_mul(cols)
                .filter(|&len| len <= isize::MAX as usize / size_of::<f32>())
                .ok_or(QuantError::TooLarge { rows, cols })?;
            let bound = 1.0 / (cols.max(1) as f32).sqrt();
            let mut weight = memory::zeroed(len)?;
            each_row_mut(&mut weight, SPAN, |span, values| {
                noise::fill_uniform(values, seed, (span * SPAN) as u64, bound);
            });
            Self::new(weight, rows, cols)
        })
    }

    /// Adds `scale * z` to the latent weights, z standard normal and determined
    /// by `seed` and the weight's position alone: any number of threads gives
    /// the same z, and so does every further call.
    ///
    /// This is the step of MeZO (Malladi et al., "Fine-Tuning Language Models
    /// with Just Forward Passes", <https://arxiv.org/abs/2305.17333>,
    /// algorithm 1), which needs no memory for z: `+eps`, a loss, `-2 eps`, a
    /// loss, `+eps` again, and then `-rate * (l1 - l2) / (2 eps)`. What the three
    /// steps leave behind is their rounding, at most
    /// `2^-24 * (3 |w| + 4 |eps z|)` a weight, not a drift of eps.
    ///
    /// ```
    /// use tritgemm::nn::BitLinear;
    /// # let loss = |layer: &BitLinear| layer.weight()[0];
    /// let (seed, eps, rate) = (42, 1e-3, 1e-2);
    /// let mut layer = BitLinear::kaiming_uniform(4, 16, 1)?;
    /// layer.perturb(seed, eps);
    /// let up = loss(&layer);
    /// layer.perturb(seed, -2.0 * eps);
    /// let down = loss(&layer);
    /// layer.perturb(seed, eps);
    /// layer.perturb(seed, -rate * (up - down) / (2.0 * eps));
    /// # Ok::<(), tritgemm::nn::LayerError>(())
    /// ```
    pub fn perturb(&mut self, seed: u64, scale: f32) {
        each_row_mut(self.weight_mut(), SPAN, |span, values| {
            let batch = (span * SPAN / noise::BATCH) as u64;
            noise::add_normal(values, seed, batch, scale);
        });
    }
}
