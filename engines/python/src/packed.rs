//! `Packed`: ternary weights as the kernels read them.

use crate::arrays::{Input, Output};
use crate::codec::check_width;
use crate::errors::Error;
use crate::files::{file_bytes, open};
use crate::options::{granularity, is_2_4};
use crate::pool::run;
use crate::product::{Made, exact};
use crate::scales::scales_array;
use crate::{hf, latent};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};
use std::path::PathBuf;
use tritgemm::{
    Granularity, Linear as Core, MatRef, MatrixError, PanelFile, Panels, Scales, TernaryMatrix,
    Verify,
};

/// Ternary weights [M, K] with their scales, laid out once for the kernels:
/// 2 bits a weight. Immutable; slices and layers share its memory.
///
/// Made by from_packed, from_trits, quantize, load or from_bytes.
#[pyclass(frozen, module = "tritgemm")]
pub struct Packed {
    /// Without bias.
    pub core: Core,
}

impl Packed {
    fn pack(matrix: &TernaryMatrix) -> Result<Self, Error> {
        let core = Core::new(matrix)?;
        Ok(Self { core })
    }

    /// From a panel file, less its bias; the scale is 1 where it has none.
    fn from_file(file: PanelFile) -> Result<Self, Error> {
        if file.rotation().is_some() {
            return Err(Error::other(
                "the file's matrix has a rotated input, which a Linear can load",
            ));
        }
        let (panels, scales, _, _) = file.into_parts();
        let scales = scales.unwrap_or_else(|| Scales::per_tensor(1.0));
        let core = Core::from_parts(panels, scales, None)?;
        Ok(Self { core })
    }

    /// Row-major packed bytes, made from the panels.
    fn matrix(&self) -> Result<TernaryMatrix, MatrixError> {
        let panels = self.core.panels();
        let scales = self.core.scales()?;
        TernaryMatrix::from_packed(panels.to_packed(), panels.rows(), panels.cols(), scales)
    }

    fn size(&self) -> usize {
        self.core.panels().as_bytes().len().saturating_mul(4)
    }
}

#[pymethods]
impl Packed {
    /// From packed bytes (uint8 [M, ceil(k/4)]): see pack. Hugging Face BitNet has another
    /// layout, uint8 [ceil(M/4), K], which from_hf reads. With a `k` that fits the wrong one,
    /// four times its K, nothing can tell.
    ///
    /// `scales` is a number, float32 [1], [M] or, with `group` 32, 64, 128 or 256,
    /// [M, ceil(k/group)]; 1 if not given.
    #[staticmethod]
    #[pyo3(signature = (packed, k, scales = None, *, group = None))]
    fn from_packed(
        py: Python<'_>,
        packed: &Bound<'_, PyAny>,
        k: usize,
        scales: Option<&Bound<'_, PyAny>>,
        group: Option<usize>,
    ) -> Result<Self, Error> {
        let packed = Input::<u8>::dense("packed", "[M, ceil(k/4)]", packed)?;
        check_width(&packed, k)?;
        let rows = packed.rows();
        let scales = crate::scales::scales(scales, group, rows)?;
        let bytes = MatRef::new(packed.slice()?, rows, packed.cols())?;
        run(py, rows * packed.cols(), || {
            let panels = Panels::from_packed(bytes, k)?;
            let core = Core::from_parts(panels, scales, None)?;
            Ok(Self { core })
        })?
    }

    /// From trits (int8 [M, K], values -1, 0, 1). `scales` as in from_packed.
    #[staticmethod]
    #[pyo3(signature = (trits, scales = None, *, group = None))]
    fn from_trits(
        py: Python<'_>,
        trits: &Bound<'_, PyAny>,
        scales: Option<&Bound<'_, PyAny>>,
        group: Option<usize>,
    ) -> Result<Self, Error> {
        let trits = Input::<i8>::dense("trits", "[M, K]", trits)?;
        let (rows, cols) = (trits.rows(), trits.cols());
        let scales = crate::scales::scales(scales, group, rows)?;
        let values = MatRef::new(trits.slice()?, rows, cols)?;
        run(py, rows * cols, || {
            Self::pack(&TernaryMatrix::from_trits(values, scales)?)
        })?
    }

