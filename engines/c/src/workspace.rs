//! `tritgemm_workspace`.

use crate::handle::{borrow, destroy, give};
use crate::isa::isa;
use crate::parallel_for::{Callback, Gate, ParallelFor};
use crate::status::{Error, Status, guard};
use core::ffi::c_void;
use half::{bf16, f16};
use std::sync::{Arc, Mutex, TryLockError};
use tritgemm::{Backend, Options};

/// Scratch memory that products reuse, the instruction set and the threads that they run
/// with. After the first product of a shape, further ones allocate nothing.
pub struct Workspace(Mutex<Inner>);

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) products: tritgemm::Workspace,
    pub(crate) stage: Stage,
    gate: Arc<Gate>,
}

/// Copies of rows that cannot be used in place.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) x_i8: Vec<i8>,
    pub(crate) x_f32: Vec<f32>,
    pub(crate) x_f16: Vec<f16>,
    pub(crate) x_bf16: Vec<bf16>,
    pub(crate) y_i32: Vec<i32>,
    pub(crate) y_f32: Vec<f32>,
}

impl Workspace {
    /// Runs `body` with what is inside, if no other call has it.
    ///
    /// # Safety
    /// Precondition 2 of the crate's documentation.
    pub(crate) unsafe fn with<R>(
        workspace: *const Self,
        body: impl FnOnce(&mut Inner) -> Result<R, Error>,
    ) -> Result<R, Error> {
        // SAFETY: the caller's precondition.
        let workspace = unsafe { borrow("workspace", workspace) }?;
        match workspace.0.try_lock() {
            Ok(mut inner) => body(&mut inner),
            // Scratch memory has no invariant that a panic could have broken.
            Err(TryLockError::Poisoned(e)) => body(&mut e.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                Status::TritgemmBusy,
                "the workspace is in use by another call",
            )),
        }
    }
}

/// A workspace. Products run on the calling thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_create(out: *mut *mut Workspace) -> Status {
    // SAFETY: precondition 3.
    guard(|| unsafe { give(out, || Ok(Workspace(Mutex::default()))) })
}

/// Pins the instruction set (a tritgemm_isa) of this workspace's products;
/// TRITGEMM_ISA_AUTO returns to that of the process. Fails and changes nothing if this
/// CPU lacks it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_pin(workspace: *mut Workspace, isa: i32) -> Status {
    // SAFETY: precondition 2.
    guard(|| unsafe {
        Workspace::with(workspace, |inner| {
            let backend = self::isa(isa)?.map(Backend::for_isa).transpose()?;
            let options = backend.map_or(Options::new(), |b| Options::new().backend(b));
            inner.products.set_options(options);
            Ok(())
        })
    })
}

/// Runs this workspace's products on the caller's threads: `parallel_for` is called with
/// `ctx` for every loop that is worth it, and `workers` is the number of threads that
/// share its items, counted as 1 to 1024. NULL returns to the calling thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_set_parallel_for(
    workspace: *mut Workspace,
    workers: usize,
    parallel_for: ParallelFor,
    ctx: *mut c_void,
) -> Status {
    // SAFETY: precondition 2; precondition 7 covers the callback.
    guard(|| unsafe {
        Workspace::with(workspace, |inner| {
            let gate = inner.gate.clone();
            let pool = parallel_for.map(|run| {
                let callback = Callback {
                    workers,
                    run,
                    ctx,
                    gate,
                };
                Arc::new(callback) as Arc<dyn tritgemm::ParallelFor>
            });
            inner.products.set_parallel_for(pool);
            Ok(())
        })
    })
}

/// Frees a workspace, or nothing for NULL. No call may use it any more, nor may work
/// items of it be called.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_destroy(workspace: *mut Workspace) {
    // SAFETY: precondition 2.
    unsafe { destroy(workspace) }
}
