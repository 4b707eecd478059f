//! The module's own threads, and how a call runs without the GIL.
//!
//! The library starts no threads: products share their work in the rayon pool
//! they are called in. This module owns that pool, makes it when a call is
//! first large enough for it, and makes another one in a forked child, whose
//! copy of the old pool has lost its threads.

use crate::errors::Error;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use tritgemm::{Backend, Workspace};

/// The environment variable that sets the number of threads.
const THREADS_VARIABLE: &str = "TRITGEMM_NUM_THREADS";

/// Weights times tokens from which on entering the pool pays: some 80 us of one thread. Entering
/// takes 5 us, but torch's threads, which go on spinning after their own work, take the cores of
/// the pool's.
const MIN_WORK: usize = 1 << 23;

/// More threads than any machine has are a mistake.
const MAX_THREADS: usize = 1 << 12;

/// Locked only while attached to the interpreter, and never across a release of
/// the GIL: a fork, which needs the GIL, cannot happen while it is locked.
static STATE: Mutex<State> = Mutex::new(State {
    threads: None,
    pool: None,
});

struct State {
    /// As set, else by the environment or the machine.
    threads: Option<NonZeroUsize>,
    pool: Option<Pool>,
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
            _ => Ok(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
        }
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
/// number of CPUs that the process may use.
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

/// Runs `work` without the GIL, in the pool if it is worth that. `size` is the
/// number of weights it reads times the tokens it multiplies them with.
pub fn run<R: Send>(
    py: Python<'_>,
    size: usize,
    work: impl FnOnce(&mut Workspace) -> R + Send,
) -> Result<R, Error> {
    // Detection is cached here, with the GIL: a child forked in the middle of
    // it would wait for a thread that it does not have.
    Backend::active()?;
    let pool = match size >= MIN_WORK {
        true => with_state(py, State::pool)?,
        false => None,
    };
    let mut workspace = WORKSPACE.take();
    let result = py.detach(|| match pool {
        Some(pool) => pool.install(|| work(&mut workspace)),
        None => work(&mut workspace),
    });
    WORKSPACE.set(workspace);
    Ok(result)
}
