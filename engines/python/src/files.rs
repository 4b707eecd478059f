//! Panel files: opened, mapped or read, and their bytes.

use crate::errors::Error;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::path::PathBuf;
use tritgemm::{Linear, ModelFile, PanelFile, Verify};

fn verify(verify: bool) -> Verify {
    if verify { Verify::Full } else { Verify::Header }
}

/// Opens a panel file, mapped or read.
pub fn open(py: Python<'_>, path: PathBuf, mmap: bool, verify: bool) -> Result<PanelFile, Error> {
    let verify = self::verify(verify);
    let file = py.detach(|| match mmap {
        // SAFETY: that nobody changes or truncates the file meanwhile is asked
        // of the caller by the docstrings of both `load`; mapping is not the
        // default.
        true => unsafe { PanelFile::map(path, verify) },
        false => PanelFile::load(path),
    });
    Ok(file?)
}

/// Opens a panel file of a model, mapped or read.
pub fn open_model(
    py: Python<'_>,
    path: PathBuf,
    mmap: bool,
    verify: bool,
) -> Result<ModelFile, Error> {
    let verify = self::verify(verify);
    let file = py.detach(|| match mmap {
        // SAFETY: as in `open`, by the docstring of `ModelFile.load`.
        true => unsafe { ModelFile::map(path, verify) },
        false => ModelFile::load(path),
    });
    Ok(file?)
}

/// The bytes of a panel file.
pub fn file_bytes<'py>(py: Python<'py>, core: &Linear) -> Result<Bound<'py, PyBytes>, Error> {
    let file = PanelFile::from(core);
    let bytes = py.detach(|| {
        let mut bytes = Vec::new();
        file.write_to(&mut bytes).map(|()| bytes)
    });
    Ok(PyBytes::new(py, &bytes.map_err(PyErr::from)?))
}
