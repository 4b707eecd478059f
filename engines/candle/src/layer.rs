//! The layer.

use crate::gradient::Gradient;
use crate::product::products;
use crate::settings::Settings;
use crate::{ActivationMode, LoadError, Parallelism, PreparedInput};
use candle_core::{Error, Module, Result, Tensor};
use std::path::Path;
use std::sync::Arc;
use tritgemm::{Granularity, GroupSize, Linear, ModelFile, TernaryMatrix};

/// What layers of one matrix share.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) linear: Linear,
    pub(crate) gradient: Gradient,
}

/// A linear layer of ternary weights, `y = x W^T + b` with `W` of `[M, K]`: a
/// drop-in for `candle_nn::Linear` on the CPU device.
///
/// Cloning shares the weights.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use tritgemm_candle::{ActivationMode, BitLinear};
///
/// // Rows of mean magnitude 0.5 and 1: trits 1 -1 and 0 1.
/// let w = Tensor::new(&[[0.5f32, -0.5], [0.1, 1.9]], &Device::Cpu)?;
/// let layer = BitLinear::quantize(&w, None)?.with_activations(ActivationMode::F32);
/// let x = Tensor::new(&[[3f32, 1.0]], &Device::Cpu)?;
/// assert_eq!(layer.forward(&x)?.to_vec2::<f32>()?, [[1.0, 1.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BitLinear {
    pub(crate) packed: Arc<Packed>,
    pub(crate) settings: Settings,
}

impl From<Linear> for BitLinear {
    /// A layer that is packed already, mapped from a file for instance.
    fn from(linear: Linear) -> Self {
        Self {
            packed: Arc::new(Packed {
                linear,
                gradient: Gradient::default(),
            }),
            settings: Settings::default(),
        }
    }
}

impl BitLinear {
    /// From a ternary matrix `[M, K]` and an optional bias `[M]`.
    ///
    /// # Errors
    /// If the bias does not have M values, or `TRITGEMM_ISA` names an
    /// unavailable instruction set.
    pub fn new(
        matrix: &TernaryMatrix,
        bias: Option<Vec<f32>>,
    ) -> std::result::Result<Self, LoadError> {
        let linear = Linear::new(matrix)?;
        Ok(Self::from(match bias {
            Some(bias) => linear.with_bias(bias)?,
            None => linear,
        }))
    }

    /// Quantises latent weights `[M, K]` (f32, f16 or bf16) by absmean, one
    /// scale a row; `bias` is `[M]`.
    ///
    /// # Errors
    /// As [`BitLinear::quantize_by`].
    pub fn quantize(
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> std::result::Result<Self, LoadError> {
        Self::quantize_by(weight, bias, Granularity::PerRow)
    }

    /// [`BitLinear::quantize`] with one scale for the tensor, a row or a group
    /// of columns. `Granularity::PerTensor` is the paper's choice.
    ///
    /// # Errors
    /// If a tensor is not on the CPU, of another type or rank, a weight NaN or
    /// infinite, or the bias does not have M values.
    pub fn quantize_by(
        weight: &Tensor,
        bias: Option<&Tensor>,
        granularity: Granularity,
    ) -> std::result::Result<Self, LoadError> {
        let matrix = crate::load::quantized(weight, granularity)?;
        Self::new(&matrix, crate::load::bias(bias)?)
    }

    /// From packed weights, the layout that `tritgemm quantize` writes: `packed`
    /// u8 `[M, ceil(K / 4)]`, `scales` f32 `[1]`, `[M]` or `[M, groups]`. K is
    /// `in_features`.
    ///
    /// # Errors
    /// If a type or shape does not fit, or a byte holds a code that is none.
    pub fn from_packed(
        packed: &Tensor,
        scales: &Tensor,
        in_features: usize,
        bias: Option<&Tensor>,
    ) -> std::result::Result<Self, LoadError> {
        let matrix = crate::load::packed(packed, scales, in_features)?;
        Self::new(&matrix, crate::load::bias(bias)?)
    }

    /// Reads a panel file: see [`tritgemm::PanelFile`]. To map one without
    /// copying, pass what `PanelFile::map` gives through `Linear::try_from` and
    /// [`BitLinear::from`].
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or has no scales.
    pub fn load(path: impl AsRef<Path>) -> std::result::Result<Self, LoadError> {
        Ok(Self::from(Linear::load(path)?))
    }

    /// A layer of a panel file of a model, by its name; it shares the file's
    /// panels. The model may be mapped.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use tritgemm::ModelFile;
    /// use tritgemm_candle::BitLinear;
    ///
    /// let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("model.panels");
    /// let up = BitLinear::quantize(&Tensor::randn(0f32, 1.0, (96, 64), &Device::Cpu)?, None)?;
    /// ModelFile::save(&path, [("blk.0.ffn_up", up.linear())])?;
    ///
    /// let model = ModelFile::load(&path)?;
    /// let layer = BitLinear::from_model(&model, "blk.0.ffn_up")?;
    /// assert_eq!(layer.out_features(), 96);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If there is none of that name, or it is damaged or has no scales.
    pub fn from_model(model: &ModelFile, name: &str) -> std::result::Result<Self, LoadError> {
        Ok(Self::from(model.linear(name)?))
    }

    /// The same layer with int8 or f32 activations.
    pub fn with_activations(mut self, mode: ActivationMode) -> Self {
        self.settings.mode = mode;
        self
    }

    /// The same layer with a scale for each so many int8 activations along K, or
    /// with one a token, as unless said: see [`tritgemm::Grouped`]. A large value
    /// then costs precision in its own group alone, and products take longer. f32
    /// activations have no scales.
    ///
    /// ```
    /// use candle_core::{Device, Module, Tensor};
    /// use tritgemm::GroupSize;
    /// use tritgemm_candle::BitLinear;
    ///
    /// let layer = BitLinear::quantize(&Tensor::ones((1, 64), candle_core::DType::F32, &Device::Cpu)?, None)?;
    /// let mut x = vec![0.001f32; 64];
    /// x[0] = 1000.0;
    /// let x = Tensor::from_vec(x, (1, 64), &Device::Cpu)?;
    /// assert_eq!(layer.forward(&x)?.to_vec2::<f32>()?, [[1000.0]]);
    /// let grouped = layer.with_activation_group(Some(GroupSize::G32));
    /// assert_eq!(grouped.forward(&x)?.to_vec2::<f32>()?, [[1000.032]]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn with_activation_group(mut self, group: Option<GroupSize>) -> Self {
        self.settings.activation_group = group;
        self
    }

