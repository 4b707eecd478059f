//! Who works: the calling thread, the caller's rayon pool, or a pool of the caller's own.
//! This crate never starts a thread.

use crate::kernels::environment::in_default;
use crate::kernels::threads::lent::{Lendable, Lent};
use crate::memory::OutOfMemory;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// Who runs the work items of a product.
#[non_exhaustive]
#[derive(Clone, Default)]
pub enum Threads {
    /// The calling thread alone.
    Serial,
    /// The rayon pool that the caller is in: call from inside
    /// `ThreadPool::install` or any rayon task. Outside of a pool the calling
    /// thread works alone. Products too small to gain from threads stay on the
    /// calling thread.
    #[default]
    Rayon,
    /// A pool of the caller's own. [`Workspace::with_pool`] borrows one for a call.
    ///
    /// [`Workspace::with_pool`]: crate::Workspace::with_pool
    Pool(Arc<dyn ParallelFor>),
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial => f.write_str("Serial"),
            Self::Rayon => f.write_str("Rayon"),
            Self::Pool(pool) => write!(f, "Pool({})", pool.workers()),
        }
    }
}

impl Threads {
    /// Workers that will share the items.
    pub(crate) fn workers(&self) -> usize {
        match self {
            Self::Pool(pool) => pool.workers().clamp(1, MAX_WORKERS),
            #[cfg(feature = "rayon")]
            Self::Rayon if rayon::current_thread_index().is_some() => rayon::current_num_threads(),
            Self::Serial | Self::Rayon => 1,
        }
    }

    /// Whether the workers are awake.
    pub(crate) fn spin(&self) -> bool {
        match self {
            Self::Pool(pool) => pool.spins(),
            _ => false,
        }
    }

    /// Runs `work(0)..work(items)`, in any order, on `workers`.
    fn run(&self, workers: usize, items: usize, work: &(dyn Fn(usize) + Sync)) {
        match self {
            Self::Pool(pool) if workers > 1 && items > 1 => pool.run(items, work),
            #[cfg(feature = "rayon")]
            Self::Rayon if workers > 1 && items > 1 => {
                use rayon::prelude::*;
                (0..items).into_par_iter().with_max_len(1).for_each(work);
            }
            _ => (0..items).for_each(work),
        }
    }

    /// Runs `work(0)..work(items)` in any order, on `workers`, each in the default
    /// floating-point environment. `work` says whether it did the item, which it does once,
    /// or ran out of memory.
    pub(crate) fn for_each(
        &self,
        workers: usize,
        items: usize,
        work: impl Fn(usize) -> Result<bool, OutOfMemory> + Sync,
    ) -> Result<(), Stopped> {
        let (done, missing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // Relaxed: `run` returns after its items, which orders them.
        self.run(workers, items, &|item| match in_default(|| work(item)) {
            Ok(did) => {
                done.fetch_add(usize::from(did), Ordering::Relaxed);
            }
            Err(OutOfMemory { bytes }) => {
                missing.fetch_max(bytes, Ordering::Relaxed);
            }
        });
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
        match self {
            // A thread on its way out may have lost its number.
            Self::Pool(pool) => pool
                .worker()
                .unwrap_or_else(|| NUMBER.try_with(|number| *number).unwrap_or_default()),
            #[cfg(feature = "rayon")]
            Self::Rayon => rayon::current_thread_index().unwrap_or_default(),
            _ => 0,
        }
    }
}

/// Most workers that a product is shared among.
pub(crate) const MAX_WORKERS: usize = 1024;

/// A thread pool of the caller's own, to run the work items of products:
/// [`Threads::Pool`], or [`Workspace::with_pool`] for one that is borrowed. Threads that are
/// inside a parallel region already are a [`Team`].
///
/// [`Workspace::with_pool`]: crate::Workspace::with_pool
/// [`Team`]: crate::Team
///
/// A work item is a part of the preparation of the activations, a range of rows (whole
/// panels of 64) by a range of tokens of the output, or a turn at products of int8
/// activations: a while of work on the range that the worker was at before, or on what
/// another has left of its own. Items are independent of each other, four to sixteen for
/// each worker, and take some microseconds or more. A product runs up to five such
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
/// use tritgemm::{Options, ParallelFor, Threads, Workspace};
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
/// let pool = Threads::Pool(Arc::new(Scoped(4)));
/// let ws = Workspace::with_options(Options::new().threads(pool));
/// ```
pub trait ParallelFor: Send + Sync {
    /// Threads that will share the items, at least 1 and at most
    /// 1024: what is outside counts as the nearest of them. Asked anew for every
    /// loop. If it is 1 the calling thread works alone.
    ///
    /// Each worker has scratch memory of its own in the workspace; should more
    /// threads than this run items at a time, the surplus allocates.
    fn workers(&self) -> usize;

    /// The number of the calling worker, from 0 on, if the pool knows it. It finds the memory
    /// and the tables that it had before. Without it each thread has a number of its own, which
    /// serves as well unless a pool's threads come and go.
    fn worker(&self) -> Option<usize> {
        None
    }

