//! `PreparedActivations`: activations made ready once for several matrices.

use crate::arrays::{Input, Named, describe};
use crate::errors::Error;
use crate::options::{Path, group_size};
use crate::pool::run;
use crate::product::check_width;
use crate::quant::{ForFloat, for_float};
use pyo3::prelude::*;
use tritgemm::{Activation, GemmError, Linear, MatRef, PreparedActivations as Core, Workspace};

/// Activations made ready once for any number of weights with the same K, as Q,
/// K and V, or gate and up, have.
///
/// Made by Linear.prepare_int8, Linear.prepare_f32 or from_int8. The arrays can be
/// changed afterwards.
#[pyclass(frozen, module = "tritgemm")]
pub struct PreparedActivations {
    pub core: Core,
    pub path: Path,
    vector: bool,
}

impl PreparedActivations {
    /// Tokens, and whether it is a vector.
    pub fn rows(&self) -> (usize, bool) {
        (self.core.tokens(), self.vector)
    }

    /// Of an array, as `work` prepares it without the GIL.
    fn prepare<T: Named + Sync>(
        py: Python<'_>,
        path: Path,
        x: &Input<'_, T>,
        work: impl FnOnce(MatRef<'_, T>, &mut Workspace) -> Result<Core, GemmError> + Send,
    ) -> Result<Self, Error> {
        let view = x.view()?;
        let size = x.rows().saturating_mul(x.cols());
        Ok(Self {
            core: run(py, size, |ws| work(view, ws))??,
            path,
            vector: x.is_vector(),
        })
    }

    /// Quantised for a layer.
    pub fn int8(py: Python<'_>, layer: &Linear, x: &Bound<'_, PyAny>) -> Result<Self, Error> {
        for_float(py, "x", "[N, K] or [K]", x, Quantize { layer, x })
    }

    /// For the f32 path of a layer.
    pub fn f32(py: Python<'_>, layer: &Linear, x: &Bound<'_, PyAny>) -> Result<Self, Error> {
        let x = Input::<f32>::new("x", "[N, K] or [K]", x)?;
        check_width(x.cols(), layer.panels())?;
        Self::prepare(py, Path::F32, &x, |x, ws| layer.prepare_f32(x, ws))
    }
}

struct Quantize<'a, 'py> {
    layer: &'a Linear,
    x: &'a Bound<'py, PyAny>,
}

impl<'py> ForFloat<'py> for Quantize<'_, 'py> {
    type Output = PreparedActivations;

    fn call<T: Activation + Named>(self, py: Python<'py>) -> Result<Self::Output, Error> {
        let (layer, x) = (self.layer, Input::<T>::new("x", "[N, K] or [K]", self.x)?);
        check_width(x.cols(), layer.panels())?;
        PreparedActivations::prepare(py, Path::Int8, &x, |x, ws| layer.prepare_int8(x, ws))
    }
}

#[pymethods]
impl PreparedActivations {
    /// From activations that are int8 already ([N, K]) and the scale of each
    /// token (float32 [N]; 1 if not given). `group` is the group size of the
    /// weights' scales, if they have one.
    #[staticmethod]
    #[pyo3(signature = (x, token_scales = None, *, group = None))]
    fn from_int8(
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        token_scales: Option<&Bound<'_, PyAny>>,
        group: Option<usize>,
    ) -> Result<Self, Error> {
        let group = group.map(group_size).transpose()?;
        let x = Input::<i8>::new("x", "[N, K] or [K]", x)?;
        let scales = match token_scales {
            None => vec![1.0; x.rows()],
            Some(object) => {
                let scales = Input::<f32>::new("token_scales", "[N]", object)?;
                match scales.slice() {
                    Ok(values) if scales.is_vector() => values.to_vec(),
                    _ => {
                        let got = describe(object);
                        return Err(Error::shape(format!(
                            "token_scales: expected float32 [N], got {got}"
                        )));
                    }
                }
            }
        };
        Self::prepare(py, Path::Int8, &x, |x, ws| {
            Core::from_int8(x, scales, group, ws)
        })
    }

    /// (N, K).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.core.tokens(), self.core.cols())
    }

    /// 'f32' or 'int8'.
    #[getter]
    fn activations(&self) -> &'static str {
        self.path.name()
    }

    fn __repr__(&self) -> String {
        let ((n, k), path) = (self.shape(), self.path.name());
        format!("tritgemm.PreparedActivations(shape=({n}, {k}), activations='{path}')")
    }
}
