//! The module's exceptions, and which of the library's errors becomes which.
//!
//! All of them are subclasses of `ValueError`. A wrong type is a `TypeError`,
//! what the operating system says about a file an `OSError`, a name that a model
//! does not have a `KeyError`.

use pyo3::PyErr;
use pyo3::exceptions::{PyKeyError, PyOSError, PyTypeError, PyValueError};
use std::fmt::Display;
use tritgemm::codec::CodecError;
use tritgemm::nn::LayerError;
use tritgemm::quant::QuantError;
use tritgemm::{
    GemmError, IsaError as CoreIsaError, MatrixError, PanelFileError as CoreFileError, ViewError,
};
use tritgemm_formats::FormatError;

/// `pyo3::create_exception!` with a docstring and a name in `tritgemm`.
macro_rules! exceptions {
    ($($name:ident: $base:ty = $doc:literal;)*) => {$(
        pyo3::create_exception!(tritgemm, $name, $base, $doc);
    )*};
}

exceptions! {
    TritgemmError: PyValueError = "Base class of the module's exceptions.";
    ShapeError: TritgemmError = "A shape, a length or strides that do not fit.";
    EncodingError: TritgemmError =
        "A value that is no trit, a code 11, or padding bits that are not zero.";
    QuantizationError: TritgemmError =
        "A weight, an activation or a scale that is NaN or infinite.";
    IsaError: TritgemmError = "An instruction set that is unknown or not available.";
    PanelFileError: TritgemmError = "A panel file that is none, damaged, or of another version.";
    OverlapError: TritgemmError =
        "`out` shares memory with an input or another output, or a running call uses the array \
         or the prepared activations.";
}

/// A Python exception in the making: what `?` turns the library's errors into.
pub struct Error(PyErr);

impl Error {
    /// A `TypeError`.
    pub fn wrong_type(message: String) -> Self {
        Self(PyTypeError::new_err(message))
    }

    /// A `ShapeError`.
    pub fn shape(message: String) -> Self {
        Self(ShapeError::new_err(message))
    }

    /// A `ShapeError` of an array's or a tensor's memory.
    pub fn misaligned(name: &str) -> Self {
        Self::shape(format!(
            "{name}: expected memory that is aligned to its elements, as that of a copy is \
             (.copy() in numpy, .clone() in torch)"
        ))
    }

    /// An `OverlapError`.
    pub fn overlap(message: String) -> Self {
        Self(OverlapError::new_err(message))
    }

    /// A `TritgemmError`.
    pub fn other(message: impl Display) -> Self {
        Self(TritgemmError::new_err(message.to_string()))
    }
}

impl From<PyErr> for Error {
    fn from(error: PyErr) -> Self {
        Self(error)
    }
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl From<ViewError> for Error {
    fn from(error: ViewError) -> Self {
        Self::shape(error.to_string())
    }
}

impl From<CoreIsaError> for Error {
    fn from(error: CoreIsaError) -> Self {
        Self(IsaError::new_err(error.to_string()))
    }
}

impl From<CodecError> for Error {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Isa(error) => error.into(),
            CodecError::Trit { .. } | CodecError::Code { .. } | CodecError::Padding { .. } => {
                Self(EncodingError::new_err(error.to_string()))
            }
            _ => Self::shape(error.to_string()),
        }
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        let text = error.to_string();
        let mut error = &error;
        while let FormatError::InFile { error: inner, .. } = error {
            error = inner;
        }
        match error {
            FormatError::NoTensor { tensor } => Self(PyKeyError::new_err(tensor.clone())),
            FormatError::Open(_) | FormatError::File { .. } | FormatError::Io(_) => {
                Self(PyOSError::new_err(text))
            }
            FormatError::NotTernary { .. } | FormatError::PaddingRow { .. } => {
                Self(EncodingError::new_err(text))
            }
            _ => Self::other(text),
        }
    }
}

impl From<QuantError> for Error {
    fn from(error: QuantError) -> Self {
        match error {
            QuantError::Length { .. } | QuantError::Shape { .. } | QuantError::TooLarge { .. } => {
                Self::shape(error.to_string())
            }
            _ => Self(QuantizationError::new_err(error.to_string())),
        }
    }
}

impl From<MatrixError> for Error {
    fn from(error: MatrixError) -> Self {
        match error {
            MatrixError::Codec(error) => error.into(),
            MatrixError::Quant(error) => error.into(),
            MatrixError::Scale { .. } => Self(QuantizationError::new_err(error.to_string())),
            MatrixError::RotationSign { .. } => Self::other(error),
            _ => Self::shape(error.to_string()),
        }
    }
}

impl From<GemmError> for Error {
    fn from(error: GemmError) -> Self {
        match error {
            GemmError::Quant(error) => error.into(),
            GemmError::Isa(error) => error.into(),
            GemmError::InputWidth { .. }
            | GemmError::OutputShape { .. }
            | GemmError::Length { .. } => Self::shape(error.to_string()),
            _ => Self::other(error),
        }
    }
}

impl From<LayerError> for Error {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Length { .. } | LayerError::Shape { .. } | LayerError::NoFeatures => {
                Self::shape(error.to_string())
            }
            LayerError::Quant(error) => error.into(),
            LayerError::Matrix(error) => error.into(),
            LayerError::Gemm(error) => error.into(),
            LayerError::Isa(error) => error.into(),
            _ => Self::other(error),
        }
    }
}

impl From<CoreFileError> for Error {
    fn from(error: CoreFileError) -> Self {
        match error {
            // With an errno, Python picks the subclass: FileNotFoundError and so on.
            CoreFileError::Io { path, source } => Self(match source.raw_os_error() {
                Some(code) => {
                    let text = source.to_string();
                    let text = text.trim_end_matches(&format!(" (os error {code})"));
                    PyOSError::new_err((code, text.to_owned(), path.into_os_string()))
                }
                None => PyOSError::new_err(format!("{}: {source}", path.display())),
            }),
            CoreFileError::NoMatrix { name } => Self(PyKeyError::new_err(name)),
            CoreFileError::Matrix(error) => error.into(),
            _ => Self(PanelFileError::new_err(error.to_string())),
        }
    }
}