    /// Whether the workers are awake, spinning until there is work, as those of a parallel region
    /// are. Handing it to them takes about a microsecond then, not the 15 of waking a thread, and
    /// products of about 5 us are shared.
    fn spins(&self) -> bool {
        false
    }

    /// Calls `work(0)..work(items)`, each once, on any threads, and returns when
    /// all of these calls have returned.
    ///
    /// A panic of `work` or of this function may be passed on: the product
    /// panics then and the workspace stays usable.
    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync));
}

/// Where a workspace borrows a pool. Whoever keeps it for longer finds nobody in it, and works
/// alone.
#[derive(Default)]
pub(crate) struct LentPool(Lent<Pools>);

struct Pools;

impl Lendable for Pools {
    type For<'a> = &'a (dyn ParallelFor + 'a);
}

impl LentPool {
    /// Lends `pool` while `during` runs, and waits for those that still run items on it. `None`
    /// if a pool is lent already.
    pub(crate) fn lend<R>(&self, pool: &dyn ParallelFor, during: impl FnOnce() -> R) -> Option<R> {
        self.0.lend(pool, during)
    }
}

impl ParallelFor for LentPool {
    fn workers(&self) -> usize {
        self.0.borrow(|pool| pool.workers()).unwrap_or(1)
    }

    fn spins(&self) -> bool {
        self.0.borrow(|pool| pool.spins()).unwrap_or(false)
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.0.borrow(|pool| pool.run(items, work)).is_none() {
            (0..items).for_each(work);
        }
    }
}

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
pub enum Stopped {
    Incomplete(Incomplete),
    Memory(OutOfMemory),
}

from_variants!(Stopped: Incomplete(Incomplete), Memory(OutOfMemory));

/// Values below which a task is not worth handing to another thread: about the
/// 15 us that entering a pool and waking a worker can cost.
#[cfg(feature = "rayon")]
const MIN_VALUES: usize = 1 << 16;

/// Most rows of no values for which a result of one value a row is allocated:
/// no input vouches for their number.
pub(crate) const MAX_EMPTY_ROWS: usize = 1 << 24;

/// Calls `f(row, input_row, output_row, one)` for the rows of `input` and `output`,
/// which are as wide as given, and the one value each row has in `ones`; in
/// the caller's rayon pool if it is in one and they are many; each in the default
/// floating-point environment. Returns whether every call did.
///
/// A width of zero means that there is nothing to do.
pub(crate) fn all_rows<A, B, C, F>(
    (input, input_width): (&[A], usize),
    (output, output_width): (&mut [B], usize),
    ones: &mut [C],
    f: F,
) -> bool
where
    A: Sync,
    B: Send,
    C: Send,
    F: Fn(usize, &[A], &mut [B], &mut C) -> bool + Sync,
{
    if input_width == 0 || output_width == 0 {
        return true;
    }
    let f = |row: usize, input: &[A], output: &mut [B], one: &mut C| {
        in_default(|| f(row, input, output, one))
    };
    #[cfg(feature = "rayon")]
    if let Some(rows) = rows_per_task(input.len(), input_width) {
        use rayon::prelude::*;
        return input
            .par_chunks(input_width)
            .zip(output.par_chunks_mut(output_width))
            .zip(ones)
            .enumerate()
            .with_min_len(rows)
            .map(|(row, ((input, output), one))| f(row, input, output, one))
            .reduce(|| true, |a, b| a & b);
    }
    input
        .chunks(input_width)
        .zip(output.chunks_mut(output_width))
        .zip(ones)
        .enumerate()
        .map(|(row, ((input, output), one))| f(row, input, output, one))
        .fold(true, |a, b| a & b)
}

/// Calls `f(row, values)` for the rows of `values`, as [`all_rows`].
pub(crate) fn each_row_mut<B, F>(values: &mut [B], width: usize, f: F)
where
    B: Send,
    F: Fn(usize, &mut [B]) + Send + Sync,
{
    if width == 0 {
        return;
    }
    let f = |row: usize, values: &mut [B]| in_default(|| f(row, values));
    #[cfg(feature = "rayon")]
    if let Some(rows) = rows_per_task(values.len(), width) {
        use rayon::prelude::*;
        values
            .par_chunks_mut(width)
            .enumerate()
            .with_min_len(rows)
            .for_each(|(row, values)| f(row, values));
        return;
    }
    values
        .chunks_mut(width)
        .enumerate()
        .for_each(|(row, values)| f(row, values));
}

/// Rows that make a task, or `None` if all of them should stay on this thread.
#[cfg(feature = "rayon")]
fn rows_per_task(values: usize, width: usize) -> Option<usize> {
    let parallel = values >= 2 * MIN_VALUES && Threads::Rayon.workers() > 1;
    parallel.then(|| MIN_VALUES.div_ceil(width))
}
