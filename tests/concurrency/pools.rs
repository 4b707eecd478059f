//! Rayon pools of every kind.

use crate::{cases, results};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tritgemm::{Options, Panels, Scales, TernaryMatrix, Threads, Workspace};
use tritgemm_testing::{backends, view, workspace};

fn pool(threads: usize) -> ThreadPool {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("a pool")
}

#[test]
fn a_pool_of_one() {
    let pool = pool(1);
    for case in &cases() {
        for backend in backends() {
            let options = Options::new().backend(backend);
            let alone = results(
                case,
                &mut workspace(options.clone().threads(Threads::Serial)),
            );
            let ws = &mut workspace(options);
            assert!(pool.install(|| results(case, ws)) == alone, "{backend:?}");
            // Again, by the same workspace, within a task of the pool.
            pool.scope(|scope| {
                scope.spawn(|_| assert!(results(case, ws) == alone, "{backend:?}"));
            });
        }
    }
}

/// Panels enough that packing them is shared.
#[test]
fn packing_in_a_pool() {
    let (rows, cols) = (4200, 1100);
    let trits: Vec<i8> = (0..rows * cols).map(|i| (i % 7 % 3) as i8 - 1).collect();
    let matrix = TernaryMatrix::from_trits(view(&trits, rows, cols), Scales::per_tensor(1.0));
    let matrix = matrix.expect("a matrix");
    let alone = Panels::pack(&matrix).expect("memory");
    assert!(alone.as_bytes().len() >= 1 << 20, "too small to be shared");
    for threads in [2, 5] {
        let shared = pool(threads).install(|| Panels::pack(&matrix).expect("memory"));
        assert!(shared.as_bytes() == alone.as_bytes(), "{threads} threads");
    }
    assert_eq!(alone.to_packed(), matrix.packed());
}

/// A product inside of one pool, called from a task of another: the inner one
/// shares it, while the outer thread waits or helps elsewhere.
#[test]
fn a_pool_within_a_pool() {
    let [outer, inner] = [3, 2].map(pool);
    for case in &cases() {
        let wanted = results(case, &mut Workspace::new());
        let all: Vec<bool> = outer.install(|| {
            let tasks = (0..6).into_par_iter();
            tasks
                .map(|_| inner.install(|| results(case, &mut Workspace::new())) == wanted)
                .collect()
        });
        assert_eq!(all, [true; 6]);
        let turns = outer
            .install(|| inner.install(|| outer.install(|| results(case, &mut Workspace::new()))));
        assert!(turns == wanted);
    }
}

/// Tasks of one pool that each run products in the same pool: a thread that
/// waits for its product may be given another task's items.
#[test]
fn products_within_the_tasks_of_a_pool() {
    for threads in [1, 2, 8] {
        let pool = pool(threads);
        for case in &cases() {
            let wanted = results(case, &mut Workspace::new());
            pool.install(|| {
                (0..8).into_par_iter().for_each(|task| {
                    let ws = &mut Workspace::new();
                    assert!(
                        results(case, ws) == wanted,
                        "{threads} threads, task {task}"
                    );
                });
            });
        }
    }
}

/// A task that panics beside products of the same pool.
#[test]
fn a_panicking_task_of_the_same_pool() {
    let pool = pool(4);
    for case in &cases() {
        let ws = &mut Workspace::new();
        let wanted = results(case, ws);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.install(|| {
                rayon::join(
                    || assert!(results(case, ws) == wanted),
                    || panic!("a task of the caller's"),
                )
            })
        }));
        caught.expect_err("the panic is passed on");
        assert!(pool.install(|| results(case, ws)) == wanted);
    }
}
