//! Ternary matrices in the interchange encoding, with their scales.

use crate::codec::{self, CodecError, Mode};
use crate::memory::{self, OutOfMemory};
use crate::mismatch::{check_length, fmt_length};
use crate::quant::{self, QuantError};
use crate::scales::{Granularity, Scales};
use crate::threads::{Incomplete, Stopped};
use crate::view::{MatMut, MatRef};
use core::ops::Range;
use std::fmt;

/// Most weights in a row: with int8 activations the sum of more could leave
/// int32 (`128 * 2^24 = 2^31`).
pub const MAX_COLS: usize = (1 << 24) - 1;

/// Why a matrix could not be made or sliced.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub enum MatrixError {
    /// A row is longer than int32 sums allow.
    TooManyColumns {
        /// Columns asked for.
        cols: usize,
    },
    /// A slice does not have the length that the shape calls for.
    Length {
        /// The argument.
        argument: &'static str,
        /// Its length.
        len: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A scale is NaN or infinite.
    Scale {
        /// Index in the list of scales.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A range of rows does not start and end on a panel.
    Unaligned {
        /// The row that is inside of a panel.
        row: usize,
    },
    /// A range of rows leaves the matrix or ends before it starts.
    OutOfRange {
        /// The range.
        range: Range<usize>,
        /// Rows of the matrix.
        rows: usize,
    },
    /// A rotation's block is no power of two up to 2^23, or the columns are not whole blocks.
    RotationBlock {
        /// The block.
        block: usize,
        /// The columns, if the block could be.
        cols: Option<usize>,
    },
    /// A rotation's sign is neither 1 nor -1.
    RotationSign {
        /// Index in the list of signs.
        index: usize,
        /// Its value.
        value: i8,
    },
    /// A range of bytes leaves the memory or ends before it starts.
    NoBytes {
        /// The range.
        range: Range<usize>,
        /// Bytes there are.
        len: usize,
    },
    /// The caller's threads left work out.
    Incomplete(Incomplete),
    /// The weights could not be encoded or decoded.
    Codec(CodecError),
    /// The weights could not be quantised.
    Quant(QuantError),
    /// Memory ran out.
    Memory(OutOfMemory),
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyColumns { cols } => write!(
                f,
                "{cols} columns are more than the {MAX_COLS} whose sum an int32 holds"
            ),
            Self::Length {
                argument,
                len,
                expected,
            } => fmt_length(f, argument, len, expected),
            Self::Scale { index, value } => {
                write!(f, "scale {index} is {value}, expected a finite number")
            }
            Self::RotationBlock { block, cols } => match cols {
                None => write!(
                    f,
                    "rotated blocks of {block}, expected a power of two up to 2^23"
                ),
                Some(cols) => write!(f, "{cols} columns are no whole rotated blocks of {block}"),
            },
            Self::RotationSign { index, value } => {
                write!(f, "sign {index} is {value}, expected 1 or -1")
            }
            Self::NoBytes { range, len } => {
                write!(f, "bytes {}..{} of {len}", range.start, range.end)
            }
            Self::Unaligned { row } => {
                write!(f, "rows can be sliced at multiples of 64, not at {row}")
            }
            Self::OutOfRange { range, rows } => write!(
                f,
                "rows {}..{} of a matrix of {rows} rows",
                range.start, range.end
            ),
            Self::Incomplete(e) => e.fmt(f),
            Self::Codec(e) => e.fmt(f),
            Self::Quant(e) => e.fmt(f),
            Self::Memory(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for MatrixError {}

from_variants!(MatrixError: Codec(CodecError), Quant(QuantError), Memory(OutOfMemory));
from_mismatches!(MatrixError: Length);

impl From<Stopped> for MatrixError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Incomplete(e) => Self::Incomplete(e),
            Stopped::Memory(e) => Self::Memory(e),
        }
    }
}

/// A `[rows, cols]` (M x K) matrix of weights -1, 0, +1 in the interchange
/// encoding, 4 weights a byte, with f32 scales.
///
/// ```
/// use tritgemm::{MatRef, Scales, TernaryMatrix};
/// let trits = MatRef::new(&[1, 0, -1, 1, 1, 0], 2, 3)?;
/// let w = TernaryMatrix::from_trits(trits, Scales::per_row(vec![0.5, 2.0]))?;
/// assert_eq!(w.packed(), [0b01_00_10_00, 0b01_01_00_00]);
/// assert_eq!(w.to_f32()?, [0.5, 0.0, -0.5, 2.0, 2.0, 0.0]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    packed: Vec<u8>,
    scales: Scales,
}

