//! Parallel-for callbacks, well behaved and not, and many threads at once.

mod common;

use common::{Case, fails, make, ok};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tritgemm_capi::*;

/// A work function and its context, for other threads.
#[derive(Clone, Copy)]
struct Loop {
    work: unsafe extern "C" fn(*mut c_void, usize),
    ctx: *mut c_void,
}

// SAFETY: work may be called from any thread.
unsafe impl Send for Loop {}
// SAFETY: as above.
unsafe impl Sync for Loop {}

impl Loop {
    fn run(&self, item: usize) {
        // SAFETY: within the workspace's life, which is all it asks for.
        unsafe { (self.work)(self.ctx, item) }
    }
}

/// How a callback schedules: its context.
struct Schedule {
    run: fn(&Schedule, usize, Loop),
    loops: AtomicUsize,
    kept: Mutex<Option<Loop>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Schedule {
    fn new(run: fn(&Schedule, usize, Loop)) -> Self {
        Self {
            run,
            loops: AtomicUsize::new(0),
            kept: Mutex::new(None),
            threads: Mutex::new(Vec::new()),
        }
    }
}

unsafe extern "C" fn callback(ctx: *mut c_void, items: usize, work: Work, work_ctx: *mut c_void) {
    // SAFETY: the tests register a schedule that outlives the workspace's use.
    let schedule = unsafe { &*ctx.cast::<Schedule>() };
    schedule.loops.fetch_add(1, Ordering::Relaxed);
    let work = work.expect("never null");
    let ctx = work_ctx;
    (schedule.run)(schedule, items, Loop { work, ctx });
}

fn set(workspace: *mut Workspace, workers: usize, schedule: &Schedule) {
    let ctx = std::ptr::from_ref(schedule).cast_mut().cast();
    // SAFETY: `schedule` lives as long as its test.
    ok(unsafe { tritgemm_workspace_set_parallel_for(workspace, workers, Some(callback), ctx) });
}

fn threaded(_: &Schedule, items: usize, work: Loop) {
    thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || {
                let work = work;
                (first..items).step_by(4).for_each(|item| work.run(item));
            });
        }
    });
}

#[test]
fn schedules_that_do_everything_give_the_same_bits() {
    let schedules: [fn(&Schedule, usize, Loop); 4] = [
        threaded,
        |_, items, work| (0..items).rev().for_each(|item| work.run(item)),
        |_, items, work| {
            (0..3 * items).for_each(|item| work.run(item / 2));
            work.run(usize::MAX);
        },
        |_, items, work| {
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(move || {
                        let work = work;
                        (0..items).for_each(|item| work.run(item));
                    });
                }
            });
        },
    ];
    let case = Case::new();
    for run in schedules {
        let schedule = Schedule::new(run);
        for workers in [2, 4, 16, usize::MAX] {
            set(case.workspace, workers, &schedule);
            case.check(case.workspace);
        }
        assert!(schedule.loops.load(Ordering::Relaxed) >= 12);
    }
    let unused = Schedule::new(|_, _, _| ());
    for workers in [0, 1] {
        set(case.workspace, workers, &unused);
        case.check(case.workspace);
    }
    assert_eq!(unused.loops.load(Ordering::Relaxed), 0);
}

#[test]
fn work_left_out_is_an_error() {
    let schedules: [fn(&Schedule, usize, Loop); 3] = [
        |_, _, _| (),
        |_, items, work| (1..items).for_each(|item| work.run(item)),
        // The first item over and over.
        |_, items, work| (0..items).for_each(|_| work.run(0)),
    ];
    let case = Case::new();
    for run in schedules {
        let schedule = Schedule::new(run);
        set(case.workspace, 4, &schedule);
        let incomplete = Status::TritgemmIncomplete;
        fails(case.gemm_i8(case.workspace).0, incomplete, "work items");
        fails(
            case.forward_int8(case.workspace).0,
            incomplete,
            "work items",
        );
        fails(case.forward_f32(case.workspace).0, incomplete, "work items");
        // SAFETY: the workspace lives.
        ok(unsafe { tritgemm_workspace_set_parallel_for(case.workspace, 4, None, null_mut()) });
        case.check(case.workspace);
    }
}

