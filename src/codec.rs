//! The 2-bit encoding: trits to bytes, bytes to trits or floats.
//!
//! A matrix of `rows x cols` weights is stored row-major; each row starts on a
//! byte of its own and takes [`row_bytes`]`(cols)` bytes. A byte holds four
//! weights, the first in bits 7-6:
//!
//! | weight | code |
//! |---|---|
//! | 0 | `00` |
//! | +1 | `01` |
//! | -1 | `10` |
//!
//! Code `11` is never written, and the bits after the last weight of a row are
//! zero. [`Mode`] says what happens to input that breaks these rules. A matrix
//! may have no rows or no columns.
//!
//! | | by the active backend | by a given one |
//! |---|---|---|
//! | trits to bytes | [`encode`] | [`Backend::encode`] |
//! | bytes to trits | [`decode`] | [`Backend::decode`] |
//! | bytes to floats | [`decode_f32`] | [`Backend::decode_f32`] |
//!
//! Every backend gives the same bytes, values and errors.
//!
//! ```
//! use tritgemm::codec::{self, Mode};
//! use tritgemm::{MatMut, MatRef};
//!
//! let trits = [1, 0, -1, 0, 1, /* second row */ -1, -1, 0, 1, 0];
//! let mut packed = [0; 4];
//! codec::encode(MatRef::new(&trits, 2, 5)?, MatMut::new(&mut packed, 2, 2)?, Mode::Strict)?;
//! assert_eq!(packed, [0b01_00_10_00, 0b01_00_00_00, 0b10_10_00_01, 0]);
//!
//! let mut back = [0; 10];
//! codec::decode(MatRef::new(&packed, 2, 2)?, MatMut::new(&mut back, 2, 5)?, Mode::Strict)?;
//! assert_eq!(back, trits);
//! # Ok::<(), tritgemm::Error>(())
//! ```

use crate::isa::{Backend, IsaError};
use crate::kernels::call;
use crate::mismatch::{check_length, check_shape, fmt_length, fmt_shape};
use crate::view::{MatMut, MatRef};
use std::fmt;

/// Weights in a byte.
const PER_BYTE: usize = 4;

/// What to do with input that the encoding has no meaning for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Anything illegal is an error that names its place: a trit outside
    /// {-1, 0, 1}, the code `11`, padding bits that are not zero.
    Strict,
    /// Anything illegal counts as the weight 0, and padding bits are ignored;
    /// this is what the reference implementation does.
    Lenient,
}

