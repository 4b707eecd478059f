//! `ternarize` and `quantize_activations`: floats to trits and to int8.

use crate::arrays::{Input, Named, Output, describe, has_dtype};
use crate::errors::Error;
use crate::options::{granularity, is_2_4};
use crate::pool::run;
use crate::reciprocal;
use half::{bf16, f16};
use pyo3::prelude::*;
use tritgemm::quant::{
    absmean_into, quantize_activations_into, sparsify_trits_2_4, ternarize_into,
};
use tritgemm::{Activation, Granularity, MatMut, MatRef};

/// Quantising a value costs about as much as this many weights of a product.
const COST: usize = 16;

/// What latent weights become: `(trits, scales)`, without the GIL.
pub fn ternarize_matrix(
    weights: MatRef<'_, f32>,
    granularity: Granularity,
    (sparse, keep): (bool, bool),
    trits: &mut [i8],
    scales: &mut [f32],
) -> Result<(), Error> {
    let (rows, cols) = (weights.rows(), weights.cols());
    match keep.then(|| magnitudes(weights, granularity)).flatten() {
        Some(kept) => scales.copy_from_slice(&kept),
        None => absmean_into(weights, granularity, scales)?,
    }
    ternarize_into(
        weights,
        granularity,
        scales,
        MatMut::new(trits, rows, cols)?,
    )?;
    if sparse {
        sparsify_trits_2_4(MatMut::new(trits, rows, cols)?);
    }
    Ok(())
}

/// The scale of weights that are all zero.
const MIN_SCALE: f32 = 1e-5;

/// The scales of weights that are ternary already, if they are: the one magnitude that the
/// weights of each scale have beside zeros.
pub fn magnitudes(weights: MatRef<'_, f32>, granularity: Granularity) -> Option<Vec<f32>> {
    let (rows, cols) = (weights.rows(), weights.cols());
    let mut scales = vec![0.0_f32; scales_shape(granularity, [rows, cols]).iter().product()];
    let len = match granularity {
        Granularity::PerGroup(group) => group.len(),
        Granularity::PerTensor | Granularity::PerRow => cols.max(1),
    };
    let groups = cols.div_ceil(len);
    for row in 0..rows {
        for (group, weights) in weights.row(row).chunks(len).enumerate() {
            let scale = match granularity {
                Granularity::PerTensor => &mut scales[0],
                Granularity::PerRow | Granularity::PerGroup(_) => &mut scales[row * groups + group],
            };
            for weight in weights {
                let size = weight.abs();
                if *scale == 0.0 {
                    *scale = size;
                } else if size != 0.0 && size != *scale {
                    return None;
                }
            }
        }
    }
    for scale in scales.iter_mut().filter(|scale| **scale == 0.0) {
        *scale = MIN_SCALE;
    }
    Some(scales)
}

/// The shape of an array of scales.
pub fn scales_shape(granularity: Granularity, [rows, cols]: [usize; 2]) -> Vec<usize> {
    match granularity {
        Granularity::PerTensor => vec![1],
        Granularity::PerRow => vec![rows],
        Granularity::PerGroup(size) => vec![rows, size.groups(cols)],
    }
}

/// Ternarises latent weights (float32 [M, K]): `(trits, scales)`.
///
/// A scale is max(mean |w|, 1e-5) of the tensor, of a row or of a group of 32,
/// 64, 128 or 256 along K (BitNet b1.58, arXiv:2402.17764); a trit is w / scale,
/// clamped to -1..1 and rounded half to even. With sparsity="2:4" at most two of
/// every four trits along K stay nonzero, those of the larger magnitude, the
/// later ones of equals. `trits` is int8 [M, K]; `scales` is float32 [1], [M] or
/// [M, ceil(K/group)]. A NaN or an infinity raises QuantizationError.
#[pyfunction]
#[pyo3(signature = (weights, granularity = None, *, sparsity = None))]
#[pyo3(text_signature = "(weights, granularity='row', *, sparsity=None)")]
pub fn ternarize<'py>(
    py: Python<'py>,
    weights: &Bound<'py, PyAny>,
    granularity: Option<&Bound<'py, PyAny>>,
    sparsity: Option<&str>,
) -> Result<(Bound<'py, PyAny>, Bound<'py, PyAny>), Error> {
    let granularity = granularity.map_or(Ok(Granularity::PerRow), self::granularity)?;
    let sparse = is_2_4(sparsity)?;
    let weights = Input::<f32>::dense("weights", "[M, K]", weights)?;
    let shape = [weights.rows(), weights.cols()];
    let mut trits = Output::<i8>::dense(py, None, shape)?;
    let mut scales = Output::<f32>::fresh(py, &scales_shape(granularity, shape))?;
    let from = MatRef::new(weights.slice()?, shape[0], shape[1])?;
    let (to, scales_to) = (trits.slice_mut()?, scales.slice_mut()?);
    run(py, to.len().saturating_mul(COST), || {
        ternarize_matrix(from, granularity, (sparse, false), to, scales_to)
    })??;
    Ok((trits.into_object(), scales.into_object()))
}

