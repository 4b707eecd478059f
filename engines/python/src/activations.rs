//! `PreparedActivations`: activations made ready once for several matrices.

use crate::arrays::{Input, Named, describe};
use crate::errors::Error;
use crate::options::{Path, group_size};
use crate::pool::run;
use crate::quant::{ForFloat, for_float};
use pyo3::prelude::*;
use tritgemm::{Activation, GroupSize, PreparedActivations as Core};

/// Activations made ready once for any number of weights with the same K, as Q,
/// K and V, or gate and up, have.
///
/// `x` is float32 [N, K] or [K]; for activations="int8" also float16 or
/// bfloat16, quantised to int8 token by token. `group` is the group size of the
/// weights' scales, if they have one. The arrays can be changed afterwards.
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
}

struct Quantize<'a, 'py> {
    x: &'a Bound<'py, PyAny>,
    group: Option<GroupSize>,
}

impl<'py> ForFloat<'py> for Quantize<'_, 'py> {
    type Output = PreparedActivations;

    fn call<T: Activation + Named>(self, py: Python<'py>) -> Result<Self::Output, Error> {
        let (x, group) = (Input::<T>::new("x", "[N, K] or [K]", self.x)?, self.group);
        let view = x.view()?;
        let core = run(py, x.rows().saturating_mul(x.cols()), |ws| {
            Core::quantize(view, group, ws)
        })??;
        Ok(PreparedActivations {
            core,
            path: Path::Int8,
            vector: x.is_vector(),
        })
    }
}

#[pymethods]
impl PreparedActivations {
    #[new]
    #[pyo3(signature = (x, activations = "f32", *, group = None))]
    fn new<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        activations: &str,
        group: Option<usize>,
    ) -> Result<Self, Error> {
        let group = group.map(group_size).transpose()?;
        match Path::parse(activations)? {
            Path::Int8 => for_float(py, "x", "[N, K] or [K]", x, Quantize { x, group }),
            Path::F32 => {
                let x = Input::<f32>::new("x", "[N, K] or [K]", x)?;
                let view = x.view()?;
                let size = x.rows().saturating_mul(x.cols());
                let core = run(py, size, |ws| Core::float(view, group, ws))??;
                Ok(Self {
                    core,
                    path: Path::F32,
                    vector: x.is_vector(),
                })
            }
        }
    }

    /// From activations that are int8 already ([N, K]) and the scale of each
    /// token (float32 [N]; 1 if not given).
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
        let view = x.view()?;
        let size = x.rows().saturating_mul(x.cols());
        let core = run(py, size, |ws| Core::int8(view, scales, group, ws))??;
        Ok(Self {
            core,
            path: Path::Int8,
            vector: x.is_vector(),
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
