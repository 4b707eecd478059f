//! Tensors: their place in the file and their weights.

use super::MAX_NAME;
use super::cursor::{Cursor, corrupt};
use super::types::TensorType;
use crate::error::{FormatError, Result};
use crate::ggml::TernaryType;
use half::{bf16, f16};
use tritgemm::{Linear, TernaryMatrix, Workspace};

/// Dimensions that ggml's tensors have at most.
pub(super) const MAX_DIMS: usize = 4;

/// Dimensions `ne`, the fastest one first; the absent ones are 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    ne: [u64; MAX_DIMS],
    dims: usize,
}

impl Shape {
    pub(super) fn new(shape: &[u64]) -> Option<Self> {
        let mut ne = [1; MAX_DIMS];
        ne.get_mut(..shape.len())?.copy_from_slice(shape);
        let dims = shape.len();
        Some(Self { ne, dims })
    }

    pub(super) fn as_slice(&self) -> &[u64] {
        &self.ne[..self.dims]
    }

    /// Bytes of a tensor of a type that is known; `None` for another, unless it
    /// has no weights.
    pub(super) fn bytes(&self, ty: TensorType, name: &str) -> Result<Option<u64>> {
        let (rows, cols) = self.matrix(name)?;
        if let Some(ternary) = ty.ternary() {
            return Ok(Some(ternary.tensor_bytes(rows, cols, name)? as u64));
        }
        let Some((block, bytes)) = ty.layout() else {
            return Ok((rows == 0 || cols == 0).then_some(0));
        };
        if !(cols as u64).is_multiple_of(block) {
            return Err(FormatError::Block {
                tensor: name.into(),
                cols,
                block: block as usize,
                format: ty.name(),
            });
        }
        let blocks = (rows as u64).checked_mul(cols as u64 / block);
        blocks
            .and_then(|blocks| blocks.checked_mul(bytes))
            .map_or_else(|| Err(self.overflow(name)), |bytes| Ok(Some(bytes)))
    }

    /// M and K, the dimensions beyond the first one multiplied.
    fn matrix(&self, name: &str) -> Result<(usize, usize)> {
        let size = |ne: u64| usize::try_from(ne).map_err(|_| self.overflow(name));
        let mut rows = 1usize;
        for &ne in &self.ne[1..] {
            let product = rows.checked_mul(size(ne)?);
            rows = product.ok_or_else(|| self.overflow(name))?;
        }
        let cols = size(self.ne[0])?;
        match rows.checked_mul(cols) {
            Some(_) => Ok((rows, cols)),
            None => Err(self.overflow(name)),
        }
    }

    fn overflow(&self, name: &str) -> FormatError {
        FormatError::ShapeOverflow {
            tensor: name.into(),
            shape: self.as_slice().into(),
        }
    }
}

/// What the list of tensors says of one.
pub(super) struct Info<'a> {
    pub(super) name: &'a str,
    shape: Shape,
    ty: TensorType,
    /// From the start of the data.
    offset: u64,
    /// `None` if the type is unknown.
    bytes: Option<u64>,
    /// Where in the file this was said.
    said_at: usize,
}

impl<'a> Info<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>, alignment: u32) -> Result<Self> {
        let said_at = cursor.position();
        let name = cursor.name("a tensor's name", MAX_NAME)?;
        let at = cursor.position();
        let dims = cursor.u32("a tensor's dimensions")? as usize;
        if dims > MAX_DIMS {
            return Err(corrupt(
                at,
                format!("tensor `{name}` of {dims} dimensions, expected {MAX_DIMS} at most"),
            ));
        }
        let mut ne = [1; MAX_DIMS];
        for ne in &mut ne[..dims] {
            *ne = cursor.u64("a tensor's shape")?;
        }
        let shape = Shape { ne, dims };
        let ty = TensorType(cursor.u32("a tensor's type")?);
        let at = cursor.position();
        let offset = cursor.u64("a tensor's offset")?;
        if !offset.is_multiple_of(alignment.into()) {
            return Err(corrupt(
                at,
                format!("tensor `{name}` at {offset}, expected a multiple of {alignment}"),
            ));
        }
        let bytes = shape.bytes(ty, name)?;
        Ok(Self {
            name,
            shape,
            ty,
            offset,
            bytes,
            said_at,
        })
    }
}

