//! Wrong lengths and shapes, found and told alike by every operation.

use core::fmt;

/// `From` for the variants of an error that only wrap another error.
macro_rules! from_variants {
    ($error:ty: $($variant:ident($source:ty)),+) => {$(
        impl From<$source> for $error {
            fn from(error: $source) -> Self {
                Self::$variant(error)
            }
        }
    )+};
}

/// `From` for the `Length` and `Shape` of an error.
macro_rules! from_mismatches {
    ($error:ty: Length $(, $shape:ident)?) => {
        impl From<crate::mismatch::Length> for $error {
            fn from(mismatch: crate::mismatch::Length) -> Self {
                let crate::mismatch::Length { argument, len, expected } = mismatch;
                Self::Length { argument, len, expected }
            }
        }
        $(impl From<crate::mismatch::Shape> for $error {
            fn from(mismatch: crate::mismatch::Shape) -> Self {
                let crate::mismatch::Shape { argument, shape, expected } = mismatch;
                Self::$shape { argument, shape, expected }
            }
        })?
    };
}

/// A slice of a wrong length.
pub(crate) struct Length {
    pub(crate) argument: &'static str,
    pub(crate) len: usize,
    pub(crate) expected: usize,
}

/// A matrix of a wrong shape.
pub(crate) struct Shape {
    pub(crate) argument: &'static str,
    pub(crate) shape: [usize; 2],
    pub(crate) expected: [usize; 2],
}

/// Checks the length of a slice.
pub(crate) fn check_length(
    argument: &'static str,
    len: usize,
    expected: usize,
) -> Result<(), Length> {
    if len == expected {
        return Ok(());
    }
    Err(Length {
        argument,
        len,
        expected,
    })
}

/// Checks the rows and columns of a matrix.
pub(crate) fn check_shape(
    argument: &'static str,
    shape: [usize; 2],
    expected: [usize; 2],
) -> Result<(), Shape> {
    if shape == expected {
        return Ok(());
    }
    Err(Shape {
        argument,
        shape,
        expected,
    })
}

pub(crate) fn fmt_length(
    f: &mut fmt::Formatter<'_>,
    argument: &str,
    len: &usize,
    expected: &usize,
) -> fmt::Result {
    write!(f, "`{argument}` has length {len}, expected {expected}")
}

pub(crate) fn fmt_shape(
    f: &mut fmt::Formatter<'_>,
    argument: &str,
    [rows, cols]: &[usize; 2],
    [m, k]: &[usize; 2],
) -> fmt::Result {
    write!(f, "`{argument}` is {rows} x {cols}, expected {m} x {k}")
}
