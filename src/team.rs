//! The threads of a caller that is inside a parallel region already.

use crate::kernels::threads::lent::{Lendable, Lent};
use crate::kernels::threads::sync::{AtomicU64, AtomicUsize, Ordering, Wait};
use crate::threads::{MAX_WORKERS, ParallelFor};
use core::fmt;
use core::mem::forget;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

/// The threads of a parallel region: one of them leads, the others help.
///
/// An engine whose threads are already inside a region together, such as OpenMP's
/// `parallel`, a node of ggml or a task of TVM, has no pool that it could hand a loop to. A
/// team is the [`ParallelFor`] of such a region. One thread calls [`lead`](Self::lead) and
/// runs products in it, on a workspace that has the team. Every other thread calls
/// [`help`](Self::help) and runs items of these products until the leader's closure has
/// ended.
///
/// **Regions have numbers**, which the caller chooses, each larger than those before. The
/// leader and the helpers of a region say the same one: [`last_region`](Self::last_region)
/// plus 1, asked before the threads enter, or what a counter of the caller's says on each
/// thread. So nobody has to wait for anybody at the start. A helper that comes before its
/// leader waits for it, and one that comes after its region has ended returns at once, whatever
/// the team does by then. A leader works alone until helpers come, and a helper that never
/// comes is never waited for. In OpenMP, ggml and TVM all threads of a region enter, so each
/// of them knows its number.
///
/// A team starts no thread and allocates nothing. It can be used for any number of regions, and
/// by any number of workspaces: whichever product starts a loop first has the helpers, and
/// others meanwhile run on the threads that call them. Products outside of a region do too.
///
/// ```
/// use tritgemm::{Linear, MatMut, MatRef, Scales, Team, TernaryMatrix, Workspace};
///
/// # fn main() -> Result<(), tritgemm::Error> {
/// let trits = [1; 64 * 64];
/// let matrix = TernaryMatrix::from_trits(MatRef::new(&trits, 64, 64)?, Scales::per_tensor(1.0))?;
/// let layer = Linear::new(&matrix)?;
/// let (x, mut y, mut ws) = ([1.0; 64], [0.0; 64], Workspace::new());
/// let (x, out) = (MatRef::new(&x, 1, 64)?, MatMut::new(&mut y, 1, 64)?);
///
/// let nth = 3;
/// let team = Team::new(nth);
/// let region = team.last_region() + 1;
/// std::thread::scope(|threads| { // the engine's parallel region
///     for _ in 1..nth {
///         threads.spawn(|| team.help(region));
///     }
///     team.lead(region, || ws.with_pool(&team, |ws| layer.forward_int8(x, out, ws)))
/// })?;
/// assert_eq!(y, [64.0; 64]);
/// # Ok(())
/// # }
/// ```
pub struct Team {
    workers: usize,
    last_region: AtomicU64,
    /// The loop that runs, while there are items that nobody has taken.
    running: Lent<Loops>,
}

struct Loops;

impl Lendable for Loops {
    type For<'a> = &'a Loop<'a>;
}

/// A loop of a product, in the call that runs it.
struct Loop<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    items: usize,
    next: AtomicUsize,
    /// What the first item to panic threw.
    thrown: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Loop<'_> {
    /// Runs items until none is left or one panics.
    fn take_part(&self) {
        let items = || {
            loop {
                // Relaxed: an item is all that a number stands for.
                let item = self.next.fetch_add(1, Ordering::Relaxed);
                if item >= self.items {
                    break;
                }
                (self.work)(item);
            }
        };
        if let Err(thrown) = catch_unwind(AssertUnwindSafe(items)) {
            // Nothing panics while it is locked.
            let mut first = self.thrown.lock().unwrap_or_else(PoisonError::into_inner);
            match *first {
                None => *first = Some(thrown),
                // Dropping what was thrown could panic again.
                Some(_) => forget(thrown),
            }
        }
    }
}

impl Team {
    /// A team of `nth` threads, the leader among them: [`ParallelFor::workers`]. Work is cut
    /// for that many. Should more of them or fewer come, results are the same.
    pub fn new(nth: usize) -> Self {
        Self {
            workers: nth.clamp(1, MAX_WORKERS),
            last_region: AtomicU64::new(0),
            running: Lent::default(),
        }
    }

