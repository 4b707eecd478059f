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
//! zero. [`Mode`] says what happens to input that breaks these rules. A single
//! row is a matrix with `rows = 1`; `rows` and `cols` may be 0.
//!
//! | | by the active backend | by a given one |
//! |---|---|---|
//! | trits to bytes | [`encode`] | [`encode_with`] |
//! | bytes to trits | [`decode`] | [`decode_with`] |
//! | bytes to floats | [`decode_f32`] | [`decode_f32_with`] |
//!
//! Every backend gives the same bytes, values and errors.
//!
//! ```
//! use tritgemm::codec::{self, Mode};
//!
//! let trits = [1, 0, -1, 0, 1, /* second row */ -1, -1, 0, 1, 0];
//! let mut packed = [0; 4];
//! codec::encode(&trits, 2, 5, &mut packed, Mode::Strict)?;
//! assert_eq!(packed, [0b01_00_10_00, 0b01_00_00_00, 0b10_10_00_01, 0]);
//!
//! let mut back = [0; 10];
//! codec::decode(&packed, 2, 5, &mut back, Mode::Strict)?;
//! assert_eq!(back, trits);
//! # Ok::<(), codec::CodecError>(())
//! ```

use crate::isa::{Backend, IsaError};
use crate::kernels::call;
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
/// `Length`, `TooLarge` and `Isa` are found before anything is written. After
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
    /// A slice does not have the length that `rows` and `cols` call for.
    Length {
        /// The argument: `trits`, `packed`, `panels`, `weights` or `scales`.
        what: &'static str,
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
            Self::Length {
                what,
                len,
                expected,
            } => write!(f, "`{what}` has length {len}, expected {expected}"),
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
    Ok(Shape::new(rows, cols)?.packed)
}

/// Encodes `trits[rows][cols]` into `packed[rows][row_bytes(cols)]`, padding
/// included, with [`Backend::active`].
///
/// # Errors
/// - [`CodecError::Length`] unless `trits` has `rows * cols` elements and
///   `packed` has [`packed_len`]`(rows, cols)`.
/// - [`CodecError::Trit`] in [`Mode::Strict`], at the first value outside
///   {-1, 0, 1}.
/// - [`CodecError::TooLarge`], [`CodecError::Isa`].
///
/// ```
/// use tritgemm::codec::{self, CodecError, Mode};
///
/// let mut packed = [0; 1];
/// let error = codec::encode(&[1, 7, -1], 1, 3, &mut packed, Mode::Strict);
/// assert_eq!(error, Err(CodecError::Trit { row: 0, col: 1, value: 7 }));
/// codec::encode(&[1, 7, -1], 1, 3, &mut packed, Mode::Lenient)?;
/// assert_eq!(packed, [0b01_00_10_00]);
/// # Ok::<(), CodecError>(())
/// ```
pub fn encode(
    trits: &[i8],
    rows: usize,
    cols: usize,
    packed: &mut [u8],
    mode: Mode,
) -> Result<(), CodecError> {
    encode_with(Backend::active()?, trits, rows, cols, packed, mode)
}

/// [`encode`] with a backend of your choice.
///
/// # Errors
/// As [`encode`], without [`CodecError::Isa`].
///
/// ```
/// use tritgemm::{Backend, codec::{self, Mode}};
/// let mut packed = [0; 1];
/// codec::encode_with(Backend::scalar(), &[-1, 1], 1, 2, &mut packed, Mode::Strict)?;
/// assert_eq!(packed, [0b10_01_00_00]);
/// # Ok::<(), codec::CodecError>(())
/// ```
pub fn encode_with(
    backend: Backend,
    trits: &[i8],
    rows: usize,
    cols: usize,
    packed: &mut [u8],
    mode: Mode,
) -> Result<(), CodecError> {
    let shape = Shape::new(rows, cols)?;
    length("trits", trits.len(), shape.weights)?;
    length("packed", packed.len(), shape.packed)?;
    if shape.weights == 0 {
        return Ok(());
    }
    let rows = trits
        .chunks_exact(cols)
        .zip(packed.chunks_exact_mut(shape.row));
    for (row, (trits, packed)) in rows.enumerate() {
        let legal = call::encode_row(backend.runnable(), trits, packed);
        if mode == Mode::Strict && !legal {
            let illegal = |trit: &i8| !matches!(trit, -1..=1);
            let col = trits.iter().position(illegal).unwrap_or_default();
            let value = trits[col];
            return Err(CodecError::Trit { row, col, value });
        }
    }
    Ok(())
}

