//! An allocator that can be told to refuse.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Smaller allocations are never refused: those that do not grow with the
/// arguments, and the test's own.
pub const SMALLEST: usize = 1024;
/// Larger ones always are.
const LARGEST: usize = 1 << 30;

/// Which allocations of at least [`SMALLEST`] bytes to refuse.
#[derive(Default)]
pub struct Plan {
    seen: AtomicUsize,
    /// Number of the one refused, counted from 1; 0 refuses none.
    refused: AtomicUsize,
}

thread_local! {
    static PLAN: Cell<Option<&'static Plan>> = const { Cell::new(None) };
}

impl Plan {
    /// A plan for this thread, and for every other that it is handed to.
    pub fn here() -> &'static Self {
        let plan: &'static Plan = Box::leak(Box::default());
        plan.follow();
        plan
    }

    /// This thread follows the plan from now on.
    pub fn follow(&'static self) {
        PLAN.set(Some(self));
    }

    /// Runs `run` with its `refused`th allocation failing, none if it is 0.
    /// Returns how many there were.
    pub fn run(&self, refused: usize, run: impl FnOnce()) -> usize {
        self.seen.store(0, Ordering::SeqCst);
        self.refused.store(refused, Ordering::SeqCst);
        run();
        self.refused.store(0, Ordering::SeqCst);
        self.seen.load(Ordering::SeqCst)
    }
}

fn refuses(bytes: usize) -> bool {
    if bytes < SMALLEST {
        return false;
    }
    let Some(plan) = PLAN.try_with(Cell::get).ok().flatten() else {
        return false;
    };
    let number = plan.seen.fetch_add(1, Ordering::SeqCst) + 1;
    number == plan.refused.load(Ordering::SeqCst) || bytes > LARGEST
}

pub struct Refusing;

// SAFETY: everything is handed on to `System` unchanged or refused by a null
// pointer, as an allocator may; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return core::ptr::null_mut();
        }
        // SAFETY: the caller's layout, as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return core::ptr::null_mut();
        }
        // SAFETY: the caller's layout, as it is.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if refuses(new_size) {
            return core::ptr::null_mut();
        }
        // SAFETY: the caller's block, layout and size, as they are.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's block and layout, as they are.
        unsafe { System.dealloc(ptr, layout) }
    }
}
