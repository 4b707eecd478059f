//! Products on threads that belong to the caller.

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
/// they take some ten microseconds or more. A product runs up to three such
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the caller's parallel-for ran {done} of {items} work items")]
pub struct Incomplete {
    /// Items that were run to their end.
    pub done: usize,
    /// Items there were.
    pub items: usize,
}

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
    /// whether it did the item, which it does once.
    pub(crate) fn for_each(
        &self,
        workers: usize,
        items: usize,
        work: impl Fn(usize) -> bool + Sync + Send,
    ) -> Result<(), Incomplete> {
        let Some(pool) = self.pool().filter(|_| workers > 1 && items > 1) else {
            self.threads.for_each(workers, items, |item| {
                work(item);
            });
            return Ok(());
        };
        let done = AtomicUsize::new(0);
        // Relaxed: the pool returns after its items, so it orders them.
        pool.run(items, &|item| {
            if work(item) {
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        match done.into_inner() {
            done if done == items => Ok(()),
            done => Err(Incomplete { done, items }),
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
