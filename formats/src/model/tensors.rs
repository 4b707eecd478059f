//! The tensors of a model.

use super::ours::{self, PackedInfo};
use super::rotation::Rotated;
use crate::error::{FormatError, Result};
use crate::gguf::{self, TensorType};
use crate::hf::{self, LinearClass, Packed};
use crate::onnx::OnnxModel;
use safetensors::Dtype;
use std::borrow::Cow;
use std::sync::Arc;
use tritgemm::{Linear, ModelFile, TernaryMatrix, Workspace};

/// The name of the HF BitNet format.
pub(super) const HF: &str = "HF BitNet";

/// A ternary matrix of a model.
#[non_exhaustive]
pub struct Matrix<'a> {
    /// Its name.
    pub name: String,
    /// Its format there: `TQ2_0`, `HF BitNet`, `tritgemm`, `ONNX 2-bit` or `panels`.
    pub format: &'static str,
    /// `[M, K]`.
    pub shape: [usize; 2],
    /// Bytes in the file, scales included.
    pub bytes: usize,
    /// What this project's own metadata says of it.
    pub info: Option<PackedInfo>,
    /// The shape of a stack of matrices (the experts of a mixture), slowest dimension first:
    /// they follow each other in the rows of this one.
    pub stack: Option<Vec<usize>>,
    /// How its inputs or its rows are rotated.
    pub rotation: Option<Rotated>,
    /// The tensors of a safetensors file that it is made of, as they are stored; none in
    /// other files.
    pub stored: Vec<Tensor<'a>>,
    pub(super) source: Source<'a>,
}

/// Where a matrix is read from.
pub(super) enum Source<'a> {
    Gguf(gguf::Tensor<'a>),
    Hf {
        packed_rows: usize,
        weight_scale: f32,
        class: LinearClass,
        rows: Option<usize>,
    },
    Ours,
    Onnx(&'a Arc<OnnxModel>),
    Panels {
        /// Panels are held against their checksums.
        checked: Arc<ModelFile>,
        /// Only what is read at once is.
        mapped: Arc<ModelFile>,
        /// The name there.
        name: String,
    },
}

impl Matrix<'_> {
    /// Decodes it; every code and scale is checked. What is read of a matrix with rotated
    /// inputs are its weights as they are stored, [`Matrix::rotation`] says how.
    ///
    /// # Errors
    /// Those of its format, which name the tensor.
    pub fn read(&self) -> Result<TernaryMatrix> {
        match &self.source {
            Source::Gguf(tensor) => tensor.ternary(),
            &Source::Hf { class, rows, .. } => hf::decode(&self.packed(), class, rows),
            Source::Ours => {
                let [packed, scales] = self.parts()?;
                ours::matrix(&self.name, self.noted()?, packed, scales)
            }
            Source::Onnx(model) => model.decode(&self.name),
            Source::Panels { checked, name, .. } => {
                let (panels, scales, ..) = checked.get(name)?.into_parts();
                let scales = scales.ok_or_else(|| ours::in_tensor(&self.name, "has no scales"))?;
                let [rows, cols] = self.shape;
                let matrix = TernaryMatrix::from_packed(panels.to_packed(), rows, cols, scales);
                matrix.map_err(|source| FormatError::Matrix {
                    tensor: self.name.clone(),
                    source,
                })
            }
        }
    }

    /// Reads it as a packed layer on the threads of a workspace, with as few scales as say
    /// the same. Rotated inputs are a property of the layer; rotated rows are the caller's to
    /// turn back after [`Linear::unpack_row`].
    ///
    /// # Errors
    /// Those of [`Matrix::read`]; [`FormatError::Matrix`] also if the workspace's backend is
    /// not available, its threads leave work out or memory runs out.
    pub fn linear(&self, ws: &Workspace) -> Result<Linear> {
        let layer = match &self.source {
            Source::Gguf(tensor) => tensor.linear(ws)?,
            &Source::Hf { class, rows, .. } => hf::linear(&self.packed(), class, rows, ws)?,
            Source::Panels { checked, name, .. } => return Ok(checked.linear(name)?),
            Source::Ours | Source::Onnx(_) => {
                let matrix = crate::simplify(self.read()?);
                let panels = tritgemm::Panels::pack_on(&matrix, ws);
                let layer = panels
                    .and_then(|panels| Linear::from_parts(panels, matrix.scales().clone(), None));
                layer.map_err(|source| self.matrix_error(source))?
            }
        };
        match &self.rotation {
            Some(rotated) if rotated.input => layer
                .with_rotation(rotated.rotation.clone())
                .map_err(|source| self.matrix_error(source)),
            _ => Ok(layer),
        }
    }

    /// As [`Matrix::linear`], but without reading the panels of a panel file: they come from
    /// the file as products need them, and are not held against their checksums.
    ///
    /// # Errors
    /// Those of [`Matrix::linear`].
    pub fn linear_mapped(&self, ws: &Workspace) -> Result<Linear> {
        match &self.source {
            Source::Panels { mapped, name, .. } => Ok(mapped.linear(name)?),
            _ => self.linear(ws),
        }
    }

    /// Whether it is of the HF BitNet format.
    pub fn is_hf(&self) -> bool {
        matches!(self.source, Source::Hf { .. })
    }

    fn matrix_error(&self, source: tritgemm::MatrixError) -> FormatError {
        FormatError::Matrix {
            tensor: self.name.clone(),
            source,
        }
    }

    /// The tensor of an HF matrix.
    fn packed(&self) -> Packed<'_> {
        let (packed_rows, weight_scale) = match self.source {
            Source::Hf {
                packed_rows,
                weight_scale,
                ..
            } => (packed_rows, weight_scale),
            _ => (0, 0.0),
        };
        Packed {
            tensor: &self.name,
            bytes: self.stored.first().map_or(&[], |t| t.bytes()),
            packed_rows,
            cols: self.shape[1],
            weight_scale,
        }
    }

    fn noted(&self) -> Result<&PackedInfo> {
        let info = self.info.as_ref();
        info.ok_or_else(|| ours::in_tensor(&self.name, "is not listed"))
    }

    /// The bytes of a matrix of ours and of its scales, if their types and shapes are right.
    fn parts(&self) -> Result<[&[u8]; 2]> {
        let info = self.noted()?;
        let [rows, cols] = info.shape;
        let part = |name: &str, dtype: Dtype, shape: &[usize]| {
            let tensor = self.stored.iter().find(|t| t.name == name);
            let missing = || ours::in_tensor(&self.name, format!("there is no tensor `{name}`"));
            let tensor = tensor.ok_or_else(missing)?;
            if tensor.dtype != Some(dtype) || tensor.shape != shape {
                return Err(ours::in_tensor(
                    &self.name,
                    format!(
                        "`{name}` is {} {:?}, expected {dtype} {shape:?}",
                        tensor.type_name, tensor.shape
                    ),
                ));
            }
            Ok(tensor.bytes())
        };
        let scales = ours::scales_shape(info.granularity, info.shape);
        Ok([
            part(&self.name, Dtype::U8, &[rows, cols.div_ceil(4)])?,
            part(&ours::scales_name(&self.name), Dtype::F32, &scales)?,
        ])
    }
}

