//! How products run.

use crate::isa::Backend;
use crate::kernels::threads::fork::generation;
use crate::threads::Threads;
use core::fmt;

/// Which family of kernels computes a product. Both give the same bits.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// By the number of tokens, where the backend's row of the registry says.
    #[default]
    Auto,
    /// The kernels for few tokens.
    Few,
    /// The kernels for many tokens.
    Many,
}

/// What becomes of a NaN or an infinity in activations that are quantised to int8.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NonFinite {
    /// The product is an error that names its place.
    #[default]
    Error,
    /// All outputs of its token are NaN, those of other tokens what they are without it.
    Propagate,
}

/// Threads, and the process that chose them.
#[derive(Clone, Default)]
struct Chosen {
    threads: Threads,
    generation: u32,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.threads.fmt(f)
    }
}

/// How products run. Results never depend on it, but for what [`NonFinite`] says of tokens
/// that are not finite.
///
/// ```
/// use tritgemm::{Backend, Options, Threads, Workspace};
/// let serial = Options::new().threads(Threads::Serial).backend(Backend::scalar());
/// let mut ws = Workspace::with_options(serial);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub(crate) backend: Option<Backend>,
    threads: Chosen,
    pub(crate) family: Family,
    pub(crate) weights_in_cache: bool,
    pub(crate) non_finite: NonFinite,
}

impl Options {
    /// The active backend, the caller's rayon pool, weights from memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses `backend` instead of [`Backend::active`].
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Says who runs the work.
    ///
    /// A forked child has none of its parent's threads. Where options and workspaces that it
    /// inherits have a [`Threads::Pool`], their products run on the calling thread. Work that
    /// is given to an inherited rayon pool waits for ever.
    pub fn threads(mut self, threads: Threads) -> Self {
        let generation = generation();
        self.threads = Chosen {
            threads,
            generation,
        };
        self
    }

    /// Who runs the work: in place of a pool that was chosen before this process was forked,
    /// the calling thread, because the threads of the pool are the parent's.
    pub(crate) fn workers(&self) -> &Threads {
        match &self.threads {
            Chosen {
                threads: Threads::Pool(_),
                generation: chose,
            } if *chose != generation() => &Threads::Serial,
            Chosen { threads, .. } => threads,
        }
    }

    /// Forces a family of kernels, for measurements and tests.
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Says what becomes of a NaN or an infinity where activations are quantised to int8.
    pub fn non_finite(mut self, non_finite: NonFinite) -> Self {
        self.non_finite = non_finite;
        self
    }

    /// Says that the weights are in the CPU's cache when a product starts: a small
    /// model, or one matrix again and again. Unless said they come from memory, as those
    /// of a model larger than the cache do.
    ///
    /// It matters for a single int8 token, for which some CPUs have two kernels. The one
    /// for weights from memory has smaller tables, which leave the weights more of the
    /// caches' bandwidth, and may run no faster than memory does.
    pub fn weights_in_cache(mut self, weights_in_cache: bool) -> Self {
        self.weights_in_cache = weights_in_cache;
        self
    }
}
