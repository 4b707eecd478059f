//! The module's own threads, and how a call runs without the GIL.
//!
//! The library starts no threads: loops share their work in the rayon pool
//! they are called in. This module owns that pool, makes it when a call is
//! first large enough for it, and makes another one in a forked child, whose
//! copy of the old pool has lost its threads. Beside torch, products run on
//! torch's threads instead.

use crate::errors::Error;
use crate::openmp::{OpenMp, Region};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use tritgemm::{Backend, Options, Workspace};

/// The environment variable that sets the number of threads.
const THREADS_VARIABLE: &str = "TRITGEMM_NUM_THREADS";

/// Weights times tokens from which on entering the pool pays: some 80 us of one thread. Entering
/// takes 5 us, but torch's threads, which go on spinning after their own work, take the cores of
/// the pool's.
const MIN_WORK: usize = 1 << 23;

/// And for sharing a product among torch's threads: what some 10 us of one take.
const MIN_REGION: usize = 1 << 20;

/// More threads than any machine has are a mistake.
const MAX_THREADS: usize = 1 << 12;

/// Locked only while attached to the interpreter, and never across a release of
/// the GIL: a fork, which needs the GIL, cannot happen while it is locked.
static STATE: Mutex<State> = Mutex::new(State {
    threads: None,
    pool: None,
    openmp: None,
});

struct State {
    /// As set, else by the environment or the machine.
    threads: Option<NonZeroUsize>,
    pool: Option<Pool>,
    /// The process that asked for its OpenMP, and that: a forked child's has lost its threads.
    openmp: Option<(u32, OpenMp)>,
}

struct Pool {
    /// The process whose threads they are.
    process: u32,
    threads: Arc<ThreadPool>,
}

impl State {
    fn threads(&self) -> Result<NonZeroUsize, Error> {
        if let Some(threads) = self.threads {
            return Ok(threads);
        }
        match std::env::var(THREADS_VARIABLE) {
            Ok(text) if !text.is_empty() => text
                .parse()
                .ok()
                .filter(|n: &NonZeroUsize| n.get() <= MAX_THREADS)
                .ok_or_else(|| {
                    Error::other(format!(
                        "{THREADS_VARIABLE} is `{text}`, expected a number from 1 to {MAX_THREADS}"
                    ))
                }),
            _ => Ok(match self.openmp() {
                Some(openmp) => NonZeroUsize::new(openmp.threads()),
                None => std::thread::available_parallelism().ok(),
            }
            .unwrap_or(NonZeroUsize::MIN)),
        }
    }

    /// The OpenMP that products run on.
    fn openmp(&self) -> Option<OpenMp> {
        let (process, openmp) = self.openmp?;
        (process == std::process::id()).then_some(openmp)
    }

    /// Its threads, as many as were asked for and at most as torch's own loops have: a runtime
    /// that cannot start a thread ends the process.
    fn region(&self) -> Result<Option<Region>, Error> {
        let Some(runtime) = self.openmp() else {
            return Ok(None);
        };
        let threads = self.threads()?.get().min(runtime.threads());
        Ok(Some(Region { runtime, threads }))
    }

    /// Forgets the pool if it is another process's. It is leaked: dropping it
    /// would wait for locks that threads of the parent may have held.
    fn forget_inherited(&mut self) {
        if let Some(pool) = self.pool.take_if(|pool| pool.process != std::process::id()) {
            std::mem::forget(pool);
        }
    }

    /// The pool, made if need be; none for a single thread.
    fn pool(&mut self) -> Result<Option<Arc<ThreadPool>>, Error> {
        self.forget_inherited();
        if let Some(pool) = &self.pool {
            return Ok(Some(pool.threads.clone()));
        }
        let threads = self.threads()?.get();
        if threads == 1 {
            return Ok(None);
        }
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("tritgemm-{i}"))
            .build()
            .map_err(|e| Error::other(format!("cannot start {threads} threads: {e}")))?;
        let threads = Arc::new(threads);
        self.pool = Some(Pool {
            process: std::process::id(),
            threads: threads.clone(),
        });
        Ok(Some(threads))
    }
}

/// `work` on the state. The token says that the GIL is held.
fn with_state<R>(_attached: Python<'_>, work: impl FnOnce(&mut State) -> R) -> R {
    work(&mut STATE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Sets how many threads share a product. Those of running calls finish first.
///
/// Without it, the environment variable TRITGEMM_NUM_THREADS decides, else the
/// number of CPUs that the process may use, beside torch the number of torch's threads.
#[pyfunction]
pub fn set_num_threads(py: Python<'_>, n: usize) -> Result<(), Error> {
    let threads = NonZeroUsize::new(n)
        .filter(|n| n.get() <= MAX_THREADS)
        .ok_or_else(|| Error::other(format!("{n} threads, expected 1 to {MAX_THREADS}")))?;
    with_state(py, |state| {
        state.forget_inherited();
        state.threads = Some(threads);
        state.pool = None;
    });
    Ok(())
}

/// How many threads share a product.
#[pyfunction]
pub fn get_num_threads(py: Python<'_>) -> Result<usize, Error> {
    with_state(py, |state| state.threads()).map(NonZeroUsize::get)
}

thread_local! {
    /// Scratch memory that the calls of one thread reuse.
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Makes products run on the threads of the process's OpenMP, if it has one. torch's does.
#[pyfunction]
#[pyo3(name = "_use_openmp")]
pub fn use_openmp(py: Python<'_>) {
    let process = std::process::id();
    with_state(py, |state| {
        state.openmp = OpenMp::find().map(|found| (process, found))
    });
}

/// Runs `work` without the GIL, in the pool if it is worth that. `size` is the
/// number of weights it reads times the tokens it multiplies them with.
pub fn run<R: Send>(
    py: Python<'_>,
    size: usize,
    work: impl FnOnce() -> R + Send,
) -> Result<R, Error> {
    // Detection is cached here, with the GIL: a child forked in the middle of
    // it would wait for a thread that it does not have.
    Backend::active()?;
    let pool = match size >= MIN_WORK {
        true => with_state(py, State::pool)?,
        false => None,
    };
    Ok(py.detach(|| match pool {
        Some(pool) => pool.install(work),
        None => work(),
    }))
}

/// As [`run`], for work whose loops are those of a workspace with these options: on torch's
/// threads where there are some.
pub fn multiply<R: Send>(
    py: Python<'_>,
    size: usize,
    options: Options,
    work: impl FnOnce(&mut Workspace) -> R + Send,
) -> Result<R, Error> {
    Backend::active()?;
    let region = match size >= MIN_REGION {
        true => with_state(py, |state| state.region())?,
        false => None,
    };
    let mut workspace = WORKSPACE.take();
    // Also default ones: the last call's are still there.
    workspace.set_options(options);
    let result = match region {
        Some(region) => Ok(py.detach(|| workspace.with_pool(&region, work))),
        None => run(py, size, || work(&mut workspace)),
    };
    WORKSPACE.set(workspace);
    result
}
