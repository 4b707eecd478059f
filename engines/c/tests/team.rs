//! Teams: the threads of a parallel region.

mod common;

use common::{Case, fails, make, ok};
use std::ptr::{null, null_mut};
use std::thread;
use tritgemm_capi::*;

/// For other threads.
#[derive(Clone, Copy)]
struct Shared(*mut Team);

// SAFETY: any number of threads may use a team.
unsafe impl Send for Shared {}

impl Shared {
    fn new(nth: usize) -> Self {
        // SAFETY: a valid out pointer.
        Self(make(|out| unsafe { tritgemm_team_create(nth, out) }))
    }

    fn last_region(self) -> u64 {
        // SAFETY: it lives.
        unsafe { tritgemm_team_last_region(self.0) }
    }

    fn help(self, region: u64) {
        // SAFETY: it lives.
        ok(unsafe { tritgemm_team_help(self.0, region) });
    }

    fn end(self, region: u64) -> Status {
        // SAFETY: it lives.
        unsafe { tritgemm_team_end(self.0, region) }
    }
}

#[test]
fn regions_of_any_number_of_threads_give_the_same_bits() {
    let case = Case::new();
    for nth in [0, 1, 2, 3, 8, usize::MAX] {
        let team = Shared::new(nth);
        // SAFETY: both live.
        ok(unsafe { tritgemm_workspace_set_team(case.workspace, team.0) });
        for helpers in [0, 1, 3] {
            let region = team.last_region() + 1;
            thread::scope(|scope| {
                for _ in 0..helpers {
                    scope.spawn(move || {
                        let team = team;
                        team.help(region);
                    });
                }
                case.check(case.workspace);
                ok(team.end(region));
            });
            assert_eq!(team.last_region(), region);
        }
        // Outside of a region, and with a team that only the workspace has.
        case.check(case.workspace);
        // SAFETY: no thread is in it.
        unsafe { tritgemm_team_destroy(team.0) };
        case.check(case.workspace);
    }
    // SAFETY: it lives.
    ok(unsafe { tritgemm_workspace_set_team(case.workspace, null()) });
    case.check(case.workspace);
}

#[test]
fn what_is_wrong_is_an_error() {
    let team = Shared::new(2);
    ok(team.end(5));
    for region in [0, 4, 5] {
        team.help(region);
        let message = format!("region {region} after 5 has ended");
        fails(team.end(region), Status::TritgemmInvalidArgument, &message);
    }
    let null_pointer = Status::TritgemmNullPointer;
    // SAFETY: no handles, and one that is destroyed last.
    unsafe {
        fails(tritgemm_team_create(2, null_mut()), null_pointer, "out");
        fails(tritgemm_team_help(null(), 1), null_pointer, "team");
        fails(tritgemm_team_end(null(), 1), null_pointer, "team");
        assert_eq!(tritgemm_team_last_region(null()), 0);
        let set = tritgemm_workspace_set_team(null_mut(), team.0);
        fails(set, null_pointer, "workspace");
        tritgemm_team_destroy(null_mut());
        tritgemm_team_destroy(team.0);
    }
}
