//! Products on dense tensors of torch, by their addresses: a pass of a small layer takes a
//! few microseconds, and a numpy array for each of its tensors takes several times as long.
//!
//! The functions here are the package's own, and no part of what it offers. Their callers,
//! in `tritgemm.torch`, pass addresses of tensors that are on the CPU, C-contiguous, of the
//! type they name and have the elements they say, that they hold until the call returns, and
//! of which `y` is new. Every block below relies on that. Shapes are checked here.

use crate::errors::Error;
use crate::norm;
use crate::options::Path;
use crate::packed::Packed;
use crate::pool::{multiply, run};
use crate::product::size;
use crate::reciprocal;
use half::{bf16, f16};
use pyo3::prelude::*;
use tritgemm::nn::RmsNorm;
use tritgemm::quant::quantize_activations_into;
use tritgemm::{Activation, Linear, MatMut, MatRef, Options};

/// A tensor's address and how many elements it has.
type At = (usize, usize);

/// A matrix in a tensor's memory.
#[derive(Clone, Copy)]
struct Place {
    at: At,
    rows: usize,
    cols: usize,
}

impl Place {
    /// What an address must be, as far as it shows.
    fn check<T>(&self, name: &str) -> Result<usize, Error> {
        let ((address, len), rows, cols) = (self.at, self.rows, self.cols);
        if rows.checked_mul(cols) != Some(len) {
            return Err(Error::shape(format!(
                "{name}: expected {rows} x {cols} elements, got {len}"
            )));
        }
        if len > 0 && address == 0 {
            return Err(Error::other(format!(
                "{name}: expected a tensor with memory, got one whose storage is empty"
            )));
        }
        if len > 0 && !address.is_multiple_of(align_of::<T>()) {
            return Err(Error::misaligned(name));
        }
        Ok(len)
    }

    /// To read from.
    fn matrix<T: Float>(&self, name: &str) -> Result<MatRef<'_, T>, Error> {
        let elements = match self.check::<T>(name)? {
            0 => &[],
            // SAFETY: the caller's tensor has so many elements of that type, initialised, and
            // stays while the call runs, as the module's callers promise; so does the view,
            // which does not outlive this place.
            len => unsafe {
                std::slice::from_raw_parts(std::ptr::with_exposed_provenance(self.at.0), len)
            },
        };
        Ok(MatRef::new(elements, self.rows, self.cols)?)
    }

    /// To write to. `T` has no invalid bits, so that a new tensor's are values.
    fn matrix_mut<T: Float>(&mut self, name: &str) -> Result<MatMut<'_, T>, Error> {
        let elements = match self.check::<T>(name)? {
            0 => &mut [],
            // SAFETY: as in `matrix`; it is new, so nothing else refers to it.
            len => unsafe {
                std::slice::from_raw_parts_mut(
                    std::ptr::with_exposed_provenance_mut(self.at.0),
                    len,
                )
            },
        };
        Ok(MatMut::new(elements, self.rows, self.cols)?)
    }
}

/// A float type of tensors.
trait Float: Activation + Into<f32> {}

impl<T: Activation + Into<f32>> Float for T {}

/// Work on tensors of one float type.
trait ForTensors {
    fn call<T: Float>(self) -> Result<(), Error>;
}

/// Calls `work` with the type of that name.
fn for_tensors(dtype: &str, work: impl ForTensors) -> Result<(), Error> {
    match dtype {
        "float32" => work.call::<f32>(),
        "float16" => work.call::<f16>(),
        "bfloat16" => work.call::<bf16>(),
        _ => Err(Error::wrong_type(format!(
            "x: expected float32, float16 or bfloat16, got {dtype}"
        ))),
    }
}

/// The int8 passes of one layer.
struct Int8Pass<'a, 'py> {
    py: Python<'py>,
    layer: &'a Linear,
    as_torch: bool,
    x: Place,
    y: Place,
}

impl ForTensors for Int8Pass<'_, '_> {
    fn call<T: Float>(mut self) -> Result<(), Error> {
        let (x, y) = (self.x.matrix::<T>("x")?, self.y.matrix_mut::<T>("y")?);
        let (layers, mut ys) = ([self.layer], [y]);
        let size = size(self.layer.panels(), self.x.rows);
        multiply(self.py, size, Options::new(), |ws| match self.as_torch {
            true => reciprocal::forward(&layers, x, self.layer.group(), &mut ys, ws),
            false => Linear::forward_many_int8(&layers, x, &mut ys, ws),
        })??;
        Ok(())
    }
}

/// `y` [rows, M] = `x` [rows, K] times the weights [M, K], plus a bias, float32 [M]: a
/// pass by the path `activations`, of which "f32" takes float32 alone.
#[pyfunction]
#[pyo3(name = "_forward")]
#[allow(clippy::too_many_arguments)] // Two tensors.
pub fn forward(
    py: Python<'_>,
    weights: &Bound<'_, Packed>,
    bias: Option<At>,
    activations: &str,
    dtype: &str,
    x: At,
    rows: usize,
    y: At,
) -> Result<(), Error> {
    let mut layer = &weights.get().core;
    let biased;
    if let Some(bias) = bias {
        let bias = Place {
            at: bias,
            rows: 1,
            cols: layer.out_features(),
        };
        biased = layer
            .clone()
            .with_bias(bias.matrix::<f32>("bias")?.row(0).to_vec())?;
        layer = &biased;
    }
    let path = Path::parse(activations)?;
    let [x, y] = [(x, layer.in_features()), (y, layer.out_features())];
    let [x, mut y] = [x, y].map(|(at, cols)| Place { at, rows, cols });
    if path != Path::F32 {
        let as_torch = path == Path::Int8Torch;
        return for_tensors(
            dtype,
            Int8Pass {
                py,
                layer,
                as_torch,
                x,
                y,
            },
        );
    }
    if dtype != "float32" {
        return Err(Error::wrong_type(format!(
            "x: expected float32, got {dtype}"
        )));
    }
    let (x, mut ys) = (x.matrix::<f32>("x")?, [y.matrix_mut::<f32>("y")?]);
    let size = size(layer.panels(), rows);
    multiply(py, size, Options::new(), |ws| {
        Linear::forward_many_f32(&[layer], x, &mut ys, ws)
    })??;
    Ok(())
}