    /// From latent weights (float32 [M, K]): see ternarize.
    ///
    /// With `keep_ternary`, weights that are ternary already, zeros and one magnitude for
    /// each scale, have that magnitude as their scale and come back as they were.
    #[staticmethod]
    #[pyo3(signature = (weights, granularity = None, *, sparsity = None, keep_ternary = false))]
    #[pyo3(text_signature = "(weights, granularity='row', *, sparsity=None, keep_ternary=False)")]
    fn quantize(
        py: Python<'_>,
        weights: &Bound<'_, PyAny>,
        granularity: Option<&Bound<'_, PyAny>>,
        sparsity: Option<&str>,
        keep_ternary: bool,
    ) -> Result<Self, Error> {
        let granularity = granularity.map_or(Ok(Granularity::PerRow), self::granularity)?;
        let sparse = is_2_4(sparsity)?;
        let core = latent::quantize(py, weights, granularity, (sparse, keep_ternary))?;
        Ok(Self { core })
    }

    /// From weights (float32 [M, K]) that are ternary already, zeros and one magnitude for
    /// each scale, with as few scales as that takes: one, one a row, or one for each 256,
    /// 128, 64 or 32 along K. None of others.
    #[staticmethod]
    fn from_ternary(py: Python<'_>, weights: &Bound<'_, PyAny>) -> Result<Option<Self>, Error> {
        let core = latent::ternary(py, weights)?;
        Ok(core.map(|core| Self { core }))
    }

    /// From a packed matrix of a Hugging Face BitNet checkpoint: `packed` uint8
    /// [ceil(M/4), K], and its `weight_scale`, by which outputs are divided with
    /// linear_class="bitlinear" and multiplied with "autobitlinear". `rows` is M if that is
    /// no multiple of 4.
    #[staticmethod]
    #[pyo3(signature = (packed, weight_scale, linear_class = "bitlinear", *, rows = None))]
    fn from_hf(
        py: Python<'_>,
        packed: &Bound<'_, PyAny>,
        weight_scale: f32,
        linear_class: &str,
        rows: Option<usize>,
    ) -> Result<Self, Error> {
        let core = hf::read(py, packed, weight_scale, linear_class, rows)?;
        Ok(Self { core })
    }

