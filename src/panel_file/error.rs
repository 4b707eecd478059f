//! Why a panel file could not be read or written.

use crate::matrix::MatrixError;
use crate::memory::OutOfMemory;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a panel file could not be read or written.
#[non_exhaustive]
#[derive(Debug)]
pub enum PanelFileError {
    /// The operating system's error.
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A matrix of a model file could not be written.
    Write {
        /// Its name.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// It starts with other letters.
    NotPanelFile,
    /// It has a format this crate does not know.
    Version {
        /// The file's version.
        found: u32,
        /// The version that can be read.
        supported: u32,
    },
    /// The header is damaged.
    HeaderChecksum {
        /// As the file says.
        stored: u32,
        /// As the bytes are.
        computed: u32,
    },
    /// The file was cut, or has bytes after its end.
    Length {
        /// Bytes there are. Where the source has no length of its own and goes
        /// on too long, one more than expected.
        len: u64,
        /// Bytes that its header asks for.
        expected: u64,
    },
    /// A section is damaged.
    Checksum {
        /// `panels`, `scales`, `bias`, `signs` or `index`.
        section: &'static str,
        /// As the header says.
        stored: u32,
        /// As the bytes are.
        computed: u32,
    },
    /// A header field contradicts the shape.
    Field {
        /// The field.
        name: &'static str,
        /// Its value.
        found: u64,
        /// What it must be for this shape.
        expected: u64,
    },
    /// An entry of a model file's index contradicts the file.
    Entry {
        /// Which.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Two matrices that are written into a model file have one name.
    NameTwice {
        /// The name.
        name: String,
    },
    /// A model file has no matrix of this name.
    NoMatrix {
        /// The name.
        name: String,
    },
    /// No such granularity.
    Granularity {
        /// Its value.
        found: u32,
    },
    /// The shape does not fit the address space.
    TooLarge {
        /// Rows as the header says.
        rows: u64,
        /// Columns as the header says.
        cols: u64,
    },
    /// A layer needs scales and the file has none.
    NoScales,
    /// The scales or the bias cannot belong to the matrix.
    Matrix(MatrixError),
    /// Memory ran out.
    Memory(OutOfMemory),
}

impl fmt::Display for PanelFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Write { name, source } => write!(f, "matrix `{name}`: {source}"),
            Self::NotPanelFile => write!(f, "not a panel file: it does not start with `TRITPANL`"),
            Self::Version { found, supported } => {
                let of_model = match found {
                    2 => " (of a model, not of one matrix)",
                    _ => "",
                };
                write!(
                    f,
                    "panel file of version {found}{of_model}, supported is {supported}"
                )
            }
            Self::HeaderChecksum { stored, computed } => write!(
                f,
                "header checksum {stored:08x} is stored, {computed:08x} computed"
            ),
            Self::Length { len, expected } => {
                write!(f, "panel file of {len} bytes, expected {expected}")
            }
            Self::Checksum {
                section,
                stored,
                computed,
            } => write!(
                f,
                "checksum of the {section}: {stored:08x} is stored, {computed:08x} computed"
            ),
            Self::Field {
                name,
                found,
                expected,
            } => write!(f, "header field `{name}` is {found}, expected {expected}"),
            Self::Entry { index, what } => write!(f, "entry {index} of the index: {what}"),
            Self::NameTwice { name } => write!(f, "two matrices are named `{name}`"),
            Self::NoMatrix { name } => write!(f, "the panel file has no matrix `{name}`"),
            Self::Granularity { found } => write!(
                f,
                "header field `granularity` is {found}, expected 0 (no scales), 1 (tensor), 2 (row), 32, 64, 128 or 256 (group)"
            ),
            Self::TooLarge { rows, cols } => write!(
                f,
                "panels of {rows} x {cols} weights do not fit the address space"
            ),
            Self::NoScales => write!(f, "the panel file holds no scales, which a layer needs"),
            Self::Matrix(e) => e.fmt(f),
            Self::Memory(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for PanelFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } => Some(source),
            _ => None,
        }
    }
}

from_variants!(PanelFileError: Matrix(MatrixError), Memory(OutOfMemory));

impl PanelFileError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { path, source }
    }
}
