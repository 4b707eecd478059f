//! A file, mapped into memory.
#![allow(unsafe_code)] // One call: mapping the file.

use crate::error::{FormatError, Result};
use memmap2::Mmap;
use std::fs::{self, File};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// A regular file's bytes.
#[derive(Clone, Debug)]
pub(super) struct Mapped(Arc<Mmap>);

impl Mapped {
    /// Maps `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Asked of the path first: opening a pipe would wait for its writer.
        let kind = fs::metadata(path).map_err(cannot_open)?;
        if !kind.is_file() {
            return Err(FormatError::Refused {
                what: "is not a regular file".into(),
            });
        }
        let file = File::open(path).map_err(cannot_open)?;
        // SAFETY: the mapping is read-only and lives as long as this value.
        // What remains is that another process changes the file meanwhile: the
        // documentation of `open` asks not to. Bytes that change are at worst
        // wrong numbers, since every length is taken from the mapping itself,
        // read once and checked; a file cut short ends the process by SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(cannot_open)?;
        Ok(Self(Arc::new(map)))
    }
}

/// An error that names no path: what it is about is known where it is caught.
pub(super) fn cannot_open(source: std::io::Error) -> FormatError {
    FormatError::Open(source)
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
