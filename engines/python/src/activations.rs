//! `PreparedActivations`: activations made ready once for several matrices.

use crate::arrays::{Input, Named, Tokens};
use crate::errors::Error;
use crate::options::{Path, Quantization, group_size};
use crate::pool::multiply;
use crate::product::{check_width, options};
use crate::quant::{ForFloat, for_float};
use crate::shared::Shared;
use pyo3::prelude::*;
use std::sync::RwLockReadGuard;
use tritgemm::{
    Activation, GemmError, Grouped, Linear, MatRef, Options, PreparedActivations as Core, Workspace,
};

/// Activations made ready once for any number of weights with the same K, as Q,
/// K and V, or gate and up, have.
///
/// Made by Linear.prepare_int8, Linear.prepare_f32 or from_int8. The arrays can be
/// changed afterwards. What is prepared again in place (`into`) may not be in use by
/// a call that is running: that is an OverlapError.
#[pyclass(frozen, module = "tritgemm")]
#[derive(Default)]
pub struct PreparedActivations(Shared<Ready>);

/// What is prepared; no tokens at first.
#[derive(Default)]
pub struct Ready {
    pub core: Core,
    pub path: Path,
    vector: bool,
}

impl Ready {
    /// As the activations of a product.
    pub fn tokens(&self) -> Tokens {
        Tokens::prepared([self.core.tokens(), self.core.cols()], self.vector)
    }
}

impl PreparedActivations {
    /// What is prepared, unless it is being prepared again.
    pub fn read(&self) -> Result<RwLockReadGuard<'_, Ready>, Error> {
        self.0.read("x")
    }

    /// Of an array, as `work` prepares it without the GIL, into new activations or
    /// those given. They have no tokens after an error of `work`.
    fn prepare<'py, T: Named + Sync>(
        py: Python<'py>,
        (path, options, x): (Path, Options, &Input<'_, T>),
        into: Option<&Bound<'py, Self>>,
        work: impl FnOnce(MatRef<'_, T>, &mut Core, &mut Workspace) -> Result<(), GemmError> + Send,
    ) -> Result<Bound<'py, Self>, Error> {
        let prepared = match into {
            Some(into) => into.clone(),
            None => Bound::new(py, Self::default())?,
        };
        let (view, size) = (x.view()?, x.rows().saturating_mul(x.cols()));
        let mut held = prepared.get().0.write("into")?;
        let mut core = std::mem::take(&mut *held).core;
        multiply(py, size, options, |ws| work(view, &mut core, ws))??;
        *held = Ready {
            core,
            path,
            vector: x.is_vector(),
        };
        drop(held);
        Ok(prepared)
    }

    /// Quantised for a layer.
    pub fn int8<'py>(
        py: Python<'py>,
        layer: &Linear,
        x: &Bound<'py, PyAny>,
        into: Option<&Bound<'py, Self>>,
        how: Quantization,
    ) -> Result<Bound<'py, Self>, Error> {
        let quantize = Quantize {
            layer,
            x,
            into,
            how,
        };
        for_float(py, "x", "[N, K] or [K]", x, quantize)
    }

    /// For the f32 path of a layer.
    pub fn f32<'py>(
        py: Python<'py>,
        layer: &Linear,
        x: &Bound<'py, PyAny>,
        into: Option<&Bound<'py, Self>>,
    ) -> Result<Bound<'py, Self>, Error> {
        let x = Input::<f32>::new("x", "[N, K] or [K]", x)?;
        check_width(x.cols(), layer.panels())?;
        Self::prepare(py, (Path::F32, options(false), &x), into, |x, core, ws| {
            layer.prepare_f32_into(x, core, ws)
        })
    }
}

struct Quantize<'a, 'py> {
    layer: &'a Linear,
    x: &'a Bound<'py, PyAny>,
    into: Option<&'a Bound<'py, PreparedActivations>>,
    how: Quantization,
}

impl<'py> ForFloat<'py> for Quantize<'_, 'py> {
    type Output = Bound<'py, PreparedActivations>;

    fn call<T: Activation + Named>(self, py: Python<'py>) -> Result<Self::Output, Error> {
        let (layer, x) = (self.layer, Input::<T>::new("x", "[N, K] or [K]", self.x)?);
        let Quantization {
            group, non_finite, ..
        } = self.how;
        check_width(x.cols(), layer.panels())?;
        let what = (Path::Int8, options(false).non_finite(non_finite), &x);
        PreparedActivations::prepare(py, what, self.into, |x, core, ws| match group {
            None => layer.prepare_int8_into(x, core, ws),
            Some(group) => layer.prepare_int8_into(Grouped(x, group), core, ws),
        })
    }
}

#[pymethods]
impl PreparedActivations {
    /// From activations that are int8 already ([N, K]) and the scale of each
    /// token (float32 [N]; 1 if not given). `group` is the group size of the
    /// weights' scales, if they have one.
    #[staticmethod]
    #[pyo3(signature = (x, token_scales = None, *, group = None))]
    fn from_int8<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        token_scales: Option<&Bound<'py, PyAny>>,
        group: Option<usize>,
    ) -> Result<Bound<'py, Self>, Error> {
        let group = group.map(|len| group_size("group", len)).transpose()?;
        let x = Input::<i8>::new("x", "[N, K] or [K]", x)?;
        let scales = match token_scales {
            None => vec![1.0; x.rows()],
            Some(scales) => Input::<f32>::vector("token_scales", "[N]", scales)?
                .slice()?
                .to_vec(),
        };
        Self::prepare(py, (Path::Int8, options(false), &x), None, |x, core, ws| {
            *core = Core::from_int8(x, scales, group, ws)?;
            Ok(())
        })
    }

    /// (N, K).
    #[getter]
    fn shape(&self) -> Result<(usize, usize), Error> {
        let ready = self.read()?;
        Ok((ready.core.tokens(), ready.core.cols()))
    }

    /// 'f32' or 'int8'.
    #[getter]
    fn activations(&self) -> Result<&'static str, Error> {
        Ok(self.read()?.path.name())
    }

    fn __repr__(&self) -> Result<String, Error> {
        let ((n, k), path) = (self.shape()?, self.activations()?);
        Ok(format!(
            "tritgemm.PreparedActivations(shape=({n}, {k}), activations='{path}')"
        ))
    }
}
