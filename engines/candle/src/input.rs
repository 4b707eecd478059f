//! One input for several layers.

use crate::float::{self, Float, Work, on_tokens};
use crate::settings::macs;
use crate::{ActivationMode, BitLinear};
use candle_core::{Error, Result, Tensor};
use std::sync::Arc;
use tritgemm::{GroupSize, Grouped, MatRef, PreparedActivations};

/// A tensor `[.., K]` made ready once for any number of layers of the same K,
/// mode and group sizes of weights and activations, by [`BitLinear::prepare`].
///
/// Layers that multiply the same input one after the other share that work.
/// Q, K and V, or gate and up, which multiply it at once, share the loop as
/// well: [`forward_many`].
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
    group: Option<GroupSize>,
    activations: Arc<PreparedActivations>,
}

impl PreparedInput {
    pub(crate) fn new(x: &Tensor, layer: &BitLinear) -> Result<Self> {
        float::check_input(x.shape(), layer.in_features())?;
        Ok(Self {
            tensor: x.clone(),
            mode: layer.activations(),
            group: layer.activation_group(),
            activations: Arc::new(on_tokens(x, Preparation(layer))?),
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

    /// int8 activations that share a scale, if not all of a token do.
    pub fn activation_group(&self) -> Option<GroupSize> {
        self.group
    }

    /// Fails if int8 activations have other scales than one of the layers wants.
    pub(crate) fn check_groups(&self, layers: &[&BitLinear]) -> Result<()> {
        let int8 = ActivationMode::Int8;
        let mut layers = layers.iter().filter(|layer| layer.activations() == int8);
        match layers.find(|layer| layer.activation_group() != self.group) {
            Some(layer) if self.mode == int8 => Err(Error::Msg(format!(
                "activations prepared with a scale for {}, the layer has one for {}",
                covered(self.group),
                covered(layer.activation_group())
            ))
            .bt()),
            _ => Ok(()),
        }
    }

    pub(crate) fn activations(&self) -> &PreparedActivations {
        &self.activations
    }
}

/// What a scale of int8 activations covers, as a message has it.
fn covered(group: Option<GroupSize>) -> String {
    match group {
        None => "each token".to_owned(),
        Some(group) => format!("each {group} activations"),
    }
}

/// What a layer makes of its input before it multiplies.
struct Preparation<'a>(&'a BitLinear);

impl Work for Preparation<'_> {
    type Output = PreparedActivations;

    fn run<T: Float>(self, x: MatRef<'_, T>) -> Result<PreparedActivations> {
        let (linear, settings) = (self.0.linear(), self.0.settings);
        // As many steps as a product with one panel of rows takes.
        settings.run(macs([x.rows(), x.cols(), 64]), |ws| match settings.mode {
            ActivationMode::Int8 => match settings.activation_group {
                None => linear.prepare_int8(x, ws),
                Some(group) => linear.prepare_int8(Grouped(x, group), ws),
            }
            .map_err(Error::wrap),
            ActivationMode::F32 => {
                let mut wide = Vec::new();
                let x = T::widened(x, &mut wide)?;
                linear.prepare_f32(x, ws).map_err(Error::wrap)
            }
        })
    }
}

/// [`BitLinear::forward_many`] of a number of layers that is known: an output
/// for each.
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
    let outputs = BitLinear::forward_many(&layers, x)?;
    outputs
        .try_into()
        .map_err(|_| Error::msg("as many outputs as layers"))
}