/// Gives each tensor its bytes out of `data`, which starts at `data_start` of the
/// file: as many as its type needs, or up to the next tensor if the type is
/// unknown.
pub(super) fn place<'a>(
    infos: Vec<Info<'a>>,
    data: &'a [u8],
    data_start: usize,
) -> Result<Vec<Tensor<'a>>> {
    // From the last one in the file to the first, empty ones after others.
    let mut order: Vec<usize> = (0..infos.len()).collect();
    let place = |i: usize| (infos[i].offset, infos[i].bytes != Some(0), infos[i].bytes);
    order.sort_unstable_by_key(|&i| core::cmp::Reverse(place(i)));
    let mut slices: Vec<&[u8]> = vec![&[]; infos.len()];
    let mut end = data.len() as u64;
    let mut next = "the end of the file";
    for i in order {
        let info = &infos[i];
        // As long as the file has room for; usize suffices, as `end` is in it.
        let room = end.checked_sub(info.offset);
        let room = room.ok_or_else(|| {
            let what = format!(
                "tensor `{}` at {}, but there are {end} bytes of tensors",
                info.name, info.offset
            );
            corrupt(info.said_at, what)
        })?;
        let bytes = info.bytes.unwrap_or(room);
        let missing = info.bytes.is_none() && room == 0;
        if bytes > room || missing {
            return Err(info.too_long(room, next));
        }
        slices[i] = &data[info.offset as usize..][..bytes as usize];
        end = info.offset;
        next = info.name;
    }
    let tensor = |(info, data): (Info<'a>, &'a [u8])| Tensor {
        name: info.name,
        shape: info.shape,
        ty: info.ty,
        offset: data_start as u64 + info.offset,
        data,
    };
    Ok(infos.into_iter().zip(slices).map(tensor).collect())
}

impl Info<'_> {
    fn too_long(&self, room: u64, next: &str) -> FormatError {
        let (name, ty) = (self.name, self.ty);
        let bytes = self.bytes.map_or("some".into(), |bytes| bytes.to_string());
        let mut what = format!(
            "tensor `{name}` of type {ty} takes {bytes} bytes, but there are {room} up to {next}"
        );
        if self.ty.ternary() == Some(TernaryType::Q2_0) {
            what += " (PrismML's Q2_0 has the same number and blocks of 128: it is not read)";
        }
        corrupt(self.said_at, what)
    }
}

/// A tensor of a GGUF file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tensor<'a> {
    name: &'a str,
    shape: Shape,
    ty: TensorType,
    offset: u64,
    data: &'a [u8],
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
        self.ternary_type()?
            .decode(self.data, self.rows(), self.cols(), self.name)
    }

    /// The matrix of a ternary tensor as a packed layer: see [`TernaryType::linear`].
    ///
    /// # Errors
    /// Those of [`Tensor::ternary`] and of [`TernaryType::linear`].
    pub fn linear(&self, ws: &Workspace) -> Result<Linear> {
        self.ternary_type()?
            .linear(self.data, self.rows(), self.cols(), self.name, ws)
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
        let one = ty.tensor_bytes(rows, cols, self.name)?;
        let decode = |bytes: &[u8]| ty.decode(bytes, rows, cols, self.name);
        if ty != TernaryType::I2S {
            return self.data.chunks_exact(one).map(decode).collect();
        }
        // Their one scale stands after all the weights.
        let weights = rows * cols / 4;
        let (all, tail) = self.data.split_at(self.data.len() - (one - weights));
        let with_tail = |weights: &[u8]| decode(&[weights, tail].concat());
        all.chunks_exact(weights).map(with_tail).collect()
    }

    /// The values of an F32, F16 or BF16 tensor.
    ///
    /// # Errors
    /// [`FormatError::Type`] if it is of another type.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let halves = || self.data.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self.ty {
            TensorType::F32 => {
                let words = self.data.chunks_exact(4);
                Ok(words
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect())
            }
            TensorType::F16 => Ok(halves().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            TensorType::BF16 => Ok(halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            _ => Err(self.wrong_type("F32, F16 or BF16")),
        }
    }

    fn ternary_type(&self) -> Result<TernaryType> {
        let ternary = self.ty.ternary();
        ternary.ok_or_else(|| self.wrong_type("TQ1_0, TQ2_0, Q2_0, I2_S, IQ1_BN or IQ2_BN"))
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
