//! A table of a row a token: the embedding, and the head that makes logits.

use super::dense::{Dense, Storage};
use super::error::{ModelError, Result, tensor};
use crate::{ActivationMode, BitLinear};
use candle_core::{DType, Device, Module, Tensor};
use tritgemm::Rotation;

/// How the values of the head are kept. A ternary head stays ternary.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HeadPrecision {
    /// As they are in the file, read from there; those of a quantised type in bf16.
    #[default]
    Stored,
    /// bf16.
    Bf16,
    /// int8, with a scale a row.
    Int8,
}

/// An embedding or a head.
#[derive(Debug)]
pub(crate) enum Table {
    Dense(Dense),
    Ternary {
        layer: BitLinear,
        /// Rows that are looked up are turned back by it.
        rotated_rows: Option<Rotation>,
    },
}

impl Table {
    /// `[rows, cols]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        match self {
            Table::Dense(dense) => dense.shape(),
            Table::Ternary { layer, .. } => [layer.out_features(), layer.in_features()],
        }
    }

    /// The table with other activations, if it is ternary.
    pub(crate) fn with_activations(self, mode: ActivationMode) -> Self {
        match self {
            Table::Dense(dense) => Table::Dense(dense),
            Table::Ternary {
                layer,
                rotated_rows,
            } => Table::Ternary {
                layer: layer.with_activations(mode),
                rotated_rows,
            },
        }
    }

    /// Bytes that a product reads.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Table::Dense(dense) => {
                let [rows, cols] = dense.shape();
                rows * cols * dense.storage().bytes()
            }
            Table::Ternary { layer, .. } => layer.linear().panels().as_bytes().len(),
        }
    }

    /// The name of the type of its values.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Table::Ternary { .. } => "ternary",
            Table::Dense(dense) => match dense.storage() {
                Storage::F32 => "f32",
                Storage::F16 => "f16",
                Storage::Bf16 => "bf16",
                Storage::Int8 => "int8",
            },
        }
    }

    /// The rows of `tokens`: `[tokens, cols]`.
    pub(crate) fn look_up(&self, tokens: &[u32]) -> Result<Tensor> {
        let [vocabulary, cols] = self.shape();
        let mut values = vec![0.0; tokens.len() * cols];
        for (&token, values) in tokens.iter().zip(values.chunks_exact_mut(cols)) {
            let row = usize::try_from(token).ok().filter(|&row| row < vocabulary);
            let row = row.ok_or(ModelError::Token { token, vocabulary })?;
            match self {
                Table::Dense(dense) => dense.row(row, values),
                Table::Ternary {
                    layer,
                    rotated_rows,
                } => {
                    let unpacked = layer.linear().unpack_row(row, values);
                    let turned = unpacked.and_then(|()| match rotated_rows {
                        Some(rotation) => rotation.invert(values),
                        None => Ok(()),
                    });
                    turned.map_err(|e| tensor("embedding", e.to_string()))?;
                }
            }
        }
        Ok(Tensor::from_vec(
            values,
            (tokens.len(), cols),
            &Device::Cpu,
        )?)
    }

    /// The logits of `x` `[tokens, cols]`: `[tokens, rows]`.
    pub(crate) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Table::Ternary { layer, .. } => Ok(layer.forward(x)?),
            Table::Dense(dense) => {
                let ([rows, cols], tokens) = (dense.shape(), x.dim(0)?);
                crate::float::check_input(x.shape(), cols)?;
                let x = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let logits = dense.product(&x, tokens);
                Ok(Tensor::from_vec(logits, (tokens, rows), &Device::Cpu)?)
            }
        }
    }

    /// The table as a head of that precision; nothing if it is one.
    pub(crate) fn at_precision(
        &self,
        precision: HeadPrecision,
        name: &str,
    ) -> Result<Option<Self>> {
        let Table::Dense(dense) = self else {
            return Ok(None);
        };
        let storage = dense.storage();
        Ok(match precision {
            HeadPrecision::Bf16 if storage != Storage::Bf16 => Some(dense.to_bf16()),
            HeadPrecision::Int8 if storage != Storage::Int8 => Some(dense.to_int8(name)?),
            _ => None,
        }
        .map(Table::Dense))
    }
}
