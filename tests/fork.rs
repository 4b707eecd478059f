//! A forked child has none of its parent's threads: what it inherits computes on the calling
//! thread.
#![cfg(all(unix, not(miri)))]

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use tritgemm::{Linear, Options, Panels, ParallelFor, Scales, TernaryMatrix, Threads, Workspace};
use tritgemm_testing::{bits, view, view_mut};

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(status: i32) -> !;
}

/// Runs `work` in a child and says whether it returned true within some seconds.
fn in_child(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `work` and ends; it takes no lock that another thread of the
    // parent may have held.
    unsafe {
        let pid = fork();
        assert!(pid >= 0, "a child");
        if pid == 0 {
            alarm(20);
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            _exit(i32::from(!worked.unwrap_or(false)));
        }
        let mut status = -1;
        assert_eq!(waitpid(pid, &raw mut status, 0), pid);
        status == 0
    }
}

/// A thread that waits for work, as in any pool: in a child nobody answers.
struct Pool(Mutex<(Sender<usize>, Receiver<usize>)>);

impl Pool {
    fn new() -> Self {
        let (to, work) = channel::<usize>();
        let (done, from) = channel();
        std::thread::spawn(move || {
            for item in work {
                done.send(item).expect("the pool waits for it");
            }
        });
        Self(Mutex::new((to, from)))
    }
}

impl ParallelFor for Pool {
    fn workers(&self) -> usize {
        2
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        let (to, from) = &*self.0.lock().expect("one product at a time");
        for item in 0..items {
            to.send(item).expect("a thread");
            work(from.recv().expect("a thread"));
        }
    }
}

const SHAPE: [usize; 3] = [256, 1024, 64];

#[test]
fn a_child_computes_with_what_it_inherits() {
    let [m, k, n] = SHAPE;
    let trits: Vec<i8> = (0..m * k).map(|i| (i * 7 % 3) as i8 - 1).collect();
    let matrix = TernaryMatrix::from_trits(view(&trits, m, k), Scales::per_tensor(0.5));
    let matrix = matrix.expect("a matrix");
    let layer = Linear::new(&matrix).expect("a layer");
    let x: Vec<f32> = (0..n * k).map(|i| (i % 17) as f32 - 8.0).collect();
    let forward = |ws: &mut Workspace, y: &mut [f32]| {
        let view = view_mut(y, n, m);
        layer.forward_int8(self::view(&x, n, k), view, ws).is_ok()
    };
    let (mut wanted, mut y) = (vec![0.0; n * m], vec![0.0; n * m]);
    assert!(forward(&mut Workspace::new(), &mut wanted));

    let options = Options::new().threads(Threads::Pool(Arc::new(Pool::new())));
    let mut ws = Workspace::with_options(options.clone());
    assert!(forward(&mut ws, &mut y));
    assert!(in_child(|| {
        y.fill(0.0);
        let packed = Panels::pack_on(&matrix, &ws).is_ok();
        packed && forward(&mut ws, &mut y) && bits(&y) == bits(&wanted)
    }));
    // A workspace of the child's, with options of the parent's.
    assert!(in_child(|| {
        y.fill(0.0);
        forward(&mut Workspace::with_options(options), &mut y) && bits(&y) == bits(&wanted)
    }));
    // In the middle of a call that borrows a pool.
    let pool = Pool::new();
    assert!(ws.with_pool(&pool, |ws| in_child(|| {
        y.fill(0.0);
        forward(ws, &mut y) && bits(&y) == bits(&wanted)
    })));
    // A pool of the child's own is used.
    assert!(in_child(|| {
        let pool = Arc::new(Counting::default());
        let options = Options::new().threads(Threads::Pool(pool.clone()));
        y.fill(0.0);
        let worked = forward(&mut Workspace::with_options(options), &mut y);
        worked && *pool.0.lock().expect("counted") > 0 && bits(&y) == bits(&wanted)
    }));
    // The parent's own pool is used as before.
    y.fill(0.0);
    assert!(forward(&mut ws, &mut y) && bits(&y) == bits(&wanted));
}

/// Runs items on the calling thread, and counts them.
#[derive(Default)]
struct Counting(Mutex<usize>);

impl ParallelFor for Counting {
    fn workers(&self) -> usize {
        2
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        *self.0.lock().expect("counted") += items;
        (0..items).for_each(work);
    }
}

/// Outside of a pool the child of a process with a rayon pool computes alone.
#[cfg(feature = "rayon")]
#[test]
fn a_child_of_a_process_with_rayon_computes() {
    let [m, k, n] = SHAPE;
    let trits = vec![1i8; m * k];
    let matrix = TernaryMatrix::from_trits(view(&trits, m, k), Scales::per_tensor(1.0));
    let layer = Linear::new(&matrix.expect("a matrix")).expect("a layer");
    let x = vec![1.0; n * k];
    let (mut y, mut ws) = (vec![0.0; n * m], Workspace::new());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let mut forward = || {
        let view = view_mut(&mut y, n, m);
        layer
            .forward_f32(self::view(&x, n, k), view, &mut ws)
            .is_ok()
    };
    assert!(pool.expect("threads").install(&mut forward));
    assert!(in_child(forward));
}
