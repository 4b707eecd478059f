//! Memory whose size comes from arguments: running out is an error.
//!
//! What has a size of its own (the head of an `Arc`, an error's text) aborts
//! without memory as everywhere in Rust, and so do `Clone` and the functions
//! that say so.

use aligned_vec::{AVec, ConstAlign, TryReserveError};
use bytemuck::Zeroable;
use core::hash::Hash;
use std::collections::HashSet;
use std::fmt;

/// Memory aligned to cache lines.
pub(crate) type Lines = AVec<u8, ConstAlign<64>>;

/// Memory that could not be allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory {
    /// Bytes asked for; `usize::MAX` where they do not even fit a `usize`.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            usize::MAX => f.write_str("out of memory: more bytes than can be addressed"),
            bytes => write!(f, "out of memory: {bytes} bytes could not be allocated"),
        }
    }
}

impl std::error::Error for OutOfMemory {}

fn missing<T>(len: usize) -> OutOfMemory {
    OutOfMemory {
        bytes: len.saturating_mul(size_of::<T>()),
    }
}

/// `vec![0; len]`, pages that are never written included.
pub(crate) fn zeroed<T: Zeroable>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| missing::<T>(len))
}

/// `vec![value; len]`.
pub(crate) fn filled<T: Clone>(value: T, len: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut values = Vec::new();
    resize(&mut values, len, value)?;
    Ok(values)
}

/// `values.to_vec()`.
pub(crate) fn copied<T: Clone>(values: &[T]) -> Result<Vec<T>, OutOfMemory> {
    collected(values.iter().cloned())
}

/// `values.collect()`.
pub(crate) fn collected<T>(
    values: impl ExactSizeIterator<Item = T>,
) -> Result<Vec<T>, OutOfMemory> {
    let mut all = Vec::new();
    extend(&mut all, values)?;
    Ok(all)
}

/// `values.resize(len, value)`.
pub(crate) fn resize<T: Clone>(
    values: &mut Vec<T>,
    len: usize,
    value: T,
) -> Result<(), OutOfMemory> {
    let more = len.saturating_sub(values.len());
    values
        .try_reserve_exact(more)
        .map_err(|_| missing::<T>(len))?;
    values.resize(len, value);
    Ok(())
}

/// `values.extend(more)`.
pub(crate) fn extend<T>(
    values: &mut Vec<T>,
    more: impl ExactSizeIterator<Item = T>,
) -> Result<(), OutOfMemory> {
    let len = more.len();
    values.try_reserve(len).map_err(|_| missing::<T>(len))?;
    values.extend(more);
    Ok(())
}

/// `text.into()`.
pub(crate) fn text(text: &str) -> Result<String, OutOfMemory> {
    let mut copy = String::new();
    let reserved = copy.try_reserve_exact(text.len());
    reserved.map_err(|_| missing::<u8>(text.len()))?;
    copy.push_str(text);
    Ok(copy)
}

/// `set.insert(value)`.
pub(crate) fn insert<T: Eq + Hash>(set: &mut HashSet<T>, value: T) -> Result<bool, OutOfMemory> {
    let reserved = set.try_reserve(1);
    reserved.map_err(|_| missing::<T>(set.len() + 1))?;
    Ok(set.insert(value))
}

/// Zeros, aligned to cache lines.
#[cfg(feature = "train")]
pub(crate) fn zeroed_lines(len: usize) -> Result<Lines, OutOfMemory> {
    let mut zeroed = lines();
    resize_lines(&mut zeroed, len)?;
    Ok(zeroed)
}

/// Makes `buffer` `len` bytes long, the new ones 0.
pub(crate) fn resize_lines(buffer: &mut Lines, len: usize) -> Result<(), OutOfMemory> {
    let more = len.saturating_sub(buffer.len());
    match buffer.try_reserve_exact(more) {
        Ok(()) => {
            buffer.resize(len, 0);
            Ok(())
        }
        Err(TryReserveError::AllocError { .. } | TryReserveError::CapacityOverflow) => {
            Err(missing::<u8>(len))
        }
    }
}

/// No memory yet.
pub(crate) fn lines() -> Lines {
    AVec::new(64)
}

/// Makes `buffer` at least `len` bytes long; what it held is lost or not.
pub(crate) fn reserve(buffer: &mut Lines, len: usize) -> Result<&mut [u8], OutOfMemory> {
    if buffer.len() < len {
        resize_lines(buffer, len)?;
    }
    Ok(&mut buffer[..len])
}
