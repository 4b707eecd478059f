//! Why a product failed.

use crate::isa::IsaError;
use crate::memory::OutOfMemory;
use crate::mismatch::fmt_length;
use crate::quant::{QuantError, TokensError};
use crate::scales::GroupSize;
use crate::threads::{Incomplete, Stopped};
use std::fmt;

/// Why activations could not be prepared, or a product not be computed. The output is
/// untouched then, except after [`GemmError::Incomplete`] and [`GemmError::Memory`].
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub enum GemmError {
    /// The activations are not as wide as the matrix.
    InputWidth {
        /// Columns of the activations.
        cols: usize,
        /// K of the matrix.
        expected: usize,
    },
    /// The output is not tokens by rows.
    OutputShape {
        /// Rows of the output.
        rows: usize,
        /// Columns of the output.
        cols: usize,
        /// N.
        tokens: usize,
        /// M.
        expected_cols: usize,
    },
    /// The activations were prepared for other groups than the matrix has.
    Group {
        /// What they were prepared for.
        prepared: Option<GroupSize>,
        /// What the matrix has.
        matrix: Option<GroupSize>,
    },
    /// The activations were prepared for another rotation than the matrix has.
    Rotation {
        /// The blocks that they were rotated in.
        prepared: Option<usize>,
        /// The matrix's; the signs differ where the blocks do not.
        matrix: Option<usize>,
    },
    /// The activations were prepared in the other element type.
    PreparedType {
        /// Their type.
        prepared: &'static str,
        /// The type needed.
        expected: &'static str,
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
    /// A number in a list is not of a row.
    NoRow {
        /// The list.
        argument: &'static str,
        /// Where in the list.
        index: usize,
        /// The number.
        row: usize,
        /// The rows there are.
        rows: usize,
    },
    /// Two rows would be written to one.
    RowTwice {
        /// The list.
        argument: &'static str,
        /// Where in the list the second of them is.
        index: usize,
        /// The row of both.
        row: usize,
    },
    /// The caller's threads left work out; the output is partly written.
    Incomplete(Incomplete),
    /// The activations could not be quantised.
    Quant(QuantError),
    /// The instruction set asked for is not available.
    Isa(IsaError),
    /// Memory ran out.
    Memory(OutOfMemory),
}

impl fmt::Display for GemmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InputWidth { cols, expected } => write!(
                f,
                "activations of {cols} columns for a matrix of {expected} (K)"
            ),
            Self::OutputShape {
                rows,
                cols,
                tokens,
                expected_cols,
            } => write!(
                f,
                "an output of {rows} x {cols}, expected {tokens} tokens (N) by {expected_cols} rows (M)"
            ),
            Self::Group { prepared, matrix } => write!(
                f,
                "activations prepared for {}, the matrix has {}",
                Groups(*prepared),
                Groups(*matrix)
            ),
            Self::Rotation { prepared, matrix } => write!(
                f,
                "activations prepared for {}, the matrix has {}{}",
                Blocks(*prepared),
                Blocks(*matrix),
                if prepared == matrix {
                    " and other signs"
                } else {
                    ""
                }
            ),
            Self::PreparedType { prepared, expected } => {
                write!(f, "activations prepared as {prepared}, expected {expected}")
            }
            Self::Length {
                argument,
                len,
                expected,
            } => fmt_length(f, argument, len, expected),
            Self::NoRow {
                argument,
                index,
                row,
                rows,
            } => write!(
                f,
                "`{argument}[{index}]` is {row}, expected the number of one of {rows} rows"
            ),
            Self::RowTwice {
                argument,
                index,
                row,
            } => write!(f, "`{argument}[{index}]` is {row}, which is there already"),
            Self::Quant(e) => e.fmt(f),
            Self::Isa(e) => e.fmt(f),
            Self::Incomplete(e) => e.fmt(f),
            Self::Memory(e) => e.fmt(f),
        }
    }
}

/// Groups as a message has them.
struct Groups(Option<GroupSize>);

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("no groups"),
            Some(size) => write!(f, "groups of {size}"),
        }
    }
}

/// Rotated blocks as a message has them.
struct Blocks(Option<usize>);

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("no rotation"),
            Some(block) => write!(f, "rotated blocks of {block}"),
        }
    }
}

impl std::error::Error for GemmError {}

from_variants!(GemmError: Quant(QuantError), Isa(IsaError), Incomplete(Incomplete), Memory(OutOfMemory));
from_mismatches!(GemmError: Length);

impl From<Stopped> for GemmError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Incomplete(e) => Self::Incomplete(e),
            Stopped::Memory(e) => Self::Memory(e),
        }
    }
}

impl From<TokensError> for GemmError {
    fn from(error: TokensError) -> Self {
        match error {
            TokensError::Quant(e) => Self::Quant(e),
            TokensError::Stopped(stopped) => stopped.into(),
        }
    }
}
