//! Packed weights as Hugging Face BitNet checkpoints have them.

use crate::arrays::{Input, Output};
use crate::errors::Error;
use crate::options::linear_class;
use crate::pool::{multiply, run};
use pyo3::prelude::*;
use tritgemm::{Linear, MatrixError, Options, TernaryMatrix};
use tritgemm_formats::{FloatType, ScaleRounding, hf, simplify};

/// Reads uint8 [ceil(M/4), K].
pub fn read(
    py: Python<'_>,
    packed: &Bound<'_, PyAny>,
    weight_scale: f32,
    class: &str,
    rows: Option<usize>,
) -> Result<Linear, Error> {
    let class = linear_class(class)?;
    let packed = Input::<u8>::dense("packed", "[ceil(M/4), K]", packed)?;
    let stored = hf::Packed {
        tensor: "packed",
        bytes: packed.slice()?,
        packed_rows: packed.rows(),
        cols: packed.cols(),
        weight_scale,
    };
    let size = stored.bytes.len().saturating_mul(4);
    Ok(multiply(py, size, Options::new(), |ws| {
        hf::linear(&stored, class, rows, ws)
    })??)
}

/// The array that [`read`] takes, and its scale, of a matrix of the shape. `how`: the linear
/// class, the type of the scale, and whether it has to be exact.
pub fn write<'py>(
    py: Python<'py>,
    matrix: impl FnOnce() -> Result<TernaryMatrix, MatrixError> + Send,
    (rows, cols): (usize, usize),
    (class, dtype, exact): (&str, &str, bool),
) -> Result<(Bound<'py, PyAny>, f32), Error> {
    let class = linear_class(class)?;
    let stored = match dtype {
        "float32" => FloatType::F32,
        "float16" => FloatType::F16,
        "bfloat16" => FloatType::Bf16,
        _ => {
            return Err(Error::other(format!(
                "dtype: expected 'float32', 'float16' or 'bfloat16', got '{dtype}'"
            )));
        }
    };
    let rounding = match exact {
        true => ScaleRounding::Exact,
        false => ScaleRounding::Nearest,
    };
    let mut packed = Output::<u8>::dense(py, None, [rows.div_ceil(4), cols])?;
    let to = packed.slice_mut()?;
    let scale = run(py, rows.saturating_mul(cols), || {
        let matrix = simplify(matrix()?);
        to.copy_from_slice(&hf::encode(&matrix));
        let scale = hf::encode_scale("weights", &matrix, class, stored, rounding)?;
        Ok::<_, Error>(stored.decode(&scale))
    })??;
    Ok((packed.into_object(), scale[0]))
}