/// A tensor of a model that is no ternary matrix, or is a part of one.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: String,
    /// Its type, by the name that its format has for it.
    pub type_name: String,
    /// The number of its type in a GGUF file, if it is from one.
    pub gguf_type: Option<u32>,
    /// The safetensors type of the same name and meaning, if there is one.
    pub dtype: Option<Dtype>,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// How its inputs or its rows are rotated.
    pub rotation: Option<Rotated>,
    /// Why its bytes are not the values of a tensor of its type, if so it seems: they are
    /// packed weights that are not read, or a table that belongs to such weights.
    pub unread: Option<String>,
    /// Row-major, little-endian.
    pub(super) data: Cow<'a, [u8]>,
}

impl<'a> Tensor<'a> {
    /// A tensor of a safetensors type.
    pub(super) fn new(
        name: impl Into<String>,
        dtype: Dtype,
        shape: Vec<usize>,
        data: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        Self {
            name: name.into(),
            type_name: dtype.to_string(),
            gguf_type: None,
            dtype: Some(dtype),
            shape,
            rotation: None,
            unread: None,
            data: data.into(),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Its values: of F32, F16, BF16 and, from GGUF files, of the types that
    /// [`gguf::Tensor::to_f32`] reads.
    ///
    /// # Errors
    /// [`FormatError::Type`] if it is of another type.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        if let Some(ty) = self.dtype.and_then(hf::float_type) {
            return Ok(ty.decode(&self.data));
        }
        let ty = self.gguf_type.map(TensorType);
        let values = ty.and_then(|ty| gguf::values(ty, &self.data));
        values.ok_or_else(|| FormatError::Type {
            tensor: self.name.clone(),
            type_id: self.gguf_type.unwrap_or_default(),
            type_name: ty.map_or("not of GGUF", TensorType::name),
            expected: "F32, F16, BF16, Q4_0, Q8_0, Q4_K, Q5_K or Q6_K",
        })
    }
}
