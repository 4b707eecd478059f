//! Where the work of a product runs.

/// Who runs the work items of a product, unless the workspace has a
/// [`ParallelFor`](crate::ParallelFor).
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Threads {
    /// The calling thread alone, whatever else the workspace has.
    Serial,
    /// The rayon pool that the caller is in: call from inside
    /// `ThreadPool::install` or any rayon task. Outside of a pool the calling
    /// thread works alone; this crate never starts threads. Products too small
    /// to gain from threads stay on the calling thread.
    #[default]
    Rayon,
}

impl Threads {
    /// Workers that will share the items.
    pub(crate) fn workers(self) -> usize {
        match self {
            Threads::Serial => 1,
            #[cfg(feature = "rayon")]
            Threads::Rayon if rayon::current_thread_index().is_some() => {
                rayon::current_num_threads()
            }
            Threads::Rayon => 1,
        }
    }

    /// Runs `work(0)..work(items)`, each once, in any order, on `workers`.
    pub(crate) fn for_each(self, workers: usize, items: usize, work: impl Fn(usize) + Sync + Send) {
        #[cfg(feature = "rayon")]
        if workers > 1 && items > 1 {
            use rayon::prelude::*;
            (0..items).into_par_iter().with_max_len(1).for_each(work);
            return;
        }
        let _ = workers;
        (0..items).for_each(work);
    }

    /// A number that tells concurrent workers apart.
    pub(crate) fn worker(self) -> usize {
        #[cfg(feature = "rayon")]
        if let Some(index) = rayon::current_thread_index() {
            return index;
        }
        0
    }
}
