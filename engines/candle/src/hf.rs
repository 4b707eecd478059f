//! Layers in the packed uint8 layout of Hugging Face BitNet checkpoints.

use crate::load::{Result, floats, on_cpu};
use crate::{BitLinear, LoadError};
use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};
use tritgemm::{MatRef, Scales, TernaryMatrix};

/// What `weight_scale` of a Hugging Face BitNet checkpoint means: the
/// `linear_class` of its `quantization_config`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HfLinearClass {
    /// `bitlinear`, which transformers assumes where a configuration names none:
    /// outputs are divided by it.
    BitLinear,
    /// `autobitlinear`: outputs are multiplied by it.
    AutoBitLinear,
}

/// Rows in a byte.
const ROWS_PER_BYTE: usize = 4;

impl BitLinear {
    /// From the packed layout of Hugging Face BitNet checkpoints: `packed` u8
    /// `[ceil(M / 4), K]` and one `weight_scale`, f32, f16 or bf16.
    ///
    /// With R packed rows, row `r` is in packed row `r mod R` at bits
    /// `2 (r div R)`, as the weight plus 1. M is `out_features`; rows beyond it
    /// must be filled with `00`, as transformers packs them.
    ///
    /// # Errors
    /// If a type or shape does not fit, a code is `11` or a row beyond M is not
    /// empty, or the scale is 0 where it divides, NaN or infinite.
    pub fn from_hf(
        packed: &Tensor,
        weight_scale: &Tensor,
        out_features: usize,
        class: HfLinearClass,
        bias: Option<&Tensor>,
    ) -> Result<Self> {
        on_cpu("weight", packed.device())?;
        let got = packed.dtype();
        if got != DType::U8 {
            return Err(LoadError::DType {
                tensor: "weight",
                got,
                expected: "u8",
            });
        }
        let packed_rows = out_features.div_ceil(ROWS_PER_BYTE);
        let cols = match *packed.dims() {
            [rows, cols] if rows == packed_rows => cols,
            _ => {
                return Err(LoadError::Shape {
                    tensor: "weight",
                    got: packed.shape().clone(),
                    expected: format!("[{packed_rows}, K] for M = {out_features}"),
                });
            }
        };
        let scale = match floats("weight_scale", weight_scale)?[..] {
            [scale] => scale,
            _ => {
                return Err(LoadError::Shape {
                    tensor: "weight_scale",
                    got: weight_scale.shape().clone(),
                    expected: "one value".to_owned(),
                });
            }
        };
        let scale = match class {
            HfLinearClass::BitLinear => 1.0 / scale,
            HfLinearClass::AutoBitLinear => scale,
        };
        let bytes = packed.flatten_all()?.to_vec1::<u8>()?;
        let trits = trits(&bytes, out_features, cols)?;
        let scales = Scales::per_tensor(scale);
        let trits = MatRef::new(&trits, out_features, cols).expect("a trit a weight");
        let matrix = TernaryMatrix::from_trits(trits, scales)?;
        Self::new(&matrix, crate::load::bias(bias)?)
    }
}

/// The weights `[rows][cols]` of packed rows.
fn trits(bytes: &[u8], rows: usize, cols: usize) -> Result<Vec<i8>> {
    let packed_rows = rows.div_ceil(ROWS_PER_BYTE);
    let mut trits = Vec::with_capacity(rows * cols);
    for row in 0..packed_rows * ROWS_PER_BYTE {
        let shift = 2 * (row / packed_rows);
        let codes = &bytes[row % packed_rows * cols..][..cols];
        for (col, byte) in codes.iter().enumerate() {
            let code = byte >> shift & 0b11;
            if code > 2 || (row >= rows && code != 0) {
                return Err(LoadError::HfCode { code, row, col });
            }
            if row < rows {
                trits.push(code as i8 - 1);
            }
        }
    }
    Ok(trits)
}

/// A layer of `[out_dim, in_dim]` weights packed as Hugging Face BitNet
/// checkpoints have them: the tensors `weight` and `weight_scale`, and `bias` if
/// there is one, under the builder's prefix. `class` is what the checkpoint's
/// configuration says: see [`HfLinearClass`].
///
/// # Errors
/// As [`BitLinear::from_hf`], and if a tensor is missing.
pub fn bit_linear_hf(
    in_dim: usize,
    out_dim: usize,
    class: HfLinearClass,
    vb: VarBuilder<'_>,
) -> Result<BitLinear> {
    on_cpu("weight", vb.device())?;
    let shape = (out_dim.div_ceil(ROWS_PER_BYTE), in_dim);
    // As stored: the builder's own type would turn bytes into floats.
    let weight = vb.get_with_hints_dtype(shape, "weight", Init::default(), DType::U8)?;
    let scale = vb.get_unchecked_dtype("weight_scale", DType::F32)?;
    let bias = match vb.contains_tensor("bias") {
        true => Some(vb.get_with_hints_dtype(out_dim, "bias", Init::default(), DType::F32)?),
        false => None,
    };
    BitLinear::from_hf(&weight, &scale, out_dim, class, bias.as_ref())
}
