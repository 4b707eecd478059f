//! Forward passes of one layer or of several on the same input.

use crate::activations::PreparedActivations;
use crate::arrays::{Input, Named, Tokens, describe, items};
use crate::errors::Error;
use crate::linear::Linear as Layer;
use crate::options::{Path, Quantization, group};
use crate::outputs::{Outputs, Pass};
use crate::packed::Packed;
use crate::product::{Made, check_width, options, size};
use crate::quant::{ForFloat, for_float};
use crate::reciprocal;
use crate::scales;
use pyo3::prelude::*;
use tritgemm::{
    Activation, F32Input, GemmError, Grouped, Int8Input, Linear, MatRef, Output as Target,
    Workspace,
};

/// The shape of activations.
const SHAPE: &str = "[N, K] or [K]";

/// What a call says besides its input.
pub struct Forward<'a, 'py> {
    pub py: Python<'py>,
    pub layers: &'a [&'a Linear],
    pub outputs: Outputs<'py>,
    pub weights_in_cache: bool,
    /// Of what is not prepared, by the int8 pass.
    pub quantization: Quantization,
}

/// The int8 pass of layers on activations.
struct Int8<'a, X>(&'a [&'a Linear], X);

impl<X: Int8Input + Send> Pass for Int8<'_, X> {
    fn run<O: Target>(self, mut ys: Vec<O>, ws: &mut Workspace) -> Result<(), GemmError> {
        Linear::forward_many_int8(self.0, self.1, &mut ys, ws)
    }
}

/// The int8 pass with the scales that torch computes.
struct AsTorch<'a, T>(&'a [&'a Linear], MatRef<'a, T>);

impl<T: Activation + Into<f32>> Pass for AsTorch<'_, T> {
    fn run<O: Target>(self, mut ys: Vec<O>, ws: &mut Workspace) -> Result<(), GemmError> {
        let group = self.0.first().and_then(|layer| layer.group());
        reciprocal::forward(self.0, self.1, group, &mut ys, ws)
    }
}

/// The f32 pass.
struct F32<'a, X>(&'a [&'a Linear], X);

impl<X: F32Input + Send> Pass for F32<'_, X> {
    fn run<O: Target>(self, mut ys: Vec<O>, ws: &mut Workspace) -> Result<(), GemmError> {
        Linear::forward_many_f32(self.0, self.1, &mut ys, ws)
    }
}

/// What layers make: an array of each.
type AllMade<'py> = Result<Vec<Bound<'py, PyAny>>, Error>;