/// Decodes `packed[rows][row_bytes(cols)]` into `trits[rows][cols]` with
/// [`Backend::active`].
///
/// # Errors
/// - [`CodecError::Length`] unless `packed` has [`packed_len`]`(rows, cols)`
///   bytes and `trits` has `rows * cols` elements.
/// - In [`Mode::Strict`], for the first row with something illegal:
///   [`CodecError::Code`] at its first code `11`, else [`CodecError::Padding`].
/// - [`CodecError::TooLarge`], [`CodecError::Isa`].
///
/// ```
/// use tritgemm::codec::{self, CodecError, Mode};
///
/// let mut trits = [0; 3];
/// let error = codec::decode(&[0b01_11_10_00], 1, 3, &mut trits, Mode::Strict);
/// assert_eq!(error, Err(CodecError::Code { row: 0, col: 1 }));
/// let error = codec::decode(&[0b01_00_10_01], 1, 3, &mut trits, Mode::Strict);
/// assert_eq!(error, Err(CodecError::Padding { row: 0 }));
/// codec::decode(&[0b01_11_10_01], 1, 3, &mut trits, Mode::Lenient)?;
/// assert_eq!(trits, [1, 0, -1]);
/// # Ok::<(), CodecError>(())
/// ```
pub fn decode(
    packed: &[u8],
    rows: usize,
    cols: usize,
    trits: &mut [i8],
    mode: Mode,
) -> Result<(), CodecError> {
    decode_with(Backend::active()?, packed, rows, cols, trits, mode)
}

/// [`decode`] with a backend of your choice.
///
/// # Errors
/// As [`decode`], without [`CodecError::Isa`].
///
/// ```
/// use tritgemm::{Backend, codec::{self, Mode}};
/// let mut trits = [0; 2];
/// codec::decode_with(Backend::scalar(), &[0b10_01_00_00], 1, 2, &mut trits, Mode::Strict)?;
/// assert_eq!(trits, [-1, 1]);
/// # Ok::<(), codec::CodecError>(())
/// ```
pub fn decode_with(
    backend: Backend,
    packed: &[u8],
    rows: usize,
    cols: usize,
    trits: &mut [i8],
    mode: Mode,
) -> Result<(), CodecError> {
    let shape = Shape::new(rows, cols)?;
    length("packed", packed.len(), shape.packed)?;
    length("trits", trits.len(), shape.weights)?;
    decode_rows(&shape, packed, trits, mode, |_, packed, trits| {
        call::decode_row_i8(backend.runnable(), packed, trits)
    })
}

/// Decodes `packed[rows][row_bytes(cols)]` into `weights[rows][cols]` as
/// `+scale`, `-scale` and `+0.0` with [`Backend::active`], `scales[row]` being
/// the scale of a row. Nothing is multiplied: any scale, infinities and NaN
/// included, is copied bit for bit or with its sign flipped.
///
/// # Errors
/// As [`decode`], with `weights` in place of `trits`; also
/// [`CodecError::Length`] unless `scales` has `rows` elements.
///
/// ```
/// use tritgemm::codec::{self, Mode};
///
/// let mut weights = [0.0; 4];
/// codec::decode_f32(&[0b01_10_00_00, 0b10_00_00_00], 2, 2, &[0.5, 3.0], &mut weights, Mode::Strict)?;
/// assert_eq!(weights, [0.5, -0.5, -3.0, 0.0]);
/// # Ok::<(), codec::CodecError>(())
/// ```
pub fn decode_f32(
    packed: &[u8],
    rows: usize,
    cols: usize,
    scales: &[f32],
    weights: &mut [f32],
    mode: Mode,
) -> Result<(), CodecError> {
    decode_f32_with(
        Backend::active()?,
        packed,
        rows,
        cols,
        scales,
        weights,
        mode,
    )
}

