//! What threads meet at: the standard library's atomics, or loom's in its models, which
//! run a test once for each order in which the threads can reach them.
//!
//! `RUSTFLAGS="--cfg loom"` chooses loom's for the unit tests of this crate.

#[cfg(all(loom, test))]
pub use loom::cell::UnsafeCell;
#[cfg(all(loom, test))]
pub use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[cfg(not(all(loom, test)))]
pub use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A cell that is reached as loom's is.
#[cfg(not(all(loom, test)))]
#[derive(Debug)]
pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(all(loom, test)))]
impl<T> UnsafeCell<T> {
    pub fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// Hands out the place, to be read.
    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Hands out the place, to be written.
    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Waits for another thread: a moment awake, because most waits are shorter than the
/// system needs to switch threads, then by giving the core to whoever wants it, which may be
/// the thread that is waited for.
#[derive(Default)]
pub struct Wait {
    pauses: u32,
}

/// Pauses of a wait that stays awake, of 40 to 140 cycles each: some ten microseconds.
const AWAKE: u32 = 1000;

impl Wait {
    /// One step of a wait, between two looks at what is waited for.
    pub fn pause(&mut self) {
        #[cfg(all(loom, test))]
        loom::thread::yield_now();
        if self.pauses < AWAKE {
            self.pauses += 1;
            core::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}
