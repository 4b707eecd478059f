//! The products: what `gemm_i8`, `linear` and the classes' methods run.

use crate::activations::PreparedActivations;
use crate::arrays::{Input, Named, Output};
use crate::errors::Error;
use crate::linear::Linear;
use crate::options::Path;
use crate::packed::{self, Packed};
use crate::pool::run;
use crate::quant::{ForFloat, for_float};
use pyo3::prelude::*;
use tritgemm::{Activation, GemmError, Linear as Core, MatMut, MatRef, Panels, Workspace};

/// Multiplications that a product saves: for the choice of threads.
fn size(panels: &Panels, tokens: usize) -> usize {
    let weights = panels.rows().saturating_mul(panels.cols());
    weights.saturating_mul(tokens)
}

/// One product: into `out` or a new array `[N, M]`, without the GIL.
fn into_array<'py, T: Named + Send + Sync>(
    py: Python<'py>,
    out: Option<&Bound<'py, PyAny>>,
    panels: &Panels,
    (tokens, vector): (usize, bool),
    check: impl FnOnce(&Output<'py, T>) -> Result<(), Error>,
    work: impl FnOnce(MatMut<'_, T>, &mut Workspace) -> Result<(), GemmError> + Send,
) -> Result<Bound<'py, PyAny>, Error> {
    let mut y = Output::<T>::new(py, out, [tokens, panels.rows()], vector)?;
    check(&y)?;
    let view = y.view()?;
    run(py, size(panels, tokens), |ws| work(view, ws))??;
    Ok(y.into_object())
}

/// As [`into_array`], of an array `x`, whose width is checked first: an output
/// is only made for a product that can be.
fn of_array<'py, X: Named + Send + Sync, T: Named + Send + Sync>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    panels: &Panels,
    work: impl FnOnce(MatRef<'_, X>, MatMut<'_, T>, &mut Workspace) -> Result<(), GemmError> + Send,
) -> Result<Bound<'py, PyAny>, Error> {
    let x = Input::<X>::new("x", "[N, K] or [K]", x)?;
    check_width(x.cols(), panels)?;
    let rows = (x.rows(), x.is_vector());
    let apart = |y: &Output<'py, T>| y.check_apart("x", &x);
    let view = x.view()?;
    into_array(py, out, panels, rows, apart, |y, ws| work(view, y, ws))
}

fn check_width(cols: usize, panels: &Panels) -> Result<(), Error> {
    let expected = panels.cols();
    if cols == expected {
        return Ok(());
    }
    Err(GemmError::InputWidth { cols, expected }.into())
}

/// int8 activations, prepared or not, to int32.
pub fn gemm_i8<'py>(
    py: Python<'py>,
    panels: &Panels,
    x: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    if let Ok(x) = x.cast::<PreparedActivations>() {
        let x = x.get();
        check_width(x.core.cols(), panels)?;
        return into_array(
            py,
            out,
            panels,
            x.rows(),
            |_| Ok(()),
            |y, ws| panels.gemm_i8_prepared(&x.core, y, ws),
        );
    }
    of_array::<i8, i32>(py, x, out, panels, |x, y, ws| panels.gemm_i8(x, y, ws))
}

/// A layer's forward pass. `path` may be left out: f32, or what `x` was
/// prepared for.
pub fn forward<'py>(
    py: Python<'py>,
    core: &Core,
    x: &Bound<'py, PyAny>,
    path: Option<&str>,
    out: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    let path = path.map(Path::parse).transpose()?;
    let panels = core.panels();
    if let Ok(x) = x.cast::<PreparedActivations>() {
        let x = x.get();
        if let Some(path) = path.filter(|&path| path != x.path) {
            return Err(Error::other(format!(
                "activations: '{}' asked for, x was prepared for '{}'",
                path.name(),
                x.path.name()
            )));
        }
        check_width(x.core.cols(), panels)?;
        return into_array(
            py,
            out,
            panels,
            x.rows(),
            |_| Ok(()),
            |y, ws| core.forward_prepared(&x.core, y, ws),
        );
    }
    match path {
        None | Some(Path::F32) => {
            of_array::<f32, f32>(py, x, out, panels, |x, y, ws| core.forward_f32(x, y, ws))
        }
        Some(Path::Int8) => for_float(py, "x", "[N, K] or [K]", x, Forward { core, x, out }),
    }
}

