//! `rms_norm` and its gradients.

use crate::arrays::{Input, Named, Output};
use crate::errors::Error;
use crate::pool::run;
use crate::product::Made;
use crate::quant::{ForFloat, for_float};
use pyo3::prelude::*;
use tritgemm::nn::RmsNorm;
use tritgemm::{Activation, MatMut, MatRef};

/// Normalising a value costs about as much as this many weights of a product.
const COST: usize = 16;

/// The size of the work, as [`run`] takes it.
pub fn size(rows: usize, cols: usize) -> usize {
    rows.saturating_mul(cols).saturating_mul(COST)
}

fn norm(gain: &Bound<'_, PyAny>, eps: f32) -> Result<RmsNorm, Error> {
    let gain = Input::<f32>::vector("gain", "[K]", gain)?;
    Ok(RmsNorm::new(gain.slice()?.to_vec())?.with_eps(eps)?)
}

/// RMSNorm (arXiv:1910.07467): y = x / sqrt(mean(x^2) + eps) * gain over the last
/// dimension of x (float32, float16 or bfloat16 [N, K] or [K]), in a new array of x's type.
///
/// `gain` is float32 [K]. The mean is summed in float64, in an order that depends on K
/// alone, and y computed in float32.
#[pyfunction]
#[pyo3(signature = (x, gain, eps = 1e-6))]
pub fn rms_norm<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    gain: &Bound<'py, PyAny>,
    eps: f32,
) -> Made<'py> {
    struct Forward<'a, 'py>(&'a Bound<'py, PyAny>, RmsNorm);
    impl<'py> ForFloat<'py> for Forward<'_, 'py> {
        type Output = Bound<'py, PyAny>;
        fn call<T: Activation + Named>(self, py: Python<'py>) -> Made<'py> {
            let x = Input::<T>::new("x", "[N, K] or [K]", self.0)?;
            let shape = [x.rows(), x.cols()];
            let mut y = Output::<T>::new(py, ("out", None), shape, x.is_vector())?;
            let (from, to) = (x.view()?, y.view()?);
            run(py, size(shape[0], shape[1]), || self.1.forward(from, to))??;
            Ok(y.into_object())
        }
    }
    for_float(py, "x", "[N, K] or [K]", x, Forward(x, norm(gain, eps)?))
}

/// The gradients of rms_norm at x (float32 [N, K]) for those of its result (`grad_y`,
/// float32 [N, K]): (grad_x, grad_gain), float32 [N, K] and [K].
#[pyfunction]
#[pyo3(signature = (x, grad_y, gain, eps = 1e-6))]
pub fn rms_norm_backward<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    grad_y: &Bound<'py, PyAny>,
    gain: &Bound<'py, PyAny>,
    eps: f32,
) -> Result<(Bound<'py, PyAny>, Bound<'py, PyAny>), Error> {
    let norm = norm(gain, eps)?;
    let x = Input::<f32>::dense("x", "[N, K]", x)?;
    let grad_y = Input::<f32>::dense("grad_y", "[N, K]", grad_y)?;
    let (rows, cols) = (x.rows(), x.cols());
    let mut grad_x = Output::<f32>::dense(py, None, [rows, cols])?;
    let mut grad_gain = Output::<f32>::fresh(py, &[norm.features()])?;
    let from = MatRef::new(x.slice()?, rows, cols)?;
    let given = MatRef::new(grad_y.slice()?, grad_y.rows(), grad_y.cols())?;
    let to = MatMut::new(grad_x.slice_mut()?, rows, cols)?;
    let gain_to = grad_gain.slice_mut()?;
    run(py, size(rows, cols), || {
        norm.backward(from, given, to, gain_to)
    })??;
    Ok((grad_x.into_object(), grad_gain.into_object()))
}
