//! The trainable ternary layer.
//!
//! | module | what it holds |
//! |---|---|
//! | [`pack`] | latent weights to panels, and to the panels of the transpose |
//! | `backward` | the gradients (feature `train`) |
//! | [`init`] | initialisation and perturbation by a seed |

#[cfg(feature = "train")]
mod backward;
mod init;
mod pack;

#[cfg(feature = "train")]
pub use backward::BitLinearGrads;

use crate::activation::Activation;
use crate::linear::Linear;
use crate::matrix::{TernaryMatrix, check_cols};
use crate::mismatch::check_length;
use crate::nn::error::LayerError;
use crate::quant::QuantError;
use crate::view::{MatMut, MatRef};
use crate::workspace::Workspace;
use pack::Packed;

/// A linear layer that trains latent f32 weights and computes with ternary
/// ones: `y[n][m] = alpha[m] * sum_k q[m][k] * x[n][k] + bias[m]`.
///
/// Alpha is the mean magnitude of a row of the latent weights `[M][K]`, q the
/// trits of the row divided by alpha ([`crate::quant`]), with 2:4 sparsity, if
/// it is on, applied to the trits. This is the layer of BitNet b1.58
/// (<https://arxiv.org/abs/2402.17764>). Gradients take the straight-through
/// path ([`ste`](super::ste)).
///
/// Every pass runs on packed weights, training included. The layer packs them
/// when it first needs them and again only after they may have changed:
/// [`weight_mut`](Self::weight_mut) is the way to change them, and it counts a
/// version up. Training and inference forward by the f32 path are the same
/// product, bit for bit.
///
/// ```
/// use tritgemm::nn::BitLinear;
/// use tritgemm::{MatMut, MatRef, Workspace};
///
/// let mut layer = BitLinear::new(vec![0.9, -0.1, -1.1, 0.3], 2, 2)?.with_bias(vec![0.0, 5.0])?;
/// let (mut y, mut ws) = ([0.0; 2], Workspace::new());
/// layer.forward_training(MatRef::new(&[1.0, 2.0], 1, 2)?, MatMut::new(&mut y, 1, 2)?, &mut ws)?;
/// assert_eq!(y, [0.5, 5.0 - 0.7]); // alphas 0.5 and 0.7, trits 1 0 and -1 0
///
/// layer.weight_mut()[1] = -0.9; // alpha 0.9, trits 1 -1: packed anew
/// layer.forward_training(MatRef::new(&[1.0, 2.0], 1, 2)?, MatMut::new(&mut y, 1, 2)?, &mut ws)?;
/// assert_eq!(y, [-0.9, 5.0 - 0.7]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct BitLinear {
    weight: Vec<f32>,
    rows: usize,
    cols: usize,
    bias: Option<Vec<f32>>,
    sparse: bool,
    version: u64,
    packed: Option<Packed>,
    /// `grad_y * alpha`, kept for its memory.
    #[cfg(feature = "train")]
    scaled: Vec<f32>,
}

impl BitLinear {
    /// A layer with latent weights `[rows][cols]` (M x K), without bias.
    ///
    /// The values are looked at when they are packed: a NaN or an infinity is
    /// an error there, naming its row and column.
    ///
    /// # Errors
    /// If `weight` does not hold `rows * cols` values, or `cols` is larger than
    /// [`MAX_COLS`](crate::MAX_COLS).
    pub fn new(weight: Vec<f32>, rows: usize, cols: usize) -> Result<Self, LayerError> {
        check_cols(cols)?;
        let too_large = QuantError::TooLarge { rows, cols };
        check_length(
            "weight",
            weight.len(),
            rows.checked_mul(cols).ok_or(too_large)?,
        )?;
        Ok(Self {
            weight,
            rows,
            cols,
            bias: None,
            sparse: false,
            version: 0,
            packed: None,
            #[cfg(feature = "train")]
            scaled: Vec::new(),
        })
    }

    /// Adds a bias `[M]`.
    ///
    /// # Errors
    /// If it does not hold one value a row.
    pub fn with_bias(mut self, bias: Vec<f32>) -> Result<Self, LayerError> {
        check_length("bias", bias.len(), self.rows)?;
        self.bias = Some(bias);
        self.invalidate();
        Ok(self)
    }