/// [`decode_f32`] with a backend of your choice.
///
/// # Errors
/// As [`decode_f32`], without [`CodecError::Isa`].
///
/// ```
/// use tritgemm::{Backend, codec::{self, Mode}};
/// let mut weights = [0.0; 2];
/// let scalar = Backend::scalar();
/// codec::decode_f32_with(scalar, &[0b10_01_00_00], 1, 2, &[2.0], &mut weights, Mode::Strict)?;
/// assert_eq!(weights, [-2.0, 2.0]);
/// # Ok::<(), codec::CodecError>(())
/// ```
pub fn decode_f32_with(
    backend: Backend,
    packed: &[u8],
    rows: usize,
    cols: usize,
    scales: &[f32],
    weights: &mut [f32],
    mode: Mode,
) -> Result<(), CodecError> {
    let shape = Shape::new(rows, cols)?;
    length("packed", packed.len(), shape.packed)?;
    length("scales", scales.len(), rows)?;
    length("weights", weights.len(), shape.weights)?;
    decode_rows(&shape, packed, weights, mode, |row, packed, weights| {
        call::decode_row_f32(backend.runnable(), packed, scales[row], weights)
    })
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

/// Checks that `packed[rows][row_bytes(cols)]` holds legal codes and zero
/// padding.
pub(crate) fn validate(packed: &[u8], rows: usize, cols: usize) -> Result<(), CodecError> {
    let shape = Shape::new(rows, cols)?;
    length("packed", packed.len(), shape.packed)?;
    if shape.weights == 0 {
        return Ok(());
    }
    // The bits that weights take in the last byte of a row.
    let used = match cols % PER_BYTE {
        0 => 0xff,
        weights => !(0xff_u8 >> (2 * weights)),
    };
    for (row, packed) in packed.chunks_exact(shape.row).enumerate() {
        // A code is 11 where a bit and its upper neighbour are both set.
        let both = packed
            .iter()
            .fold(0, |both, byte| both | (byte & (byte >> 1)));
        let illegal = |&col: &usize| packed[col / PER_BYTE] >> (6 - 2 * (col % PER_BYTE)) & 3 == 3;
        if both & 0x55 != 0
            && let Some(col) = (0..cols).find(illegal)
        {
            return Err(CodecError::Code { row, col });
        }
        if packed[shape.row - 1] & !used != 0 {
            return Err(CodecError::Padding { row });
        }
    }
    Ok(())
}

/// The length that `what` must have to hold `rows * cols` weights.
pub(crate) fn check_len(
    what: &'static str,
    len: usize,
    rows: usize,
    cols: usize,
) -> Result<(), CodecError> {
    length(what, len, Shape::new(rows, cols)?.weights)
}

/// The lengths that `rows` and `cols` call for.
struct Shape {
    cols: usize,
    row: usize,
    packed: usize,
    weights: usize,
}

impl Shape {
    fn new(rows: usize, cols: usize) -> Result<Shape, CodecError> {
        let row = row_bytes(cols);
        match (rows.checked_mul(row), rows.checked_mul(cols)) {
            (Some(packed), Some(weights)) => Ok(Shape {
                cols,
                row,
                packed,
                weights,
            }),
            _ => Err(CodecError::TooLarge { rows, cols }),
        }
    }
}

fn length(what: &'static str, len: usize, expected: usize) -> Result<(), CodecError> {
    match len == expected {
        true => Ok(()),
        false => Err(CodecError::Length {
            what,
            len,
            expected,
        }),
    }
}

/// Runs `decode_row(row, packed, values) -> legal` over all rows.
fn decode_rows<T>(
    shape: &Shape,
    packed: &[u8],
    values: &mut [T],
    mode: Mode,
    decode_row: impl Fn(usize, &[u8], &mut [T]) -> bool,
) -> Result<(), CodecError> {
    if shape.weights == 0 {
        return Ok(());
    }
    let rows = packed
        .chunks_exact(shape.row)
        .zip(values.chunks_exact_mut(shape.cols));
    for (row, (packed, values)) in rows.enumerate() {
        let legal = decode_row(row, packed, values);
        if mode == Mode::Lenient {
            continue;
        }
        if !legal {
            let illegal =
                |&col: &usize| packed[col / PER_BYTE] >> (6 - 2 * (col % PER_BYTE)) & 3 == 3;
            let col = (0..shape.cols).find(illegal).unwrap_or_default();
            return Err(CodecError::Code { row, col });
        }
        let used = shape.cols % PER_BYTE;
        if used != 0 && packed[shape.row - 1] & (0xFF >> (2 * used)) != 0 {
            return Err(CodecError::Padding { row });
        }
    }
    Ok(())
}
