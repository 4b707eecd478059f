//! Several layers in one loop, outputs that are added to, and outputs in 16 bits: the
//! bits of the plain calls, for bad input an error that leaves the outputs alone.

use half::{bf16, f16};
use tritgemm::{
    Activation, Added, GemmError, GroupSize, Linear, MatMut, MatRef, Options, PreparedActivations,
    Threads, Workspace,
};
use tritgemm_testing::case::{Case, Shape};
use tritgemm_testing::{FAMILIES, backends, quick, view, view_mut, workspace};

/// What an output held before.
const CANARY: f32 = -12345.678;

/// Layers with one K and one kind of groups.
fn layers(k: usize, granularity: usize) -> Vec<Case> {
    let rows = [200, 1, 64, 321, 0, 127];
    let case = |(i, m): (usize, usize)| {
        Case::new(Shape {
            // Beside groups, every granularity goes with every other.
            granularity: if granularity > 2 {
                granularity
            } else {
                1 + i % 2
            },
            bias: i % 2 == 0,
            seed: i as u64,
            ..Shape::new(m, k, 1)
        })
    };
    rows.into_iter().enumerate().map(case).collect()
}

fn activations(n: usize, k: usize) -> Vec<f32> {
    Case::new(Shape::new(1, k, n)).x_f32
}

fn bits<T: Copy + Into<f32>>(values: &[T]) -> Vec<u32> {
    values.iter().map(|&v| v.into().to_bits()).collect()
}

