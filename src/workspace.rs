//! How a product runs (backend, threads, lanes) and the memory it reuses.

use crate::isa::{Backend, IsaError};
use crate::memory::{self, OutOfMemory};
use crate::parallel_for::{ParallelFor, Team};
use crate::product::prepare::{How, Prepared};
use crate::product::tables::FewTables;
use crate::recent;
use crate::threads::Threads;
use aligned_vec::{AVec, ConstAlign};
use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Memory aligned to cache lines.
pub(crate) type Lines = AVec<u8, ConstAlign<64>>;

/// Which loop order computes a product. Both give the same bits.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lanes {
    /// By the number of tokens, at the measured crossover of the backend.
    #[default]
    Auto,
    /// Lanes are rows: made for few tokens.
    Row,
    /// Tables and accumulators shared by many tokens; lanes are tokens, but for one
    /// kernel.
    Column,
}

/// Where the weights of a product come from. For a single int8 token some CPUs
/// have two kernels: one that is the fastest on weights in the cache, and one
/// whose smaller tables leave more of the cache's ports to weights that stream
/// from memory, and which may run no faster than memory. Both give the same bits.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Residency {
    /// By what the process has multiplied lately. It remembers the last 24 matrices: one of
    /// them is taken to come from memory if it and those since make half of the
    /// last-level cache or more; another one, if it makes an eighth of that cache, if it
    /// and all that are remembered make half of it, or if there are 24. And so is any
    /// that multiplies [`PreparedActivations`](crate::PreparedActivations), which are made
    /// before it is known.
    #[default]
    Auto,
    /// The weights are in the cache: a small model, or one matrix again and again.
    Cache,
    /// The weights are not in the cache: a model larger than it.
    Memory,
}

/// How products run. Results never depend on it.
///
/// ```
/// use tritgemm::{Backend, Options, Threads, Workspace};
/// let serial = Options::new().threads(Threads::Serial).backend(Backend::scalar());
/// let mut ws = Workspace::with_options(serial);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    backend: Option<Backend>,
    threads: Threads,
    lanes: Lanes,
    residency: Residency,
}

impl Options {
    /// The active backend, the caller's rayon pool, lanes by measurement.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses `backend` instead of [`Backend::active`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Where the work runs.
    pub fn threads(mut self, threads: Threads) -> Self {
        self.threads = threads;
        self
    }

    /// Says where the weights come from.
    pub fn residency(mut self, residency: Residency) -> Self {
        self.residency = residency;
        self
    }

    /// Forces a loop order, for measurements and tests.
    pub fn lanes(mut self, lanes: Lanes) -> Self {
        self.lanes = lanes;
        self
    }
}

/// Scratch memory that products reuse, and the [`Options`] they run with.
///
/// After the first product of a shape, further ones of that shape allocate
/// nothing, nor do smaller ones that take the same [`Lanes`]. In a pool, each
/// worker's scratch is allocated when it first takes a share of a product.
///
/// One workspace serves one product at a time; threads that work on different
/// products need one each.
#[derive(Default)]
pub struct Workspace {
    options: Options,
    pool: Option<Arc<dyn ParallelFor>>,
    pub(crate) prepared_i8: Prepared<i8>,
    pub(crate) prepared_f32: Prepared<f32>,
    pub(crate) values: Vec<i8>,
    pub(crate) token_scales: Vec<f32>,
    pub(crate) slots: Slots,
}

impl Workspace {
    /// A workspace with default [`Options`]; allocates nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A workspace that runs products with `options`.
    pub fn with_options(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Runs products on the caller's own threads, except with
    /// [`Threads::Serial`].
    pub fn with_parallel_for(mut self, pool: Arc<dyn ParallelFor>) -> Self {
        self.set_parallel_for(Some(pool));
        self
    }

    /// Replaces the caller's threads by others, or with `None` returns to those
    /// of the options; the memory stays.
    pub fn set_parallel_for(&mut self, pool: Option<Arc<dyn ParallelFor>>) {
        self.pool = pool;
    }

    /// The options.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Replaces the options; the memory stays.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    pub(crate) fn backend(&self) -> Result<Backend, IsaError> {
        self.options.backend.map_or_else(Backend::active, Ok)
    }

    #[cfg(feature = "train")]
    pub(crate) fn threads(&self) -> Threads {
        self.options.threads
    }

    pub(crate) fn team(&self) -> Team {
        Team {
            threads: self.options.threads,
            pool: self.pool.clone(),
        }
    }