    /// Turns 2:4 sparsity on or off: at most two trits of every four along K
    /// are not zero, those of the larger magnitude, the later ones of equals.
    /// Mishra et al., <https://arxiv.org/abs/2104.08378>.
    pub fn with_2_4_sparsity(mut self, sparse: bool) -> Self {
        self.sparse = sparse;
        self.invalidate();
        self
    }

    /// K, the inputs.
    pub fn in_features(&self) -> usize {
        self.cols
    }

    /// M, the outputs.
    pub fn out_features(&self) -> usize {
        self.rows
    }

    /// Whether 2:4 sparsity is on.
    pub fn is_2_4_sparse(&self) -> bool {
        self.sparse
    }

    /// The latent weights `[M][K]`.
    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// The latent weights `[M][K]`, to be changed: counts the version up, so
    /// that the next pass packs them anew.
    pub fn weight_mut(&mut self) -> &mut [f32] {
        self.version += 1;
        &mut self.weight
    }

    /// How often the weights may have been changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The bias `[M]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// The bias `[M]`, to be changed; packed weights stay.
    pub fn bias_mut(&mut self) -> Option<&mut [f32]> {
        if let Some(packed) = &mut self.packed {
            packed.bias_is_current = false;
        }
        self.bias.as_deref_mut()
    }

    /// The latent weights `[M][K]` and the bias `[M]`, to be changed together;
    /// counts the version up as [`weight_mut`](Self::weight_mut) does.
    pub fn parameters_mut(&mut self) -> (&mut [f32], Option<&mut [f32]>) {
        self.version += 1;
        (&mut self.weight, self.bias.as_deref_mut())
    }

    /// Packs the weights, unless they are packed already, and returns them as
    /// the layer that inference runs on. It can be cloned off: clones share the
    /// packed weights.
    ///
    /// ```
    /// use tritgemm::nn::BitLinear;
    /// let mut layer = BitLinear::kaiming_uniform(8, 4, 1)?;
    /// let frozen = layer.prepare_for_inference()?.clone();
    /// assert_eq!((frozen.in_features(), frozen.out_features()), (4, 8));
    /// # Ok::<(), tritgemm::nn::LayerError>(())
    /// ```
    ///
    /// # Errors
    /// If a weight is NaN or infinite, or `TRITGEMM_ISA` names an unavailable
    /// instruction set.
    pub fn prepare_for_inference(&mut self) -> Result<&Linear, LayerError> {
        Ok(&self.packed_now()?.linear)
    }

    /// The packed layer, if it is that of the weights and bias as they are.
    pub fn packed(&self) -> Option<&Linear> {
        let packed = self.packed.as_ref()?;
        (packed.version == self.version && packed.bias_is_current).then_some(&packed.linear)
    }

    /// Drops the packed weights and their memory; the next pass packs anew.
    pub fn invalidate(&mut self) {
        self.packed = None;
    }

    /// The ternary weights with their scales, packing them if need be.
    ///
    /// # Errors
    /// As [`prepare_for_inference`](Self::prepare_for_inference).
    pub fn ternary(&mut self) -> Result<&TernaryMatrix, LayerError> {
        Ok(&self.packed_now()?.matrix)
    }

    /// The forward pass of training, by the f32 path: `x` `[N][K]` to `y`
    /// `[N][M]`. See [`Linear::forward_f32`], which gives the same bits on the
    /// layer of [`prepare_for_inference`](Self::prepare_for_inference).
    ///
    /// # Errors
    /// As [`prepare_for_inference`](Self::prepare_for_inference), and if the
    /// shapes do not fit.
    pub fn forward_training(
        &mut self,
        x: MatRef<'_, f32>,
        y: MatMut<'_, f32>,
        ws: &mut Workspace,
    ) -> Result<(), LayerError> {
        Ok(self.packed_now()?.linear.forward_f32(x, y, ws)?)
    }

    /// The forward pass by the W1.58A8 path, for inference: `x` `[N][K]`, f32,
    /// f16 or bf16, is quantised to int8, token by token. See
    /// [`Linear::forward_int8`].
    ///
    /// # Errors
    /// As [`prepare_for_inference`](Self::prepare_for_inference), and if the
    /// shapes do not fit or an activation is NaN or infinite.
    pub fn forward_int8<T: Activation>(
        &mut self,
        x: MatRef<'_, T>,
        y: MatMut<'_, f32>,
        ws: &mut Workspace,
    ) -> Result<(), LayerError> {
        Ok(self.packed_now()?.linear.forward_int8(x, y, ws)?)
    }
}
