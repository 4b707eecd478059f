//! Why a layer cannot be made or run.

use crate::gemm_error::GemmError;
use crate::isa::IsaError;
use crate::matrix::MatrixError;
use crate::memory::OutOfMemory;
use crate::mismatch::{fmt_length, fmt_shape};
use crate::quant::QuantError;
use std::fmt;

/// Why a [`BitLinear`](super::BitLinear), an [`RmsNorm`](super::RmsNorm) or the
/// estimator of [`ste`](super::ste) cannot be made or run.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub enum LayerError {
    /// A slice has the wrong length.
    Length {
        /// The argument.
        argument: &'static str,
        /// Its length.
        len: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A matrix has another shape than the layer needs.
    Shape {
        /// The argument.
        argument: &'static str,
        /// Its rows and columns.
        shape: [usize; 2],
        /// Those that it should have.
        expected: [usize; 2],
    },
    /// A gain has no values.
    NoFeatures,
    /// Epsilon cannot keep the root away from zero.
    Eps {
        /// Its value.
        eps: f32,
    },
    /// The latent weights cannot be quantised: there are too many, or one is
    /// NaN or infinite.
    Quant(QuantError),
    /// The shape is not one of a ternary matrix.
    Matrix(MatrixError),
    /// A product could not be computed.
    Gemm(GemmError),
    /// The instruction set asked for is not available.
    Isa(IsaError),
    /// Memory ran out.
    Memory(OutOfMemory),
}

impl fmt::Display for LayerError {
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
            Self::NoFeatures => write!(f, "`gain` is empty, expected one value a feature"),
            Self::Eps { eps } => write!(f, "`eps` is {eps}, expected a finite value above 0"),
            Self::Quant(e) => e.fmt(f),
            Self::Matrix(e) => e.fmt(f),
            Self::Gemm(e) => e.fmt(f),
            Self::Isa(e) => e.fmt(f),
            Self::Memory(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for LayerError {}

from_variants!(LayerError: Quant(QuantError), Matrix(MatrixError), Gemm(GemmError), Isa(IsaError), Memory(OutOfMemory));
from_mismatches!(LayerError: Length, Shape);
