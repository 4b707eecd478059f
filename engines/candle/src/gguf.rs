//! Layers from GGUF files.

use crate::{BitLinear, LoadError};
use tritgemm_formats::gguf::Gguf;
use tritgemm_formats::simplify;

impl BitLinear {
    /// The layer of tensor `weight` of a GGUF file, of any ternary type that
    /// [`tritgemm_formats`] reads (TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, I2_S, IQ2_BN, IQ1_BN),
    /// and of the float tensor `bias` if it has one. Scales that are the same
    /// throughout a row or the tensor are made one.
    ///
    /// `file` is what the caller has read or mapped: [`Gguf::parse`].
    ///
    /// ```
    /// use candle_core::{Device, Module, Tensor};
    /// use tritgemm_candle::BitLinear;
    /// use tritgemm_formats::gguf::Gguf;
    ///
    /// # let file = include_bytes!("../../../formats/tests/vectors/python.gguf");
    /// // let file = std::fs::read("model.gguf")?;
    /// let gguf = Gguf::parse(file).map_err(tritgemm_candle::LoadError::from)?;
    /// # let name = gguf.tensors().find(|t| t.tensor_type().ternary().is_some()).unwrap().name();
    /// // let name = "blk.0.attn_q.weight";
    /// let layer = BitLinear::from_gguf(&gguf, name, None)?;
    /// let x = Tensor::randn(0f32, 1.0, (3, layer.in_features()), &Device::Cpu)?;
    /// assert_eq!(layer.forward(&x)?.dims(), [3, layer.out_features()]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such tensor, it is of another type, holds what is no
    /// ternary weight, or the bias does not have M values.
    pub fn from_gguf(file: &Gguf<'_>, weight: &str, bias: Option<&str>) -> Result<Self, LoadError> {
        let matrix = simplify(file.ternary(weight)?);
        let bias = bias.map(|name| file.tensor(name)?.to_f32()).transpose()?;
        Self::new(&matrix, bias)
    }
}
