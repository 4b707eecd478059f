//! Products by the threads of a parallel region: the bits of one thread, whoever helps and
//! whenever, and panics that stay within their region. `src/team.rs` tests the team alone.
//!
//! `.ci/sanitize tsan` runs these under the thread sanitizer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tritgemm::{Family, Options, ParallelFor, Team, Threads, Workspace};
use tritgemm_testing::case::{Case, Shape, Values, assert_same};
use tritgemm_testing::{FAMILIES, backends, quick, view, workspace};

/// Large enough to be shared among threads.
fn case(seed: u64) -> Case {
    Case::new(Shape {
        gaps: [1, 3],
        granularity: 128,
        values: Values::Wide,
        seed,
        ..Shape::new(1300, 500, 7)
    })
}

/// int8 sums, then all floats.
fn results(case: &Case, ws: &mut Workspace) -> (Vec<i32>, Vec<u32>) {
    let Shape { k, n, .. } = case.shape;
    let x = view(&case.x_f32, n, k);
    let prepared = case.layer.prepare_int8(x, ws).expect("finite");
    let mut floats = case.forward_f32(ws);
    floats.extend(case.forward_int8(ws));
    floats.extend(case.prepared_int8(&prepared, ws));
    (case.gemm_i8(ws), floats)
}

fn serial(case: &Case) -> (Vec<i32>, Vec<u32>) {
    results(
        case,
        &mut workspace(Options::new().threads(Threads::Serial)),
    )
}

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

#[test]
fn any_team_gives_the_same_bits() {
    let case = case(1);
    let (wanted, wanted_floats) = serial(&case);
    let backends = backends();
    for &backend in &backends[..if quick() { 1 } else { backends.len() - 1 }] {
        for family in FAMILIES {
            let options = Options::new().backend(backend).family(family);
            for nth in [1, 2, 3, 8] {
                let team = Arc::new(Team::new(nth));
                let owned = options.clone().threads(Threads::Pool(team.clone()));
                let mut ws = workspace(owned);
                // All threads, one, more than the team was made for; and no region at all.
                let mut all = vec![
                    region(&team, nth, || results(&case, &mut ws)),
                    region(&team, 1, || results(&case, &mut ws)),
                    region(&team, nth + 2, || results(&case, &mut ws)),
                    results(&case, &mut ws),
                ];
                let team = Team::new(nth);
                let mut ws = workspace(&options);
                all.push(region(&team, nth, || {
                    ws.with_pool(&team, |ws| results(&case, ws))
                }));
                for (integers, floats) in all {
                    let what = format!("{nth} threads, {options:?}");
                    assert_same("int8", &what, &integers, &wanted);
                    assert_same("floats", &what, &floats, &wanted_floats);
                }
            }
        }
    }
}

/// As an engine runs a model: the threads stay, each counts the regions by itself, and
/// between two products nobody waits but for the leader.
#[test]
fn many_regions_in_one_parallel_region() {
    let (cases, nth) = ([case(1), case(2)], 3);
    let wanted = cases.each_ref().map(serial);
    let rounds = if quick() { 4 } else { 40 };
    let team = Team::new(nth);
    thread::scope(|scope| {
        for _ in 1..nth {
            scope.spawn(|| (1..=rounds).for_each(|region| team.help(region)));
        }
        // Two workspaces use the team in turn.
        let mut workspaces = [Workspace::new(), Workspace::new()];
        for region in 1..=rounds {
            let i = region as usize % 2;
            let got = team.lead(region, || {
                workspaces[i].with_pool(&team, |ws| results(&cases[i], ws))
            });
            assert!(got == wanted[i], "region {region}");
        }
    });
}

/// Two threads multiply on one team: one has the helpers, neither waits for the other.
#[test]
fn a_team_of_two_leaders_at_once() {
    let case = case(1);
    let wanted = serial(&case);
    let team = Team::new(3);
    let multiply = || {
        let mut ws = Workspace::new();
        for _ in 0..if quick() { 2 } else { 10 } {
            let got = ws.with_pool(&team, |ws| results(&case, ws));
            assert!(got == wanted);
        }
    };
    region(&team, 2, || {
        thread::scope(|scope| {
            scope.spawn(multiply);
            multiply();
        });
    });
}

/// A team one of whose items panics.
struct Panicking<'a> {
    team: &'a Team,
    left: AtomicUsize,
}

impl ParallelFor for Panicking<'_> {
    fn workers(&self) -> usize {
        self.team.workers()
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        self.team.run(items, &|item| {
            work(item);
            let left = self.left.fetch_sub(1, Ordering::Relaxed);
            assert!(left != 1, "an item");
        });
    }
}

#[test]
fn a_panic_leaves_everything_usable() {
    let case = case(1);
    let wanted = serial(&case);
    let options = Options::new().family(Family::Few);
    let (team, mut ws) = (Team::new(3), workspace(options));
    for left in [1, 2, 7, 20] {
        let left = AtomicUsize::new(left);
        let pool = Panicking { team: &team, left };
        let led = catch_unwind(AssertUnwindSafe(|| {
            region(&team, 3, || {
                ws.with_pool(&pool, |ws| results(&case, ws));
            });
        }));
        assert!(led.is_err(), "the panic is the leader's");
        let got = region(&team, 3, || ws.with_pool(&team, |ws| results(&case, ws)));
        assert!(got == wanted);
    }
}
