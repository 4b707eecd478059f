//! The caller's threads behind a callback.

use core::ffi::c_void;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Runs one work item.
pub type Work = Option<unsafe extern "C" fn(work_ctx: *mut c_void, item: usize)>;

/// Calls work(work_ctx, 0) to work(work_ctx, items - 1), each once, on any threads and in
/// any order, and returns when all of them have returned.
///
/// `ctx` is what the caller registered with it. An item is a range of rows (whole panels
/// of 64) by a range of tokens; items are independent. It must not throw, and it must not
/// use the workspace that calls it.
///
/// In a forked child, which has none of its parent's threads, a workspace that it inherits
/// does not call it: products run on the calling thread. A workspace of the child's own calls
/// what is registered there.
///
/// Items compute in the default floating-point environment, whatever that of the thread is,
/// and give it back; exception flags may be raised.
///
/// What it does wrong is safe: an item run twice does nothing the second time, items left
/// out make the call fail with TRITGEMM_INCOMPLETE, and if it returns too early, items
/// that are running are waited for and later ones do nothing.
pub type ParallelFor =
    Option<unsafe extern "C" fn(ctx: *mut c_void, items: usize, work: Work, work_ctx: *mut c_void)>;

/// The loop that runs, if one does.
#[derive(Default)]
struct State {
    /// Its body. Borrowed from `Callback::run`, which takes it away and waits
    /// for `active` to become 0 before it returns.
    work: Option<Body>,
    /// Items running.
    active: usize,
    /// What an item threw.
    panic: Option<Box<dyn Any + Send>>,
}

#[derive(Clone, Copy)]
struct Body(*const (dyn Fn(usize) + Sync));

// SAFETY: it points to what is `Sync`.
unsafe impl Send for Body {}

/// Where work functions enter: `work_ctx` of every loop of a workspace. It
/// outlives the loops, so that a call which comes too late finds it closed.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    idle: Condvar,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_item(&self, item: usize) {
        let body = {
            let mut state = self.state();
            let Some(body) = state.work else { return };
            state.active += 1;
            body
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: `Callback::run` borrows it until `active` is 0 again.
            let work = unsafe { &*body.0 };
            work(item);
        }));
        let mut state = self.state();
        state.active -= 1;
        if let Err(panic) = result {
            state.panic = Some(panic);
        }
        if state.active == 0 {
            self.idle.notify_all();
        }
    }
}

/// Precondition 7 lets it be called after its loop, too.
unsafe extern "C" fn run_item(work_ctx: *mut c_void, item: usize) {
    if work_ctx.is_null() {
        return;
    }
    // SAFETY: it is the gate that `Callback::run` handed out, which lives as
    // long as the workspace: precondition 7.
    let gate = unsafe { &*work_ctx.cast::<Gate>() };
    gate.run_item(item);
}

/// The caller's parallel-for.
pub(crate) struct Callback {
    pub(crate) workers: usize,
    pub(crate) run: unsafe extern "C" fn(*mut c_void, usize, Work, *mut c_void),
    pub(crate) ctx: *mut c_void,
    pub(crate) gate: Arc<Gate>,
}

// SAFETY: precondition 7: the context may be used from any thread.
unsafe impl Send for Callback {}
// SAFETY: as above; the workspace runs one loop at a time.
unsafe impl Sync for Callback {}

impl tritgemm::ParallelFor for Callback {
    fn workers(&self) -> usize {
        self.workers
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes; the body is taken back below, and
        // the items that still use it are waited for, before it ends.
        let body = unsafe {
            core::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work)
        };
        self.gate.state().work = Some(Body(body));
        let work_ctx = Arc::as_ptr(&self.gate).cast_mut().cast::<c_void>();
        // SAFETY: precondition 7.
        unsafe { (self.run)(self.ctx, items, Some(run_item), work_ctx) };
        let mut state = self.gate.state();
        state.work = None;
        let idle = |state: &mut State| state.active > 0;
        let wait = self.gate.idle.wait_while(state, idle);
        state = wait.unwrap_or_else(PoisonError::into_inner);
        if let Some(panic) = state.panic.take() {
            drop(state);
            resume_unwind(panic);
        }
    }
}