/// Quantises activations (float32, float16 or bfloat16 [N, K]), token by token:
/// `(values, scales)`, int8 [N, K] and float32 [N], as the int8 path does.
///
/// A scale is max(max |x|, 1e-5) / 127, a value x / scale rounded half to even.
/// A NaN or an infinity raises QuantizationError.
///
/// With `as_torch` the values are those of torch's `x.float() * (127 / absmax)`, which takes
/// 127 / t for a reciprocal times 127 and rounds twice: in a fifth of the tokens the factor is
/// one ulp away from the quotient, and a value at a tie may round the other way. A scale is
/// the reciprocal of that factor.
#[pyfunction]
#[pyo3(signature = (x, *, as_torch = false))]
pub fn quantize_activations<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    as_torch: bool,
) -> Result<(Bound<'py, PyAny>, Bound<'py, PyAny>), Error> {
    struct Quantize<'a, 'py>(&'a Bound<'py, PyAny>, bool);
    impl<'py> ForFloat<'py> for Quantize<'_, 'py> {
        type Output = (Bound<'py, PyAny>, Bound<'py, PyAny>);
        fn call<T: Activation + Named + Into<f32>>(
            self,
            py: Python<'py>,
        ) -> Result<Self::Output, Error> {
            let x = Input::<T>::dense("x", "[N, K]", self.0)?;
            let (tokens, k) = (x.rows(), x.cols());
            let mut values = Output::<i8>::dense(py, None, [tokens, k])?;
            let mut scales = Output::<f32>::fresh(py, &[tokens])?;
            let from = MatRef::new(x.slice()?, tokens, k)?;
            let (to, scales_to) = (values.slice_mut()?, scales.slice_mut()?);
            run(py, (tokens * k).saturating_mul(COST), || match self.1 {
                true => Ok(reciprocal::quantize(from, to, scales_to)?),
                false => {
                    let to = MatMut::new(to, tokens, k)?;
                    Ok::<_, Error>(quantize_activations_into(from, to, scales_to)?)
                }
            })??;
            Ok((values.into_object(), scales.into_object()))
        }
    }
    for_float(py, "x", "[N, K]", x, Quantize(x, as_torch))
}

/// Work that any float type of activations can do.
pub trait ForFloat<'py> {
    /// What comes of it.
    type Output;
    /// Does it with the array's own type.
    fn call<T: Activation + Named + Into<f32>>(
        self,
        py: Python<'py>,
    ) -> Result<Self::Output, Error>;
}

/// Calls `work` with the float type that the array `x` has.
pub fn for_float<'py, F: ForFloat<'py>>(
    py: Python<'py>,
    name: &str,
    shape: &str,
    x: &Bound<'py, PyAny>,
    work: F,
) -> Result<F::Output, Error> {
    if has_dtype::<f32>(x) {
        work.call::<f32>(py)
    } else if has_dtype::<f16>(x) {
        work.call::<f16>(py)
    } else if has_dtype::<bf16>(x) {
        work.call::<bf16>(py)
    } else {
        let got = describe(x);
        Err(Error::wrong_type(format!(
            "{name}: expected float32, float16 or bfloat16 {shape}, got {got}"
        )))
    }
}
