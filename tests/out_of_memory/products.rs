//! Products and the preparation of activations.

use crate::{SHAPE, every_allocation};
use std::sync::Arc;
use tritgemm::{
    Backend, MatMut, MatRef, Options, ParallelFor, PreparedActivations, Threads, Workspace,
};
#[cfg(feature = "rayon")]
use tritgemm_testing::allocator::Plan;
use tritgemm_testing::case::{Case, Shape};
use tritgemm_testing::{FAMILIES, bits};

fn case(granularity: usize) -> Case {
    let [m, k, n] = SHAPE;
    Case::new(Shape {
        granularity,
        ..Shape::new(m, k, n)
    })
}

/// What a product works with. The scales of int8 activations are given away,
/// so there are some for two attempts.
struct State {
    ws: Workspace,
    scales: [Vec<f32>; 2],
    floats: Vec<f32>,
    integers: Vec<i32>,
}

fn every_product(what: &str, case: &Case, workspace: &dyn Fn() -> Workspace) {
    let [m, k, n] = SHAPE;
    let x = MatRef::new(&case.x_f32, n, k).expect("a view");
    let x_i8 = MatRef::new(&case.x_i8, n, k).expect("a view");
    let (layer, group) = (&case.layer, case.layer.group());
    let names = [
        "gemm_i8",
        "forward_int8",
        "forward_f32",
        "prepare_int8 and forward_int8",
        "from_int8 and forward_int8",
        "prepare_f32 and forward_f32",
    ];
    for (which, name) in names.into_iter().enumerate() {
        let start = || State {
            ws: workspace(),
            scales: [vec![1.0; n], vec![1.0; n]],
            floats: vec![0.0; n * m],
            integers: vec![0; n * m],
        };
        let run = |state: &mut State| -> Result<(), Box<dyn std::error::Error>> {
            let ws = &mut state.ws;
            let y = MatMut::new(&mut state.floats, n, m)?;
            match which {
                0 => {
                    let y = MatMut::new(&mut state.integers, n, m)?;
                    layer.panels().gemm_i8(x_i8, y, ws)?;
                }
                1 => layer.forward_int8(x, y, ws)?,
                2 => layer.forward_f32(x, y, ws)?,
                3 => {
                    let x = layer.prepare_int8(x, ws)?;
                    layer.forward_int8(&x, y, ws)?;
                }
                4 => {
                    let scales = state.scales.iter_mut().find(|s| !s.is_empty());
                    let scales = core::mem::take(scales.expect("two attempts"));
                    let x = PreparedActivations::from_int8(x_i8, scales, group, ws)?;
                    layer.forward_int8(&x, y, ws)?;
                }
                _ => {
                    let x = layer.prepare_f32(x, ws)?;
                    layer.forward_f32(&x, y, ws)?;
                }
            }
            Ok(())
        };
        every_allocation(&format!("{name}, {what}"), start, run, |state, ()| {
            (bits(&state.floats), state.integers.clone())
        });
    }
}

#[test]
fn serial_products() {
    for granularity in [2, 64] {
        let case = case(granularity);
        for family in FAMILIES {
            let options = Options::new().family(family).backend(Backend::best());
            let options = options.threads(Threads::Serial);
            every_product(&format!("{family:?}"), &case, &|| {
                Workspace::with_options(options.clone())
            });
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
fn products_in_a_pool() {
    let plan = Plan::here();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .expect("threads");
    // Not by a start handler: what a thread allocates when it first looks for work
    // cannot fail without an abort, and one that starts late would do so below.
    pool.broadcast(|_| plan.follow());
    let case = case(2);
    // Which worker takes a first item is chance, and with it the number of
    // allocations: only that the product fails or works is sure.
    let [m, k, n] = SHAPE;
    let x = MatRef::new(&case.x_f32, n, k).expect("a view");
    let mut wanted = vec![0.0; n * m];
    let view = MatMut::new(&mut wanted, n, m).expect("a view");
    case.layer
        .forward_f32(x, view, &mut Workspace::new())
        .expect("memory");
    let mut failed = 0;
    for refused in 1..20 {
        let mut ws = Workspace::new();
        let mut y = vec![0.0; n * m];
        let mut result = Ok(());
        pool.install(|| {
            plan.run(refused, || {
                let y = MatMut::new(&mut y, n, m).expect("a view");
                result = case.layer.forward_f32(x, y, &mut ws);
            })
        });
        if let Err(error) = result {
            assert!(error.to_string().starts_with("out of memory: "), "{error}");
            failed += 1;
            let y = MatMut::new(&mut y, n, m).expect("a view");
            pool.install(|| case.layer.forward_f32(x, y, &mut ws))
                .expect("memory");
        }
        assert_eq!(bits(&y), bits(&wanted), "allocation {refused}");
    }
    assert!(failed > 3, "{failed} products failed");
}

/// Says that it has many workers and has one: the workspace's list of them
/// grows with their number.
struct Alone;

impl ParallelFor for Alone {
    fn workers(&self) -> usize {
        64
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..items).for_each(work);
    }
}

#[test]
fn products_on_threads_of_the_caller() {
    every_product("64 workers", &case(2), &|| {
        let pool = Threads::Pool(Arc::new(Alone));
        Workspace::with_options(Options::new().threads(pool))
    });
}
