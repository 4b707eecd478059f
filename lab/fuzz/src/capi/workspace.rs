//! Workspaces: instruction sets, the caller's threads.

use super::World;
use super::call::{Call, Slip, Slot};
use super::handle::{Kept, keep};
use super::outcome::{agree, failed};
use super::schedule::{Order, Schedule, callback};
use arbitrary::Arbitrary;
use std::ptr::null_mut;
use tritgemm::{Backend, GemmError, Incomplete, Isa, IsaError};
use tritgemm_capi as c;
use tritgemm_capi::Status;

/// Numbers of instruction sets, and two that are none.
pub const ISAS: [i32; 7] = [0, 1, 2, 3, 4, 5, -1];
/// Workers, within reason and beyond.
const WORKERS: [usize; 8] = [2, 3, 4, 16, 1, 0, 1024, usize::MAX];

/// The backend that a number asks for, or the error.
pub fn isa(number: i32) -> Result<Option<Backend>, (Status, String)> {
    let isa = match number {
        0 => return Ok(None),
        1 => Isa::Scalar,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        4 => Isa::Neon,
        _ => {
            let text = format!("instruction set {number}");
            return Err((Status::TritgemmInvalidArgument, text));
        }
    };
    let backend = Backend::for_isa(isa);
    backend
        .map(Some)
        .map_err(|e: IsaError| (Status::TritgemmUnsupportedIsa, e.to_string()))
}

/// A workspace, and the schedule that runs its loops.
pub struct Team {
    kept: Kept<c::Workspace, ()>,
    // Outlives it.
    schedule: Option<Box<Schedule>>,
}

impl Team {
    /// For a call.
    pub fn handle(&self) -> *mut c::Workspace {
        self.kept.handle()
    }

    /// Before a call.
    pub fn begin(&self) {
        if let Some(schedule) = &self.schedule {
            schedule.begin();
        }
    }

    /// After a call: what its threads left out.
    pub fn end(&self) -> Option<Incomplete> {
        self.schedule.as_ref()?.end()
    }
}

/// Makes or changes a workspace.
#[derive(Arbitrary, Debug)]
pub enum Set {
    /// A new one.
    Create(Option<Slip>),
    /// Its instruction set.
    Pin(u8, u8, Option<Slip>),
    /// Its threads.
    Threads(u8, u8, Order, bool, Option<Slip>),
    /// The calling thread.
    Serial(u8, u8, Option<Slip>),
}

impl Set {
    /// A new one, without further ado.
    pub fn create(world: &mut World) {
        Set::Create(None).run(world);
    }

    /// Runs it.
    pub fn run(&self, world: &mut World) {
        match *self {
            Set::Create(slip) => create(world, slip),
            Set::Pin(which, number, slip) => {
                let mut call = Call::new(slip);
                let team = super::handle::pick(&world.teams, which);
                let handle = call.handle("workspace", team.map(Team::handle));
                let number = ISAS[usize::from(number) % ISAS.len()];
                // SAFETY: a handle that lives, or none.
                let status = unsafe { c::tritgemm_workspace_pin(handle, number) };
                if call.is_right() {
                    if let Err((status, part)) = isa(number) {
                        call.wrong(status, part);
                    }
                }
                call.check(status, || Ok::<_, GemmError>(()));
            }
            Set::Threads(which, workers, ref order, nested, slip) => {
                let workers = WORKERS[usize::from(workers) % WORKERS.len()];
                set(world, which, workers, Some((order, nested)), slip);
            }
            Set::Serial(which, workers, slip) => {
                let workers = WORKERS[usize::from(workers) % WORKERS.len()];
                set(world, which, workers, None, slip);
            }
        }
    }
}

fn create(world: &mut World, slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let out = call.slot(&mut slot);
    // SAFETY: an out pointer.
    let status = unsafe { c::tritgemm_workspace_create(out) };
    if call.check(status, || Ok::<_, GemmError>(())).is_none() {
        return slot.unmade();
    }
    let (handle, origin) = (slot.made(), Default::default());
    let team = Team {
        kept: Kept::new(handle, c::tritgemm_workspace_destroy, (), &origin),
        schedule: None,
    };
    keep(&mut world.teams, team);
}

fn set(
    world: &mut World,
    which: u8,
    workers: usize,
    order: Option<(&Order, bool)>,
    slip: Option<Slip>,
) {
    let mut call = Call::new(slip);
    let index = usize::from(which) % world.teams.len().max(1);
    let team = world.teams.get_mut(index);
    let handle = call.handle("workspace", team.as_deref().map(Team::handle));
    let schedule = order.map(|(order, nested)| Schedule::new(order.clone(), nested, handle));
    let run = schedule.as_ref().map(|_| callback as _);
    let context = schedule.as_ref().map_or(null_mut(), |s| s.context());
    // SAFETY: a handle that lives, or none; the schedule outlives it.
    let status = unsafe { c::tritgemm_workspace_set_parallel_for(handle, workers, run, context) };
    if call.is_right() {
        agree(status, Ok::<_, GemmError>(()));
        team.expect("a workspace").schedule = schedule;
    } else {
        assert_eq!(status, Status::TritgemmNullPointer);
        failed(status);
    }
}
