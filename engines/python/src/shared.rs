//! What calls share to read, and one at a time makes anew in its memory.

use crate::errors::Error;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// A value that calls hold while they run without the GIL. No call ever waits for
/// another one's: that is an error, as it is with arrays, so nothing can deadlock. In a
/// child forked meanwhile the value stays in use.
#[derive(Default)]
pub struct Shared<T>(RwLock<T>);

impl<T> Shared<T> {
    /// To be read, unless a call makes it anew.
    pub fn read(&self, name: &str) -> Result<RwLockReadGuard<'_, T>, Error> {
        free(name, self.0.try_read())
    }

    /// To be made anew, unless another call has it.
    pub fn write(&self, name: &str) -> Result<RwLockWriteGuard<'_, T>, Error> {
        free(name, self.0.try_write())
    }
}

fn free<G>(name: &str, guard: Result<G, TryLockError<G>>) -> Result<G, Error> {
    match guard {
        Ok(guard) => Ok(guard),
        // What is made anew is empty until it is ready, whatever panicked.
        Err(TryLockError::Poisoned(e)) => Ok(e.into_inner()),
        Err(TryLockError::WouldBlock) => Err(Error::overlap(format!(
            "{name}: a call that is running uses these activations"
        ))),
    }
}
