//! Tensors: their bytes and their weights.

use super::dequant;
use super::shape::Shape;
use super::types::TensorType;
use crate::error::{FormatError, Result};
use crate::ggml::{I2sLayout, TernaryType};
use tritgemm::{Linear, TernaryMatrix, Workspace};

/// The types of matrices that are read.
const TERNARY: &str = "TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, I2_S, IQ1_BN or IQ2_BN";

/// A tensor of a GGUF file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) shape: Shape,
    pub(super) ty: TensorType,
    pub(super) said: TensorType,
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
    pub(super) i2s: I2sLayout,
}

impl<'a> Tensor<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// `ne`, the fastest dimension first: K, M and, where a tensor holds several
    /// matrices, their number.
    pub fn shape(&self) -> &[u64] {
        self.shape.as_slice()
    }

    /// M: the rows of all its matrices together, 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape.ne[1..].iter().product::<u64>() as usize
    }

    /// K.
    pub fn cols(&self) -> usize {
        self.shape.ne[0] as usize
    }

    /// Its type.
    pub fn tensor_type(&self) -> TensorType {
        self.ty
    }

    /// The type that the file says. Another one than [`Self::tensor_type`] where older
    /// files of PrismML's have PQ2_0 under the number of Q2_0.
    pub fn said_type(&self) -> TensorType {
        self.said
    }

    /// The tensor with another layout of I2_S than that of published files. It means
    /// nothing for other types.
    pub fn with_i2s_layout(self, layout: I2sLayout) -> Self {
        Self {
            i2s: layout,
            ..self
        }
    }

    /// Where its bytes start in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its bytes; with padding up to the next tensor if the type is unknown.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The matrix of a ternary tensor. Of a tensor with more than two dimensions
    /// (the experts of a mixture) the matrices follow each other: matrix `e` is
    /// rows `e * ne[1]` to `(e + 1) * ne[1]`. [`Tensor::experts`] has them apart.
    ///
    /// # Errors
    /// [`FormatError::Type`] if the type is not ternary; those of
    /// [`TernaryType::decode`].
    pub fn ternary(&self) -> Result<TernaryMatrix> {
        let (rows, cols) = (self.rows(), self.cols());
        match self.ternary_type()? {
            TernaryType::I2S => self.i2s.decode(self.data, rows, cols, self.name),
            ty => ty.decode(self.data, rows, cols, self.name),
        }
    }

    /// The matrix of a ternary tensor as a packed layer: see [`TernaryType::linear`].
    ///
    /// # Errors
    /// Those of [`Tensor::ternary`] and of [`TernaryType::linear`].
    pub fn linear(&self, ws: &Workspace) -> Result<Linear> {
        let (rows, cols) = (self.rows(), self.cols());
        match self.ternary_type()? {
            TernaryType::I2S => self.i2s.linear(self.data, rows, cols, self.name, ws),
            ty => ty.linear(self.data, rows, cols, self.name, ws),
        }
    }

    /// The matrices of a ternary tensor, one for each `ne[2] * ne[3]`.
    ///
    /// # Errors
    /// Those of [`Tensor::ternary`]; rows count from the start of each matrix.
    /// [`FormatError::Block`] also if a matrix of an I2_S tensor does not
    /// start at a block.
    pub fn experts(&self) -> Result<Vec<TernaryMatrix>> {
        let ty = self.ternary_type()?;
        let (rows, cols) = (self.shape.ne[1] as usize, self.cols());
        if ty != TernaryType::I2S {
            let one = ty.tensor_bytes(rows, cols, self.name)?;
            let decode = |bytes: &[u8]| ty.decode(bytes, rows, cols, self.name);
            return self.data.chunks_exact(one).map(decode).collect();
        }
        // Their one scale stands after all the weights.
        let one = self.i2s.tensor_bytes(rows, cols, self.name)?;
        let weights = rows * cols / 4;
        let Some(all) = self.data.len().checked_sub(one - weights) else {
            return Ok(Vec::new());
        };
        let (all, tail) = self.data.split_at(all);
        let decode = |bytes: &[u8]| self.i2s.decode(bytes, rows, cols, self.name);
        let with_tail = |weights: &[u8]| decode(&[weights, tail].concat());
        all.chunks_exact(weights).map(with_tail).collect()
    }

    /// The values of a tensor that is not ternary, of the types of embeddings and heads:
    /// F32, F16, BF16, Q4_0, Q8_0, Q4_K, Q5_K and Q6_K.
    ///
    /// # Errors
    /// [`FormatError::Type`] if it is of another type.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        dequant::to_f32(self.ty, self.data).ok_or_else(|| self.wrong_type(dequant::TYPES))
    }

    fn ternary_type(&self) -> Result<TernaryType> {
        let ternary = self.ty.ternary();
        ternary.ok_or_else(|| self.wrong_type(TERNARY))
    }

    fn wrong_type(&self, expected: &'static str) -> FormatError {
        FormatError::Type {
            tensor: self.name.into(),
            type_id: self.ty.0,
            type_name: self.ty.name(),
            expected,
        }
    }
}