    /// Leads a region: runs `work` on the calling thread, then ends the region, also if `work`
    /// panics. Products in `work` that run on the team, by [`Workspace::with_pool`] or
    /// [`Threads::Pool`], share their items with the threads that help.
    ///
    /// One thread of a region leads it, and none but those that help need to be there. What
    /// `work` has written is there for them when [`help`](Self::help) returns. The leader of
    /// a region that threads wait for in `help` must come: they have no other way out. One that
    /// gives up several regions leads the last of them, which ends those before it.
    ///
    /// # Panics
    /// If `work` does, or an item that a helper ran: the panic is passed on from there.
    /// If a region of that number or of a larger one has ended.
    ///
    /// [`Workspace::with_pool`]: crate::Workspace::with_pool
    /// [`Threads::Pool`]: crate::Threads::Pool
    pub fn lead<R>(&self, region: u64, work: impl FnOnce() -> R) -> R {
        let last = self.last_region();
        assert!(region > last, "region {region} after {last} has ended");
        let _end = End { team: self, region };
        work()
    }

    /// Helps in a region until its leader's closure has ended; at once if it has already.
    ///
    /// Any number of threads may. They spin for some ten microseconds while there is nothing to
    /// do, and then give their core to whoever wants it, again and again. Panics of items are
    /// the leader's: they do not reach the helper.
    ///
    /// The leader calls it for no region that it leads, nor does a work item: either would
    /// wait for itself.
    pub fn help(&self, region: u64) {
        let mut wait = Wait::default();
        // Acquire: what the leader wrote in the region.
        while self.last_region.load(Ordering::Acquire) < region {
            match self.join() {
                true => wait = Wait::default(),
                false => wait.pause(),
            }
        }
    }

    /// The largest number of a region that has ended, or 0 before the first.
    pub fn last_region(&self) -> u64 {
        self.last_region.load(Ordering::Relaxed)
    }

    /// Takes part in the loop that runs, and says whether one did that still had items.
    fn join(&self) -> bool {
        let joined = self.running.borrow(|shared| self.take_part(shared));
        joined.is_some()
    }

    fn take_part(&self, shared: &Loop<'_>) {
        shared.take_part();
        // Whoever came now would find no item and come again.
        self.running.close();
    }
}

/// The end of a region.
struct End<'a> {
    team: &'a Team,
    region: u64,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        // Release: helpers see what the leader wrote. The largest: a region that was led out of
        // turn frees none of a later one.
        self.team
            .last_region
            .fetch_max(self.region, Ordering::Release);
    }
}

impl ParallelFor for Team {
    fn workers(&self) -> usize {
        self.workers
    }

    fn spins(&self) -> bool {
        true
    }