struct Forward<'a, 'py> {
    core: &'a Core,
    x: &'a Bound<'py, PyAny>,
    out: Option<&'a Bound<'py, PyAny>>,
}

impl<'py> ForFloat<'py> for Forward<'_, 'py> {
    type Output = Bound<'py, PyAny>;

    fn call<T: Activation + Named>(self, py: Python<'py>) -> Result<Self::Output, Error> {
        let Self { core, x, out } = self;
        of_array::<T, f32>(py, x, out, core.panels(), |x, y, ws| core.forward(x, y, ws))
    }
}

/// The exact integer product of activations with ternary weights:
/// y[n, m] = sum over k of w[m, k] x[n, k], int32 [N, M].
///
/// `weights` is a Packed or a Linear, or packed bytes (uint8 [M, ceil(K/4)]),
/// which are laid out anew by every call. `x` is int8 [N, K] or [K] (then the
/// result is [M]), or PreparedActivations for "int8". Scales are not applied.
/// `out` is written to and returned; it must not overlap an input.
#[pyfunction(name = "gemm_i8")]
#[pyo3(signature = (weights, x, out = None))]
pub fn gemm_i8_function<'py>(
    py: Python<'py>,
    weights: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    if let Ok(weights) = weights.cast::<Packed>() {
        return gemm_i8(py, weights.get().core.panels(), x, out);
    }
    if let Ok(weights) = weights.cast::<Linear>() {
        return gemm_i8(py, weights.get().core.panels(), x, out);
    }
    let k = match x.cast::<PreparedActivations>() {
        Ok(x) => x.get().core.cols(),
        Err(_) => Input::<i8>::new("x", "[N, K] or [K]", x)?.cols(),
    };
    let packed = Input::<u8>::dense("weights", "[M, ceil(K/4)] (or Packed or Linear)", weights)?;
    crate::codec::check_width(&packed, k)?;
    let bytes = MatRef::new(packed.slice()?, packed.rows(), packed.cols())?;
    let size = packed.rows() * packed.cols();
    let panels = run(py, size, |_| Panels::from_packed(bytes, k))??;
    drop(packed);
    gemm_i8(py, &panels, x, out)
}

/// y = x weights^T, times the scales, plus the bias: float32 [N, M].
///
/// `weights` is a Packed, or a Linear (which has its own bias). `x` is [N, K] or
/// [K], or PreparedActivations. With activations="f32" x is float32 and the sum
/// has one order: the same bits on every instruction set and number of threads.
/// With "int8" x is float32, float16 or bfloat16, is quantised to int8 token by
/// token, and the sum is exact (BitNet's W1.58A8). By default it is "f32", or
/// what x was prepared for. `out` is written to and returned.
#[pyfunction]
#[pyo3(signature = (x, weights, bias = None, activations = None, *, out = None))]
pub fn linear<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weights: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
    activations: Option<&str>,
    out: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    if let Ok(layer) = weights.cast::<Linear>() {
        return match bias {
            None => forward(py, &layer.get().core, x, activations, out),
            Some(_) => Err(Error::other(
                "bias: the Linear given as `weights` has its own",
            )),
        };
    }
    let Ok(weights) = weights.cast::<Packed>() else {
        let got = crate::arrays::describe(weights);
        return Err(Error::wrong_type(format!(
            "weights: expected Packed or Linear, got {got}"
        )));
    };
    let core = &weights.get().core;
    match bias {
        None => forward(py, core, x, activations, out),
        Some(bias) => {
            let core = core.clone().with_bias(packed::bias(bias)?)?;
            forward(py, &core, x, activations, out)
        }
    }
}
