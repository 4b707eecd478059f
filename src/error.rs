//! One error for callers that need no more.

use crate::codec::CodecError;
use crate::gemm_error::GemmError;
use crate::isa::IsaError;
use crate::matrix::MatrixError;
use crate::memory::OutOfMemory;
use crate::nn::LayerError;
use crate::panel_file::PanelFileError;
use crate::quant::QuantError;
use crate::view::ViewError;
use std::fmt;

/// Any error of this crate. Each operation has an error of its own, and each of
/// them converts into this one by `?`.
///
/// ```
/// use tritgemm::{Error, Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};
///
/// fn product(x: &[f32], y: &mut [f32]) -> Result<(), Error> {
///     let trits = MatRef::new(&[1, 0, -1, 1], 2, 2)?;
///     let layer = Linear::new(&TernaryMatrix::from_trits(trits, Scales::per_tensor(0.5))?)?;
///     let (x, y) = (MatRef::new(x, 1, 2)?, MatMut::new(y, 1, 2)?);
///     Ok(layer.forward_f32(x, y, &mut Workspace::new())?)
/// }
///
/// assert!(matches!(product(&[1.0], &mut [0.0; 2]), Err(Error::View(_))));
/// ```
#[non_exhaustive]
#[derive(Debug)]
pub enum Error {
    /// A slice is not the matrix it was said to be.
    View(ViewError),
    /// An instruction set cannot be used.
    Isa(IsaError),
    /// A matrix cannot be encoded or decoded.
    Codec(CodecError),
    /// Values cannot be quantised.
    Quant(QuantError),
    /// A matrix cannot be made or sliced.
    Matrix(MatrixError),
    /// A panel file cannot be read or written.
    PanelFile(PanelFileError),
    /// A product cannot be computed.
    Gemm(GemmError),
    /// A layer of [`nn`](crate::nn) cannot be made or run.
    Layer(LayerError),
    /// Memory ran out.
    Memory(OutOfMemory),
}

impl Error {
    fn inner(&self) -> &(dyn std::error::Error + 'static) {
        match self {
            Self::View(e) => e,
            Self::Isa(e) => e,
            Self::Codec(e) => e,
            Self::Quant(e) => e,
            Self::Matrix(e) => e,
            Self::PanelFile(e) => e,
            Self::Gemm(e) => e,
            Self::Layer(e) => e,
            Self::Memory(e) => e,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.inner(), f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner().source()
    }
}

from_variants!(
    Error: View(ViewError),
    Isa(IsaError),
    Codec(CodecError),
    Quant(QuantError),
    Matrix(MatrixError),
    PanelFile(PanelFileError),
    Gemm(GemmError),
    Layer(LayerError),
    Memory(OutOfMemory)
);