    /// Runs the items on the calling thread and on those that help.
    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        let shared = Loop {
            work,
            items,
            next: AtomicUsize::new(0),
            thrown: Mutex::new(None),
        };
        let lent = self.running.lend(&shared, || self.take_part(&shared));
        if lent.is_none() {
            // The helpers are in a loop of another product, or this one is inside an item of it.
            return (0..items).for_each(work);
        }
        let thrown = shared.thrown.into_inner();
        if let Some(thrown) = thrown.unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(thrown);
        }
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, .. } = self;
        write!(f, "Team({workers})")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Team;
    use crate::threads::{MAX_WORKERS, ParallelFor};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    /// A region of `nth` threads, one of which is this one and leads.
    fn region<R>(team: &Team, nth: usize, work: impl FnOnce() -> R) -> R {
        let region = team.last_region() + 1;
        thread::scope(|scope| {
            for _ in 1..nth {
                scope.spawn(|| team.help(region));
            }
            team.lead(region, work)
        })
    }

    /// Runs a loop, and how often each item ran.
    fn runs(team: &Team, items: usize) -> Vec<usize> {
        let runs: Vec<_> = (0..items).map(|_| AtomicUsize::new(0)).collect();
        team.run(items, &|item| {
            runs[item].fetch_add(1, Ordering::Relaxed);
        });
        runs.into_iter().map(AtomicUsize::into_inner).collect()
    }

    /// A loop of two items, each of which waits for the other: no thread runs both.
    fn on_two_threads(team: &Team, item: impl Fn(usize) + Sync) {
        let inside = AtomicUsize::new(0);
        team.run(2, &|i| {
            inside.fetch_add(1, Ordering::Relaxed);
            while inside.load(Ordering::Relaxed) < 2 {
                thread::yield_now();
            }
            item(i);
        });
    }

    #[test]
    fn each_item_runs_once() {
        for nth in [1, 2, 3, 8] {
            let team = Team::new(nth);
            assert_eq!((team.workers(), team.last_region()), (nth, 0));
            for items in [0, 1, 2, 9] {
                // Two loops of a region, then one on the calling thread.
                region(&team, nth, || {
                    assert_eq!(runs(&team, items), vec![1; items]);
                    assert_eq!(runs(&team, 3), [1; 3]);
                });
                assert_eq!(runs(&team, items), vec![1; items]);
            }
            assert_eq!(team.last_region(), 4);
        }
    }

    #[test]
    fn the_number_of_workers_is_clamped() {
        assert_eq!(Team::new(0).workers(), 1);
        let team = Team::new(usize::MAX);
        assert_eq!(team.workers(), MAX_WORKERS);
        assert_eq!(format!("{team:?}"), format!("Team({MAX_WORKERS})"));
    }

    #[test]
    fn helpers_run_items() {
        let team = Team::new(2);
        // Whether the helper is early or late for a loop, both come to be inside.
        region(&team, 2, || {
            (0..3).for_each(|_| on_two_threads(&team, |_| ()));
        });
    }

    #[test]
    fn helpers_may_be_early_late_or_never_come() {
        let team = Team::new(3);
        thread::scope(|scope| {
            let early = scope.spawn(|| team.help(1));
            (0..100).for_each(|_| thread::yield_now());
            assert!(!early.is_finished());
            team.lead(1, || on_two_threads(&team, |_| ()));
        });
        // Late, for this region and for one before it.
        (0..=1).for_each(|region| team.help(region));
        // Nobody comes, and regions may be left out.
        assert_eq!(team.lead(7, || runs(&team, 4)), [1; 4]);
        (0..=7).for_each(|region| team.help(region));
        assert_eq!(team.last_region(), 7);
    }

    #[test]
    fn a_region_has_a_number_of_its_own() {
        let team = Team::new(2);
        team.lead(3, || ());
        for region in [0, 2, 3] {
            let led = catch_unwind(AssertUnwindSafe(|| team.lead(region, || ())));
            let text = led.expect_err("an old number");
            let text = text.downcast_ref::<String>().expect("a text");
            assert_eq!(*text, format!("region {region} after 3 has ended"));
        }
        team.lead(4, || ());
    }

    /// Every thread counts the regions by itself, and leads each in its turn.
    #[test]
    fn threads_count_regions_alone() {
        let nth = 3;
        let regions = if cfg!(miri) { 12 } else { 1000 };
        let team = Team::new(nth);
        let ran = AtomicUsize::new(0);
        thread::scope(|scope| {
            for ith in 0..nth {
                let (team, ran) = (&team, &ran);
                scope.spawn(move || {
                    for region in 1..=regions {
                        if region as usize % nth == ith {
                            team.lead(region, || {
                                team.run(5, &|_| {
                                    ran.fetch_add(1, Ordering::Relaxed);
                                });
                            });
                        } else {
                            team.help(region);
                        }
                        assert!(team.last_region() >= region);
                        assert!(ran.load(Ordering::Relaxed) >= 5 * region as usize);
                    }
                });
            }
        });
        assert_eq!(ran.into_inner(), 5 * regions as usize);
    }

    #[test]
    fn what_the_leader_wrote_is_there_for_helpers() {
        let team = Team::new(2);
        let written = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                team.help(1);
                assert_eq!(written.load(Ordering::Relaxed), 1);
            });
            team.lead(1, || written.store(1, Ordering::Relaxed));
        });
    }

    #[test]
    fn panics_of_items_are_the_leaders() {
        let team = Team::new(2);
        // On the helper, on the leader, on both.
        for (on_helper, on_leader) in [(true, false), (false, true), (true, true)] {
            // What is thrown second is leaked, which miri would report.
            if cfg!(miri) && on_helper && on_leader {
                continue;
            }
            let leader = thread::current().id();
            let caught = region(&team, 2, || {
                catch_unwind(AssertUnwindSafe(|| {
                    on_two_threads(&team, |_| match thread::current().id() == leader {
                        true if on_leader => panic!("an item"),
                        false if on_helper => panic!("an item"),
                        _ => (),
                    });
                }))
            });
            let text = caught.expect_err("passed on");
            assert_eq!(text.downcast_ref::<&str>(), Some(&"an item"));
            // The same threads' next loop, and the next region.
            region(&team, 2, || on_two_threads(&team, |_| ()));
        }
    }

    #[test]
    fn a_leader_that_panics_ends_its_region() {
        let team = Team::new(3);
        let led = catch_unwind(AssertUnwindSafe(|| {
            region(&team, 3, || {
                on_two_threads(&team, |_| ());
                panic!("the leader");
            });
        }));
        assert!(led.is_err());
        assert_eq!(team.last_region(), 1);
        region(&team, 3, || on_two_threads(&team, |_| ()));
    }

    /// A loop inside of an item, or of another thread meanwhile, has no helpers.
    #[test]
    fn loops_within_loops_run_alone() {
        let team = Team::new(2);
        region(&team, 2, || {
            on_two_threads(&team, |_| assert_eq!(runs(&team, 3), [1; 3]));
        });
        let panics = || team.run(1, &|_| team.run(1, &|_| panic!("deep inside")));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(runs(&team, 3), [1; 3]);
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test --release --lib loom_models`, or `.ci/sanitize loom`.
///
/// loom gives a relaxed load every value that it may have, so what an item wrote is there for
/// the leader in all of these, or an assertion fails.
#[cfg(all(test, loom))]
mod loom_models {
    use super::Team;
    use crate::kernels::threads::sync::{AtomicUsize, Ordering};
    use crate::threads::ParallelFor;
    use loom::model::Builder;
    use loom::sync::Arc;
    use loom::thread;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Runs a loop whose items count their runs, in memory that is gone when it returns.
    fn run(team: &Team, items: usize) {
        let runs: Vec<_> = (0..items).map(|_| AtomicUsize::new(0)).collect();
        team.run(items, &|item| {
            runs[item].fetch_add(1, Ordering::Relaxed);
        });
        for runs in &runs {
            assert_eq!(runs.load(Ordering::Relaxed), 1);
        }
    }

    /// A leader and `helpers` threads that `help`, stopped in every way in which threads are
    /// stopped at most three times before they have to wait. Of all ways, which are many
    /// more, `one_helper` and `an_item_that_panics` were run once, for some minutes.
    fn model(helpers: usize, help: fn(&Team), lead: fn(&Team)) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let team = Arc::new(Team::new(helpers + 1));
            let spawn = |_| {
                let team = team.clone();
                thread::spawn(move || help(&team))
            };
            let threads: Vec<_> = (0..helpers).map(spawn).collect();
            lead(&team);
            for thread in threads {
                thread.join().expect("no panic");
            }
        });
    }

    fn help(team: &Team) {
        team.help(1);
    }

    #[test]
    fn one_helper() {
        model(1, help, |team| team.lead(1, || run(team, 2)));
    }

    /// Each joins once or not at all: loom would let two that wait take turns for ever.
    #[test]
    fn two_helpers() {
        let join = |team: &Team| {
            team.join();
        };
        model(2, join, |team| run(team, 2));
    }

    #[test]
    fn two_loops() {
        model(1, help, |team| {
            team.lead(1, || (1..=2).for_each(|items| run(team, items)));
        });
    }

    #[test]
    fn two_regions() {
        model(
            1,
            |team| (1..=2).for_each(|region| team.help(region)),
            |team| (1..=2).for_each(|region| team.lead(region, || run(team, 1))),
        );
    }

    #[test]
    fn an_item_that_panics() {
        model(1, help, |team| {
            let panics = || team.run(2, &|item| assert!(item == 0));
            team.lead(1, || {
                assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
            });
        });
    }
}
