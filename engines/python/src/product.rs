//! The products: `gemm_i8`, `linear`, and what the classes' methods run.

use crate::activations::PreparedActivations;
use crate::arrays::{Input, Named, Output};
use crate::errors::Error;
use crate::linear::Linear as Layer;
use crate::options::Path;
use crate::packed::{self, Packed};
use crate::pool::run;
use crate::quant::{ForFloat, for_float};
use pyo3::prelude::*;
use tritgemm::{
    Activation, GemmError, Linear, MatMut, MatRef, Options, Panels, PreparedActivations as Core,
    Workspace,
};

/// Multiplications that a product saves: for the choice of threads.
fn size(panels: &Panels, tokens: usize) -> usize {
    let weights = panels.rows().saturating_mul(panels.cols());
    weights.saturating_mul(tokens)
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

/// What a call of a product says besides its operands.
#[derive(Clone, Copy)]
pub struct Call<'a, 'py> {
    py: Python<'py>,
    /// Where the result goes; a new array if not given.
    out: Option<&'a Bound<'py, PyAny>>,
    weights_in_cache: bool,
}

impl<'a, 'py> Call<'a, 'py> {
    pub fn new(
        py: Python<'py>,
        out: Option<&'a Bound<'py, PyAny>>,
        weights_in_cache: bool,
    ) -> Self {
        Self {
            py,
            out,
            weights_in_cache,
        }
    }

    /// Of an array `x`, whose width is checked first: an output is only made for
    /// a product that can be.
    fn of_array<X: Named + Sync, Y: Named + Send + Sync>(
        self,
        panels: &Panels,
        x: &Bound<'py, PyAny>,
        work: impl FnOnce(MatRef<'_, X>, MatMut<'_, Y>, &mut Workspace) -> Result<(), GemmError> + Send,
    ) -> Made<'py> {
        let x = Input::<X>::new("x", "[N, K] or [K]", x)?;
        check_width(x.cols(), panels)?;
        let (rows, view) = ((x.rows(), x.is_vector()), x.view()?);
        let check = |y: &Output<'py, Y>| y.check_overlap("x", &x);
        self.into_array(panels, rows, check, |y, ws| work(view, y, ws))
    }

    /// As [`of_array`](Self::of_array), of prepared activations.
    fn of_prepared<Y: Named + Send + Sync>(
        self,
        panels: &Panels,
        x: &PreparedActivations,
        work: impl FnOnce(&Core, MatMut<'_, Y>, &mut Workspace) -> Result<(), GemmError> + Send,
    ) -> Made<'py> {
        check_width(x.core.cols(), panels)?;
        self.into_array(panels, x.rows(), |_| Ok(()), |y, ws| work(&x.core, y, ws))
    }

    /// One product: into `out` or a new array `[N, M]`, without the GIL.
    fn into_array<Y: Named + Send + Sync>(
        self,
        panels: &Panels,
        (tokens, vector): (usize, bool),
        check: impl FnOnce(&Output<'py, Y>) -> Result<(), Error>,
        work: impl FnOnce(MatMut<'_, Y>, &mut Workspace) -> Result<(), GemmError> + Send,
    ) -> Made<'py> {
        let mut y = Output::<Y>::new(self.py, self.out, [tokens, panels.rows()], vector)?;
        check(&y)?;
        let view = y.view()?;
        let options = Options::new().weights_in_cache(self.weights_in_cache);
        run(self.py, size(panels, tokens), |ws| {
            ws.set_options(options);
            work(view, ws)
        })??;
        Ok(y.into_object())
    }

    /// int8 activations, prepared or not, to int32.
    pub fn gemm_i8(self, panels: &Panels, x: &Bound<'py, PyAny>) -> Made<'py> {
        match x.cast::<PreparedActivations>() {
            Ok(x) => self.of_prepared(panels, x.get(), |x, y, ws| panels.gemm_i8(x, y, ws)),
            _ => self.of_array::<i8, i32>(panels, x, |x, y, ws| panels.gemm_i8(x, y, ws)),
        }
    }

    /// A layer's int8 pass.
    pub fn forward_int8(self, layer: &Linear, x: &Bound<'py, PyAny>) -> Made<'py> {
        match x.cast::<PreparedActivations>() {
            Ok(x) => self.of_prepared(layer.panels(), x.get(), |x, y, ws| {
                layer.forward_int8(x, y, ws)
            }),
            _ => {
                let (call, shape) = (self, "[N, K] or [K]");
                for_float(self.py, "x", shape, x, ForwardInt8 { call, layer, x })
            }
        }
    }

    /// A layer's f32 pass.
    pub fn forward_f32(self, layer: &Linear, x: &Bound<'py, PyAny>) -> Made<'py> {
        let panels = layer.panels();
        match x.cast::<PreparedActivations>() {
            Ok(x) => self.of_prepared(panels, x.get(), |x, y, ws| layer.forward_f32(x, y, ws)),
            _ => self.of_array::<f32, f32>(panels, x, |x, y, ws| layer.forward_f32(x, y, ws)),
        }
    }

    /// A layer's pass. `path` may be left out: f32, or what `x` was prepared for.
    fn forward(self, layer: &Linear, x: &Bound<'py, PyAny>, path: Option<&str>) -> Made<'py> {
        let path = match (path, x.cast::<PreparedActivations>()) {
            (Some(path), _) => Path::parse(path)?,
            (None, Ok(x)) => x.get().path,
            (None, Err(_)) => Path::F32,
        };
        match path {
            Path::F32 => self.forward_f32(layer, x),
            Path::Int8 => self.forward_int8(layer, x),
        }
    }
}

struct ForwardInt8<'a, 'py> {
    call: Call<'a, 'py>,
    layer: &'a Linear,
    x: &'a Bound<'py, PyAny>,
}

impl<'py> ForFloat<'py> for ForwardInt8<'_, 'py> {
    type Output = Bound<'py, PyAny>;

    fn call<T: Activation + Named>(self, _: Python<'py>) -> Result<Self::Output, Error> {
        let Self { call, layer, x } = self;
        call.of_array::<T, f32>(layer.panels(), x, |x, y, ws| layer.forward_int8(x, y, ws))
    }
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
    let call = Call::new(py, out, weights_in_cache);
    if let Ok(weights) = weights.cast::<Packed>() {
        return call.gemm_i8(weights.get().core.panels(), x);
    }
    if let Ok(weights) = weights.cast::<Layer>() {
        return call.gemm_i8(weights.get().core.panels(), x);
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
    call.gemm_i8(&panels, x)
}

/// y = x weights^T, times the scales, plus the bias: float32 [N, M].
///
/// `weights` is a Packed, or a Linear (which has its own bias). `x` is [N, K] or
/// [K], or PreparedActivations. activations="f32" is Linear.forward_f32, "int8" is
/// Linear.forward_int8. By default it is "f32", or what x was prepared for. `out`
/// and `weights_in_cache` as in gemm_i8.
#[pyfunction]
#[pyo3(signature = (x, weights, bias = None, activations = None, *, out = None, weights_in_cache = false))]
pub fn linear<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weights: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
    activations: Option<&str>,
    out: Option<&Bound<'py, PyAny>>,
    weights_in_cache: bool,
) -> Made<'py> {
    let call = Call::new(py, out, weights_in_cache);
    if let Ok(layer) = weights.cast::<Layer>() {
        return match bias {
            None => call.forward(&layer.get().core, x, activations),
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
    let layer = &weights.get().core;
    match bias {
        None => call.forward(layer, x, activations),
        Some(bias) => {
            let layer = layer.clone().with_bias(packed::bias(bias)?)?;
            call.forward(&layer, x, activations)
        }
    }
}
