//! Products on threads that belong to the caller.

use crate::memory::OutOfMemory;
use crate::threads::Threads;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// A thread pool of the caller's own, to run the work items of products:
/// [`Workspace::with_parallel_for`](crate::Workspace::with_parallel_for).
///
/// A work item is a range of rows (whole panels of 64) by a range of tokens of
/// the output, or a part of the preparation of the activations. Items are
/// independent of each other and of similar size, about four for each worker;
/// they take some ten microseconds or more. A product runs up to five such
/// loops, one after the other, and products of less than about 15 us none.
///
/// How the items are scheduled never shows in the results: any thread may run
/// any item, in any order, also from inside of another item or of another
/// pool. Running an item twice is harmless, the second time does nothing.
/// Leaving one out is the error [`Incomplete`].
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use tritgemm::{ParallelFor, Workspace};
///
/// /// Starts its threads for every loop; a pool would keep them.
/// struct Scoped(usize);
///
/// impl ParallelFor for Scoped {
///     fn workers(&self) -> usize {
///         self.0
///     }
///
///     fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
///         let next = AtomicUsize::new(0);
///         let worker = || {
///             while let Some(item) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < items) {
///                 work(item);
///             }
///         };
///         std::thread::scope(|scope| (0..self.0).for_each(|_| drop(scope.spawn(worker))));
///     }
/// }
///
/// let ws = Workspace::new().with_parallel_for(Arc::new(Scoped(4)));
/// ```
pub trait ParallelFor: Send + Sync {
    /// Threads that will share the items, at least 1 and at most
    /// [`MAX_WORKERS`]: what is outside counts as the nearest of them. Asked
    /// anew for every loop. If it is 1 the calling thread works alone.
    ///
    /// Each worker has scratch memory of its own in the workspace; should more
    /// threads than this run items at a time, the surplus allocates.
    fn workers(&self) -> usize;

    /// Calls `work(0)..work(items)`, each once, on any threads, and returns when
    /// all of these calls have returned.
    ///
    /// A panic of `work` or of this function may be passed on: the product
    /// panics then and the workspace stays usable.
    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync));
}

/// Most workers that a product is shared among.
pub const MAX_WORKERS: usize = 1024;

/// A [`ParallelFor`] returned before all items had been run. Part of the output
/// is written then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incomplete {
    /// Items that were run to their end.
    pub done: usize,
    /// Items there were.
    pub items: usize,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, items } = self;
        write!(
            f,
            "the caller's parallel-for ran {done} of {items} work items"
        )
    }
}

impl std::error::Error for Incomplete {}

/// Why work items did not all get done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stopped {
    Incomplete(Incomplete),
    Memory(OutOfMemory),
}

from_variants!(Stopped: Incomplete(Incomplete), Memory(OutOfMemory));

/// `From<Stopped>` for an error that has both reasons.
macro_rules! from_stopped {
    ($($error:ty),+) => {$(
        impl From<Stopped> for $error {
            fn from(stopped: Stopped) -> Self {
                match stopped {
                    Stopped::Incomplete(e) => Self::Incomplete(e),
                    Stopped::Memory(e) => Self::Memory(e),
                }
            }
        }
    )+};
}

from_stopped!(crate::GemmError, crate::PrepareError);

/// Who runs the work items: the caller's pool where there is one, else the
/// calling thread or rayon.
#[derive(Clone, Default)]
pub(crate) struct Team {
    pub(crate) threads: Threads,
    pub(crate) pool: Option<Arc<dyn ParallelFor>>,
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.pool.as_ref().map(|pool| pool.workers());
        f.debug_struct("Team")
            .field("threads", &self.threads)
            .field("pool", &pool)
            .finish()
    }
}

impl Team {
    fn pool(&self) -> Option<&dyn ParallelFor> {
        match self.threads {
            Threads::Serial => None,
            _ => self.pool.as_deref(),
        }
    }

    /// Workers that will share the items.
    pub(crate) fn workers(&self) -> usize {
        match self.pool() {
            Some(pool) => pool.workers().clamp(1, MAX_WORKERS),
            None => self.threads.workers(),
        }
    }

    /// Runs `work(0)..work(items)` in any order, on `workers`. `work` says
    /// whether it did the item, which it does once, or ran out of memory.
    pub(crate) fn for_each(
        &self,
        workers: usize,
        items: usize,
        work: impl Fn(usize) -> Result<bool, OutOfMemory> + Sync + Send,
    ) -> Result<(), Stopped> {
        let (done, missing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // Relaxed: both ways return after their items, which orders them.
        let work = |item| match work(item) {
            Ok(did) => {
                done.fetch_add(usize::from(did), Ordering::Relaxed);
            }
            Err(OutOfMemory { bytes }) => {
                missing.fetch_max(bytes, Ordering::Relaxed);
            }
        };
        match self.pool().filter(|_| workers > 1 && items > 1) {
            Some(pool) => pool.run(items, &work),
            None => self.threads.for_each(workers, items, work),
        }
        match (done.into_inner(), missing.into_inner()) {
            (done, 0) if done == items => Ok(()),
            (done, 0) => Err(Incomplete { done, items }.into()),
            (_, bytes) => Err(OutOfMemory { bytes }.into()),
        }
    }

    /// A number that mostly tells concurrent workers apart and stays the same
    /// for a thread, so that it finds the memory it had before.
    pub(crate) fn worker(&self) -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        match self.pool() {
            // A thread on its way out may have lost its number.
            Some(_) => NUMBER.try_with(|number| *number).unwrap_or_default(),
            None => self.threads.worker(),
        }
    }
}
