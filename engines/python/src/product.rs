//! The exact integer product, and what all products have in common.

use crate::activations::PreparedActivations;
use crate::arrays::{Input, Output, Tokens, check_apart};
use crate::errors::Error;
use crate::linear::Linear as Layer;
use crate::packed::Packed;
use crate::pool::{multiply, run};
use pyo3::prelude::*;
use tritgemm::{GemmError, MatMut, MatRef, Options, Panels, Workspace};

/// Multiplications that a product saves: for the choice of threads.
pub fn size(panels: &Panels, tokens: usize) -> usize {
    let weights = panels.rows().saturating_mul(panels.cols());
    weights.saturating_mul(tokens)
}

/// How a product runs.
pub fn options(weights_in_cache: bool) -> Options {
    Options::new().weights_in_cache(weights_in_cache)
}

/// Checks that activations are as wide as weights.
pub fn check_width(cols: usize, panels: &Panels) -> Result<(), Error> {
    let expected = panels.cols();
    if cols == expected {
        return Ok(());
    }
    Err(GemmError::InputWidth { cols, expected }.into())
}

/// What a product makes: an array.
pub type Made<'py> = Result<Bound<'py, PyAny>, Error>;

/// int8 activations, prepared or not, to int32: into `out` or a new array.
pub fn exact<'py>(
    py: Python<'py>,
    panels: &Panels,
    x: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    weights_in_cache: bool,
) -> Made<'py> {
    let options = options(weights_in_cache);
    if let Ok(x) = x.cast::<PreparedActivations>() {
        let ready = x.get().read()?;
        return into_array(py, panels, &ready.tokens(), (out, options), |y, ws| {
            panels.gemm_i8(&ready.core, y, ws)
        });
    }
    let x = Input::<i8>::new("x", "[N, K] or [K]", x)?;
    let view = x.view()?;
    into_array(py, panels, &x.tokens(), (out, options), |y, ws| {
        panels.gemm_i8(view, y, ws)
    })
}

/// Checks the width first: an output is only made for a product that can be.
fn into_array<'py>(
    py: Python<'py>,
    panels: &Panels,
    x: &Tokens,
    (out, options): (Option<&Bound<'py, PyAny>>, Options),
    work: impl FnOnce(MatMut<'_, i32>, &mut Workspace) -> Result<(), GemmError> + Send,
) -> Made<'py> {
    check_width(x.cols, panels)?;
    let mut y = Output::<i32>::new(py, ("out", out), [x.rows, panels.rows()], x.vector)?;
    check_apart(("out", y.place()), ("x", &x.place))?;
    let view = y.view()?;
    multiply(py, size(panels, x.rows), options, |ws| work(view, ws))??;
    Ok(y.into_object())
}

/// The exact integer product of activations with ternary weights:
/// y[n, m] = sum over k of w[m, k] x[n, k], int32 [N, M].
///
/// `weights` is a Packed or a Linear, or packed bytes (uint8 [M, ceil(K/4)]),
/// which are laid out anew by every call. `x` is int8 [N, K] or [K] (then the
/// result is [M]), or PreparedActivations for "int8". Scales are not applied.
/// `out` is written to and returned; it must not overlap an input. Say
/// `weights_in_cache` if the weights are in the CPU's cache already, as those of
/// a small model are: a vector may take less time then.
#[pyfunction]
#[pyo3(signature = (weights, x, out = None, *, weights_in_cache = false))]
pub fn gemm_i8<'py>(
    py: Python<'py>,
    weights: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    weights_in_cache: bool,
) -> Made<'py> {
    if let Ok(weights) = weights.cast::<Packed>() {
        return exact(py, weights.get().core.panels(), x, out, weights_in_cache);
    }
    if let Ok(weights) = weights.cast::<Layer>() {
        return exact(py, weights.get().core.panels(), x, out, weights_in_cache);
    }
    let k = match x.cast::<PreparedActivations>() {
        Ok(x) => x.get().read()?.core.cols(),
        Err(_) => Input::<i8>::new("x", "[N, K] or [K]", x)?.cols(),
    };
    let packed = Input::<u8>::dense("weights", "[M, ceil(K/4)] (or Packed or Linear)", weights)?;
    crate::codec::check_width(&packed, k)?;
    let bytes = MatRef::new(packed.slice()?, packed.rows(), packed.cols())?;
    let size = packed.rows() * packed.cols();
    let panels = run(py, size, || Panels::from_packed(bytes, k))??;
    drop(packed);
    exact(py, &panels, x, out, weights_in_cache)
}