impl<'a, 'py> Forward<'a, 'py> {
    /// The int8 pass.
    pub fn int8(self, x: &Bound<'py, PyAny>) -> AllMade<'py> {
        match x.cast::<PreparedActivations>() {
            Ok(_) if self.quantization.as_torch => Err(Error::other(
                "activations: 'int8_torch' is not for PreparedActivations, which have scales already",
            )),
            Ok(_) if self.quantization.group.is_some() => Err(Error::other(
                "x_group: expected None for PreparedActivations, which have groups already",
            )),
            Ok(x) => {
                let (ready, layers) = (x.get().read()?, self.layers);
                self.run(&ready.tokens(), Int8(layers, &ready.core))
            }
            _ => for_float(self.py, "x", SHAPE, x, OfFloat { forward: self, x }),
        }
    }

    /// The f32 pass.
    pub fn f32(self, x: &Bound<'py, PyAny>) -> AllMade<'py> {
        if self.quantization.group.is_some() {
            return Err(Error::other(
                "x_group: expected None for the f32 pass, which quantises nothing",
            ));
        }
        let layers = self.layers;
        match x.cast::<PreparedActivations>() {
            Ok(x) => {
                let ready = x.get().read()?;
                self.run(&ready.tokens(), F32(layers, &ready.core))
            }
            _ => {
                let x = Input::<f32>::new("x", SHAPE, x)?;
                self.run(&x.tokens(), F32(layers, x.view()?))
            }
        }
    }

    /// `path` may be left out: f32, or what `x` was prepared for.
    fn by(mut self, path: Option<&str>, x: &Bound<'py, PyAny>) -> AllMade<'py> {
        let path = match (path, x.cast::<PreparedActivations>()) {
            (Some(path), _) => Path::parse(path)?,
            (None, Ok(x)) => x.get().read()?.path,
            (None, Err(_)) => Path::F32,
        };
        match path {
            Path::F32 => self.f32(x),
            Path::Int8 => self.int8(x),
            Path::Int8Torch => {
                self.quantization.as_torch = true;
                self.int8(x)
            }
        }
    }

    /// Checks widths first: outputs are only made for a product that can be.
    fn run(self, x: &Tokens, pass: impl Pass) -> AllMade<'py> {
        for layer in self.layers {
            check_width(x.cols, layer.panels())?;
        }
        let cols: Vec<usize> = self.layers.iter().map(|l| l.out_features()).collect();
        let sizes = self.layers.iter().map(|l| size(l.panels(), x.rows));
        let size = sizes.fold(0, usize::saturating_add);
        let options = options(self.weights_in_cache).non_finite(self.quantization.non_finite);
        let how = (size, options);
        self.outputs.fill(self.py, (x, &cols), how, pass)
    }
}

struct OfFloat<'a, 'py> {
    forward: Forward<'a, 'py>,
    x: &'a Bound<'py, PyAny>,
}

impl<'py> ForFloat<'py> for OfFloat<'_, 'py> {
    type Output = Vec<Bound<'py, PyAny>>;

    fn call<T: Activation + Named + Into<f32>>(
        self,
        _: Python<'py>,
    ) -> Result<Self::Output, Error> {
        let x = Input::<T>::new("x", SHAPE, self.x)?;
        let (layers, tokens, view) = (self.forward.layers, x.tokens(), x.view()?);
        let how = self.forward.quantization;
        if how.as_torch {
            if how.group.is_some() {
                return Err(Error::other(
                    "x_group: expected None for 'int8_torch', which has one scale a token",
                ));
            }
            if layers.iter().any(|layer| layer.rotation().is_some()) {
                return Err(Error::other(
                    "activations: 'int8_torch' is not for a layer that rotates its input",
                ));
            }
            return self.forward.run(&tokens, AsTorch(layers, view));
        }
        match how.group {
            None => self.forward.run(&tokens, Int8(layers, view)),
            Some(group) => {
                let pass = Int8(layers, Grouped(view, group));
                self.forward.run(&tokens, pass)
            }
        }
    }
}

/// What a single layer makes.
pub fn only(made: AllMade<'_>) -> Made<'_> {
    Ok(made?.remove(0))
}

/// The layers of a sequence.
pub fn layers<'py>(object: &Bound<'py, PyAny>) -> Result<Vec<Bound<'py, Layer>>, Error> {
    let items = items("layers", "Linear", object)?.into_iter().enumerate();
    let layers = items.map(|(i, item)| {
        item.cast_into::<Layer>().map_err(|e| {
            let got = describe(&e.into_inner());
            Error::wrong_type(format!("layers[{i}]: expected Linear, got {got}"))
        })
    });
    layers.collect()
}

/// One pass of several layers.
fn many<'py>(
    py: Python<'py>,
    layers: &Bound<'py, PyAny>,
    outputs: Outputs<'py>,
    (weights_in_cache, quantization): (bool, Quantization),
    pass: impl FnOnce(Forward<'_, 'py>) -> AllMade<'py>,
) -> AllMade<'py> {
    let layers = self::layers(layers)?;
    let layers: Vec<&Linear> = layers.iter().map(|layer| &layer.get().core).collect();
    pass(Forward {
        py,
        layers: &layers,
        outputs,
        weights_in_cache,
        quantization,
    })
}