/// A callback that returns while items run, and calls others after it did.
#[test]
fn returning_too_early_is_an_error_and_harmless() {
    let case = Case::new();
    let schedule = Schedule::new(|schedule, items, work| {
        *schedule.kept.lock().expect("not poisoned") = Some(work);
        let started = std::sync::Arc::new(AtomicUsize::new(0));
        let flag = started.clone();
        let thread = thread::spawn(move || {
            let work = work;
            flag.store(1, Ordering::Release);
            (0..items).for_each(|item| work.run(item));
            // Long after the product has returned.
            thread::sleep(Duration::from_millis(2));
            (0..items).for_each(|item| work.run(item));
        });
        schedule.threads.lock().expect("not poisoned").push(thread);
        while started.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
    });
    set(case.workspace, 4, &schedule);
    for _ in 0..20 {
        let (status, sums) = case.gemm_i8(case.workspace);
        match status {
            // The other thread was quick, or this one slow.
            Status::TritgemmOk => assert!(sums == case.sums),
            status => fails(status, Status::TritgemmIncomplete, "work items"),
        }
    }
    let kept = schedule.kept.lock().expect("not poisoned").expect("kept");
    kept.run(0);
    kept.run(usize::MAX);
    for thread in schedule.threads.lock().expect("not poisoned").drain(..) {
        thread.join().expect("no panic");
    }
    // SAFETY: the workspace lives.
    ok(unsafe { tritgemm_workspace_set_parallel_for(case.workspace, 1, None, null_mut()) });
    case.check(case.workspace);
}

/// What uses its own workspace inside of a loop is told so and does not hang.
#[test]
fn a_workspace_serves_one_call_at_a_time() {
    let case = Case::new();
    let schedule = Schedule::new(|schedule, items, work| {
        let kept = schedule
            .kept
            .lock()
            .expect("not poisoned")
            .expect("the workspace");
        let workspace = kept.ctx.cast::<Workspace>();
        // SAFETY: the workspace lives.
        let status = unsafe { tritgemm_workspace_pin(workspace, null()) };
        fails(status, Status::TritgemmBusy, "in use");
        (0..items).for_each(|item| work.run(item));
    });
    unsafe extern "C" fn nothing(_: *mut c_void, _: usize) {}
    let (work, ctx) = (nothing as unsafe extern "C" fn(_, _), case.workspace.cast());
    *schedule.kept.lock().expect("not poisoned") = Some(Loop { work, ctx });
    set(case.workspace, 4, &schedule);
    case.check(case.workspace);
    assert!(schedule.loops.load(Ordering::Relaxed) > 0);
}

#[test]
fn sixteen_threads_share_a_layer() {
    let case = &Case::new();
    thread::scope(|scope| {
        for i in 0..16 {
            scope.spawn(move || {
                let workspace = make(|out| {
                    // SAFETY: a valid out pointer.
                    unsafe { tritgemm_workspace_create(out) }
                });
                let schedule = Schedule::new(threaded);
                if i % 2 == 0 {
                    set(workspace, 4, &schedule);
                }
                for _ in 0..3 {
                    case.check(workspace);
                }
                // SAFETY: this thread's own, used no more.
                unsafe { tritgemm_workspace_destroy(workspace) };
            });
        }
    });
}

/// One workspace, many threads: each call is served or told that it is busy.
#[test]
fn a_workspace_in_use_is_busy() {
    let case = &Case::new();
    let workspace = case.workspace.expose_provenance();
    let served = &AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(move || {
                let workspace = std::ptr::with_exposed_provenance_mut(workspace);
                for _ in 0..5 {
                    match case.gemm_i8(workspace) {
                        (Status::TritgemmOk, sums) => {
                            assert!(sums == case.sums);
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        (status, _) => fails(status, Status::TritgemmBusy, "in use"),
                    }
                }
            });
        }
    });
    assert!(served.load(Ordering::Relaxed) > 0);
    case.check(case.workspace);
}
