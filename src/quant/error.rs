//! Why values cannot be quantised.

use crate::memory::OutOfMemory;
use crate::mismatch::{fmt_length, fmt_shape};
use std::fmt;

/// Why values cannot be quantised.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub enum QuantError {
    /// A slice has the wrong length.
    Length {
        /// The argument.
        argument: &'static str,
        /// How many values it holds.
        len: usize,
        /// How many it should hold.
        expected: usize,
    },
    /// An output does not have the shape of the input.
    Shape {
        /// The argument.
        argument: &'static str,
        /// Its rows and columns.
        shape: [usize; 2],
        /// Those that it should have.
        expected: [usize; 2],
    },
    /// The shape is more than a slice can hold.
    TooLarge {
        /// Rows, or tokens.
        rows: usize,
        /// Columns, or values a token.
        cols: usize,
    },
    /// A weight is NaN or infinite.
    Weight {
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// Its value.
        value: f32,
    },
    /// An activation is NaN or infinite.
    Activation {
        /// Its token.
        token: usize,
        /// Which of the token's values.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// An alpha cannot be divided by.
    Alpha {
        /// Which alpha.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// Memory ran out.
    Memory(OutOfMemory),
}

impl fmt::Display for QuantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length {
                argument,
                len,
                expected,
            } => fmt_length(f, argument, len, expected),
            Self::Shape {
                argument,
                shape,
                expected,
            } => fmt_shape(f, argument, shape, expected),
            Self::TooLarge { rows, cols } => {
                write!(f, "{rows} x {cols} values do not fit the address space")
            }
            Self::Weight { row, col, value } => write!(
                f,
                "the weight in row {row}, column {col} is {value}, expected a finite number"
            ),
            Self::Activation {
                token,
                index,
                value,
            } => write!(
                f,
                "activation {index} of token {token} is {value}, expected a finite number"
            ),
            Self::Alpha { index, value } => write!(
                f,
                "alpha {index} is {value}, expected a finite number above 0"
            ),
            Self::Memory(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for QuantError {}

from_variants!(QuantError: Memory(OutOfMemory));
from_mismatches!(QuantError: Length, Shape);