    /// The matrix as from_hf reads it: uint8 [ceil(M/4), K] and its weight_scale, stored as
    /// 'float32', 'float16' or 'bfloat16'. A scale that the type has no equal for is a
    /// TritgemmError, and so is more than one; with exact=False the nearest is taken.
    #[pyo3(signature = (linear_class = "bitlinear", dtype = "float32", *, exact = true))]
    fn to_hf<'py>(
        &self,
        py: Python<'py>,
        linear_class: &str,
        dtype: &str,
        exact: bool,
    ) -> Result<(Bound<'py, PyAny>, f32), Error> {
        hf::write(
            py,
            || self.matrix(),
            self.shape(),
            (linear_class, dtype, exact),
        )
    }

    /// Reads a panel file, less its bias; the scale is 1 if the file has none.
    ///
    /// With `mmap` the weights stay in the file, are read when first used and
    /// shared with other processes that map it; nobody may change or truncate the
    /// file as long as they live (save replaces files, which is fine). Without
    /// `verify` a mapped file's weights are not checked against their checksum.
    #[staticmethod]
    #[pyo3(signature = (path, *, mmap = false, verify = true))]
    fn load(py: Python<'_>, path: PathBuf, mmap: bool, verify: bool) -> Result<Self, Error> {
        Self::from_file(open(py, path, mmap, verify)?)
    }

    /// From the bytes of a panel file.
    #[staticmethod]
    fn from_bytes(data: Vec<u8>) -> Result<Self, Error> {
        Self::from_file(PanelFile::from_bytes(data, Verify::Full)?)
    }

    /// Writes a panel file, atomically.
    fn save(&self, py: Python<'_>, path: PathBuf) -> Result<(), Error> {
        Ok(py.detach(|| self.core.save(path))?)
    }

    /// The bytes of a panel file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyBytes>, Error> {
        file_bytes(py, &self.core)
    }

    /// (M, K).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.core.out_features(), self.core.in_features())
    }

    /// Bytes of the packed weights, padding included.
    #[getter]
    fn nbytes(&self) -> usize {
        self.core.panels().as_bytes().len()
    }

    /// What a scale covers: 'tensor', 'row', 32, 64, 128 or 256.
    #[getter]
    fn granularity<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.core.granularity() {
            Granularity::PerTensor => "tensor".into_pyobject(py)?.into_any(),
            Granularity::PerRow => "row".into_pyobject(py)?.into_any(),
            Granularity::PerGroup(size) => size.len().into_pyobject(py)?.into_any(),
        })
    }

    /// A copy of the scales: float32 [1], [M] or [M, ceil(K/group)].
    #[getter]
    fn scales<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, Error> {
        scales_array(py, &self.core)
    }

    /// The packed bytes, uint8 [M, ceil(K/4)].
    fn to_packed<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, Error> {
        let panels = self.core.panels();
        let bytes = run(py, self.size(), || panels.to_packed())?;
        let shape = [panels.rows(), tritgemm::codec::row_bytes(panels.cols())];
        let mut array = Output::<u8>::dense(py, None, shape)?;
        array.slice_mut()?.copy_from_slice(&bytes);
        Ok(array.into_object())
    }

    /// The weights, int8 [M, K].
    fn to_trits<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, Error> {
        let shape = [self.core.out_features(), self.core.in_features()];
        let mut array = Output::<i8>::dense(py, None, shape)?;
        let out = array.slice_mut()?;
        run(py, self.size(), || {
            out.copy_from_slice(&self.matrix()?.to_trits()?);
            Ok::<_, MatrixError>(())
        })??;
        Ok(array.into_object())
    }

    /// The weights of one row, int8 [K], into `out` or a new array.
    #[pyo3(signature = (row, out = None))]
    fn unpack_row<'py>(
        &self,
        py: Python<'py>,
        row: usize,
        out: Option<&Bound<'py, PyAny>>,
    ) -> Made<'py> {
        let k = self.core.in_features();
        let mut trits = Output::<i8>::new(py, ("out", out), [1, k], true)?;
        let to = trits.slice_mut()?;
        run(py, k, || self.core.panels().unpack_row(row, to))??;
        Ok(trits.into_object())
    }

    /// The weights times their scales, float32 [M, K].
    fn dequantize<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, Error> {
        let shape = [self.core.out_features(), self.core.in_features()];
        let mut array = Output::<f32>::dense(py, None, shape)?;
        let out = array.slice_mut()?;
        run(py, self.size(), || {
            out.copy_from_slice(&self.matrix()?.to_f32()?);
            Ok::<_, MatrixError>(())
        })??;
        Ok(array.into_object())
    }

    /// Rows start to stop as weights of their own, sharing the memory. Both are
    /// multiples of 64, or stop is M: a shard for tensor parallelism.
    fn slice_rows(&self, start: usize, stop: usize) -> Result<Self, Error> {
        let core = self.core.slice_rows(start..stop)?;
        Ok(Self { core })
    }

    /// The transposed weights [K, M], with scale 1: what takes a gradient back,
    /// once it is multiplied by the scales of the rows. With `scaled`, for weights of one
    /// scale, they keep it.
    #[pyo3(signature = (*, scaled = false))]
    fn transpose(&self, py: Python<'_>, scaled: bool) -> Result<Self, Error> {
        let scales = match scaled {
            true => self.core.scales().map_err(MatrixError::from)?,
            false => Scales::per_tensor(1.0),
        };
        if scales.granularity() != Granularity::PerTensor {
            return Err(Error::other(
                "scaled: expected weights of one scale, or False",
            ));
        }
        run(py, self.size(), || {
            let panels = Panels::pack_transposed(&self.matrix()?)?;
            let core = Core::from_parts(panels, scales, None)?;
            Ok(Self { core })
        })?
    }

    /// Takes the `gradient` of latent weights (both float32 [M, K], of which this was made)
    /// from those that the straight-through estimator holds back, in place: beyond the clamp,
    /// |w| >= scale, and with `sparse` also where the trit is 0.
    #[pyo3(signature = (gradient, weights, *, sparse = false))]
    fn close_gate(
        &self,
        py: Python<'_>,
        gradient: &Bound<'_, PyAny>,
        weights: &Bound<'_, PyAny>,
        sparse: bool,
    ) -> Result<(), Error> {
        latent::close_gate(py, &self.core, gradient, weights, sparse)
    }

    /// The exact integer product of x (int8 [N, K] or [K]) with the transposed
    /// weights, int32 [N, M] or [M]; scales are not applied. See gemm_i8.
    #[pyo3(signature = (x, out = None, *, weights_in_cache = false))]
    fn gemm_i8<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
        weights_in_cache: bool,
    ) -> Made<'py> {
        exact(py, self.core.panels(), x, out, weights_in_cache)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (rows, cols) = self.shape();
        let granularity = self.granularity(py)?.repr()?;
        Ok(format!(
            "tritgemm.Packed(shape=({rows}, {cols}), granularity={granularity})"
        ))
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> Result<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,)), Error> {
        reduce(slf.get_type(), file_bytes(slf.py(), &slf.get().core)?)
    }
}

/// What pickle needs: `from_bytes` and its argument.
pub fn reduce<'py>(
    class: Bound<'py, PyType>,
    bytes: Bound<'py, PyBytes>,
) -> Result<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,)), Error> {
    Ok((class.getattr("from_bytes")?, (bytes,)))
}