    /// How to prepare activations for `panels`, if they are known.
    pub(crate) fn how(&self, panels: Option<&[u8]>) -> Result<How, IsaError> {
        let likely = panels.is_none_or(recent::note);
        let streamed = match self.options.residency {
            Residency::Auto => likely,
            Residency::Cache => false,
            Residency::Memory => true,
        };
        Ok(How {
            backend: self.backend()?,
            lanes: self.options.lanes,
            streamed,
        })
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace")
            .field("options", &self.options)
            .field("team", &self.team())
            .finish_non_exhaustive()
    }
}

/// One worker's buffers.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) tables: Lines,
    pub(crate) few_tables: FewTables,
    pub(crate) acc: Lines,
    pub(crate) total: Lines,
    pub(crate) sums: Lines,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            tables: lines(),
            few_tables: FewTables::default(),
            acc: lines(),
            total: lines(),
            sums: lines(),
        }
    }
}

/// No memory yet.
pub(crate) fn lines() -> Lines {
    AVec::new(64)
}

/// Makes `buffer` at least `len` bytes long; what it held is lost or not.
pub(crate) fn reserve(buffer: &mut Lines, len: usize) -> Result<&mut [u8], OutOfMemory> {
    if buffer.len() < len {
        memory::resize_lines(buffer, len)?;
    }
    Ok(&mut buffer[..len])
}

/// One [`Scratch`] per worker.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<Mutex<Scratch>>);

impl Slots {
    /// Has at least `workers` slots afterwards.
    pub(crate) fn grow(&mut self, workers: usize) -> Result<(), OutOfMemory> {
        let more = workers.saturating_sub(self.0.len());
        self.0.try_reserve_exact(more).map_err(|_| OutOfMemory {
            bytes: workers.saturating_mul(size_of::<Mutex<Scratch>>()),
        })?;
        self.0.extend((0..more).map(|_| Mutex::default()));
        Ok(())
    }

    /// Runs `work` with a slot nobody else uses; `hint` is tried first. Should
    /// there be more workers than slots, the surplus gets memory of its own.
    pub(crate) fn with<R>(&self, hint: usize, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let slots = self
            .0
            .iter()
            .cycle()
            .skip(hint % self.0.len().max(1))
            .take(self.0.len());
        for slot in slots {
            // Scratch has no invariant that a panic could have broken.
            let free: Option<MutexGuard<'_, Scratch>> = match slot.try_lock() {
                Ok(guard) => Some(guard),
                Err(std::sync::TryLockError::Poisoned(e)) => Some(PoisonError::into_inner(e)),
                Err(std::sync::TryLockError::WouldBlock) => None,
            };
            if let Some(mut scratch) = free {
                return work(&mut scratch);
            }
        }
        work(&mut Scratch::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CacheSizes;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// [`Residency::Auto`] is `recent`'s, and tested there.
    #[test]
    fn callers_know_best_where_weights_are() {
        let limits = CacheSizes::detect().streamed_from();
        // Never written, so never mapped.
        let panels = vec![0; limits.together];
        for panels in [None, Some(&panels[..]), Some(&panels[..1])] {
            let streamed = |residency| {
                let ws = Workspace::with_options(Options::new().residency(residency));
                ws.how(panels).expect("a backend").streamed
            };
            assert!(streamed(Residency::Memory));
            assert!(!streamed(Residency::Cache));
            if panels.is_none_or(|panels| panels.len() > 1) {
                assert!(streamed(Residency::Auto));
            }
        }
    }

    /// The lengths that successive uses leave and find.
    fn lengths(slots: &Slots, hint: usize) -> usize {
        slots.with(hint, |scratch| {
            reserve(&mut scratch.sums, 64).expect("little memory");
            scratch.sums.len()
        })
    }

    #[test]
    fn more_threads_than_slots_have_scratch_all_the_same() {
        let mut slots = Slots::default();
        slots.grow(2).expect("little memory");
        let inner = slots.with(0, |_| slots.with(0, |_| lengths(&slots, 0)));
        assert_eq!(inner, 64);
        // What the surplus allocated is gone.
        for hint in 0..2 {
            slots.with(hint, |scratch| assert!(scratch.sums.is_empty()));
        }
        assert_eq!(lengths(&Slots::default(), 7), 64);
    }

    #[test]
    fn scratch_outlives_a_panic() {
        let mut slots = Slots::default();
        slots.grow(1).expect("little memory");
        lengths(&slots, 0);
        let panicking = || slots.with(0, |_| panic!("with scratch in hand"));
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        slots.with(0, |scratch| assert_eq!(scratch.sums.len(), 64));
    }
}
