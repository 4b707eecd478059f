//! Tables belong to one preparation, whoever holds them.

use tritgemm::{Family, MatMut, Options, PreparedActivations, Workspace};
use tritgemm_testing::case::{Case, Shape, assert_same};
use tritgemm_testing::{backends, bits, workspace};

fn case(k: usize, n: usize, seed: u64) -> Case {
    Case::new(Shape {
        granularity: 1,
        bias: false,
        seed,
        ..Shape::new(70, k, n)
    })
}

fn prepare(case: &Case, ws: &mut Workspace) -> [PreparedActivations; 2] {
    let strided = case.strided(&case.x_f32, 0.0);
    let x = case.strided_view(&strided);
    [
        case.layer.prepare_f32(x, ws).expect("prepared"),
        case.layer.prepare_int8(x, ws).expect("finite"),
    ]
}

/// Activations of one shape and type, in turn, in one workspace, and each in
/// another one than it was prepared with.
#[test]
fn tables_are_those_of_the_activations() {
    // One layer, four sets of activations.
    let cases = [1, 2, 3, 4].map(|seed| case(133, 2, seed));
    let layer = &cases[0].layer;
    for backend in backends() {
        let options = Options::new().backend(backend).family(Family::Few);
        let ws = &mut workspace(&options);
        let all: Vec<_> = cases.iter().map(|case| prepare(case, ws)).collect();
        // Those at even places are f32, the others int8.
        let product = |i: usize, ws: &mut Workspace| {
            let (x, mut y) = (&all[i / 2][i % 2], vec![-1.0; 2 * 70]);
            let out = MatMut::new(&mut y, 2, 70).expect("dense");
            match i % 2 {
                0 => layer.forward_f32(x, out, ws),
                _ => layer.forward_int8(x, out, ws),
            }
            .expect("fits");
            bits(&y)
        };
        // A workspace that has seen no other activations.
        let wanted: Vec<_> = (0..8)
            .map(|i| product(i, &mut workspace(&options)))
            .collect();
        for (i, wanted_i) in wanted.iter().enumerate() {
            assert!(wanted[..i].iter().all(|other| other != wanted_i));
        }
        for i in [0, 1, 0, 2, 4, 6, 1, 3, 5, 7, 7, 0, 4] {
            let got = product(i, ws);
            assert_same("prepared", &format!("{i}, {backend:?}"), &got, &wanted[i]);
        }
    }
}

/// More tables than each worker has room for by itself.
#[test]
fn many_row_tokens() {
    // 64 bytes of tables for four activations, the least of a vector kernel: 4.5 MB.
    let case = case(4001, 70, 5);
    let mut expected = None;
    for backend in backends().into_iter().rev() {
        let options = Options::new().backend(backend).family(Family::Few);
        let ws = &mut workspace(&options);
        let results = |ws: &mut Workspace| (case.gemm_i8(ws), case.forward_f32(ws));
        let expected = expected.get_or_insert_with(|| results(&mut workspace(Options::new())));
        assert!(&results(ws) == expected, "{backend:?}");
        #[cfg(feature = "rayon")]
        {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
            let got = pool.expect("a thread pool").install(|| results(ws));
            assert!(&got == expected, "three threads, {backend:?}");
        }
    }
}
