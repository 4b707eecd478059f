//! `Linear`: packed weights with a bias.

use crate::activations::PreparedActivations;
use crate::arrays::{Input, Output};
use crate::errors::Error;
use crate::files::{file_bytes, open};
use crate::forward::{Forward, only};
use crate::options::Quantization;
use crate::outputs::Outputs;
use crate::packed::{self, Packed};
use crate::pool::run;
use crate::product::{Made, check_width};
use crate::scales;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::PathBuf;
use tritgemm::{Linear as Core, MatrixError, PanelFile, Rotation, Verify};

/// A linear layer on packed weights: y = x w^T, times the scales, plus the bias
/// (float32 [M], or none). Immutable; shares the memory of `weights`.
#[pyclass(frozen, module = "tritgemm")]
pub struct Linear {
    pub core: Core,
}

/// Of a rotation: the size of its blocks, and an array of its signs.
type BlockAndSigns<'py> = (usize, Option<Bound<'py, PyAny>>);

#[pymethods]
impl Linear {
    #[new]
    #[pyo3(signature = (weights, bias = None))]
    fn new(weights: &Bound<'_, Packed>, bias: Option<&Bound<'_, PyAny>>) -> Result<Self, Error> {
        let core = weights.get().core.clone();
        let core = match bias {
            Some(bias) => core.with_bias(scales::bias(bias)?)?,
            None => core,
        };
        Ok(Self { core })
    }