    /// The same layer on other threads.
    pub fn with_parallelism(mut self, parallelism: Parallelism) -> Self {
        self.settings.parallelism = parallelism;
        self
    }

    /// The same layer with its weights said to be in the CPU's cache when a
    /// product starts: those of a small model, or of one layer again and again.
    /// Unless said they come from memory. Only the speed of a single token with
    /// int8 activations depends on it, and only on some CPUs.
    pub fn with_weights_in_cache(mut self, weights_in_cache: bool) -> Self {
        self.settings.weights_in_cache = weights_in_cache;
        self
    }

    /// K, the inputs.
    pub fn in_features(&self) -> usize {
        self.packed.linear.in_features()
    }

    /// M, the outputs.
    pub fn out_features(&self) -> usize {
        self.packed.linear.out_features()
    }

    /// What activations are multiplied as.
    pub fn activations(&self) -> ActivationMode {
        self.settings.mode
    }

    /// int8 activations that share a scale, if not all of a token do.
    pub fn activation_group(&self) -> Option<GroupSize> {
        self.settings.activation_group
    }

    /// Which threads run it.
    pub fn parallelism(&self) -> Parallelism {
        self.settings.parallelism
    }

    /// Whether its weights are said to be in the cache.
    pub fn weights_in_cache(&self) -> bool {
        self.settings.weights_in_cache
    }

    /// The packed weights, scales and bias.
    pub fn linear(&self) -> &Linear {
        &self.packed.linear
    }

    /// Weights in a group of the scales, if they are per group: layers that
    /// share a [`PreparedInput`] have the same.
    pub fn group(&self) -> Option<GroupSize> {
        self.packed.linear.group()
    }

    /// Writes a panel file that [`BitLinear::load`] reads.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> std::result::Result<(), LoadError> {
        Ok(self.linear().save(path)?)
    }

    /// Makes `x` `[.., K]`, f32, f16 or bf16 on the CPU device, ready once for
    /// this layer and others of the same K, mode, [`group`](Self::group) and, with
    /// int8 activations, [`activation_group`](Self::activation_group).
    ///
    /// # Errors
    /// If `x` has another last dimension or type, is not on the CPU, or, with
    /// int8 activations, holds a NaN or an infinity.
    pub fn prepare(&self, x: &Tensor) -> Result<PreparedInput> {
        PreparedInput::new(x, self)
    }

    /// The forward pass on an input that was prepared for several layers, the
    /// same bits as [`Module::forward`] on the tensor it was made of.
    ///
    /// # Errors
    /// If the input was prepared for another K, mode or group size of the weights or
    /// of the activations.
    pub fn forward_prepared(&self, x: &PreparedInput) -> Result<Tensor> {
        Self::forward_many_prepared(&[self], x).and_then(only)
    }

    /// The outputs of `layers`, in order, for one input `x` `[.., K]`: the bits
    /// and the gradients of [`Module::forward`] of each.
    ///
    /// All that run alike, with the same mode, threads and group sizes of weights
    /// and activations, share one preparation of `x` and one parallel loop.
    ///
    /// # Errors
    /// As [`Module::forward`] of each layer.
    pub fn forward_many(layers: &[&BitLinear], x: &Tensor) -> Result<Vec<Tensor>> {
        products(layers, x, None)
    }

    /// [`forward_many`](Self::forward_many) on an input that was prepared.
    ///
    /// # Errors
    /// If the input was prepared for another K, mode or group size of the weights or
    /// of the activations than one of the layers has.
    pub fn forward_many_prepared(layers: &[&BitLinear], x: &PreparedInput) -> Result<Vec<Tensor>> {
        x.check_groups(layers)?;
        products(layers, x.tensor(), Some(x.activations()))
    }
}

impl Module for BitLinear {
    /// `x` is `[.., K]` in f32, f16 or bf16; the result `[.., M]` in the same
    /// type.
    ///
    /// # Errors
    /// If `x` has another last dimension or type, is not on the CPU, or, with
    /// int8 activations, holds a NaN or an infinity.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Self::forward_many(&[self], x).and_then(only)
    }
}

/// The output of one layer.
pub(crate) fn only<T>(mut outputs: Vec<T>) -> Result<T> {
    outputs
        .pop()
        .ok_or_else(|| Error::msg("one output a layer"))
}
