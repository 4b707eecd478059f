//! Ternary matrices in the interchange encoding, with their scales.

use crate::codec::{self, CodecError, Mode};
use crate::memory::{self, OutOfMemory};
use crate::quant::{self, QuantError};
use crate::scales::{Granularity, GroupSize};
use crate::threads::{Incomplete, Stopped};
use std::fmt;

/// Most weights in a row: with int8 activations the sum of more could leave
/// int32 (`128 * 2^24 = 2^31`).
pub const MAX_COLS: usize = (1 << 24) - 1;

/// Why a matrix could not be made.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub enum MatrixError {
    /// A row is longer than int32 sums allow.
    TooManyColumns {
        /// Columns asked for.
        cols: usize,
    },
    /// The number of scales does not fit the shape.
    ScaleCount {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// What one scale covers.
        granularity: Granularity,
        /// Scales given.
        len: usize,
        /// Scales expected.
        expected: usize,
    },
    /// A scale is NaN or infinite.
    Scale {
        /// Index in the list of scales.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The bias does not have one value a row.
    BiasLength {
        /// Rows of the matrix.
        rows: usize,
        /// Values given.
        len: usize,
    },
    /// The weights could not be encoded or decoded.
    Codec(CodecError),
    /// The weights could not be quantised.
    Quant(QuantError),
    /// The caller's threads left work out.
    Incomplete(Incomplete),
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
            Self::ScaleCount {
                rows,
                cols,
                granularity,
                len,
                expected,
            } => write!(
                f,
                "a {rows} x {cols} matrix scaled {granularity} has {expected} scales, got {len}"
            ),
            Self::Scale { index, value } => {
                write!(f, "scale {index} is {value}, expected a finite number")
            }
            Self::BiasLength { rows, len } => write!(f, "a bias of {len} values for {rows} rows"),
            Self::Codec(e) => e.fmt(f),
            Self::Quant(e) => e.fmt(f),
            Self::Incomplete(e) => e.fmt(f),
            Self::Memory(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for MatrixError {}

from_variants!(MatrixError: Codec(CodecError), Quant(QuantError), Memory(OutOfMemory));

impl From<Stopped> for MatrixError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Incomplete(e) => Self::Incomplete(e),
            Stopped::Memory(e) => Self::Memory(e),
        }
    }
}

/// Scales of a ternary matrix: f32 values and what each covers.
///
/// Per group, the scales of a row are consecutive: `values[row][group]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Scales {
    granularity: Granularity,
    values: Vec<f32>,
}

impl Scales {
    /// One scale for the whole matrix.
    pub fn per_tensor(scale: f32) -> Self {
        Self {
            granularity: Granularity::PerTensor,
            values: vec![scale],
        }
    }

    /// One scale a row.
    pub fn per_row(scales: Vec<f32>) -> Self {
        Self {
            granularity: Granularity::PerRow,
            values: scales,
        }
    }

    /// `[rows][ceil(cols / size)]` scales.
    pub fn per_group(size: GroupSize, scales: Vec<f32>) -> Self {
        Self {
            granularity: Granularity::PerGroup(size),
            values: scales,
        }
    }

    /// What one scale covers.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The scales, in the order of [`Scales::per_group`].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn try_clone(&self) -> Result<Self, OutOfMemory> {
        let (granularity, values) = (self.granularity, memory::copied(&self.values)?);
        Ok(Self {
            granularity,
            values,
        })
    }

    /// Scales along K of one row.
    pub(crate) fn groups(&self, cols: usize) -> usize {
        match self.granularity {
            Granularity::PerGroup(size) => size.groups(cols),
            _ => 1,
        }
    }

    /// The scale of one weight.
    ///
    /// # Panics
    /// If `row` or `col` is outside the `cols`-wide matrix the scales belong to.
    pub fn at(&self, row: usize, col: usize, cols: usize) -> f32 {
        match self.granularity {
            Granularity::PerTensor => self.values[0],
            Granularity::PerRow => self.values[row],
            Granularity::PerGroup(size) => self.values[row * size.groups(cols) + col / size.len()],
        }
    }

    pub(crate) fn check(&self, rows: usize, cols: usize) -> Result<(), MatrixError> {
        let expected = match self.granularity {
            Granularity::PerTensor => 1,
            Granularity::PerRow => rows,
            Granularity::PerGroup(size) => rows
                .checked_mul(size.groups(cols))
                .ok_or(CodecError::TooLarge { rows, cols })?,
        };
        let (len, granularity) = (self.values.len(), self.granularity);
        if len != expected {
            return Err(MatrixError::ScaleCount {
                rows,
                cols,
                granularity,
                len,
                expected,
            });
        }
        match self.values.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(MatrixError::Scale {
                index,
                value: self.values[index],
            }),
            None => Ok(()),
        }
    }
}

