//! The hot path allocates nothing: with a workspace that has seen the shape, a
//! product takes no memory, on the calling thread and in a pool.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tritgemm::nn::RmsNorm;
use tritgemm::{
    Added, Experts, Family, GroupSize, Grouped, Linear, MatMut, Options, ParallelFor,
    PreparedActivations, RoutedActivations, Routes, Threads, Workspace,
};
use tritgemm_testing::case::{Case, Shape};
use tritgemm_testing::{FAMILIES, backends, quick, view, view_mut, workspace};

thread_local! {
    /// Where this thread's allocations are counted, if they are. Tests run side
    /// by side, so each counts those of its own threads.
    static COUNTER: Cell<Option<&'static AtomicUsize>> = const { Cell::new(None) };
}

struct Counting;

fn count() {
    // No allocation of a thread on its way out matters here.
    let counter = COUNTER.try_with(Cell::get).ok().flatten();
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is handed on to `System` unchanged; counting neither
// allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's layout, as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's layout, as it is.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's block, layout and size, as they are.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's block and layout, as they are.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A counter that this thread counts in from now on.
fn counter() -> &'static AtomicUsize {
    let counter = Box::leak(Box::new(AtomicUsize::new(0)));
    COUNTER.set(Some(counter));
    counter
}

/// Allocations while `run` runs.
fn during(counter: &AtomicUsize, run: impl FnOnce()) -> usize {
    let before = counter.load(Ordering::SeqCst);
    run();
    counter.load(Ordering::SeqCst) - before
}

fn case(m: usize, k: usize, n: usize, granularity: usize) -> Case {
    Case::new(Shape {
        granularity,
        ..Shape::new(m, k, n)
    })
}

/// Every product once, into outputs that are there already.
struct Products<'a> {
    case: &'a Case,
    half: Vec<half::f16>,
    prepared: PreparedActivations,
    integers: Vec<i32>,
    floats: Vec<f32>,
}

const NAMES: [&str; 5] = [
    "gemm_i8",
    "forward_int8",
    "forward_int8 of f16",
    "forward_f32",
    "forward_int8, prepared",
];

impl<'a> Products<'a> {
    fn new(case: &'a Case, ws: &mut Workspace) -> Self {
        let Shape { m, k, n, .. } = case.shape;
        let x = view(&case.x_f32, n, k);
        Self {
            case,
            half: case.x_f32.iter().map(|&v| half::f16::from_f32(v)).collect(),
            prepared: case.layer.prepare_int8(x, ws).expect("finite"),
            integers: vec![0; n * m],
            floats: vec![0.0; n * m],
        }
    }

    fn run(&mut self, which: usize, ws: &mut Workspace) {
        let Shape { m, k, n, .. } = self.case.shape;
        let layer = &self.case.layer;
        let x = view(&self.case.x_f32, n, k);
        let y = MatMut::new(&mut self.floats, n, m).expect("large enough");
        match which {
            0 => {
                let x = view(&self.case.x_i8, n, k);
                let y = MatMut::new(&mut self.integers, n, m).expect("large enough");
                layer.panels().gemm_i8(x, y, ws)
            }
            1 => layer.forward_int8(x, y, ws),
            2 => layer.forward_int8(view(&self.half, n, k), y, ws),
            3 => layer.forward_f32(x, y, ws),
            _ => layer.forward_int8(&self.prepared, y, ws),
        }
        .expect("fits");
    }
}

#[test]
fn the_counter_counts() {
    let counter = counter();
    assert_eq!(
        during(counter, || drop(std::hint::black_box(vec![1u8; 100]))),
        1
    );
    assert_eq!(during(counter, || ()), 0);
}

/// The second product of a shape, and smaller ones after it: at once where they
/// take the same family, else from their own second time on.
#[test]
fn serial_products_allocate_only_the_first_time() {
    let counter = counter();
    for granularity in [128, 2].into_iter().skip(usize::from(quick())) {
        let large = case(321, 500, 40, granularity);
        let smaller = [(65, 500, 40), (321, 77, 39), (1, 1, 1), (0, 500, 40)];
        let smaller = smaller.map(|(m, k, n)| case(m, k, n, granularity));
        for backend in backends() {
            for family in FAMILIES {
                let options = Options::new().backend(backend).family(family);
                let options = options.threads(Threads::Serial);
                for which in 0..NAMES.len() {
                    let auto = family == Family::Auto;
                    second_run(counter, (which, auto), &options, &large, &smaller);
                }
            }
        }
    }
}