/// Digits of an int8 weight.
const DIGITS: usize = 5;

/// The product of int8 weights, which are five ternary digits each.
struct Digits<'a, 'py> {
    py: Python<'py>,
    digits: &'a Linear,
    scales: Place,
    as_torch: bool,
    x: Place,
    y: Place,
}

impl ForTensors for Digits<'_, '_> {
    fn call<T: Float>(mut self) -> Result<(), Error> {
        let (x, mut y) = (self.x.matrix::<T>("x")?, self.y.matrix_mut::<f32>("y")?);
        let scales = self.scales.matrix::<f32>("scales")?;
        let panels = self.digits.panels();
        multiply(self.py, size(panels, x.rows()), Options::new(), |ws| {
            let (tokens, cols, rows) = (x.rows(), x.cols(), panels.rows());
            let (mut q, mut factors) = (vec![0; tokens * cols], vec![0.0; tokens]);
            match self.as_torch {
                true => reciprocal::quantize(x, &mut q, &mut factors)?,
                false => {
                    let q = MatMut::new(&mut q, tokens, cols)?;
                    quantize_activations_into(x, q, &mut factors)?;
                }
            }
            let mut sums = vec![0; tokens * rows];
            let q = MatRef::new(&q, tokens, cols)?;
            panels.gemm_i8(q, MatMut::new(&mut sums, tokens, rows)?, ws)?;
            for (token, &factor) in factors.iter().enumerate() {
                let sums = &sums[token * rows..][..rows];
                restore(sums, scales.row(0), factor, y.row_mut(token));
            }
            Ok::<_, Error>(())
        })?
    }
}

/// One token: what five digits a row add up to, the lowest first in `sums`, times the scales
/// of the row and of the token.
fn restore(sums: &[i32], scales: &[f32], factor: f32, y: &mut [f32]) {
    let rows = y.len();
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|digit| &sums[digit * rows..][..rows]);
    for (i, (y, scale)) in y.iter_mut().zip(scales).enumerate() {
        let sum = (((e[i] * 3 + d[i]) * 3 + c[i]) * 3 + b[i]) * 3 + a[i];
        *y = sum as f32 * scale * factor;
    }
}

/// float32 `y` [rows, M] = `x` [rows, K] times int8 weights [M, K] with `scales`, float32 [M].
/// `digits` [5 M, K] are theirs, in balanced ternary, the lowest above.
#[pyfunction]
#[pyo3(name = "_forward_digits")]
#[allow(clippy::too_many_arguments)] // Three tensors.
pub fn forward_digits(
    py: Python<'_>,
    digits: &Bound<'_, Packed>,
    scales: At,
    activations: &str,
    dtype: &str,
    x: At,
    rows: usize,
    y: At,
) -> Result<(), Error> {
    let digits = &digits.get().core;
    let place = |at, rows, cols| Place { at, rows, cols };
    let m = digits.out_features() / DIGITS;
    let work = Digits {
        py,
        digits,
        scales: place(scales, 1, m),
        as_torch: Path::parse(activations)? == Path::Int8Torch,
        x: place(x, rows, digits.in_features()),
        y: place(y, rows, m),
    };
    for_tensors(dtype, work)
}

/// RMSNorm in float32 and rounded to the tensors' type.
struct Norm<'py> {
    py: Python<'py>,
    norm: RmsNorm,
    x: Place,
    y: Place,
}

impl ForTensors for Norm<'_> {
    fn call<T: Float>(mut self) -> Result<(), Error> {
        let (x, y) = (self.x.matrix::<T>("x")?, self.y.matrix_mut::<T>("y")?);
        let size = norm::size(x.rows(), x.cols());
        Ok(run(self.py, size, || self.norm.forward(x, y))??)
    }
}

/// `y` [rows, cols] = RMSNorm of `x` [rows, cols] with a gain, float32 [cols].
#[pyfunction]
#[pyo3(name = "_rms_norm")]
#[allow(clippy::too_many_arguments)] // Three tensors.
pub fn rms_norm(
    py: Python<'_>,
    gain: At,
    eps: f32,
    cols: usize,
    dtype: &str,
    x: At,
    rows: usize,
    y: At,
) -> Result<(), Error> {
    let place = |at, rows| Place { at, rows, cols };
    let gain = place(gain, 1);
    let gain = gain.matrix::<f32>("gain")?.row(0).to_vec();
    let norm = RmsNorm::new(gain)?.with_eps(eps)?;
    let [x, y] = [x, y].map(|at| place(at, rows));
    for_tensors(dtype, Norm { py, norm, x, y })
}