/// A `[rows, cols]` (M x K) matrix of weights -1, 0, +1 in the interchange
/// encoding, 4 weights a byte, with f32 scales.
///
/// ```
/// use tritgemm::{Scales, TernaryMatrix};
/// let w = TernaryMatrix::from_trits(&[1, 0, -1, 1, 1, 0], 2, 3, Scales::per_row(vec![0.5, 2.0]))?;
/// assert_eq!(w.packed(), [0b01_00_10_00, 0b01_01_00_00]);
/// assert_eq!(w.to_f32(), [0.5, 0.0, -0.5, 2.0, 2.0, 0.0]);
/// # Ok::<(), tritgemm::MatrixError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    packed: Vec<u8>,
    scales: Scales,
}

impl TernaryMatrix {
    /// From trits, row-major `[rows][cols]`.
    ///
    /// # Errors
    /// If a value is not -1, 0 or +1, a length does not fit the shape, or memory
    /// runs out.
    pub fn from_trits(
        trits: &[i8],
        rows: usize,
        cols: usize,
        scales: Scales,
    ) -> Result<Self, MatrixError> {
        check_cols(cols)?;
        scales.check(rows, cols)?;
        codec::check_len("trits", trits.len(), rows, cols)?;
        let mut packed = memory::zeroed(codec::packed_len(rows, cols)?)?;
        codec::encode(trits, rows, cols, &mut packed, Mode::Strict)?;
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
    /// If a code is 11, padding bits are not zero, or a length does not fit the
    /// shape.
    pub fn from_packed(
        packed: Vec<u8>,
        rows: usize,
        cols: usize,
        scales: Scales,
    ) -> Result<Self, MatrixError> {
        check_cols(cols)?;
        scales.check(rows, cols)?;
        codec::validate(&packed, rows, cols)?;
        Ok(Self {
            rows,
            cols,
            packed,
            scales,
        })
    }

    /// From latent weights, row-major `[rows][cols]`: absmean scales and the
    /// nearest trits (BitNet b1.58, arXiv:2402.17764).
    ///
    /// # Errors
    /// If a weight is NaN or infinite, a length does not fit the shape, or
    /// memory runs out.
    pub fn quantize(
        weights: &[f32],
        rows: usize,
        cols: usize,
        granularity: Granularity,
    ) -> Result<Self, MatrixError> {
        check_cols(cols)?;
        codec::check_len("weights", weights.len(), rows, cols)?;
        let values = quant::absmean(weights, rows, cols, granularity)?;
        let trits = quant::ternarize(weights, rows, cols, granularity, &values)?;
        Self::from_trits(
            &trits,
            rows,
            cols,
            Scales {
                granularity,
                values,
            },
        )
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

    /// The weights, row-major `[rows][cols]`. Aborts if memory runs out, as do
    /// the next two; [`codec::decode`] and [`codec::decode_f32`] take a slice.
    pub fn to_trits(&self) -> Vec<i8> {
        let mut trits = vec![0; self.rows * self.cols];
        self.decode(&mut trits, |packed, trits| {
            crate::kernels::call::decode_row_i8(crate::Backend::best().runnable(), packed, trits);
        });
        trits
    }

    /// The weights times their scales, row-major `[rows][cols]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let trits = self.to_trits();
        let weight = |(i, trit): (usize, i8)| match trit {
            0 => 0.0,
            trit => {
                let scale = self.scales.at(i / self.cols, i % self.cols, self.cols);
                if trit > 0 { scale } else { -scale }
            }
        };
        trits.into_iter().enumerate().map(weight).collect()
    }

    /// Whether each weight is nonzero, row-major `[rows][cols]`.
    pub fn nonzero_mask(&self) -> Vec<bool> {
        self.to_trits().into_iter().map(|trit| trit != 0).collect()
    }

    fn decode<T>(&self, out: &mut [T], row: impl Fn(&[u8], &mut [T])) {
        if self.cols == 0 {
            return;
        }
        let bytes = self.cols.div_ceil(4);
        for (packed, out) in self.packed.chunks(bytes).zip(out.chunks_mut(self.cols)) {
            row(packed, out);
        }
    }
}

pub(crate) fn check_cols(cols: usize) -> Result<(), MatrixError> {
    if cols > MAX_COLS {
        return Err(MatrixError::TooManyColumns { cols });
    }
    Ok(())
}
