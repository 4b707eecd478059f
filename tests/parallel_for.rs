//! Products on the caller's own threads: the same bits however it schedules, an
//! error if it leaves work out, and a workspace that survives its panics.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use tritgemm::{
    Backend, Experts, Family, GemmError, Incomplete, Linear, Options, Panels, ParallelFor,
    PreparedActivations, Routes, Scales, Team, TernaryMatrix, Threads, Workspace,
};
use tritgemm_testing::case::{Case, Shape, Values, assert_same};
use tritgemm_testing::{FAMILIES, backends, quick, view, view_mut, workspace};

type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// Threads that know their numbers, which `name` makes names of.
struct Named<F> {
    threads: usize,
    name: F,
}

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

impl<F: Fn(usize) -> Option<usize> + Send + Sync> ParallelFor for Named<F> {
    fn workers(&self) -> usize {
        self.threads
    }

    fn worker(&self) -> Option<usize> {
        (self.name)(NUMBER.get())
    }

    fn run(&self, items: usize, work: Work<'_>) {
        let next = AtomicUsize::new(0);
        let worker = |number| {
            NUMBER.set(number);
            while let Some(item) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < items)
            {
                work(item);
            }
        };
        thread::scope(|scope| {
            for number in 0..self.threads {
                let worker = &worker;
                scope.spawn(move || worker(number));
            }
        });
    }
}

fn named(
    threads: usize,
    name: impl Fn(usize) -> Option<usize> + Send + Sync + 'static,
) -> Arc<dyn ParallelFor> {
    Arc::new(Named { threads, name })
}

/// A parallel-for with a scheduler of its own.
struct With<F> {
    workers: usize,
    loops: AtomicUsize,
    schedule: F,
}

fn with<F: Fn(usize, Work<'_>) + Send + Sync + 'static>(
    workers: usize,
    schedule: F,
) -> Arc<With<F>> {
    let loops = AtomicUsize::new(0);
    Arc::new(With {
        workers,
        loops,
        schedule,
    })
}

impl<F: Fn(usize, Work<'_>) + Send + Sync> ParallelFor for With<F> {
    fn workers(&self) -> usize {
        self.workers
    }

    fn run(&self, items: usize, work: Work<'_>) {
        self.loops.fetch_add(1, Ordering::Relaxed);
        (self.schedule)(items, work);
    }
}

/// The options, on a pool.
fn on(options: &Options, pool: Arc<dyn ParallelFor>) -> Options {
    options.clone().threads(Threads::Pool(pool))
}

/// `threads` threads that take the next item in turn.
fn threaded(threads: usize) -> impl Fn(usize, Work<'_>) + Send + Sync + 'static {
    move |items, work| {
        let next = AtomicUsize::new(0);
        let worker = || {
            while let Some(item) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < items)
            {
                work(item);
            }
        };
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(worker);
            }
        });
    }
}

/// Every schedule that computes everything, with the number of workers it says.
fn schedules() -> Vec<(&'static str, Arc<dyn ParallelFor>)> {
    let backwards = |items, work: Work<'_>| (0..items).rev().for_each(work);
    let twice = |items, work: Work<'_>| {
        (0..2 * items).for_each(|i| work(i / 2));
        (items..items + 9).for_each(work);
        work(usize::MAX);
    };
    let everyone_everything = |items, work: Work<'_>| {
        thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(move || (0..items).for_each(work));
            }
        });
    };
    let one_is_slow = |items, work: Work<'_>| {
        let next = AtomicUsize::new(0);
        let worker = |pause: Duration| {
            while let Some(item) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < items)
            {
                work(item);
                thread::sleep(pause);
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| worker(Duration::from_millis(1)));
            (0..3).for_each(|_| drop(scope.spawn(|| worker(Duration::ZERO))));
        });
    };
    vec![
        ("one thread", with(3, threaded(1))),
        ("one as many", with(16, threaded(1))),
        ("one of several is slow", with(8, one_is_slow)),
        ("2 threads", with(2, threaded(2))),
        ("3 threads", with(3, threaded(3))),
        ("8 threads", with(8, threaded(8))),
        ("more threads than workers", with(2, threaded(7))),
        ("no workers", with(0, threaded(2))),
        ("too many workers", with(usize::MAX, threaded(2))),
        ("backwards", with(4, backwards)),
        ("twice and beyond the end", with(4, twice)),
        ("all items on all threads", with(4, everyone_everything)),
        ("numbered threads", named(6, Some)),
        ("threads with numbers of others", named(6, |i| Some(5 - i))),
        ("threads of one number", named(5, |_| Some(3))),
        ("absurd numbers", named(5, |i| Some(usize::MAX - i))),
        (
            "some without number",
            named(5, |i| (i % 2 == 0).then_some(i)),
        ),
    ]
}

