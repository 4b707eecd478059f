//! `tritgemm_workspace`.

use crate::handle::{borrow, destroy, give};
use crate::isa::backend;
use crate::parallel_for::{Callback, Gate, ParallelFor};
use crate::status::{Error, Status, guard};
use crate::team::Team;
use core::ffi::{c_char, c_void};
use half::{bf16, f16};
use std::sync::{Arc, Mutex, TryLockError};
use tritgemm::{Backend, NonFinite, Options, Threads};

/// Scratch memory that products reuse, and how they run: their backend, their threads and
/// where their weights are. After the first product of a shape, further ones allocate
/// nothing.
pub struct Workspace(Mutex<Inner>);

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) products: tritgemm::Workspace,
    pub(crate) stage: Stage,
    settings: Settings,
    gate: Arc<Gate>,
}

/// What the setters set, each without a change to the others.
#[derive(Default)]
struct Settings {
    backend: Option<Backend>,
    pool: Option<Arc<dyn tritgemm::ParallelFor>>,
    weights_in_cache: bool,
    non_finite: NonFinite,
}

impl Settings {
    fn options(&self) -> Options {
        let threads = match &self.pool {
            Some(pool) => Threads::Pool(pool.clone()),
            None => Threads::Serial,
        };
        let options = Options::new()
            .threads(threads)
            .weights_in_cache(self.weights_in_cache)
            .non_finite(self.non_finite);
        match self.backend {
            Some(backend) => options.backend(backend),
            None => options,
        }
    }
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
    pub(crate) y_f16: Vec<f16>,
    pub(crate) y_bf16: Vec<bf16>,
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

impl Inner {
    fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.products.set_options(self.settings.options());
    }
}

/// A workspace. Products run on the calling thread, with the backend of the process and
/// weights from memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_create(out: *mut *mut Workspace) -> Status {
    // SAFETY: precondition 3.
    guard(|| unsafe {
        give(out, || {
            let mut inner = Inner::default();
            inner.set(|_| ());
            Ok(Workspace(Mutex::new(inner)))
        })
    })
}

/// Pins the backend of this workspace's products by its name, as tritgemm_pin() does;
/// NULL returns to that of the process. Fails and changes nothing if this CPU lacks it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_pin(
    workspace: *mut Workspace,
    name: *const c_char,
) -> Status {
    // SAFETY: preconditions 2 and 4.
    guard(|| unsafe {
        let backend = backend(name)?;
        Workspace::with(workspace, |inner| {
            inner.set(|settings| settings.backend = backend);
            Ok(())
        })
    })
}

/// Says whether the weights are in the CPU's cache when a product starts, as those of a
/// small model are, or of one matrix that is multiplied again and again. False unless
/// said: the weights of a large model come from memory. Only the speed of a single int8
/// token depends on it, and only on some CPUs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_set_weights_in_cache(
    workspace: *mut Workspace,
    weights_in_cache: bool,
) -> Status {
    // SAFETY: precondition 2.
    guard(|| unsafe {
        Workspace::with(workspace, |inner| {
            inner.set(|settings| settings.weights_in_cache = weights_in_cache);
            Ok(())
        })
    })
}

/// Says what becomes of a NaN or an infinity in activations that are quantised to int8. Unless
/// said it is an error; propagated, all outputs of its token are NaN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_set_propagate_non_finite(
    workspace: *mut Workspace,
    propagate: bool,
) -> Status {
    // SAFETY: precondition 2.
    guard(|| unsafe {
        Workspace::with(workspace, |inner| {
            inner.set(|settings| {
                settings.non_finite = match propagate {
                    true => NonFinite::Propagate,
                    false => NonFinite::Error,
                };
            });
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
            let gate = &inner.gate;
            let pool = parallel_for.map(|run| Callback {
                workers,
                run,
                ctx,
                gate: gate.clone(),
            });
            inner.set(|settings| settings.pool = pool.map(|pool| Arc::new(pool) as _));
            Ok(())
        })
    })
}

/// Runs this workspace's products on the threads of a parallel region that help `team`, in
/// place of a parallel-for; outside of regions, on the calling thread. NULL returns to the
/// calling thread. Any number of workspaces may have a team: whichever starts a loop first has
/// the helpers. In a forked child, a workspace that it inherits does without them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_workspace_set_team(
    workspace: *mut Workspace,
    team: *const Team,
) -> Status {
    // SAFETY: precondition 2.
    guard(|| unsafe {
        let team = match team.is_null() {
            true => None,
            false => Some(borrow("team", team)?.0.clone()),
        };
        Workspace::with(workspace, |inner| {
            inner.set(|settings| settings.pool = team.map(|team| team as _));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel_for::Work;
    use crate::team::{tritgemm_team_create, tritgemm_team_destroy};
    use core::ptr::{null, null_mut};

    unsafe extern "C" fn idle(_: *mut c_void, _: usize, _: Work, _: *mut c_void) {}

    #[test]
    fn setters_keep_each_others_settings() {
        let mut made = null_mut();
        let ok = |status| assert_eq!(status, Status::TritgemmOk);
        // SAFETY: a workspace that lives until the end, and a string.
        unsafe {
            ok(tritgemm_workspace_create(&mut made));
            let ws = made;
            let options = |backend: &str, threads: &str, in_cache: bool, non_finite: &str| {
                let inner = (*ws).0.lock().expect("not poisoned");
                let wanted = format!(
                    "Options {{ backend: {backend}, threads: {threads}, family: Auto, weights_in_cache: {in_cache}, non_finite: {non_finite} }}"
                );
                assert_eq!(format!("{:?}", inner.products.options()), wanted);
            };
            options("None", "Serial", false, "Error");
            ok(tritgemm_workspace_set_propagate_non_finite(ws, true));
            ok(tritgemm_workspace_set_parallel_for(
                ws,
                4,
                Some(idle),
                null_mut(),
            ));
            ok(tritgemm_workspace_set_weights_in_cache(ws, true));
            ok(tritgemm_workspace_pin(ws, c"scalar".as_ptr()));
            let scalar = "Some(Backend(\"scalar\"))";
            options(scalar, "Pool(4)", true, "Propagate");
            ok(tritgemm_workspace_set_parallel_for(ws, 4, None, null_mut()));
            options(scalar, "Serial", true, "Propagate");
            ok(tritgemm_workspace_set_weights_in_cache(ws, false));
            options(scalar, "Serial", false, "Propagate");
            ok(tritgemm_workspace_set_propagate_non_finite(ws, false));
            ok(tritgemm_workspace_pin(ws, null()));
            options("None", "Serial", false, "Error");
            let mut team = null_mut();
            ok(tritgemm_team_create(3, &mut team));
            ok(tritgemm_workspace_set_team(ws, team));
            tritgemm_team_destroy(team);
            options("None", "Pool(3)", false, "Error");
            ok(tritgemm_workspace_set_team(ws, null()));
            options("None", "Serial", false, "Error");
            tritgemm_workspace_destroy(ws);
        }
    }
}
