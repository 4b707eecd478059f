//! Layers from tensors, and from candle's `VarBuilder`.

use crate::BitLinear;
use candle_core::{DType, Device, DeviceLocation, Shape, Tensor};
use candle_nn::{Init, VarBuilder};
use tritgemm::{GemmError, Granularity, GroupSize, IsaError, MatRef, MatrixError};
use tritgemm::{PanelFileError, Scales, TernaryMatrix};

/// Why a layer could not be made or saved.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A tensor is not on the CPU device.
    #[error("`{tensor}` is on {device:?}, BitLinear takes tensors on the CPU device")]
    Device {
        /// The tensor.
        tensor: &'static str,
        /// Where it is.
        device: DeviceLocation,
    },
    /// A tensor has another type.
    #[error("`{tensor}` is {got:?}, expected {expected}")]
    DType {
        /// The tensor.
        tensor: &'static str,
        /// Its type.
        got: DType,
        /// The types that are taken.
        expected: &'static str,
    },
    /// A tensor has another shape.
    #[error("`{tensor}` is {got:?}, expected {expected}")]
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        got: Shape,
        /// The shape it should have.
        expected: String,
    },
    /// The weights, scales or bias are no ternary layer.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// Experts of a mixture differ in M, K or the groups of their scales.
    #[error("experts of one mixture must be alike: {0}")]
    Experts(#[from] GemmError),
    /// Experts of a mixture run in different ways.
    #[error(
        "expert {expert} has other activations, groups of them, threads or `weights_in_cache` than expert 0, experts of one mixture run in one loop"
    )]
    ExpertSettings {
        /// The first expert that differs.
        expert: usize,
    },
    /// The instruction set asked for is not available.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// A panel file could not be read or written.
    #[error(transparent)]
    PanelFile(#[from] PanelFileError),
    /// A GGUF file or one of its tensors cannot be read.
    #[error(transparent)]
    Format(#[from] tritgemm_formats::FormatError),
    /// A code of a packed Hugging Face tensor is no weight, or a row beyond M is
    /// not empty.
    #[error(
        "code {code:02b} in row {row}, column {col} of `weight`, expected 00, 01 or 10 in rows of the matrix and 00 beyond"
    )]
    HfCode {
        /// The code.
        code: u8,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
    },
    /// `weight_scale` is there: what it means is not in the file.
    #[error(
        "`weight` is packed as Hugging Face BitNet does: load it with `bit_linear_hf`, which is told what `weight_scale` means"
    )]
    HfPacked,
    /// candle's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl From<LoadError> for candle_core::Error {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Candle(error) => error,
            error => candle_core::Error::wrap(error),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, LoadError>;

pub(crate) fn on_cpu(tensor: &'static str, device: &Device) -> Result<()> {
    match device.location() {
        DeviceLocation::Cpu => Ok(()),
        device => Err(LoadError::Device { tensor, device }),
    }
}

/// The values of a float tensor as f32.
pub(crate) fn floats(name: &'static str, tensor: &Tensor) -> Result<Vec<f32>> {
    on_cpu(name, tensor.device())?;
    match tensor.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => {}
        got => {
            return Err(LoadError::DType {
                tensor: name,
                got,
                expected: "f32, f16 or bf16",
            });
        }
    }
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Latent weights `[M, K]` to ternary ones.
pub(crate) fn quantized(weight: &Tensor, granularity: Granularity) -> Result<TernaryMatrix> {
    let &[rows, cols] = weight.dims() else {
        return Err(LoadError::Shape {
            tensor: "weight",
            got: weight.shape().clone(),
            expected: "[M, K]".to_owned(),
        });
    };
    let weights = floats("weight", weight)?;
    let weights = MatRef::new(&weights, rows, cols).expect("a value a weight");
    Ok(TernaryMatrix::quantize(weights, granularity)?)
}

/// A bias as a layer takes it; its length is checked there.
pub(crate) fn bias(bias: Option<&Tensor>) -> Result<Option<Vec<f32>>> {
    bias.map(|bias| match bias.rank() {
        1 => floats("bias", bias),
        _ => Err(LoadError::Shape {
            tensor: "bias",
            got: bias.shape().clone(),
            expected: "[M]".to_owned(),
        }),
    })
    .transpose()
}