/// Large enough to be shared among threads: few tokens, many, and both families.
fn shapes() -> Vec<Shape> {
    let sizes = [
        (1300, 500, 7, 128),
        (321, 300, 77, 2),
        (70, 2300, 130, 64),
        (500, 2300, 41, 2),
    ];
    let shape = |(m, k, n, granularity)| Shape {
        gaps: [1, 3],
        granularity,
        values: Values::Wide,
        seed: m as u64,
        ..Shape::new(m, k, n)
    };
    sizes
        .map(shape)
        .into_iter()
        .take(if quick() { 1 } else { 4 })
        .collect()
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

#[test]
fn any_schedule_gives_the_same_bits() {
    for shape in shapes() {
        let case = Case::new(shape);
        let backends = backends();
        for &backend in backends
            .iter()
            .take(if quick() { 1 } else { backends.len() - 1 })
        {
            for family in FAMILIES {
                let options = Options::new().backend(backend).family(family);
                let wanted = results(
                    &case,
                    &mut workspace(options.clone().threads(Threads::Serial)),
                );
                let ws = &mut workspace(&options);
                for (name, pool) in schedules() {
                    ws.set_options(on(&options, pool));
                    let got = results(&case, ws);
                    let what = format!("{name}, {:?}, {options:?}", case.shape);
                    assert_same("int8", &what, &got.0, &wanted.0);
                    assert_same("floats", &what, &got.1, &wanted.1);
                }
            }
        }
    }
}

#[test]
fn the_pool_is_used_where_it_pays() {
    let case = Case::new(shapes().remove(0));
    let loops = |case: &Case| {
        let pool = with(4, threaded(2));
        case.gemm_i8(&mut workspace(on(&Options::new(), pool.clone())));
        pool.loops.load(Ordering::Relaxed)
    };
    assert!(loops(&case) > 0);
    let tiny = Case::new(Shape {
        m: 3,
        k: 3,
        ..case.shape
    });
    assert_eq!(loops(&tiny), 0);
}

/// A pool whose threads are awake.
struct Spinning<P>(P);

impl<P: ParallelFor> ParallelFor for Spinning<P> {
    fn workers(&self) -> usize {
        self.0.workers()
    }

    fn spins(&self) -> bool {
        true
    }

    fn run(&self, items: usize, work: Work<'_>) {
        self.0.run(items, work);
    }
}

#[test]
fn threads_that_spin_share_smaller_products() {
    let pool = || With {
        workers: 2,
        loops: AtomicUsize::new(0),
        schedule: threaded(2),
    };
    let loops = |m: usize, run: &dyn Fn(&Case, &mut Workspace)| {
        let case = Case::new(Shape {
            n: 1,
            m,
            k: 512,
            ..shapes().remove(0)
        });
        let mut ws = workspace(Options::new());
        let (asleep, awake) = (pool(), Spinning(pool()));
        ws.with_pool(&asleep, |ws| run(&case, ws));
        ws.with_pool(&awake, |ws| run(&case, ws));
        [asleep, awake.0].map(|pool| pool.loops.into_inner() > 0)
    };
    // f32 takes as long for half as much.
    let int8 = |case: &Case, ws: &mut Workspace| drop(case.gemm_i8(ws));
    assert_eq!(loops(1280, &int8), [false, false]);
    assert_eq!(loops(1408, &int8), [false, true]);
    let f32 = |case: &Case, ws: &mut Workspace| drop(case.forward_f32(ws));
    assert_eq!(loops(640, &f32), [false, false]);
    assert_eq!(loops(704, &f32), [false, true]);
    // A team's threads spin.
    assert!(Team::new(2).spins() && !pool().spins());
}

#[test]
fn the_pool_can_be_taken_away() {
    let case = Case::new(shapes().remove(0));
    let pool = with(4, threaded(2));
    let mut ws = workspace(on(&Options::new(), pool.clone()));
    let wanted = case.gemm_i8(&mut ws);
    ws.set_options(Options::new());
    let before = pool.loops.load(Ordering::Relaxed);
    assert_eq!(case.gemm_i8(&mut ws), wanted);
    assert_eq!(pool.loops.load(Ordering::Relaxed), before);
    assert_eq!(Arc::strong_count(&pool), 1);
}

/// How many loops `work` runs on a pool that is borrowed for it.
fn borrowed<R>(ws: &mut Workspace, work: impl FnOnce(&mut Workspace) -> R) -> (R, usize) {
    let pool = With {
        workers: 4,
        loops: AtomicUsize::new(0),
        schedule: threaded(2),
    };
    let result = ws.with_pool(&pool, work);
    (result, pool.loops.into_inner())
}

#[test]
fn a_borrowed_pool_runs_every_call() {
    let case = Case::new(shapes().remove(0));
    let Shape { m, k, n, .. } = case.shape;
    let wanted = results(&case, &mut Workspace::new());
    let ws = &mut workspace(Options::new().threads(Threads::Serial));
    let (got, loops) = borrowed(ws, |ws| results(&case, ws));
    assert!(got == wanted && loops >= 4, "{loops} loops");

    let layers = [&case.layer, &case.layer];
    let (x, mut ys) = (
        view(&case.x_f32, n, k),
        [vec![0.0; n * m], vec![0.0; n * m]],
    );
    let mut many = |ws: &mut Workspace, int8: bool| {
        let mut ys = ys.each_mut().map(|y| view_mut(y, n, m));
        match int8 {
            true => Linear::forward_many_int8(&layers, x, &mut ys, ws),
            false => Linear::forward_many_f32(&layers, x, &mut ys, ws),
        }
    };
    for int8 in [true, false] {
        let (done, loops) = borrowed(ws, |ws| many(ws, int8));
        assert!(done.is_ok() && loops > 0, "{loops} loops");
    }

    let experts = Experts::new(vec![case.layer.clone(), case.layer.clone()]).expect("alike");
    let tokens: Vec<usize> = (0..n).chain(0..n).collect();
    let routes = Routes {
        tokens: &tokens,
        counts: &[n, n],
    };
    let (done, loops) = borrowed(ws, |ws| {
        let routed = experts.prepare_f32(x, routes, ws)?;
        let mut y = vec![0.0; 2 * n * m];
        experts.forward(&routed, view_mut(&mut y, 2 * n, m), ws)
    });
    assert!(done.is_ok() && loops > 0, "{loops} loops");

    let matrix =
        TernaryMatrix::from_packed(vec![0; 4096 * 256], 4096, 1024, Scales::per_tensor(1.0));
    let matrix = matrix.expect("a matrix");
    let (packed, loops) = borrowed(ws, |ws| Panels::pack_on(&matrix, ws).is_ok());
    assert!(packed && loops > 0, "{loops} loops");
}

#[test]
fn a_borrowed_pool_is_given_back() {
    let case = Case::new(shapes().remove(0));
    let wanted = results(&case, &mut Workspace::new());
    let scalar = || Options::new().backend(Backend::scalar());
    let text = format!("{:?}", scalar().threads(Threads::Serial));
    let mut ws = workspace(scalar().threads(Threads::Serial));
    let shown = |ws: &Workspace| format!("{:?}", ws.options());
    let (before, _) = borrowed(&mut ws, |ws| {
        assert!(shown(ws).contains("Pool(4)"));
        // One inside of another, and options of the closure's own.
        let (got, loops) = borrowed(ws, |ws| results(&case, ws));
        assert!(got == wanted && loops > 0);
        let (again, loops) = borrowed(ws, |ws| {
            ws.set_options(Options::new());
            results(&case, ws)
        });
        assert!(again == wanted && loops == 0);
        shown(ws)
    });
    assert!(before.contains("Pool(4)") && before.contains("scalar"));
    assert_eq!(shown(&ws), text);
    let panics = || borrowed(&mut ws, |_| panic!("in the closure"));
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!(shown(&ws), text);
    let (got, loops) = borrowed(&mut ws, |ws| results(&case, ws));
    assert!(got == wanted && loops > 0);
}

/// Options and workspaces that leave the closure with the pool find nobody in it.
#[test]
fn a_borrowed_pool_cannot_be_kept() {
    let case = &Case::new(shapes().remove(0));
    let wanted = results(case, &mut Workspace::new());
    let (mut ws, mut taken) = (Workspace::new(), Workspace::new());
    let (kept, _) = borrowed(&mut ws, |ws| {
        let kept = ws.options().clone();
        std::mem::swap(ws, &mut taken);
        kept
    });
    assert!(results(case, &mut taken) == wanted);
    assert!(results(case, &mut workspace(&kept)) == wanted);
    // What is kept stays apart from the next pool.
    let (kept_later, loops) = borrowed(&mut ws, |_| results(case, &mut workspace(&kept)) == wanted);
    assert!(kept_later && loops == 0);
    // A thread that multiplies on it while it ends is waited for.
    thread::scope(|scope| {
        for _ in 0..if quick() { 2 } else { 20 } {
            let (thread, _) = borrowed(&mut ws, |ws| {
                let (started, start) = channel();
                let options = ws.options().clone();
                let thread = scope.spawn(move || {
                    started.send(()).expect("it is waited for");
                    results(case, &mut workspace(options))
                });
                start.recv().expect("a thread");
                thread
            });
            assert!(thread.join().expect("no panic") == wanted);
        }
    });
}

/// Items of the only loop of a product for few tokens: four for each worker.
const WORKERS: usize = 2;

/// Whether an item is run.
type Keep = fn(usize) -> bool;

#[test]
fn work_left_out_is_an_error() {
    let case = Case::new(shapes().remove(0));
    let Shape { m, k, n, .. } = case.shape;
    let cases: [Keep; 3] = [|_| false, |item| item != 5, |item| item == 0];
    for keep in cases {
        let some = move |items, work: Work<'_>| (0..items).filter(|&i| keep(i)).for_each(work);
        let options = Options::new().family(Family::Few);
        let ws = &mut workspace(on(&options, with(WORKERS, some)));
        let items = m
            .div_ceil(64)
            .div_ceil(m.div_ceil(64).div_ceil(4 * WORKERS));
        let (mut integers, mut floats) = (vec![0; n * m], vec![0.0; n * m]);
        let (x_i8, x_f32) = (view(&case.x_i8, n, k), view(&case.x_f32, n, k));
        let done = (0..items).filter(|&i| keep(i)).count();
        let wanted = Err(GemmError::Incomplete(Incomplete { done, items }));

        let panels = case.layer.panels();
        assert_eq!(
            panels.gemm_i8(x_i8, view_mut(&mut integers, n, m), ws),
            wanted
        );
        let layer = &case.layer;
        assert_eq!(
            layer.forward_int8(x_f32, view_mut(&mut floats, n, m), ws),
            wanted
        );
        assert_eq!(
            layer.forward_f32(x_f32, view_mut(&mut floats, n, m), ws),
            wanted
        );
        let prepared = layer.prepare_int8(x_f32, ws).expect("serial");
        let y = view_mut(&mut floats, n, m);
        assert_eq!(layer.forward_int8(&prepared, y, ws), wanted);
        let prepared =
            PreparedActivations::from_int8(x_i8, vec![1.0; n], None, ws).expect("serial");
        let y = view_mut(&mut integers, n, m);
        assert_eq!(panels.gemm_i8(&prepared, y, ws), wanted);
        assert!(wanted.is_err_and(|e| e.to_string().contains(&format!("{done} of {items}"))));

        // The same workspace, with a pool that does its work.
        ws.set_options(on(&options, with(WORKERS, threaded(2))));
        let serial = &mut workspace(options.threads(Threads::Serial));
        assert_eq!(results(&case, ws), results(&case, serial));
    }
}

/// Preparation goes parallel for kernels for many tokens and enough tokens.
#[test]
fn preparation_left_out_is_an_error() {
    let (k, n) = (2048, 256);
    let (x_i8, x_f32) = (vec![1; n * k], vec![1.0; n * k]);
    let (x_i8, x_f32) = (view(&x_i8, n, k), view(&x_f32, n, k));
    let scales = Scales::per_tensor(1.0);
    let matrix = TernaryMatrix::from_packed(vec![0; k / 4], 1, k, scales).expect("a matrix");
    let layer = Linear::new(&matrix).expect("a layer");
    let never = with(WORKERS, |_, _: Work<'_>| ());
    let options = Options::new().family(Family::Many);
    let ws = &mut workspace(on(&options, never.clone()));
    let errors = [
        layer.prepare_f32(x_f32, ws),
        layer.prepare_int8(x_f32, ws),
        PreparedActivations::from_int8(x_i8, vec![1.0; n], None, ws),
    ];
    for error in errors {
        let error = error.expect_err("nothing was done");
        assert!(
            matches!(error, GemmError::Incomplete(Incomplete { done: 0, items }) if items > 1),
            "{error}"
        );
    }
    assert_eq!(never.loops.load(Ordering::Relaxed), 3);
}

#[test]
fn preparation_run_again_is_done_once() {
    let (m, k, n) = (64, 2048, 256);
    let x: Vec<i8> = (0..n * k).map(|i| (i % 251) as i8).collect();
    let trits: Vec<i8> = (0..m * k).map(|i| (i % 7 % 3) as i8 - 1).collect();
    let matrix = TernaryMatrix::from_trits(view(&trits, m, k), Scales::per_tensor(1.0));
    let panels = Panels::pack(&matrix.expect("a matrix")).expect("memory");
    let serial = &mut workspace(Options::new().threads(Threads::Serial));
    let mut product = |ws: &mut Workspace| {
        let x = PreparedActivations::from_int8(view(&x, n, k), vec![1.0; n], None, ws);
        let (x, mut y) = (x.expect("prepared"), vec![0; n * m]);
        let result = panels.gemm_i8(&x, view_mut(&mut y, n, m), serial);
        result.map(|()| y)
    };
    let options = Options::new().family(Family::Many);
    let wanted = product(&mut workspace(&options));
    let twice = with(WORKERS, |items, work: Work<'_>| {
        (0..2 * items).for_each(|i| work(i % items));
    });
    let ws = &mut workspace(on(&options, twice.clone()));
    assert!(product(ws) == wanted);
    assert_eq!(twice.loops.load(Ordering::Relaxed), 1);
}

/// The gradient of the input is a product: nothing is added to it in silence.
#[cfg(feature = "train")]
#[test]
fn a_gradient_left_out_is_an_error() {
    use tritgemm::nn::{BitLinear, BitLinearGrads, LayerError};
    let (k, m, n) = (1024, 1024, 4);
    let mut layer = BitLinear::kaiming_uniform(m, k, 1).expect("a layer");
    let (x, grad_y) = (vec![1.0; n * k], vec![1.0; n * m]);
    let mut gradient = |ws: &mut Workspace| {
        let mut grad_x = vec![0.0; n * k];
        let grads = BitLinearGrads {
            x: Some(view_mut(&mut grad_x, n, k)),
            ..Default::default()
        };
        let result = layer.backward(view(&x, n, k), view(&grad_y, n, m), grads, ws);
        result.map(|()| grad_x)
    };
    let wanted = gradient(&mut Workspace::new()).expect("alone");
    let never = with(WORKERS, |_, _: Work<'_>| ());
    let mut ws = workspace(on(&Options::new(), never));
    match gradient(&mut ws) {
        Err(LayerError::Gemm(GemmError::Incomplete(Incomplete { done: 0, items }))) => {
            assert!(items > 1, "{items}");
        }
        other => panic!("{other:?}"),
    }
    ws.set_options(on(&Options::new(), with(WORKERS, threaded(2))));
    assert!(gradient(&mut ws).expect("all of it") == wanted);
}

#[test]
fn panics_leave_the_workspace_usable() {
    let case = Case::new(shapes().remove(0));
    let wanted = results(&case, &mut Workspace::new());
    let mut ws = Workspace::new();
    let panicking = |items: usize, work: Work<'_>| {
        (0..items / 2).for_each(work);
        panic!("the pool's own");
    };
    // A panic on a thread that already holds scratch memory.
    let nested = |_, work: Work<'_>| {
        thread::scope(|scope| {
            scope.spawn(|| {
                work(0);
                panic!("on another thread");
            });
        });
    };
    let pools: [Arc<dyn ParallelFor>; 2] = [with(4, panicking), with(4, nested)];
    for pool in pools {
        ws.set_options(on(&Options::new(), pool));
        let result = catch_unwind(AssertUnwindSafe(|| case.gemm_i8(&mut ws)));
        assert!(result.is_err());
        ws.set_options(on(&Options::new(), with(3, threaded(3))));
        assert!(results(&case, &mut ws) == wanted);
    }
}