fn second_run(
    counter: &AtomicUsize,
    (which, auto): (usize, bool),
    options: &Options,
    large: &Case,
    smaller: &[Case],
) {
    let what = format!("{} {options:?}", NAMES[which]);
    let mut products = Products::new(large, &mut workspace(options));
    let ws = &mut workspace(options);
    let first = during(counter, || products.run(which, ws));
    assert!(first > 0, "scratch comes from somewhere: {what}");
    assert_eq!(
        during(counter, || products.run(which, ws)),
        0,
        "again: {what}"
    );
    for small in smaller {
        let mut products = Products::new(small, &mut workspace(options));
        if auto {
            products.run(which, ws);
        }
        let after = during(counter, || products.run(which, ws));
        assert_eq!(after, 0, "{:?} after it: {what}", small.shape);
    }
}

/// A workspace that has run every product runs any of them without allocating.
#[test]
fn one_workspace_serves_all_products() {
    let case = case(321, 500, 40, 64);
    let counter = counter();
    for family in FAMILIES {
        let ws = &mut workspace(Options::new().family(family).threads(Threads::Serial));
        let mut products = Products::new(&case, ws);
        (0..NAMES.len()).for_each(|which| products.run(which, ws));
        for (which, name) in NAMES.iter().enumerate() {
            let again = during(counter, || products.run(which, ws));
            assert_eq!(again, 0, "{name}, {family:?}");
        }
    }
}

/// In a pool each worker's scratch comes when it first takes a share, which may
/// be any time; then it is there for good. rayon itself, of the size these
/// products need it, allocates nothing for them; what a worker's queue and
/// epoch take once is in the bound.
#[cfg(feature = "rayon")]
#[test]
fn pools_allocate_a_bounded_number_of_times() {
    let sizes = [(4097, 720, 1), (640, 500, 7), (320, 500, 130)];
    let (warm, runs) = if quick() { (1, 2) } else { (1, 20) };
    let counter = counter();
    for threads in [2, 8] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .start_handler(move |_| COUNTER.set(Some(counter)))
            .build()
            .expect("a thread pool");
        for (m, k, n) in sizes.into_iter().take(if quick() { 1 } else { 3 }) {
            assert!(m * k * n >= 1 << 21, "too small to go parallel");
            let case = case(m, k, n, 2);
            for family in FAMILIES {
                let ws = &mut workspace(Options::new().family(family));
                let mut products = Products::new(&case, ws);
                for (which, name) in NAMES.iter().enumerate() {
                    let later = pool.install(|| {
                        (0..warm).for_each(|_| products.run(which, ws));
                        during(counter, || (0..runs).for_each(|_| products.run(which, ws)))
                    });
                    // Four buffers, each of which may grow from a tile at the
                    // edge to a whole one, and twice that for rayon.
                    let bound = 3 * 4 * threads;
                    let what = format!("{name}, {m} x {k} x {n}, {family:?}, {threads} threads");
                    assert!(later <= bound, "{later} allocations in {runs} runs: {what}");
                }
            }
        }
    }
}

/// Runs the items of several workers on the calling thread.
struct InTurn;

impl ParallelFor for InTurn {
    fn workers(&self) -> usize {
        4
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..items).for_each(work);
    }
}

/// The caller's own threads cost nothing either: the second product allocates
/// nothing.
#[test]
fn a_parallel_for_allocates_only_the_first_time() {
    let case = case(640, 500, 70, 64);
    let macs = case.x_f32.len() * case.shape.m;
    assert!(macs >= 1 << 21, "too small to go parallel");
    let counter = counter();
    for family in FAMILIES {
        let pool = Threads::Pool(Arc::new(InTurn));
        let ws = &mut workspace(Options::new().family(family).threads(pool));
        let mut products = Products::new(&case, ws);
        for (which, name) in NAMES.iter().enumerate() {
            products.run(which, ws);
            let again = during(counter, || products.run(which, ws));
            assert_eq!(again, 0, "{name}, {family:?}");
        }
    }
}

