//! Scales of weights and biases: arguments and results.

use crate::arrays::{Input, Output};
use crate::errors::Error;
use crate::options::group_size;
use crate::quant::scales_shape;
use numpy::{PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use tritgemm::{Granularity, Linear, MatrixError, Scales};

/// Scales from a number, or an array [1], [M] or, with a group, [M, G].
pub fn scales(
    object: Option<&Bound<'_, PyAny>>,
    group: Option<usize>,
    rows: usize,
) -> Result<Scales, Error> {
    let group = group.map(|len| group_size("group", len)).transpose()?;
    let Some(object) = object else {
        return match group {
            None => Ok(Scales::per_tensor(1.0)),
            Some(_) => Err(Error::shape(
                "scales: expected float32 [M, G] for a group, got None".into(),
            )),
        };
    };
    if group.is_none()
        && let Ok(scale) = object.extract::<f32>()
    {
        return Ok(Scales::per_tensor(scale));
    }
    let array = match group {
        Some(_) => Input::<f32>::dense("scales", "[M, G]", object)?,
        None => Input::<f32>::vector("scales", "[1] or [M]", object)?,
    };
    let values = array.slice()?.to_vec();
    match group {
        Some(_) if array.rows() != rows => Err(Error::shape(format!(
            "scales: {} rows, expected {rows} (M)",
            array.rows()
        ))),
        Some(size) => Ok(Scales::per_group(size, values)),
        None if values.len() == 1 => Ok(Scales::per_tensor(values[0])),
        None => Ok(Scales::per_row(values)),
    }
}

/// A new array with a layer's scales, shaped as `ternarize` does.
pub fn scales_array<'py>(py: Python<'py>, core: &Linear) -> Result<Bound<'py, PyAny>, Error> {
    let shape = [core.out_features(), core.in_features()];
    let mut array = Output::<f32>::fresh(py, &scales_shape(core.granularity(), shape))?;
    let scales = core.scales().map_err(MatrixError::from)?;
    array.slice_mut()?.copy_from_slice(scales.values());
    Ok(array.into_object())
}

/// As many scales as `scales_shape` says.
pub fn scales_of(granularity: Granularity, scales: Vec<f32>) -> Scales {
    match granularity {
        Granularity::PerTensor => Scales::per_tensor(scales[0]),
        Granularity::PerRow => Scales::per_row(scales),
        Granularity::PerGroup(size) => Scales::per_group(size, scales),
    }
}

/// A bias: float32 [M], copied.
pub fn bias(object: &Bound<'_, PyAny>) -> Result<Vec<f32>, Error> {
    Ok(Input::<f32>::vector("bias", "[M]", object)?
        .slice()?
        .to_vec())
}

/// A copy of a bias as an array.
pub fn bias_array<'py>(py: Python<'py>, core: &Linear) -> Option<Bound<'py, PyAny>> {
    let bias = core.bias()?;
    let array = PyArrayDyn::<f32>::zeros(py, vec![bias.len()], false);
    debug_assert_eq!(array.len(), bias.len());
    array
        .try_readwrite()
        .ok()?
        .as_slice_mut()
        .ok()?
        .copy_from_slice(bias);
    Some(array.into_any())
}
