//! One input for several layers.

use crate::op::{self, Float};
use crate::parallelism::Parallelism;
use crate::rows::Rows;
use crate::{ActivationMode, BitLinear};
use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor};
use std::sync::Arc;
use tritgemm::{GroupSize, PreparedActivations};

/// A tensor `[.., K]` made ready once for any number of layers of the same K,
/// mode and group size: quantised and with its tables built.
///
/// Q, K and V, or gate and up, multiply the same input; preparing it once saves
/// the others that work. [`forward_many`] does it in one call.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use tritgemm_candle::{BitLinear, PreparedInput};
///
/// let layer = |m| BitLinear::quantize(&Tensor::randn(0f32, 1.0, (m, 64), &Device::Cpu)?, None);
/// let (gate, up) = (layer(96)?, layer(96)?);
/// let x = Tensor::randn(0f32, 1.0, (3, 64), &Device::Cpu)?;
/// let prepared = PreparedInput::for_layer(&x, &gate)?;
/// let y = gate.forward_prepared(&prepared)?.mul(&up.forward_prepared(&prepared)?)?;
/// assert_eq!(y.to_vec2::<f32>()?, gate.forward(&x)?.mul(&up.forward(&x)?)?.to_vec2::<f32>()?);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PreparedInput {
    tensor: Tensor,
    mode: ActivationMode,
    group: Option<GroupSize>,
    activations: Arc<PreparedActivations>,
}

impl PreparedInput {
    /// Prepares `x` `[.., K]`, f32, f16 or bf16 on the CPU device, for layers
    /// of this mode and [`BitLinear::group`].
    ///
    /// # Errors
    /// If `x` has no dimension, another type, is not on the CPU, or, with int8
    /// activations, holds a NaN or an infinity.
    pub fn new(
        x: &Tensor,
        mode: ActivationMode,
        group: Option<GroupSize>,
        parallelism: Parallelism,
    ) -> Result<Self> {
        if x.rank() == 0 {
            let (expected, got, shape) = (1, 0, x.shape().clone());
            return Err(Error::UnexpectedNumberOfDims {
                expected,
                got,
                shape,
            }
            .bt());
        }
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!(
                "BitLinear takes tensors on the CPU device, this one is on {:?}",
                x.device().location()
            );
        };
        let how = (mode, group, parallelism);
        let activations = match storage {
            CpuStorage::F32(x) => prepare(x, layout, how),
            CpuStorage::F16(x) => prepare(x, layout, how),
            CpuStorage::BF16(x) => prepare(x, layout, how),
            _ => Err(op::wrong_type(x.dtype())),
        }?;
        Ok(Self {
            tensor: x.clone(),
            mode,
            group,
            activations: Arc::new(activations),
        })
    }

    /// Prepares `x` for `layer` and others of its kind.
    ///
    /// # Errors
    /// As [`PreparedInput::new`], and if `x` is not `[.., K]`.
    pub fn for_layer(x: &Tensor, layer: &BitLinear) -> Result<Self> {
        op::check_input(x.shape(), layer.in_features())?;
        Self::new(x, layer.mode, layer.group(), layer.parallelism)
    }

    /// The tensor that was prepared.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// What activations are multiplied as.
    pub fn mode(&self) -> ActivationMode {
        self.mode
    }

    pub(crate) fn activations(&self) -> &PreparedActivations {
        &self.activations
    }

    fn fits(&self, layer: &BitLinear) -> bool {
        self.mode == layer.mode && self.group == layer.group()
    }
}

fn prepare<T: Float>(
    x: &[T],
    layout: &Layout,
    (mode, group, parallelism): (ActivationMode, Option<GroupSize>, Parallelism),
) -> Result<PreparedActivations> {
    let rows = Rows::new(x, layout);
    let x = rows.view()?;
    // As many steps as a product with one panel of rows takes.
    let steps = x.rows().saturating_mul(x.cols()).saturating_mul(64);
    parallelism.run(steps, |ws| match mode {
        ActivationMode::Int8 => PreparedActivations::quantize(x, group, ws).map_err(Error::wrap),
        ActivationMode::F32 => {
            let mut wide = Vec::new();
            let x = T::widened(x, &mut wide)?;
            PreparedActivations::float(x, group, ws).map_err(Error::wrap)
        }
    })
}

/// The outputs of `layers`, in order, for one input `x` `[.., K]`, which is
/// prepared once for all layers of the same mode and group size.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use tritgemm_candle::{BitLinear, forward_many};
///
/// let layer = |m| BitLinear::quantize(&Tensor::randn(0f32, 1.0, (m, 64), &Device::Cpu)?, None);
/// let (q, k, v) = (layer(64)?, layer(16)?, layer(16)?);
/// let x = Tensor::randn(0f32, 1.0, (1, 5, 64), &Device::Cpu)?;
/// let [q, k, v] = forward_many([&q, &k, &v], &x)?;
/// assert_eq!((q.dims(), k.dims(), v.dims()), (&[1, 5, 64][..], &[1, 5, 16][..], &[1, 5, 16][..]));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`Module::forward`](candle_core::Module::forward) of each layer.
pub fn forward_many<const N: usize>(layers: [&BitLinear; N], x: &Tensor) -> Result<[Tensor; N]> {
    let mut inputs: Vec<PreparedInput> = Vec::new();
    let mut outputs = Vec::with_capacity(N);
    for layer in layers {
        let at = match inputs.iter().position(|input| input.fits(layer)) {
            Some(at) => at,
            None => {
                inputs.push(PreparedInput::for_layer(x, layer)?);
                inputs.len() - 1
            }
        };
        outputs.push(layer.forward_prepared(&inputs[at])?);
    }
    outputs
        .try_into()
        .map_err(|_| Error::msg("as many outputs as layers"))
}
