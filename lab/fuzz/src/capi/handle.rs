//! Handles beside what they stand for in Rust.

use crate::memory::Memory;
use std::rc::Rc;

/// A handle that is destroyed when this goes, and before what it borrows does.
pub struct Kept<H, M> {
    handle: *mut H,
    destroy: unsafe extern "C" fn(*mut H),
    /// The same in Rust, made without the handle.
    pub model: M,
    /// Where its memory and its values come from.
    pub origin: Origin,
}

/// Where panels come from.
#[derive(Clone)]
pub struct Origin {
    /// Memory of the caller's that they are in.
    pub lent: Option<Rc<Memory<u8>>>,
    /// Every code has a meaning, padding is zero: products are defined.
    pub legal: bool,
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            lent: None,
            legal: true,
        }
    }
}

impl<H, M> Kept<H, M> {
    /// A handle that is `model`.
    pub fn new(
        handle: *mut H,
        destroy: unsafe extern "C" fn(*mut H),
        model: M,
        origin: &Origin,
    ) -> Self {
        assert!(!handle.is_null());
        Self {
            handle,
            destroy,
            model,
            origin: origin.clone(),
        }
    }

    /// For a call.
    pub fn handle(&self) -> *mut H {
        self.handle
    }
}

impl<H, M> Drop for Kept<H, M> {
    fn drop(&mut self) {
        // SAFETY: it is the owner and goes away.
        unsafe { (self.destroy)(self.handle) }
    }
}

/// One of `all`, if there is any.
pub fn pick<T>(all: &[T], which: u8) -> Option<&T> {
    all.get(usize::from(which) % all.len().max(1))
}

/// Keeps it, in the place of another one if there are too many.
pub fn keep<T>(all: &mut Vec<T>, new: T) {
    const MOST: usize = 8;
    if all.len() == MOST {
        all.swap_remove(0);
    }
    all.push(new);
}
