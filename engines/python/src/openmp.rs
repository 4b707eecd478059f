//! The threads of the process's OpenMP, which are those of torch.
//!
//! torch's loops leave them spinning for a while, so that the next loop starts in a
//! microsecond. Threads of our own would find their cores taken for as long.

use core::ffi::{CStr, c_uint, c_void};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tritgemm::ParallelFor;

type Body = extern "C" fn(*mut c_void);

/// An OpenMP runtime.
#[derive(Clone, Copy)]
pub struct OpenMp {
    /// `GOMP_parallel(body, data, threads, flags)`, as GCC's compiled code calls it, of GCC's,
    /// LLVM's and Intel's runtime: calls `body(data)` on so many threads, of which the caller is
    /// one, and returns when all have.
    parallel: unsafe extern "C" fn(Body, *mut c_void, c_uint, c_uint),
    /// `omp_get_max_threads()`: as many as the calling thread would have.
    most: unsafe extern "C" fn() -> i32,
}

impl OpenMp {
    /// That of the process, if it has one.
    pub fn find() -> Option<Self> {
        let (parallel, most) = (symbol(c"GOMP_parallel")?, symbol(c"omp_get_max_threads")?);
        // SAFETY: OpenMP's functions of these names have these signatures, in every version.
        unsafe {
            Some(Self {
                parallel: core::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(Body, *mut c_void, c_uint, c_uint),
                >(parallel),
                most: core::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> i32>(most),
            })
        }
    }

    /// Threads of a loop of the calling thread.
    pub fn threads(&self) -> usize {
        // SAFETY: it has no precondition.
        unsafe { (self.most)() }.try_into().unwrap_or(1)
    }
}

#[cfg(target_os = "linux")]
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero byte.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!symbol.is_null()).then_some(symbol)
}

/// Elsewhere the runtimes have no such entry.
#[cfg(not(target_os = "linux"))]
fn symbol(_: &CStr) -> Option<*mut c_void> {
    None
}

/// So many of its threads.
pub struct Region {
    pub runtime: OpenMp,
    pub threads: usize,
}

/// A loop that a region's threads share.
struct Loop<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    items: usize,
    next: AtomicUsize,
    /// What a call of `work` panicked with: no panic may pass through the runtime.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Loop<'_> {
    fn share(&self) {
        // Relaxed: the end of a region orders the items before what follows it.
        while let Some(item) =
            Some(self.next.fetch_add(1, Ordering::Relaxed)).filter(|item| *item < self.items)
        {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.work)(item))) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
    }
}

extern "C" fn body(data: *mut c_void) {
    // SAFETY: `Region::run` hands over a loop that outlives the region.
    let shared = unsafe { &*data.cast::<Loop<'_>>().cast_const() };
    shared.share();
}

impl ParallelFor for Region {
    fn workers(&self) -> usize {
        self.threads
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        let mut shared = Loop {
            work,
            items,
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
        };
        let data = (&raw mut shared).cast();
        // As many threads each time, also for fewer items: a runtime ends and starts threads
        // where the number changes.
        let threads = self.threads.try_into().unwrap_or(c_uint::MAX);
        // SAFETY: the loop stays until all threads have left the body, which only reads it and
        // does not unwind. No flags: the runtime may place the threads as it likes.
        unsafe { (self.runtime.parallel)(body, data, threads, 0) };
        let panic = shared
            .panic
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}
