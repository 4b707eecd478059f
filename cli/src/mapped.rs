//! The input file, mapped into memory.

use anyhow::{Context, Result, ensure};
use memmap2::Mmap;
use std::fs::{self, File};
use std::ops::Deref;
use std::path::Path;

/// A regular file's bytes.
pub struct Mapped(Mmap);

impl Mapped {
    /// Maps `path`.
    pub fn open(path: &Path) -> Result<Self> {
        // Asked of the path first: opening a pipe would wait for its writer.
        let kind = fs::metadata(path).context("cannot open")?;
        ensure!(!kind.is_dir(), "is a directory, expected a file");
        ensure!(kind.is_file(), "is not a regular file");
        let file = File::open(path).context("cannot open")?;
        // SAFETY: the mapping is read-only and lives as long as this value.
        // What remains is that another process changes the file meanwhile: the
        // tool's help asks not to. Bytes that change are at worst wrong
        // numbers, since every length is taken from the mapping itself, read
        // once and checked; a file cut short ends the process by SIGBUS.
        let map = unsafe { Mmap::map(&file) }.context("cannot map into memory")?;
        Ok(Self(map))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
