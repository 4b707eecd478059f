//! Results do not depend on who computes them, nor on how many.

use rayon::{ThreadPool, ThreadPoolBuilder};
use tritgemm::{Options, Threads};
use tritgemm_testing::case::{Case, Shape, Values, assert_same};
use tritgemm_testing::{FAMILIES, backends, quick, workspace};

/// At least 2^21 MACs, below which products do not go parallel: one token, few,
/// two column tiles and a remainder, and more column tiles than threads.
fn shapes() -> Vec<Shape> {
    let sizes = [
        (4097, 721, 1, 2),
        (1300, 500, 7, 128),
        (321, 300, 77, 2),
        (70, 256, 300, 64),
        (64, 481, 130, 1),
    ];
    let count = if quick() { 3 } else { sizes.len() };
    let shape = |(m, k, n, granularity)| Shape {
        gaps: [1, 3],
        granularity,
        values: Values::Wide,
        seed: (m + n) as u64,
        ..Shape::new(m, k, n)
    };
    sizes.map(shape).into_iter().take(count).collect()
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a thread pool")
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let pools = [1, 2, 3, 8].map(pool);
    for shape in shapes() {
        assert!(
            shape.m * shape.k * shape.n >= 1 << 21,
            "too small to go parallel: {shape:?}"
        );
        let case = Case::new(shape);
        let mut expected = None;
        for backend in backends().into_iter().rev() {
            for family in FAMILIES {
                let options = Options::new().backend(backend).family(family);
                let serial = options.clone().threads(Threads::Serial);
                // The scalar backend's first: `bit_exact::grid` ties that to
                // the oracle, which would be slow here.
                let expected = expected.get_or_insert_with(|| results(&case, &serial));
                for pool in &pools {
                    // `Threads::Serial` stays where it is in a pool as well.
                    let both = [&options, &serial].into_iter();
                    let many = pool.current_num_threads() > 2;
                    for options in both.take(if many { 2 } else { 1 }) {
                        let got = pool.install(|| results(&case, options));
                        let count = pool.current_num_threads();
                        let what = format!("{count} threads, {:?} {options:?}", case.shape);
                        assert_same("int8", &what, &got.0, &expected.0);
                        assert_same("floats", &what, &got.1, &expected.1);
                    }
                }
                let outside = results(&case, &options);
                assert!(outside == *expected, "outside of a pool: {options:?}");
            }
        }
    }
}

/// int8 sums; f32, w1a8 and prepared outputs one after the other.
fn results(case: &Case, options: &Options) -> (Vec<i32>, Vec<u32>) {
    let ws = &mut workspace(options);
    let strided = case.strided(&case.x_f32, f32::NAN);
    let x = case.strided_view(&strided);
    let prepared = case.layer.prepare_int8(x, ws).expect("finite");
    let integers = case.gemm_i8(ws);
    let mut floats = case.forward_f32(ws);
    floats.extend(case.forward_int8(ws));
    floats.extend(case.prepared_int8(&prepared, ws));
    (integers, floats)
}

/// A workspace that served many workers serves one, and the other way round.
#[test]
fn a_workspace_may_change_pools() {
    let case = Case::new(shapes().remove(2));
    for backend in backends() {
        let ws = &mut workspace(Options::new().backend(backend));
        let wanted = case.gemm_i8(ws);
        for threads in [8, 1, 3, 2] {
            let got = pool(threads).install(|| case.gemm_i8(ws));
            assert_same(
                "gemm_i8",
                &format!("{threads} threads, {backend:?}"),
                &got,
                &wanted,
            );
        }
        assert_same(
            "gemm_i8",
            &format!("no pool, {backend:?}"),
            &case.gemm_i8(ws),
            &wanted,
        );
    }
}

/// One layer, many threads, each with a workspace of its own.
#[test]
fn threads_share_a_layer() {
    let case = &Case::new(shapes().remove(1));
    let wanted = &case.forward_int8(&mut workspace(Options::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let ws = &mut workspace(Options::new());
                for _ in 0..3 {
                    assert_same("forward", "shared", &case.forward_int8(ws), wanted);
                }
            });
        }
    });
}
