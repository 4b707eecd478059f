//! Shapes, and the bytes that they take.

use super::types::TensorType;
use crate::error::{FormatError, Result};
use crate::ggml::{I2_S_TAIL, TernaryType};

/// Dimensions that ggml's tensors have at most.
pub(super) const MAX_DIMS: usize = 4;

/// Dimensions `ne`, the fastest one first; the absent ones are 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) ne: [u64; MAX_DIMS],
    pub(super) dims: usize,
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

    /// Bytes of a tensor of a type that is known; `None` for another. One without
    /// weights has none, whatever its type.
    pub(super) fn bytes(&self, ty: TensorType, name: &str) -> Result<Option<u64>> {
        let (rows, cols) = self.matrix(name)?;
        if rows == 0 || cols == 0 {
            return Ok(Some(0));
        }
        match ty.ternary() {
            // As ggml has it, whatever the layout is.
            Some(TernaryType::I2S) if (rows * cols).is_multiple_of(4) => {
                return Ok(Some((rows * cols / 4 + I2_S_TAIL) as u64));
            }
            Some(ternary) => return Ok(Some(ternary.tensor_bytes(rows, cols, name)? as u64)),
            None => {}
        }
        let Some((block, bytes)) = ty.layout() else {
            return Ok(None);
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
    pub(super) fn matrix(&self, name: &str) -> Result<(usize, usize)> {
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