/// Packed bytes `[M, ceil(K / 4)]` and their scales.
pub(crate) fn packed(weight: &Tensor, scales: &Tensor, cols: usize) -> Result<TernaryMatrix> {
    on_cpu("weight", weight.device())?;
    let got = weight.dtype();
    if got != DType::U8 {
        return Err(LoadError::DType {
            tensor: "weight",
            got,
            expected: "u8",
        });
    }
    let rows = match *weight.dims() {
        [rows, row_bytes] if row_bytes == cols.div_ceil(4) => rows,
        _ => {
            return Err(LoadError::Shape {
                tensor: "weight",
                got: weight.shape().clone(),
                expected: format!("[M, {}] for K = {cols}", cols.div_ceil(4)),
            });
        }
    };
    let bytes = weight.flatten_all()?.to_vec1()?;
    let scales = self::scales(scales, [rows, cols])?;
    Ok(TernaryMatrix::from_packed(bytes, rows, cols, scales)?)
}

/// Scales `[1]`, `[M]` or `[M, groups]`; the number of groups tells their size.
fn scales(scales: &Tensor, [rows, cols]: [usize; 2]) -> Result<Scales> {
    let values = floats("scales", scales)?;
    match *scales.dims() {
        [] | [1] => return Ok(Scales::per_tensor(values[0])),
        [count] if count == rows => return Ok(Scales::per_row(values)),
        [count, groups] if count == rows => {
            // One group a row is the same for every size it can have.
            let size = GroupSize::ALL.iter().find(|s| s.groups(cols) == groups);
            if let Some(&size) = size {
                return Ok(Scales::per_group(size, values));
            }
        }
        _ => {}
    }
    let counts = GroupSize::ALL.iter().map(|s| s.groups(cols).to_string());
    let counts = counts.collect::<Vec<_>>().join(", ");
    Err(LoadError::Shape {
        tensor: "scales",
        got: scales.shape().clone(),
        expected: format!("[1], [{rows}] or [{rows}, groups] with {counts} groups"),
    })
}

/// A layer of `[out_dim, in_dim]` weights with a bias, as `candle_nn::linear`
/// loads a dense one: the tensors `weight` and `bias` under the builder's prefix.
///
/// `weight` is one of
///
/// | beside it | `weight` | what it is |
/// |---|---|---|
/// | `weight.scales` | u8 `[M, ceil(K / 4)]` | packed by `tritgemm quantize` |
/// | nothing | a float `[M, K]` | dense, quantised here by absmean, one scale a row |
///
/// Packed Hugging Face checkpoints (`weight_scale` beside it) are
/// [`bit_linear_hf`](crate::bit_linear_hf)'s.
///
/// # Errors
/// If a tensor is missing, of another shape, holds what is no weight, or the
/// builder's device is not the CPU.
pub fn bit_linear(in_dim: usize, out_dim: usize, vb: VarBuilder<'_>) -> Result<BitLinear> {
    bit_linear_b(in_dim, out_dim, true, vb)
}

/// [`bit_linear`] without a bias.
///
/// # Errors
/// As [`bit_linear`].
pub fn bit_linear_no_bias(in_dim: usize, out_dim: usize, vb: VarBuilder<'_>) -> Result<BitLinear> {
    bit_linear_b(in_dim, out_dim, false, vb)
}

/// [`bit_linear`] with or without a bias.
///
/// # Errors
/// As [`bit_linear`].
pub fn bit_linear_b(
    in_dim: usize,
    out_dim: usize,
    bias: bool,
    vb: VarBuilder<'_>,
) -> Result<BitLinear> {
    on_cpu("weight", vb.device())?;
    let uniform = || {
        let bound = 1.0 / (in_dim as f64).sqrt();
        Init::Uniform {
            lo: -bound,
            up: bound,
        }
    };
    let bias = bias
        .then(|| vb.get_with_hints_dtype(out_dim, "bias", uniform(), DType::F32))
        .transpose()?;
    // As stored: the builder's own type would turn bytes into floats.
    let stored = |shape: (usize, usize)| {
        vb.get_with_hints_dtype(shape, "weight", Init::default(), DType::U8)
    };
    if vb.contains_tensor("weight.scales") {
        let weight = stored((out_dim, in_dim.div_ceil(4)))?;
        let scales = vb.get_unchecked_dtype("weight.scales", DType::F32)?;
        return BitLinear::from_packed(&weight, &scales, in_dim, bias.as_ref());
    }
    if vb.contains_tensor("weight_scale") {
        return Err(LoadError::HfPacked);
    }
    let init = candle_nn::init::DEFAULT_KAIMING_NORMAL;
    let weight = vb.get_with_hints_dtype((out_dim, in_dim), "weight", init, DType::F32)?;
    BitLinear::quantize(&weight, bias.as_ref())
}
