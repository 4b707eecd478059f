//! Quantisers: latent weights to trits and scales, activations to int8.
//!
//! | function | from | to |
//! |---|---|---|
//! | [`absmean`] | f32 weights | the scale alpha of every tensor, row or group |
//! | [`ternarize`] | f32 weights, alphas | trits |
//! | [`sparsify_2_4`], [`sparsify_trits_2_4`] | weights, trits | the same, 2:4 sparse |
//! | [`quantize_token`], [`quantize_activations`] | f32, f16, bf16 activations | int8 and a scale a token |
//!
//! Matrices are dense row-major slices with their shape beside them: rows are
//! outputs (M), columns inputs (K). Results are the same bits on every
//! instruction set and for every number of threads. With the `rayon` feature a
//! large matrix is worked on in the caller's pool.
//!
//! ```
//! use tritgemm::Granularity;
//! use tritgemm::quant::{absmean, ternarize};
//!
//! let weights = [0.5, -0.1, 0.2, -0.8, /* next row */ 0.0, 3.0, -1.0, 0.4];
//! let alphas = absmean(&weights, 2, 4, Granularity::PerRow)?;
//! assert_eq!(alphas, [0.4, 1.1]);
//! let trits = ternarize(&weights, 2, 4, Granularity::PerRow, &alphas)?;
//! assert_eq!(trits, [1, 0, 0, -1, 0, 1, -1, 0]);
//! # Ok::<(), tritgemm::quant::QuantError>(())
//! ```

use crate::memory::OutOfMemory;
use std::fmt;

mod activations;
mod weights;

pub(crate) use weights::{first_non_finite, row_alpha};

pub use activations::{
    MIN_ABSMAX, quantize_activations, quantize_activations_into, quantize_token,
};
pub(crate) use activations::{TokensError, quantize_tokens};
pub use weights::{
    MIN_ALPHA, absmean, absmean_into, sparsify_2_4, sparsify_trits_2_4, ternarize, ternarize_into,
};

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
            } => write!(f, "`{argument}` holds {len} values, expected {expected}"),
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

impl QuantError {
    /// The same error of a token that was quantised by itself.
    pub(crate) fn of_token(mut self, of: usize) -> Self {
        if let QuantError::Activation { token, .. } = &mut self {
            *token = of;
        }
        self
    }
}

/// The number of values in a matrix, which `len` must be.
pub(crate) fn check_matrix(
    argument: &'static str,
    len: usize,
    rows: usize,
    cols: usize,
) -> Result<usize, QuantError> {
    let expected = rows
        .checked_mul(cols)
        .ok_or(QuantError::TooLarge { rows, cols })?;
    check_length(argument, len, expected)?;
    Ok(expected)
}

fn check_length(argument: &'static str, len: usize, expected: usize) -> Result<(), QuantError> {
    if len == expected {
        return Ok(());
    }
    Err(QuantError::Length {
        argument,
        len,
        expected,
    })
}
