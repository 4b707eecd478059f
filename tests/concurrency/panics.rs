//! A caller's pool may panic at any item; layer and workspace stay good.

use crate::{Results, cases, results};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tritgemm::{Options, ParallelFor, Threads, Workspace};
use tritgemm_testing::{backends, quick, workspace};

/// Runs its items on threads of its own, and panics before item `at`, counted
/// over all loops: on the calling thread between items, or on one of its
/// threads while others are within theirs.
struct Panicking {
    run: AtomicUsize,
    at: AtomicUsize,
    on_worker: bool,
}

impl Panicking {
    fn new(on_worker: bool) -> Arc<Self> {
        let (run, at) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        Arc::new(Self { run, at, on_worker })
    }

    fn item(&self, item: usize, work: &(dyn Fn(usize) + Sync)) {
        let number = self.run.fetch_add(1, Ordering::SeqCst);
        if number == self.at.load(Ordering::SeqCst) {
            panic!("before item {item}");
        }
        work(item);
    }
}

impl ParallelFor for Panicking {
    fn workers(&self) -> usize {
        3
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        if !self.on_worker {
            return (0..items).for_each(|item| self.item(item, work));
        }
        let next = AtomicUsize::new(0);
        let worker = || {
            while let Some(item) = Some(next.fetch_add(1, Ordering::SeqCst)).filter(|i| *i < items)
            {
                self.item(item, work);
            }
        };
        // The scope passes a thread's panic on when all have ended.
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(worker))));
    }
}

#[test]
fn a_panic_at_any_item_leaves_everything_usable() {
    for case in &cases() {
        let wanted: Results = results(case, &mut Workspace::new());
        for backend in backends() {
            for on_worker in [false, true] {
                let pool = Panicking::new(on_worker);
                let threads = Threads::Pool(pool.clone());
                let ws = &mut workspace(Options::new().backend(backend).threads(threads));
                assert!(results(case, ws) == wanted, "{backend:?}");
                let items = pool.run.load(Ordering::SeqCst);
                assert!(items > 12, "the pool was asked: {items} items");
                // The first, the last, and some between.
                for at in [0, items / 8, items / 2, 5 * items / 8, items - 1]
                    .into_iter()
                    .skip(if quick() { 3 } else { 0 })
                {
                    let what = format!("{backend:?}, item {at} of {items}, on worker: {on_worker}");
                    pool.run.store(0, Ordering::SeqCst);
                    pool.at.store(at, Ordering::SeqCst);
                    let caught = catch_unwind(AssertUnwindSafe(|| results(case, ws)));
                    assert!(caught.is_err(), "{what}: the panic is passed on");
                    // The pool counts on, so it panics once.
                    assert!(results(case, ws) == wanted, "{what}");
                    let fresh = &mut workspace(Options::new().backend(backend));
                    assert!(results(case, fresh) == wanted, "{what}");
                }
            }
        }
    }
}
