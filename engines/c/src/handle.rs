//! Opaque handles to and from pointers.

use crate::status::{Error, Status, guard_value};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use tritgemm::OutOfMemory;

pub(crate) fn null(what: &str) -> Error {
    Error::new(Status::TritgemmNullPointer, format!("`{what}` is NULL"))
}

/// What a handle stands for.
///
/// # Safety
/// Precondition 2 of the crate's documentation.
pub(crate) unsafe fn borrow<'a, T>(what: &str, handle: *const T) -> Result<&'a T, Error> {
    if handle.is_null() {
        return Err(null(what));
    }
    if !handle.is_aligned() {
        let text = format!("`{what}` is no handle of this library");
        return Err(Error::new(Status::TritgemmNullPointer, text));
    }
    // SAFETY: by precondition 2, it came from `give` and lives; handles are
    // only ever shared.
    Ok(unsafe { &*handle })
}

/// A size of what a handle stands for, or 0 for no handle.
///
/// # Safety
/// Precondition 2 of the crate's documentation.
pub(crate) unsafe fn size<T>(handle: *const T, size: impl FnOnce(&T) -> usize) -> usize {
    // SAFETY: the caller's precondition.
    guard_value(0, || unsafe { borrow("handle", handle) }.map_or(0, size))
}

/// What calls only read, except those that make it anew in its memory.
#[derive(Default)]
pub(crate) struct Shared<T>(RwLock<T>);

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// To be read, unless it is made anew meanwhile.
    pub(crate) fn read(&self, what: &str) -> Result<RwLockReadGuard<'_, T>, Error> {
        free(what, self.0.try_read())
    }

    /// To be made anew, unless another call has it.
    pub(crate) fn write(&self, what: &str) -> Result<RwLockWriteGuard<'_, T>, Error> {
        free(what, self.0.try_write())
    }
}

fn free<G>(what: &str, guard: Result<G, TryLockError<G>>) -> Result<G, Error> {
    match guard {
        Ok(guard) => Ok(guard),
        // What is made anew is empty until it is ready, whatever panicked.
        Err(TryLockError::Poisoned(e)) => Ok(e.into_inner()),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            Status::TritgemmBusy,
            format!("`{what}` is in use by another call"),
        )),
    }
}

/// Writes a single result.
///
/// # Safety
/// Precondition 3 of the crate's documentation.
pub(crate) unsafe fn put<T>(what: &str, out: *mut T, value: T) -> Result<(), Error> {
    if out.is_null() {
        return Err(null(what));
    }
    // SAFETY: by precondition 3, and at any alignment.
    unsafe { out.write_unaligned(value) };
    Ok(())
}

/// Makes a handle of what `make` returns; `*out` is null after an error.
///
/// # Safety
/// Precondition 3 of the crate's documentation.
pub(crate) unsafe fn give<T>(
    out: *mut *mut T,
    make: impl FnOnce() -> Result<T, Error>,
) -> Result<(), Error> {
    // SAFETY: the caller's precondition.
    unsafe { put("out", out, core::ptr::null_mut()) }?;
    // A box of one value by way of a vector, since that can run out of memory without an abort.
    let mut one = Vec::new();
    one.try_reserve_exact(1).map_err(|_| OutOfMemory {
        bytes: size_of::<T>(),
    })?;
    one.push(make()?);
    // A slice of one value has the layout of the value, as `destroy` frees it.
    let handle: *mut T = Box::into_raw(one.into_boxed_slice()).cast();
    // SAFETY: the caller's precondition.
    unsafe { put("out", out, handle) }
}

/// Frees a handle; null is none.
///
/// # Safety
/// Precondition 2 of the crate's documentation; no call uses it any more.
pub(crate) unsafe fn destroy<T>(handle: *mut T) {
    if !handle.is_null() && handle.is_aligned() {
        // SAFETY: by precondition 2, it came from `give`'s box.
        let handle = unsafe { Box::from_raw(handle) };
        crate::status::guard_value((), || drop(handle));
    }
}