/// A loop of one product may run another product, in a pool of its own.
#[test]
fn pools_may_be_nested() {
    let case = Arc::new(Case::new(shapes().remove(0)));
    let wanted = results(&case, &mut Workspace::new());
    let (inner, expected) = (case.clone(), wanted.clone());
    let nested = move |items, work: Work<'_>| {
        let ws = &mut workspace(on(&Options::new(), with(3, threaded(3))));
        assert!(inner.gemm_i8(ws) == expected.0);
        threaded(2)(items, work);
    };
    let ws = &mut workspace(on(&Options::new(), with(2, nested)));
    assert!(results(&case, ws) == wanted);
}

/// More tiles of tokens than one loop has items, for more workers than would
/// leave several to an item.
#[test]
fn tokens_without_number() {
    for (family, k, n) in [(Family::Many, 1, 140_000), (Family::Few, 16, 70_000)] {
        let trits: Vec<i8> = (0..k).map(|i| [1, -1, 0][i % 3]).collect();
        let matrix = TernaryMatrix::from_trits(view(&trits, 1, k), Scales::per_tensor(1.0));
        let panels = Panels::pack(&matrix.expect("trits")).expect("fits");
        let x: Vec<i8> = (0..n * k).map(|i| (i * 37 % 251) as u8 as i8).collect();
        let dot = |x: &[i8]| -> i32 {
            let terms = x.iter().zip(&trits);
            terms.map(|(&x, &w)| i32::from(x) * i32::from(w)).sum()
        };
        let wanted: Vec<i32> = x.chunks(k).map(dot).collect();
        for backend in backends() {
            let pool = with(usize::MAX, threaded(2));
            let options = Options::new().backend(backend).family(family);
            let ws = &mut workspace(on(&options, pool));
            let mut y = vec![-1; n];
            let (x, out) = (view(&x, n, k), view_mut(&mut y, n, 1));
            panels.gemm_i8(x, out, ws).expect("fits");
            assert!(y == wanted, "{options:?}");
        }
    }
}
