//! Panel files mapped into memory. Unsafe for another reason than the kernels:
//! no function here can keep other processes from changing the file.

use crate::panel_file::{ModelFile, PanelFile, PanelFileError, Verify};
use crate::panels::PanelBytes;
use std::fs::File;
use std::path::Path;

impl PanelFile {
    /// Maps the file at `path` into memory: the panels are read from the disk
    /// when they are first used, and shared with every process that maps them.
    ///
    /// # Safety
    /// For as long as the panels or a slice of them live, nobody may change or
    /// truncate the file. Replacing it by [`PanelFile::save`] is fine: that
    /// writes another file.
    ///
    /// # Errors
    /// If the file cannot be mapped, is no panel file, or is damaged.
    pub unsafe fn map(path: impl AsRef<Path>, verify: Verify) -> Result<Self, PanelFileError> {
        // SAFETY: the caller's word that the file does not change.
        Self::from_bytes(unsafe { mapped(path.as_ref()) }?, verify)
    }
}

impl ModelFile {
    /// As [`PanelFile::map`], of a file of many matrices.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Errors
    /// If the file cannot be mapped, is no panel file, or its index is damaged.
    pub unsafe fn map(path: impl AsRef<Path>, verify: Verify) -> Result<Self, PanelFileError> {
        // SAFETY: the caller's word that the file does not change.
        Self::from_bytes(unsafe { mapped(path.as_ref()) }?, verify)
    }
}

/// # Safety
/// Nobody changes or truncates the file while its bytes live.
unsafe fn mapped(path: &Path) -> Result<PanelBytes, PanelFileError> {
    let io = |e| PanelFileError::io(path, e);
    let file = File::open(path).map_err(io)?;
    // SAFETY: the caller's word that the file does not change.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
    Ok(PanelBytes::owned(bytes))
}
