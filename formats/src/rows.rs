//! Matrices put together row by row.

use crate::error::{FormatError, Result};
use crate::scales::fewer;
#[cfg(feature = "rayon")]
use rayon::prelude::*;
use tritgemm::codec::{self, Mode};
use tritgemm::{Linear, MatMut, MatRef, MatrixError, Panels, Scales, TernaryMatrix, Workspace};

/// What a source of rows is called in messages.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) tensor: &'a str,
    pub(crate) format: &'static str,
}

impl Named<'_> {
    pub(crate) fn matrix(self, source: impl Into<MatrixError>) -> FormatError {
        let source = source.into();
        let tensor = self.tensor.to_owned();
        FormatError::Matrix { tensor, source }
    }

    pub(crate) fn not_ternary(self, [row, col]: [usize; 2], code: u8) -> FormatError {
        FormatError::NotTernary {
            tensor: self.tensor.to_owned(),
            row,
            col,
            code,
            format: self.format,
        }
    }

    /// That `got` bytes are what a `rows x cols` matrix has, `expected`.
    pub(crate) fn len(self, [rows, cols]: [usize; 2], expected: usize, got: usize) -> Result<()> {
        if got == expected {
            return Ok(());
        }
        Err(FormatError::SizeMismatch {
            tensor: self.tensor.to_owned(),
            rows,
            cols,
            format: self.format,
            expected,
            got,
        })
    }

    pub(crate) fn overflow(self, shape: &[usize]) -> FormatError {
        FormatError::ShapeOverflow {
            tensor: self.tensor.to_owned(),
            shape: shape.iter().map(|&n| n as u64).collect(),
        }
    }

    /// A matrix whose row `r` is what `fill(r, trits)` writes. Of several
    /// errors the first row's is returned.
    pub(crate) fn matrix_of_rows(
        self,
        [rows, cols]: [usize; 2],
        scales: Scales,
        fill: impl Fn(usize, &mut [i8]) -> Result<()> + Sync,
    ) -> Result<TernaryMatrix> {
        let len = codec::packed_len(rows, cols).map_err(|e| self.matrix(e))?;
        let mut packed = vec![0; len];
        let row_bytes = codec::row_bytes(cols).max(1);
        let pack = |trits: &mut Vec<i8>, (row, packed): (usize, &mut [u8])| {
            trits.resize(cols, 0);
            fill(row, trits).and_then(|()| self.encode(trits, packed))
        };
        let serial = |packed: &mut [u8]| {
            let mut trits = Vec::new();
            let mut rows = packed.chunks_mut(row_bytes).enumerate();
            rows.find_map(|row| Some(pack(&mut trits, row)).filter(Result::is_err))
        };
        #[cfg(feature = "rayon")]
        let failed = match crate::parallel::in_pool() {
            true => packed
                .par_chunks_mut(row_bytes)
                .enumerate()
                .map_init(Vec::new, pack)
                .find_first(Result::is_err),
            false => serial(&mut packed),
        };
        #[cfg(not(feature = "rayon"))]
        let failed = serial(&mut packed);
        if let Some(Err(error)) = failed {
            return Err(error);
        }
        TernaryMatrix::from_packed(packed, rows, cols, scales).map_err(|e| self.matrix(e))
    }

    /// Packs the trits of a row.
    pub(crate) fn encode(self, trits: &[i8], packed: &mut [u8]) -> Result<()> {
        let packed_len = packed.len();
        let trits = MatRef::new(trits, 1, trits.len()).expect("a row");
        let packed = MatMut::new(packed, 1, packed_len).expect("its bytes");
        codec::encode(trits, packed, Mode::Strict).map_err(|e| self.matrix(e))
    }

    /// A layer whose row `r` is what `fill(r, packed, scales)` writes, in one pass and on the
    /// threads of a workspace, with as few scales as say the same.
    pub(crate) fn layer_of_rows(
        self,
        [rows, cols]: [usize; 2],
        mut scales: Scales,
        ws: &Workspace,
        fill: impl Fn(usize, &mut [u8], &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Linear> {
        let panels = Panels::pack_rows(rows, cols, &mut scales, ws, |row, packed, scales| {
            fill(row, packed, scales).map_err(Failed::Format)
        });
        let panels = panels.map_err(|failed| match failed {
            Failed::Format(error) => error,
            Failed::Matrix(error) => self.matrix(error),
        })?;
        let scales = fewer(&scales, cols).unwrap_or(scales);
        Linear::from_parts(panels, scales, None).map_err(|e| self.matrix(e))
    }
}

/// Why rows did not become panels.
enum Failed {
    Format(FormatError),
    Matrix(MatrixError),
}

impl From<MatrixError> for Failed {
    fn from(error: MatrixError) -> Self {
        Self::Matrix(error)
    }
}
