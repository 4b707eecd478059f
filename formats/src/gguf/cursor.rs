//! Little-endian numbers and strings out of a slice, never beyond its end.

use crate::error::{FormatError, Result};

/// What is wrong at a byte of a GGUF file.
pub(super) fn corrupt(offset: usize, what: impl Into<String>) -> FormatError {
    FormatError::Container {
        container: "GGUF",
        offset: offset as u64,
        what: what.into(),
    }
}

/// A place in a file that has been read up to there.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The bytes from `start` up to here.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// The next `len` bytes; `what` they are is told if there are fewer.
    pub(super) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        let left = self.remaining();
        match usize::try_from(len) {
            Ok(len) if len <= left => {
                let start = self.at;
                self.at += len;
                Ok(self.since(start))
            }
            _ => Err(corrupt(
                self.at,
                format!("{what} of {len} bytes, but the file ends after {left}"),
            )),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let bytes = self.take(N as u64, what)?;
        let mut array = [0; N];
        array.copy_from_slice(bytes);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A u64 length and as many bytes.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    /// A string of at most `max` bytes that is UTF-8.
    pub(super) fn name(&mut self, what: &str, max: usize) -> Result<&'a str> {
        let start = self.at;
        let bytes = self.string(what)?;
        if bytes.len() > max {
            let len = bytes.len();
            return Err(corrupt(
                start,
                format!("{what} of {len} bytes, at most {max} expected"),
            ));
        }
        core::str::from_utf8(bytes).map_err(|_| corrupt(start, format!("{what} is not UTF-8")))
    }

    /// A count of things that take at least `least` bytes each: never more than
    /// the rest of the file can hold.
    pub(super) fn check_count(&self, count: u64, least: usize, what: &str) -> Result<()> {
        let most = self.remaining() / least;
        if count > most as u64 {
            return Err(corrupt(
                self.at,
                format!("{count} {what}, but the rest of the file can hold {most} at most"),
            ));
        }
        Ok(())
    }
}