    /// The W1.58A8 pass of BitNet b1.58, float32 [N, M]: each token of x (float32,
    /// float16 or bfloat16 [N, K] or [K], or PreparedActivations of prepare_int8)
    /// is quantised to int8, and the sums are exact.
    ///
    /// `out` is written to and returned: float32, float16 or bfloat16 [N, M], not
    /// overlapping x. Results are rounded to its type once. With `add` they are added
    /// to it, in float32. `weights_in_cache` as in gemm_i8.
    ///
    /// With `x_group` 32, 64, 128 or 256, each group of so many values along K has a
    /// scale of its own, instead of the whole token: a large value costs precision in its
    /// group alone, and small groups take longer. A NaN or an infinity in x raises
    /// QuantizationError. With non_finite="propagate" all outputs of its token are NaN
    /// instead. PreparedActivations are as prepare_int8 was told; `x_group` is not for
    /// them.
    #[pyo3(signature = (
        x, *, out = None, add = false, weights_in_cache = false, x_group = None,
        non_finite = "error"
    ))]
    #[allow(clippy::too_many_arguments)] // Python's keywords.
    fn forward_int8<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
        add: bool,
        weights_in_cache: bool,
        x_group: Option<usize>,
        non_finite: &str,
    ) -> Made<'py> {
        let forward = Forward {
            py,
            layers: &[&self.core],
            outputs: Outputs::one(out, add)?,
            weights_in_cache,
            quantization: Quantization::parse(x_group, non_finite)?,
        };
        only(forward.int8(x))
    }

    /// The f32 pass, float32 [N, M], of x (float32 [N, K] or [K], or
    /// PreparedActivations of prepare_f32): sums have one order, the same bits on
    /// every instruction set and number of threads. `out`, `add` and
    /// `weights_in_cache` as in forward_int8.
    #[pyo3(signature = (x, *, out = None, add = false, weights_in_cache = false))]
    fn forward_f32<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
        add: bool,
        weights_in_cache: bool,
    ) -> Made<'py> {
        let forward = Forward {
            py,
            layers: &[&self.core],
            outputs: Outputs::one(out, add)?,
            weights_in_cache,
            quantization: Quantization::default(),
        };
        only(forward.f32(x))
    }

    /// Quantises x (float32, float16 or bfloat16 [N, K] or [K]) once for
    /// forward_int8 of this layer and of others with the same K and group size.
    ///
    /// `into` is prepared again, in its memory, and returned; what it held is gone.
    /// It has no tokens after a QuantizationError. `x_group` and `non_finite` as in
    /// forward_int8.
    #[pyo3(signature = (x, *, into = None, x_group = None, non_finite = "error"))]
    fn prepare_int8<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        into: Option<&Bound<'py, PreparedActivations>>,
        x_group: Option<usize>,
        non_finite: &str,
    ) -> Result<Bound<'py, PreparedActivations>, Error> {
        let how = Quantization::parse(x_group, non_finite)?;
        PreparedActivations::int8(py, &self.core, x, into, how)
    }

    /// As prepare_int8, of float32 x for forward_f32.
    #[pyo3(signature = (x, *, into = None))]
    fn prepare_f32<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        into: Option<&Bound<'py, PreparedActivations>>,
    ) -> Result<Bound<'py, PreparedActivations>, Error> {
        PreparedActivations::f32(py, &self.core, x, into)
    }

    /// One row of the weights times their scales, without the bias, float32 [K], into
    /// `out` or a new array: a row of an embedding whose matrix is the output layer's, too.
    /// That of a layer with a rotation is rotated: see unrotate.
    #[pyo3(signature = (row, out = None))]
    fn unpack_row<'py>(
        &self,
        py: Python<'py>,
        row: usize,
        out: Option<&Bound<'py, PyAny>>,
    ) -> Made<'py> {
        let k = self.core.in_features();
        let mut weights = Output::<f32>::new(py, ("out", out), [1, k], true)?;
        let to = weights.slice_mut()?;
        run(py, k, || self.core.unpack_row(row, to))??;
        Ok(weights.into_object())
    }

    /// The layer with inputs that are rotated when they are prepared: H (s * x) of each
    /// `block` values along K, H the normalised Walsh-Hadamard transform in Sylvester's
    /// order, s the `signs` (int8 [K] of 1 and -1; all 1 if not given).
    ///
    /// `block` is a power of two that divides K. The rotation replaces one that the layer
    /// had. The weights stay as they are, and their memory is shared.
    #[pyo3(signature = (block, signs = None))]
    fn with_rotation(&self, block: usize, signs: Option<&Bound<'_, PyAny>>) -> Result<Self, Error> {
        let signs = signs.map(|signs| Input::<i8>::vector("signs", "[K]", signs));
        let signs = signs.transpose()?;
        let signs = signs.as_ref().map(Input::slice).transpose()?;
        let core = self.core.clone();
        let core = core.with_rotation(Rotation::new(block, signs)?)?;
        Ok(Self { core })
    }

    /// How inputs are rotated: (block, signs), signs int8 [K] or None. None without a
    /// rotation.
    #[getter]
    fn rotation<'py>(&self, py: Python<'py>) -> Result<Option<BlockAndSigns<'py>>, Error> {
        let Some(rotation) = self.core.rotation() else {
            return Ok(None);
        };
        let Some(signs) = rotation.signs() else {
            return Ok(Some((rotation.block(), None)));
        };
        let mut array = Output::<i8>::fresh(py, &[signs.len()])?;
        for (to, sign) in array.slice_mut()?.iter_mut().zip(signs) {
            *to = sign;
        }
        Ok(Some((rotation.block(), Some(array.into_object()))))
    }

    /// Undoes the layer's rotation, s * (H x), of rows of its weights (float32 [N, K] or
    /// [K]) that were looked up, as unpack_row does. A copy without a rotation. `out` is
    /// written to and returned; it must not overlap x.
    #[pyo3(signature = (x, out = None))]
    fn unrotate<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> Made<'py> {
        let x = Input::<f32>::new("x", "[N, K] or [K]", x)?;
        check_width(x.cols(), self.core.panels())?;
        let shape = [x.rows(), x.cols()];
        let mut y = Output::<f32>::new(py, ("out", out), shape, x.is_vector())?;
        y.check_overlap("x", &x)?;
        let (from, mut to) = (x.view()?, y.view()?);
        run(py, shape[0].saturating_mul(shape[1]), || {
            for row in 0..shape[0] {
                let to = to.row_mut(row);
                to.copy_from_slice(from.row(row));
                if let Some(rotation) = self.core.rotation() {
                    rotation.invert(to)?;
                }
            }
            Ok::<_, MatrixError>(())
        })??;
        Ok(y.into_object())
    }

    /// Reads a panel file, which must have scales. `mmap` and `verify` as in
    /// Packed.load: nobody may change or truncate a mapped file.
    #[staticmethod]
    #[pyo3(signature = (path, *, mmap = false, verify = true))]
    fn load(py: Python<'_>, path: PathBuf, mmap: bool, verify: bool) -> Result<Self, Error> {
        let core = Core::try_from(open(py, path, mmap, verify)?)?;
        Ok(Self { core })
    }

    /// From the bytes of a panel file.
    #[staticmethod]
    fn from_bytes(data: Vec<u8>) -> Result<Self, Error> {
        let core = Core::try_from(PanelFile::from_bytes(data, Verify::Full)?)?;
        Ok(Self { core })
    }

    /// Writes a panel file, atomically.
    fn save(&self, py: Python<'_>, path: PathBuf) -> Result<(), Error> {
        Ok(py.detach(|| self.core.save(path))?)
    }

    /// The bytes of a panel file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyBytes>, Error> {
        file_bytes(py, &self.core)
    }

    /// K.
    #[getter]
    fn in_features(&self) -> usize {
        self.core.in_features()
    }

    /// M.
    #[getter]
    fn out_features(&self) -> usize {
        self.core.out_features()
    }

    /// A copy of the bias, float32 [M], or None.
    #[getter]
    fn bias<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        scales::bias_array(py, &self.core)
    }

    /// The weights without the bias, sharing their memory.
    #[getter]
    fn weights(&self) -> Result<Packed, Error> {
        if self.core.rotation().is_some() {
            return Err(Error::other(
                "a layer that rotates its input has no weights without it",
            ));
        }
        let scales = self.core.scales().map_err(MatrixError::from)?;
        let core = Core::from_parts(self.core.panels().clone(), scales, None)?;
        Ok(Packed { core })
    }

    /// Rows start to stop as a layer of its own: see Packed.slice_rows.
    fn slice_rows(&self, start: usize, stop: usize) -> Result<Self, Error> {
        let core = self.core.slice_rows(start..stop)?;
        Ok(Self { core })
    }

    fn __repr__(&self) -> String {
        let (k, m) = (self.core.in_features(), self.core.out_features());
        let bias = if self.core.bias().is_some() {
            "True"
        } else {
            "False"
        };
        format!("tritgemm.Linear(in_features={k}, out_features={m}, bias={bias})")
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> Result<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,)), Error> {
        packed::reduce(slf.get_type(), file_bytes(slf.py(), &slf.get().core)?)
    }
}
