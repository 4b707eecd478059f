//! Which threads a product runs on, and the memory it reuses.

use std::sync::{Mutex, PoisonError};
use tritgemm::{Options, Threads, Workspace};

/// Below this many multiply-accumulates a product stays on the calling thread:
/// it takes less time than entering a pool.
const MIN_MACS: usize = 1 << 21;

/// Which threads run a layer. Results never depend on it.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Parallelism {
    /// The rayon pool that the caller is in, else rayon's global pool, which
    /// candle's own operations use. `RAYON_NUM_THREADS` sizes it. Small products
    /// stay on the calling thread.
    #[default]
    Global,
    /// The rayon pool that the caller is in, else the calling thread alone: for
    /// programs that keep rayon's global pool out of the way.
    Caller,
    /// The calling thread alone.
    Serial,
}

/// Scratch that products hand on to later ones: as many workspaces as products
/// ever ran at the same time, whatever the number of layers.
static IDLE: Mutex<Vec<Workspace>> = Mutex::new(Vec::new());

impl Parallelism {
    /// Runs `work`, a product of `macs` multiply-accumulates, where it should
    /// run, with scratch of its own and `options` for the rest.
    pub(crate) fn run<R: Send>(
        self,
        macs: usize,
        options: Options,
        work: impl FnOnce(&mut Workspace) -> R + Send,
    ) -> R {
        let threads = match self {
            Parallelism::Serial => Threads::Serial,
            Parallelism::Global | Parallelism::Caller => Threads::Rayon,
        };
        let options = options.threads(threads);
        let with_scratch = || {
            let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut ws = idle.unwrap_or_default();
            ws.set_options(options);
            let result = work(&mut ws);
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(ws);
            result
        };
        let outside = || rayon::current_thread_index().is_none();
        if self == Parallelism::Global && macs >= MIN_MACS && outside() {
            // From outside of any pool this enters the global one.
            rayon::scope(|_| with_scratch())
        } else {
            with_scratch()
        }
    }
}