/// Why a matrix could not be encoded or decoded.
///
/// `Shape`, `Length`, `TooLarge` and `Isa` are found before anything is written. After
/// the others, the rows before the named one are complete, the named one holds
/// what [`Mode::Lenient`] would have written, and the rows after it are as they
/// were.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CodecError {
    /// A value to encode is not a trit.
    Trit {
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// What stands there.
        value: i8,
    },
    /// A weight has the code `11`, which means nothing.
    Code {
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
    },
    /// The bits after the last weight of a row are not zero.
    Padding {
        /// The row.
        row: usize,
    },
    /// A matrix does not have the shape that the others call for.
    Shape {
        /// The argument.
        argument: &'static str,
        /// Its rows and columns.
        shape: [usize; 2],
        /// Those that it should have.
        expected: [usize; 2],
    },
    /// A slice has the wrong length.
    Length {
        /// The argument.
        argument: &'static str,
        /// Its length.
        len: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A matrix of this shape does not fit the address space.
    TooLarge {
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
    /// The pinned instruction set cannot be used.
    Isa(IsaError),
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trit { row, col, value } => {
                write!(f, "row {row}, column {col}: {value} is not one of -1, 0, 1")
            }
            Self::Code { row, col } => {
                write!(f, "row {row}, column {col}: code 11 is not a weight")
            }
            Self::Padding { row } => write!(
                f,
                "row {row}: the padding bits after its last weight are not zero"
            ),
            Self::Shape {
                argument,
                shape,
                expected,
            } => fmt_shape(f, argument, shape, expected),
            Self::Length {
                argument,
                len,
                expected,
            } => fmt_length(f, argument, len, expected),
            Self::TooLarge { rows, cols } => write!(
                f,
                "a matrix of {rows} x {cols} weights does not fit the address space"
            ),
            Self::Isa(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for CodecError {}

from_variants!(CodecError: Isa(IsaError));
from_mismatches!(CodecError: Length, Shape);

/// Bytes that a row of `cols` weights takes: `cols / 4`, rounded up.
///
/// ```
/// assert_eq!(tritgemm::codec::row_bytes(5), 2);
/// ```
pub const fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(PER_BYTE)
}

/// Bytes that a matrix takes: `rows * row_bytes(cols)`.
///
/// # Errors
/// [`CodecError::TooLarge`] if that many bytes or weights do not fit the
/// address space.
///
/// ```
/// use tritgemm::codec;
/// assert_eq!(codec::packed_len(3, 5)?, 6);
/// assert!(codec::packed_len(usize::MAX, 8).is_err());
/// # Ok::<(), codec::CodecError>(())
/// ```
pub fn packed_len(rows: usize, cols: usize) -> Result<usize, CodecError> {
    let (packed, weights) = (rows.checked_mul(row_bytes(cols)), rows.checked_mul(cols));
    weights
        .and(packed)
        .ok_or(CodecError::TooLarge { rows, cols })
}

/// Encodes with [`Backend::active`]: see [`Backend::encode`].
///
/// # Errors
/// As [`Backend::encode`], and [`CodecError::Isa`] if `TRITGEMM_ISA` names
/// kernels that cannot run here.
pub fn encode(trits: MatRef<'_, i8>, packed: MatMut<'_, u8>, mode: Mode) -> Result<(), CodecError> {
    Backend::active()?.encode(trits, packed, mode)
}

/// Decodes to trits with [`Backend::active`]: see [`Backend::decode`].
///
/// # Errors
/// As [`Backend::decode`], and [`CodecError::Isa`] if `TRITGEMM_ISA` names
/// kernels that cannot run here.
pub fn decode(packed: MatRef<'_, u8>, trits: MatMut<'_, i8>, mode: Mode) -> Result<(), CodecError> {
    Backend::active()?.decode(packed, trits, mode)
}

/// Decodes to floats with [`Backend::active`]: see [`Backend::decode_f32`].
///
/// # Errors
/// As [`Backend::decode_f32`], and [`CodecError::Isa`] if `TRITGEMM_ISA` names
/// kernels that cannot run here.
pub fn decode_f32(
    packed: MatRef<'_, u8>,
    weights: MatMut<'_, f32>,
    scales: &[f32],
    mode: Mode,
) -> Result<(), CodecError> {
    Backend::active()?.decode_f32(packed, weights, scales, mode)
}

impl Backend {
    /// Encodes `trits` `[rows][cols]` into `packed`
    /// `[rows][`[`row_bytes`]`(cols)]`, padding included.
    ///
    /// # Errors
    /// - [`CodecError::Shape`] unless `packed` has the shape that `trits` calls
    ///   for.
    /// - [`CodecError::Trit`] in [`Mode::Strict`], at the first value outside
    ///   {-1, 0, 1}.
    ///
    /// ```
    /// use tritgemm::codec::{CodecError, Mode};
    /// use tritgemm::{Backend, MatMut, MatRef};
    ///
    /// let (scalar, trits) = (Backend::scalar(), MatRef::new(&[1, 7, -1], 1, 3)?);
    /// let mut packed = [0; 1];
    /// let error = scalar.encode(trits, MatMut::new(&mut packed, 1, 1)?, Mode::Strict);
    /// assert_eq!(error, Err(CodecError::Trit { row: 0, col: 1, value: 7 }));
    /// scalar.encode(trits, MatMut::new(&mut packed, 1, 1)?, Mode::Lenient)?;
    /// assert_eq!(packed, [0b01_00_10_00]);
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    pub fn encode(
        self,
        trits: MatRef<'_, i8>,
        mut packed: MatMut<'_, u8>,
        mode: Mode,
    ) -> Result<(), CodecError> {
        let expected = [trits.rows(), row_bytes(trits.cols())];
        check_shape("packed", [packed.rows(), packed.cols()], expected)?;
        if trits.cols() == 0 {
            return Ok(());
        }
        for row in 0..trits.rows() {
            let trits = trits.row(row);
            let legal = call::encode_row(self.runnable(), trits, packed.row_mut(row));
            if mode == Mode::Strict && !legal {
                let illegal = |trit: &i8| !matches!(trit, -1..=1);
                let col = trits.iter().position(illegal).unwrap_or_default();
                let value = trits[col];
                return Err(CodecError::Trit { row, col, value });
            }
        }
        Ok(())
    }

    /// Decodes `packed` `[rows][`[`row_bytes`]`(cols)]` into `trits`
    /// `[rows][cols]`.
    ///
    /// # Errors
    /// - [`CodecError::Shape`] unless `packed` has the shape that `trits` calls
    ///   for.
    /// - In [`Mode::Strict`], for the first row with something illegal:
    ///   [`CodecError::Code`] at its first code `11`, else
    ///   [`CodecError::Padding`].
    ///
    /// ```
    /// use tritgemm::codec::{CodecError, Mode};
    /// use tritgemm::{Backend, MatMut, MatRef};
    ///
    /// let mut trits = [0; 3];
    /// let mut decode = |byte, mode| {
    ///     let packed = MatRef::new(std::slice::from_ref(&byte), 1, 1)?;
    ///     Backend::scalar().decode(packed, MatMut::new(&mut trits, 1, 3)?, mode)?;
    ///     Ok::<_, tritgemm::Error>(trits)
    /// };
    /// assert_eq!(decode(0b01_00_10_00, Mode::Strict)?, [1, 0, -1]);
    /// let error = decode(0b01_11_10_00, Mode::Strict).unwrap_err();
    /// assert_eq!(error.to_string(), "row 0, column 1: code 11 is not a weight");
    /// assert_eq!(decode(0b01_11_10_01, Mode::Lenient)?, [1, 0, -1]);
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    pub fn decode(
        self,
        packed: MatRef<'_, u8>,
        trits: MatMut<'_, i8>,
        mode: Mode,
    ) -> Result<(), CodecError> {
        decode_rows(packed, trits, mode, |_, packed, trits| {
            call::decode_row_i8(self.runnable(), packed, trits)
        })
    }

    /// Decodes `packed` `[rows][`[`row_bytes`]`(cols)]` into `weights`
    /// `[rows][cols]` as `+scale`, `-scale` and `+0.0`. `scales` holds one scale
    /// a row. Nothing is multiplied: any scale, infinities and NaN included, is
    /// copied bit for bit or with its sign flipped.
    ///
    /// # Errors
    /// As [`Backend::decode`], with `weights` in place of `trits`; also
    /// [`CodecError::Length`] unless `scales` has one value a row.
    ///
    /// ```
    /// use tritgemm::codec::Mode;
    /// use tritgemm::{Backend, MatMut, MatRef};
    ///
    /// let packed = MatRef::new(&[0b01_10_00_00, 0b10_00_00_00], 2, 1)?;
    /// let mut weights = [0.0; 4];
    /// let view = MatMut::new(&mut weights, 2, 2)?;
    /// Backend::scalar().decode_f32(packed, view, &[0.5, 3.0], Mode::Strict)?;
    /// assert_eq!(weights, [0.5, -0.5, -3.0, 0.0]);
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    pub fn decode_f32(
        self,
        packed: MatRef<'_, u8>,
        weights: MatMut<'_, f32>,
        scales: &[f32],
        mode: Mode,
    ) -> Result<(), CodecError> {
        check_length("scales", scales.len(), weights.rows())?;
        decode_rows(packed, weights, mode, |row, packed, weights| {
            call::decode_row_f32(self.runnable(), packed, scales[row], weights)
        })
    }
}

/// Transposes up to 64 rows of `row_bytes` bytes into a panel. For the tests
/// and benches of the crate itself; matrices are packed by the crate's panel type.
///
/// # Panics
/// If the rows do not fit the panel.
#[doc(hidden)]
pub fn pack_panel_with(backend: Backend, packed: &[u8], row_bytes: usize, panel: &mut [u8]) {
    call::pack_panel(backend.runnable(), packed, row_bytes, panel);
}

/// Checks that `packed` `[rows][row_bytes(cols)]` holds legal codes and zero
/// padding.
pub(crate) fn validate(packed: MatRef<'_, u8>, cols: usize) -> Result<(), CodecError> {
    let expected = [packed.rows(), row_bytes(cols)];
    check_shape("packed", [packed.rows(), packed.cols()], expected)?;
    if cols == 0 {
        return Ok(());
    }
    (0..packed.rows()).try_for_each(|row| validate_row(row, packed.row(row), cols))
}

/// Checks the bytes of one row of `cols` weights, by its number in errors.
pub(crate) fn validate_row(row: usize, packed: &[u8], cols: usize) -> Result<(), CodecError> {
    // A code is 11 where a bit and its upper neighbour are both set.
    let both = packed
        .iter()
        .fold(0, |both, byte| both | (byte & (byte >> 1)));
    check_row(row, packed, cols, both & 0x55 == 0)
}

/// Runs `decode_row(row, packed, values) -> legal` over all rows.
fn decode_rows<T>(
    packed: MatRef<'_, u8>,
    mut values: MatMut<'_, T>,
    mode: Mode,
    decode_row: impl Fn(usize, &[u8], &mut [T]) -> bool,
) -> Result<(), CodecError> {
    let (rows, cols) = (values.rows(), values.cols());
    let expected = [rows, row_bytes(cols)];
    check_shape("packed", [packed.rows(), packed.cols()], expected)?;
    if cols == 0 {
        return Ok(());
    }
    for row in 0..rows {
        let packed = packed.row(row);
        let legal = decode_row(row, packed, values.row_mut(row));
        if mode == Mode::Strict {
            check_row(row, packed, cols, legal)?;
        }
    }
    Ok(())
}

/// Checks a row of `cols` weights, whose codes are known to be `legal` or not.
fn check_row(row: usize, packed: &[u8], cols: usize, legal: bool) -> Result<(), CodecError> {
    if !legal {
        let illegal = |&col: &usize| packed[col / PER_BYTE] >> (6 - 2 * (col % PER_BYTE)) & 3 == 3;
        if let Some(col) = (0..cols).find(illegal) {
            return Err(CodecError::Code { row, col });
        }
    }
    let used = cols % PER_BYTE;
    if used != 0 && packed[packed.len() - 1] & (0xff >> (2 * used)) != 0 {
        return Err(CodecError::Padding { row });
    }
    Ok(())
}
