//! One input for several layers.

use crate::op::{self, Float};
use crate::rows::Rows;
use crate::{ActivationMode, BitLinear};
use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor};
use std::sync::Arc;
use tritgemm::PreparedActivations;

/// A tensor `[.., K]` made ready once for any number of layers of the same K,
/// mode and group size, by [`BitLinear::prepare`].
///
/// Q, K and V, or gate and up, multiply the same input; preparing it once saves
/// the others that work. [`forward_many`] does it in one call.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use tritgemm_candle::BitLinear;
///
/// let layer = |m| BitLinear::quantize(&Tensor::randn(0f32, 1.0, (m, 64), &Device::Cpu)?, None);
/// let (gate, up) = (layer(96)?, layer(96)?);
/// let x = Tensor::randn(0f32, 1.0, (3, 64), &Device::Cpu)?;
/// let prepared = gate.prepare(&x)?;
/// let y = gate.forward_prepared(&prepared)?.mul(&up.forward_prepared(&prepared)?)?;
/// assert_eq!(y.to_vec2::<f32>()?, gate.forward(&x)?.mul(&up.forward(&x)?)?.to_vec2::<f32>()?);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PreparedInput {
    tensor: Tensor,
    mode: ActivationMode,
    activations: Arc<PreparedActivations>,
}

impl PreparedInput {
    pub(crate) fn new(x: &Tensor, layer: &BitLinear) -> Result<Self> {
        op::check_input(x.shape(), layer.in_features())?;
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            candle_core::bail!(
                "BitLinear takes tensors on the CPU device, this one is on {:?}",
                x.device().location()
            );
        };
        let activations = match storage {
            CpuStorage::F32(x) => prepare(x, layout, layer),
            CpuStorage::F16(x) => prepare(x, layout, layer),
            CpuStorage::BF16(x) => prepare(x, layout, layer),
            _ => Err(op::wrong_type(x.dtype())),
        }?;
        Ok(Self {
            tensor: x.clone(),
            mode: layer.mode,
            activations: Arc::new(activations),
        })
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
        self.mode == layer.mode && self.activations.group() == layer.group()
    }
}

fn prepare<T: Float>(x: &[T], layout: &Layout, layer: &BitLinear) -> Result<PreparedActivations> {
    let rows = Rows::new(x, layout);
    let (x, linear) = (rows.view()?, layer.linear());
    // As many steps as a product with one panel of rows takes.
    let steps = x.rows().saturating_mul(x.cols()).saturating_mul(64);
    layer.run(steps, |ws| match layer.mode {
        ActivationMode::Int8 => linear.prepare_int8(x, ws).map_err(Error::wrap),
        ActivationMode::F32 => {
            let mut wide = Vec::new();
            let x = T::widened(x, &mut wide)?;
            linear.prepare_f32(x, ws).map_err(Error::wrap)
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
                inputs.push(layer.prepare(x)?);
                inputs.len() - 1
            }
        };
        outputs.push(layer.forward_prepared(&inputs[at])?);
    }
    outputs
        .try_into()
        .map_err(|_| Error::msg("as many outputs as layers"))
}
