//! `tritgemm_team`.

use crate::handle::{borrow, destroy, give};
use crate::status::{Error, Status, guard, guard_value};
use std::sync::Arc;

/// The threads of a parallel region, such as OpenMP's, a node of ggml or a task of TVM: one
/// of them multiplies, the others help. A team starts no thread.
///
/// One thread, the leader, calls products with a workspace that has the team, by
/// tritgemm_workspace_set_team(), then tritgemm_team_end(). Every other thread of the region
/// calls tritgemm_team_help() meanwhile. Regions have numbers, which the caller chooses, each
/// larger than those before:
///
/// ```c
/// uint64_t region = tritgemm_team_last_region(team) + 1;
/// #pragma omp parallel num_threads(nth)
/// if (omp_get_thread_num() == 0) {
///     status = tritgemm_linear_forward_int8(layer, ..., workspace);
///     tritgemm_team_end(team, region); // after errors too: the others wait for it
/// } else {
///     tritgemm_team_help(team, region);
/// }
/// ```
///
/// Threads that stay for many products may count the regions, each by itself, and need no
/// barrier between two of them. A helper that comes before its leader waits for it, and one
/// that comes after its region has ended returns at once. The leader starts without helpers,
/// and never waits for one that does not come.
pub struct Team(pub(crate) Arc<tritgemm::Team>);

/// A team of `nth` threads, the leader among them, counted as 1 to 1024. Work is cut for
/// that many; should more of them or fewer come, results are the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_team_create(nth: usize, out: *mut *mut Team) -> Status {
    // SAFETY: precondition 3.
    guard(|| unsafe { give(out, || Ok(Team(Arc::new(tritgemm::Team::new(nth))))) })
}

/// Helps with the products of a region until its leader has ended it; returns at once if it
/// has already. Called by every thread of the region but the leader, and by none inside of a
/// work item. While there is nothing to do it spins for some ten microseconds, then gives the
/// core to whoever wants it, again and again. What the leader wrote is there when it returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_team_help(team: *const Team, region: u64) -> Status {
    // SAFETY: precondition 2.
    guard(|| unsafe {
        borrow("team", team)?.0.help(region);
        Ok(())
    })
}

/// Ends a region: its helpers return. Called by its leader, after the last product of the
/// region and whatever came of it. Fails if a region of that number or of a larger one has
/// ended before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_team_end(team: *const Team, region: u64) -> Status {
    // SAFETY: precondition 2.
    guard(|| unsafe {
        let team = &borrow("team", team)?.0;
        let last = team.last_region();
        if region <= last {
            let text = format!("region {region} after {last} has ended");
            return Err(Error::new(Status::TritgemmInvalidArgument, text));
        }
        team.lead(region, || ());
        Ok(())
    })
}

/// The largest number of a region that has ended, or 0 before the first and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_team_last_region(team: *const Team) -> u64 {
    guard_value(0, || {
        // SAFETY: precondition 2.
        let team = unsafe { borrow("team", team) };
        team.map_or(0, |team| team.0.last_region())
    })
}

/// Frees a team, or nothing for NULL. No thread may be in it any more. Workspaces that have it
/// keep what they need of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_team_destroy(team: *mut Team) {
    // SAFETY: precondition 2.
    unsafe { destroy(team) }
}