/// A decoder block without its attention, in memory of its own.
struct Block {
    norms: [RmsNorm; 2],
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
    hidden: PreparedActivations,
    /// The residual, its norm, q, k, v, gate and up.
    buffers: [Vec<f32>; 7],
}

impl Block {
    const WIDTH: usize = 192;
    const KV: usize = 64;
    const FFN: usize = 300;

    fn new(tokens: usize) -> Self {
        let (d, kv, f) = (Self::WIDTH, Self::KV, Self::FFN);
        let layer = |m, k| case(m, k, 1, 1).layer;
        let norm = || RmsNorm::new(vec![1.0; d]).expect("a norm");
        Self {
            norms: [norm(), norm()],
            q: layer(d, d),
            k: layer(kv, d),
            v: layer(kv, d),
            o: layer(d, d),
            gate: layer(f, d),
            up: layer(f, d),
            down: layer(d, f),
            hidden: PreparedActivations::default(),
            buffers: [d, d, d, kv, kv, f, f].map(|width| vec![0.5; tokens * width]),
        }
    }

    fn forward(&mut self, n: usize, ws: &mut Workspace) -> Result<(), tritgemm::Error> {
        let (d, kv, f) = (Self::WIDTH, Self::KV, Self::FFN);
        let [x, h, q, k, v, gate, up] = &mut self.buffers;
        let normed = view_mut(h, n, d);
        self.norms[0].forward(view(x, n, d), normed)?;
        self.q
            .prepare_int8_into(view(h, n, d), &mut self.hidden, ws)?;
        let mut ys = [view_mut(q, n, d), view_mut(k, n, kv), view_mut(v, n, kv)];
        Linear::forward_many_int8(&[&self.q, &self.k, &self.v], &self.hidden, &mut ys, ws)?;
        self.o
            .forward_int8(view(q, n, d), Added(view_mut(x, n, d)), ws)?;
        self.norms[1].forward(view(x, n, d), view_mut(h, n, d))?;
        self.gate
            .prepare_int8_into(view(h, n, d), &mut self.hidden, ws)?;
        let mut ys = [view_mut(gate, n, f), view_mut(up, n, f)];
        Linear::forward_many_int8(&[&self.gate, &self.up], &self.hidden, &mut ys, ws)?;
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = gate.max(0.0) * *up;
        }
        self.down.forward_int8(
            Grouped(view(gate, n, f), GroupSize::G64),
            Added(view_mut(x, n, d)),
            ws,
        )?;
        Ok(())
    }
}

/// A whole decoder block allocates nothing from the second time on, nor does a mixture of
/// experts, on the calling thread and in a pool.
#[test]
fn a_decoder_block_allocates_only_the_first_time() {
    let counter = counter();
    for n in [1, 5, 40] {
        for threads in [Threads::Serial, Threads::Pool(Arc::new(InTurn))] {
            let (ws, mut block) = (
                &mut workspace(Options::new().threads(threads)),
                Block::new(n),
            );
            let first = during(counter, || block.forward(n, ws).expect("fits"));
            assert!(first > 0, "memory comes from somewhere");
            let again = during(counter, || block.forward(n, ws).expect("fits"));
            assert_eq!(again, 0, "{n} tokens");

            let layers = [block.gate.clone(), block.up.clone()];
            let experts = Experts::new(layers.to_vec()).expect("alike");
            let (tokens, counts): (Vec<usize>, _) = ((0..n).chain(0..n).collect(), [n, n]);
            let routes = Routes {
                tokens: &tokens,
                counts: &counts,
            };
            let (mut routed, weights) = (RoutedActivations::default(), vec![0.5; 2 * n]);
            let [_, h, .., up] = &mut block.buffers;
            let mut mix = |ws: &mut Workspace| {
                let x = view(h, n, Block::WIDTH);
                experts.prepare_int8_into(x, routes, &mut routed, ws)?;
                let y = view_mut(up, n, Block::FFN);
                experts.add_weighted(&routed, &tokens, &weights, y, ws)
            };
            mix(ws).expect("fits");
            let again = during(counter, || mix(ws).expect("fits"));
            assert_eq!(again, 0, "experts, {n} tokens");
        }
    }
}