impl TernaryMatrix {
    /// From trits `[rows, cols]`.
    ///
    /// # Errors
    /// If a value is not -1, 0 or +1, the number of scales does not fit the
    /// shape, a scale is not finite, `cols` is more than [`MAX_COLS`],
    /// `TRITGEMM_ISA` names kernels that cannot run here, or memory runs out.
    pub fn from_trits(trits: MatRef<'_, i8>, scales: Scales) -> Result<Self, MatrixError> {
        let (rows, cols) = (trits.rows(), trits.cols());
        check_cols(cols)?;
        check_scales(&scales, rows, cols)?;
        let mut packed = memory::zeroed(codec::packed_len(rows, cols)?)?;
        let view = MatMut::dense(&mut packed, rows, codec::row_bytes(cols));
        codec::encode(trits, view, Mode::Strict)?;
        Ok(Self {
            rows,
            cols,
            packed,
            scales,
        })
    }

    /// From packed bytes, `[rows][ceil(cols / 4)]`.
    ///
    /// # Errors
    /// If a code is 11, padding bits are not zero, a length does not fit the
    /// shape, a scale is not finite, or `cols` is more than [`MAX_COLS`].
    pub fn from_packed(
        packed: Vec<u8>,
        rows: usize,
        cols: usize,
        scales: Scales,
    ) -> Result<Self, MatrixError> {
        check_cols(cols)?;
        check_scales(&scales, rows, cols)?;
        check_length("packed", packed.len(), codec::packed_len(rows, cols)?)?;
        codec::validate(MatRef::dense(&packed, rows, codec::row_bytes(cols)), cols)?;
        Ok(Self {
            rows,
            cols,
            packed,
            scales,
        })
    }

    /// From latent weights `[rows, cols]`: absmean scales and the nearest trits
    /// (BitNet b1.58, arXiv:2402.17764).
    ///
    /// # Errors
    /// If a weight is NaN or infinite, `cols` is more than [`MAX_COLS`],
    /// `TRITGEMM_ISA` names kernels that cannot run here, or memory runs out.
    pub fn quantize(
        weights: MatRef<'_, f32>,
        granularity: Granularity,
    ) -> Result<Self, MatrixError> {
        check_cols(weights.cols())?;
        let alphas = quant::absmean(weights, granularity)?;
        let trits = quant::ternarize(weights, granularity, &alphas)?;
        let trits = MatRef::dense(&trits, weights.rows(), weights.cols());
        Self::from_trits(trits, Scales::with(granularity, alphas))
    }

    /// M, the number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// K, the number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The packed bytes, `[rows][ceil(cols / 4)]`.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// The scales.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The scale of one weight.
    ///
    /// # Panics
    /// If `row` or `col` is outside of the matrix.
    pub fn scale(&self, row: usize, col: usize) -> f32 {
        assert!(
            row < self.rows && col < self.cols,
            "row {row}, column {col} of a {} x {} matrix",
            self.rows,
            self.cols
        );
        self.scales.at(row, col, self.cols)
    }

    /// The weights, row-major `[rows][cols]`.
    ///
    /// # Errors
    /// If `TRITGEMM_ISA` names kernels that cannot run here, or memory runs out.
    pub fn to_trits(&self) -> Result<Vec<i8>, MatrixError> {
        let (rows, cols) = (self.rows, self.cols);
        let mut trits = memory::zeroed(rows * cols)?;
        let packed = MatRef::dense(&self.packed, rows, codec::row_bytes(cols));
        codec::decode(packed, MatMut::dense(&mut trits, rows, cols), Mode::Lenient)?;
        Ok(trits)
    }

    /// The weights times their scales, row-major `[rows][cols]`.
    ///
    /// # Errors
    /// As [`TernaryMatrix::to_trits`].
    pub fn to_f32(&self) -> Result<Vec<f32>, MatrixError> {
        let weight = |(i, trit): (usize, i8)| {
            let scale = || self.scales.at(i / self.cols, i % self.cols, self.cols);
            match trit {
                0 => 0.0,
                1 => scale(),
                _ => -scale(),
            }
        };
        let trits = self.to_trits()?;
        Ok(memory::collected(
            trits.into_iter().enumerate().map(weight),
        )?)
    }
}

/// Checks the number of scales of a `rows x cols` matrix, and that they are
/// finite.
pub(crate) fn check_scales(scales: &Scales, rows: usize, cols: usize) -> Result<(), MatrixError> {
    check_scale_count(scales, rows, cols)?;
    let values = scales.values();
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(MatrixError::Scale {
            index,
            value: values[index],
        }),
        None => Ok(()),
    }
}

pub(crate) fn check_scale_count(
    scales: &Scales,
    rows: usize,
    cols: usize,
) -> Result<(), MatrixError> {
    let expected = scales.granularity().scales(rows, cols);
    let expected = expected.ok_or(CodecError::TooLarge { rows, cols })?;
    Ok(check_length("scales", scales.values().len(), expected)?)
}

pub(crate) fn check_cols(cols: usize) -> Result<(), MatrixError> {
    if cols > MAX_COLS {
        return Err(MatrixError::TooManyColumns { cols });
    }
    Ok(())
}