/// Linear.forward_int8 of several layers on one input, as Q, K and V, or gate and
/// up, have: a list of float32 [N, M] (or [M] for a vector), the same bits.
///
/// The activations are quantised once, and threads share the rows of all layers,
/// which have one K and one group size. `x` is float32, float16 or bfloat16 [N, K]
/// or [K], or PreparedActivations of prepare_int8. `out` is a sequence of arrays, one
/// a layer, all float32, float16 or bfloat16, apart from x and from each other.
/// `add`, `x_group` and `non_finite` as in Linear.forward_int8, `weights_in_cache` as in
/// gemm_i8.
#[pyfunction]
#[pyo3(signature = (
    layers, x, *, out = None, add = false, weights_in_cache = false, x_group = None,
    non_finite = "error"
))]
#[allow(clippy::too_many_arguments)] // Python's keywords.
pub fn forward_many_int8<'py>(
    py: Python<'py>,
    layers: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    add: bool,
    weights_in_cache: bool,
    x_group: Option<usize>,
    non_finite: &str,
) -> AllMade<'py> {
    let outputs = Outputs::many(out, add)?;
    let how = (weights_in_cache, Quantization::parse(x_group, non_finite)?);
    many(py, layers, outputs, how, |f| f.int8(x))
}

/// Linear.forward_f32 of several layers on one input (float32 [N, K] or [K], or
/// PreparedActivations of prepare_f32): see forward_many_int8.
#[pyfunction]
#[pyo3(signature = (layers, x, *, out = None, add = false, weights_in_cache = false))]
pub fn forward_many_f32<'py>(
    py: Python<'py>,
    layers: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    out: Option<&Bound<'py, PyAny>>,
    add: bool,
    weights_in_cache: bool,
) -> AllMade<'py> {
    let outputs = Outputs::many(out, add)?;
    let how = (weights_in_cache, Quantization::default());
    many(py, layers, outputs, how, |f| f.f32(x))
}

/// y = x weights^T, times the scales, plus the bias: float32 [N, M].
///
/// `weights` is a Packed, or a Linear (which has its own bias). `x` is [N, K] or
/// [K], or PreparedActivations. activations="f32" is Linear.forward_f32, "int8" is
/// Linear.forward_int8, and "int8_torch" the same with the scales that torch computes: see
/// quantize_activations. By default it is "f32", or what x was prepared for. `out`
/// is as in those, `weights_in_cache` as in gemm_i8, `x_group` as in Linear.forward_int8
/// and for "int8" alone.
#[pyfunction]
#[pyo3(signature = (
    x, weights, bias = None, activations = None, *, out = None, weights_in_cache = false,
    x_group = None
))]
#[allow(clippy::too_many_arguments)] // Python's keywords.
pub fn linear<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    weights: &Bound<'py, PyAny>,
    bias: Option<&Bound<'py, PyAny>>,
    activations: Option<&str>,
    out: Option<&Bound<'py, PyAny>>,
    weights_in_cache: bool,
    x_group: Option<usize>,
) -> Made<'py> {
    let outputs = Outputs::one(out, false)?;
    let quantization = Quantization {
        group: group(x_group)?,
        ..Quantization::default()
    };
    let forward = |layer: &Linear| {
        let forward = Forward {
            py,
            layers: &[layer],
            outputs,
            weights_in_cache,
            quantization,
        };
        only(forward.by(activations, x))
    };
    if let Ok(layer) = weights.cast::<Layer>() {
        return match bias {
            None => forward(&layer.get().core),
            Some(_) => Err(Error::other(
                "bias: the Linear given as `weights` has its own",
            )),
        };
    }
    let Ok(weights) = weights.cast::<Packed>() else {
        let got = describe(weights);
        return Err(Error::wrong_type(format!(
            "weights: expected Packed or Linear, got {got}"
        )));
    };
    let layer = &weights.get().core;
    match bias {
        None => forward(layer),
        Some(bias) => forward(&layer.clone().with_bias(scales::bias(bias)?)?),
    }
}