/// The outputs of all layers by `run`, of the rows that each has, from [`CANARY`] on.
fn outputs(
    cases: &[Case],
    n: usize,
    run: impl FnOnce(&[&Linear], &mut [MatMut<'_, f32>]) -> Result<(), GemmError>,
) -> Vec<Vec<u32>> {
    let layers: Vec<&Linear> = cases.iter().map(|case| &case.layer).collect();
    let mut ys: Vec<Vec<f32>> = cases.iter().map(|c| vec![CANARY; n * c.shape.m]).collect();
    let matrices = cases.iter().zip(&mut ys);
    let mut matrices: Vec<_> = matrices
        .map(|(case, y)| view_mut(y, n, case.shape.m))
        .collect();
    run(&layers, &mut matrices).expect("fits");
    ys.iter().map(|y| bits(y)).collect()
}

/// Both forward passes, of plain and of prepared activations, equal single calls.
fn check(cases: &[Case], n: usize, options: &Options) {
    let k = cases[0].shape.k;
    let x = activations(n, k);
    let x = view(&x, n, k);
    let single = &mut workspace(Options::new().threads(Threads::Serial));
    let int8 = outputs(cases, n, |layers, ys| {
        let mut pairs = layers.iter().zip(ys);
        pairs.try_for_each(|(layer, y)| layer.forward_int8(x, y.reborrow(), single))
    });
    let float = outputs(cases, n, |layers, ys| {
        let mut pairs = layers.iter().zip(ys);
        pairs.try_for_each(|(layer, y)| layer.forward_f32(x, y.reborrow(), single))
    });
    let ws = &mut workspace(options);
    let many = outputs(cases, n, |layers, ys| {
        Linear::forward_many_int8(layers, x, ys, ws)
    });
    assert_eq!(many, int8, "int8, {n} tokens, {options:?}");
    let many = outputs(cases, n, |layers, ys| {
        Linear::forward_many_f32(layers, x, ys, ws)
    });
    assert_eq!(many, float, "f32, {n} tokens, {options:?}");
    let prepared = cases[0].layer.prepare_int8(x, ws).expect("finite");
    let many = outputs(cases, n, |layers, ys| {
        Linear::forward_many_int8(layers, &prepared, ys, ws)
    });
    assert_eq!(many, int8, "prepared int8, {n} tokens, {options:?}");
}

#[test]
fn many_layers_give_the_bits_of_each() {
    let tokens = [0, 1, 3, 33, 70];
    for granularity in [2, 64] {
        let cases = layers(150, granularity);
        for backend in backends() {
            for family in FAMILIES {
                let options = Options::new().backend(backend).family(family);
                for n in tokens.into_iter().step_by(1 + usize::from(quick())) {
                    check(&cases, n, &options.clone().threads(Threads::Serial));
                }
            }
        }
    }
    // No weights, no activations.
    check(&layers(0, 2), 3, &Options::new());
}

/// Shared among threads, as a product of all rows would be, each alone too small.
#[cfg(feature = "rayon")]
#[test]
fn many_layers_are_shared_among_threads() {
    let shapes = [(320, 400, 7), (256, 2048, 1), (128, 700, 100)];
    for threads in [2, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.expect("a thread pool");
        for (m, k, n) in shapes {
            let cases: Vec<Case> = [m, m, 2 * m, m - 1]
                .into_iter()
                .map(|m| Case::new(Shape::new(m, k, 1)))
                .collect();
            let macs: usize = cases.iter().map(|c| c.shape.macs() * n).sum();
            assert!(macs >= 1 << 21, "too small to go parallel");
            pool.install(|| check(&cases, n, &Options::new()));
        }
    }
}

/// Outputs in 16 bits are those in 32, rounded once; added ones are summed in f32.
fn check_type<T: Activation + Into<f32> + PartialEq>(
    case: &Case,
    options: &Options,
    round: fn(f32) -> T,
) {
    let Shape { m, k, n, .. } = case.shape;
    let x = view(&case.x_f32, n, k);
    let ws = &mut workspace(options);
    for int8 in [true, false] {
        let mut plain = vec![0.0f32; n * m];
        match int8 {
            true => case.layer.forward_int8(x, view_mut(&mut plain, n, m), ws),
            false => case.layer.forward_f32(x, view_mut(&mut plain, n, m), ws),
        }
        .expect("fits");
        let before: Vec<T> = (0..n * m).map(|i| round(i as f32 - 77.5)).collect();
        let mut y = before.clone();
        match int8 {
            true => case.layer.forward_int8(x, view_mut(&mut y, n, m), ws),
            false => case.layer.forward_f32(x, view_mut(&mut y, n, m), ws),
        }
        .expect("fits");
        let want: Vec<T> = plain.iter().map(|&v| round(v)).collect();
        assert_eq!(
            bits(&y),
            bits(&want),
            "replaced, {:?} {options:?}",
            case.shape
        );
        let mut y = before.clone();
        match int8 {
            true => case
                .layer
                .forward_int8(x, Added(view_mut(&mut y, n, m)), ws),
            false => case.layer.forward_f32(x, Added(view_mut(&mut y, n, m)), ws),
        }
        .expect("fits");
        let sums = before.iter().zip(&plain);
        let want: Vec<T> = sums.map(|(&y, &v)| round(y.into() + v)).collect();
        assert_eq!(bits(&y), bits(&want), "added, {:?} {options:?}", case.shape);
    }
}

#[test]
fn outputs_are_rounded_once_and_added_in_f32() {
    for granularity in [1, 2, 128] {
        for (m, k, n) in [(200, 300, 37), (70, 260, 3), (5, 0, 2)] {
            let shape = Shape {
                granularity,
                bias: true,
                ..Shape::new(m, k, n)
            };
            let case = Case::new(shape);
            for backend in backends() {
                for family in FAMILIES.into_iter().step_by(1 + usize::from(quick())) {
                    let options = Options::new().backend(backend).family(family);
                    check_type::<f32>(&case, &options, |v| v);
                    check_type::<f16>(&case, &options, f16::from_f32);
                    check_type::<bf16>(&case, &options, bf16::from_f32);
                }
            }
        }
    }
}

#[test]
fn bad_input_is_an_error_that_writes_nothing() {
    let cases = layers(150, 2);
    let other = Case::new(Shape::new(64, 151, 1));
    let grouped = Case::new(Shape {
        granularity: 64,
        ..Shape::new(64, 150, 1)
    });
    let x = activations(2, 150);
    let x = view(&x, 2, 150);
    let (a, b) = (&cases[0].layer, &cases[2].layer);
    let ws = &mut Workspace::new();
    let check = |layers: &[&Linear], rows: [usize; 2], x: MatRef<'_, f32>, ws: &mut Workspace| {
        let mut ys = rows.map(|m| vec![CANARY; 2 * m]);
        let [y0, y1] = &mut ys;
        let mut both = [view_mut(y0, 2, rows[0]), view_mut(y1, 2, rows[1])];
        let int8 = Linear::forward_many_int8(layers, x, &mut both, ws).expect_err("wrong");
        let float = Linear::forward_many_f32(layers, x, &mut both, ws).expect_err("wrong");
        assert_eq!(int8, float);
        assert!(ys.iter().flatten().all(|&y| y == CANARY));
        int8
    };
    let length = GemmError::Length {
        argument: "outputs",
        len: 2,
        expected: 1,
    };
    assert_eq!(check(&[a], [200, 64], x, ws), length);
    let shape = GemmError::OutputShape {
        rows: 2,
        cols: 63,
        tokens: 2,
        expected_cols: 64,
    };
    assert_eq!(check(&[a, b], [200, 63], x, ws), shape);
    let width = GemmError::InputWidth {
        cols: 150,
        expected: 151,
    };
    assert_eq!(check(&[a, &other.layer], [200, 64], x, ws), width);
    let groups = GemmError::Group {
        prepared: None,
        matrix: Some(GroupSize::G64),
    };
    assert_eq!(check(&[a, &grouped.layer], [200, 64], x, ws), groups);
    // Nothing at all is no error.
    Linear::forward_many_int8::<MatMut<'_, f32>>(&[], x, &mut [], ws).expect("nothing");
}

/// Activations that are prepared again in their memory are those prepared anew, of either
/// type, and have no tokens after an error.
#[test]
fn activations_are_prepared_again_in_place() {
    let case = Case::new(Shape::new(130, 77, 40));
    let (layer, ws) = (&case.layer, &mut Workspace::new());
    let x = &case.x_f32;
    let run = |prepared: &PreparedActivations, int8: bool, n: usize, ws: &mut Workspace| {
        let mut y = vec![CANARY; n * 130];
        match int8 {
            true => layer.forward_int8(prepared, view_mut(&mut y, n, 130), ws),
            false => layer.forward_f32(prepared, view_mut(&mut y, n, 130), ws),
        }
        .expect("fits");
        bits(&y)
    };
    let mut again = PreparedActivations::default();
    assert_eq!([again.tokens(), again.cols()], [0, 0]);
    for (n, int8) in [(40, true), (3, true), (40, false), (7, false), (9, true)] {
        let x = view(&x[..n * 77], n, 77);
        let (anew, done) = match int8 {
            true => (
                layer.prepare_int8(x, ws),
                layer.prepare_int8_into(x, &mut again, ws),
            ),
            false => (
                layer.prepare_f32(x, ws),
                layer.prepare_f32_into(x, &mut again, ws),
            ),
        };
        done.expect("finite");
        assert_eq!([again.tokens(), again.cols()], [n, 77]);
        let want = run(&anew.expect("finite"), int8, n, ws);
        assert_eq!(run(&again, int8, n, ws), want, "{n} tokens, int8: {int8}");
    }
    let nan = [f32::NAN; 77];
    let failed = layer.prepare_int8_into(view(&nan, 1, 77), &mut again, ws);
    assert!(matches!(failed, Err(GemmError::Quant(_))), "{failed:?}");
    assert_eq!(again.tokens(), 0);
    let narrow = layer.prepare_f32_into(view(&x[..76], 1, 76), &mut again, ws);
    let width = GemmError::InputWidth {
        cols: 76,
        expected: 77,
    };
    assert_eq!(narrow, Err(width));
}
