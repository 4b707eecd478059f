//! Mixtures of experts: every expert computes of its tokens the bits that its layer
//! computes of them alone; outputs go where they are sent, in order.

use tritgemm::{
    Added, Experts, GemmError, GroupSize, Grouped, Linear, MatMut, NonFinite, Options,
    RoutedActivations, Routes, Threads, Workspace,
};
use tritgemm_testing::case::{Case, Shape};
use tritgemm_testing::{FAMILIES, backends, bits, quick, view, view_mut, ways, workspace};

const M: usize = 200;
const CANARY: f32 = -12345.678;

fn experts(k: usize, granularity: usize, count: usize) -> Experts {
    let layer = |i: usize| {
        let shape = Shape {
            granularity,
            bias: i.is_multiple_of(2),
            seed: i as u64,
            ..Shape::new(M, k, 1)
        };
        Case::new(shape).layer
    };
    Experts::new((0..count).map(layer).collect()).expect("alike")
}

/// A mixture of other matrices of fewer rows: the last rows of the layers in reverse.
fn fewer_rows(experts: &Experts) -> Experts {
    let layers = experts.layers().iter().rev();
    let layers = layers.map(|layer| layer.slice_rows(64..M).expect("whole panels"));
    Experts::new(layers.collect()).expect("alike")
}

/// Routes of `n` tokens: each to two of three experts, the fourth gets none.
fn routes(n: usize) -> [Vec<usize>; 4] {
    let to = |skipped: usize| (0..n).rev().filter(|t| t % 3 != skipped).collect();
    [to(0), to(1), to(2), Vec::new()]
}

/// What each layer makes of its tokens by itself, expert after expert.
fn alone(experts: &Experts, x: &[f32], routes: &[Vec<usize>], int8: bool) -> Vec<f32> {
    let [m, k] = [experts.out_features(), experts.in_features()];
    let ws = &mut workspace(Options::new().threads(Threads::Serial));
    let mut all = Vec::new();
    for (layer, tokens) in experts.layers().iter().zip(routes) {
        let x: Vec<f32> = tokens
            .iter()
            .flat_map(|&t| &x[t * k..][..k])
            .copied()
            .collect();
        let mut y = vec![CANARY; tokens.len() * m];
        let (x, y_view) = (view(&x, tokens.len(), k), view_mut(&mut y, tokens.len(), m));
        match int8 {
            true => layer.forward_int8(x, y_view, ws),
            false => layer.forward_f32(x, y_view, ws),
        }
        .expect("fits");
        all.extend(y);
    }
    all
}

fn check(experts: &Experts, n: usize, options: &Options, routed: &mut RoutedActivations) {
    let k = experts.in_features();
    let x = Case::new(Shape::new(1, k, n)).x_f32;
    let (routes, ws) = (routes(n), &mut workspace(options));
    let to: Vec<usize> = routes.iter().flatten().copied().collect();
    let counts: Vec<usize> = routes.iter().map(Vec::len).collect();
    let lists = Routes {
        tokens: &to,
        counts: &counts,
    };
    let rows = to.len();
    let weights: Vec<f32> = (0..rows).map(|i| 0.25 + i as f32 / 7.0).collect();
    for int8 in [true, false] {
        let want = alone(experts, &x, &routes, int8);
        match int8 {
            true => experts.prepare_int8_into(view(&x, n, k), lists, routed, ws),
            false => experts.prepare_f32_into(view(&x, n, k), lists, routed, ws),
        }
        .expect("finite");
        assert_eq!((routed.rows(), routed.cols()), (rows, k));
        let what = format!("int8: {int8}, {n} tokens of {k}, {options:?}");

        let mut y = vec![CANARY; rows * M];
        experts
            .forward(routed, view_mut(&mut y, rows, M), ws)
            .expect("fits");
        assert_eq!(bits(&y), bits(&want), "forward, {what}");
        experts
            .forward(routed, Added(view_mut(&mut y, rows, M)), ws)
            .expect("fits");
        let twice: Vec<f32> = want.iter().map(|v| v + v).collect();
        assert_eq!(bits(&y), bits(&twice), "added, {what}");

        let up = fewer_rows(experts);
        let m = up.out_features();
        let mut ys = [vec![CANARY; rows * M], vec![CANARY; rows * m]];
        let [y, y_up] = &mut ys;
        let outputs = &mut [view_mut(y, rows, M), view_mut(y_up, rows, m)];
        Experts::forward_many(&[experts, &up], routed, outputs, ws).expect("fits");
        assert_eq!(bits(&ys[0]), bits(&want), "many, {what}");
        let want_up = alone(&up, &x, &routes, int8);
        assert_eq!(bits(&ys[1]), bits(&want_up), "the second of many, {what}");

        // Into every other row of an output with room, from the last one on.
        let places: Vec<usize> = (0..rows).map(|i| 2 * (rows - i)).collect();
        let mut y = vec![CANARY; (2 * rows + 1) * M];
        let y_view = view_mut(&mut y, 2 * rows + 1, M);
        experts.scatter(routed, &places, y_view, ws).expect("fits");
        for (row, y) in y.chunks(M).enumerate() {
            match places.iter().position(|&place| place == row) {
                Some(i) => assert_eq!(bits(y), bits(&want[i * M..][..M]), "row {row}, {what}"),
                None => assert!(y.iter().all(|&y| y == CANARY), "row {row}, {what}"),
            }
        }

        let mut y: Vec<f32> = (0..n * M).map(|i| i as f32).collect();
        let mut sums = y.clone();
        for ((&row, weight), out) in to.iter().zip(&weights).zip(want.chunks(M)) {
            for (y, &out) in sums[row * M..][..M].iter_mut().zip(out) {
                *y += weight * out;
            }
        }
        let y_view = view_mut(&mut y, n, M);
        experts
            .add_weighted(routed, &to, &weights, y_view, ws)
            .expect("fits");
        assert_eq!(bits(&y), bits(&sums), "weighted, {what}");
    }
}

#[test]
fn experts_give_the_bits_of_each_layer() {
    let mut routed = RoutedActivations::default();
    for (k, granularity) in [(150, 2), (130, 64), (0, 1)] {
        let experts = experts(k, granularity, 4);
        for backend in backends() {
            for family in FAMILIES {
                let options = Options::new().backend(backend).family(family);
                for n in [0, 1, 8, 70].into_iter().skip(2 * usize::from(quick())) {
                    let options = options.clone().threads(Threads::Serial);
                    check(&experts, n, &options, &mut routed);
                }
            }
        }
    }
}

/// A NaN reaches the rows of its token, whichever experts have it, and what those are added
/// to; nothing else has other bits than without it.
#[test]
fn what_is_not_finite_stays_with_its_token() {
    const NAN: u32 = 0x7fc0_0000;
    let (k, n) = (150, 7);
    let finite = Case::new(Shape::new(1, k, n)).x_f32;
    let mut x = finite.clone();
    (x[k + 3], x[4 * k]) = (f32::NAN, f32::NEG_INFINITY);
    // Token 6 is sent to nobody.
    x[6 * k] = f32::INFINITY;
    let mut routes = routes(n);
    routes.iter_mut().for_each(|to| to.retain(|&t| t != 6));
    let to: Vec<usize> = routes.iter().flatten().copied().collect();
    let counts: Vec<usize> = routes.iter().map(Vec::len).collect();
    let lists = Routes {
        tokens: &to,
        counts: &counts,
    };
    let (rows, weights) = (to.len(), vec![0.5; to.len()]);
    let lost = |token: usize| token == 1 || token == 4;
    for granularity in [2, 64] {
        let experts = experts(k, granularity, 4);
        for options in ways() {
            let refusing = &mut workspace(&options);
            let ws = &mut workspace(options.non_finite(NonFinite::Propagate));
            for group in [None, Some(GroupSize::G64)] {
                let prepare = |x: &[f32], routed: &mut _, ws: &mut Workspace| {
                    let x = view(x, n, k);
                    match group {
                        None => experts.prepare_int8_into(x, lists, routed, ws),
                        Some(group) => {
                            experts.prepare_int8_into(Grouped(x, group), lists, routed, ws)
                        }
                    }
                };
                let mut routed = RoutedActivations::default();
                let mut outputs = [&finite, &x].map(|x| {
                    prepare(x, &mut routed, ws).expect("propagated");
                    let mut y = [rows, rows + 1, n].map(|rows| vec![CANARY; rows * M]);
                    let [all, placed, sums] = &mut y;
                    experts
                        .forward(&routed, view_mut(all, rows, M), ws)
                        .expect("fits");
                    let places: Vec<usize> = (1..=rows).collect();
                    let placed = view_mut(placed, rows + 1, M);
                    experts.scatter(&routed, &places, placed, ws).expect("fits");
                    let sums = view_mut(sums, n, M);
                    experts
                        .add_weighted(&routed, &to, &weights, sums, ws)
                        .expect("fits");
                    y
                });
                let [[want, _, sums], [got, placed, got_sums]] = &mut outputs;
                for (row, &token) in want.chunks_mut(M).zip(&to) {
                    if lost(token) {
                        row.fill(f32::from_bits(NAN));
                    }
                }
                assert_eq!(bits(got), bits(want));
                assert_eq!(bits(&placed[..M]), bits(&[CANARY; M]));
                assert_eq!(bits(&placed[M..]), bits(want));
                let sums = sums.chunks(M).zip(got_sums.chunks(M));
                for (token, (want, got)) in sums.enumerate() {
                    match lost(token) {
                        true => assert!(got.iter().all(|y| y.is_nan()), "token {token}"),
                        false => assert_eq!(bits(got), bits(want), "token {token}"),
                    }
                }
                let refused = prepare(&x, &mut routed, refusing);
                assert!(matches!(refused, Err(GemmError::Quant(_))), "{refused:?}");
                assert_eq!(routed.rows(), 0);
            }
            // In f32 as each layer by itself, whatever is said: a weight of 0 keeps it away.
            for ws in [ws, refusing] {
                let routed = experts.prepare_f32(view(&x, n, k), lists, ws);
                let mut y = vec![CANARY; rows * M];
                experts
                    .forward(&routed.expect("fits"), view_mut(&mut y, rows, M), ws)
                    .expect("fits");
                let want = alone(&experts, &x, &routes, false);
                assert_eq!(bits(&y), bits(&want));
                let without = alone(&experts, &finite, &routes, false);
                let sent = (0..4).flat_map(|e| routes[e].iter().map(move |&token| (e, token)));
                let both = y.chunks(M).zip(without.chunks(M));
                for ((got, without), (expert, token)) in both.zip(sent) {
                    for (m, (got, without)) in got.iter().zip(without).enumerate() {
                        let reached = lost(token) && {
                            let mut trits = vec![0; k];
                            let panels = experts.layers()[expert].panels();
                            panels.unpack_row(m, &mut trits).expect("a row");
                            trits[if token == 1 { 3 } else { 0 }] != 0
                        };
                        assert_eq!(got.to_bits() != without.to_bits(), reached);
                    }
                }
            }
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
fn experts_are_shared_among_threads() {
    let mut routed = RoutedActivations::default();
    let experts = experts(700, 2, 4);
    for threads in [2, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.expect("a thread pool");
        for n in [9, 100] {
            pool.install(|| check(&experts, n, &Options::new(), &mut routed));
        }
    }
}

#[test]
fn bad_input_is_an_error_that_writes_nothing() {
    let (experts, ws) = (experts(100, 2, 2), &mut Workspace::new());
    let x = vec![1.0f32; 300];
    let x = view(&x, 3, 100);
    let length = |argument, len, expected| GemmError::Length {
        argument,
        len,
        expected,
    };
    let no_row = |argument, index, row, rows| GemmError::NoRow {
        argument,
        index,
        row,
        rows,
    };
    let one = Routes {
        tokens: &[0],
        counts: &[1, 0],
    };
    let both = Routes {
        tokens: &[0, 2, 1],
        counts: &[2, 1],
    };
    let prepare = |tokens: &[usize], counts: &[usize], ws: &mut Workspace| {
        let tokens = Routes { tokens, counts };
        let float = experts.prepare_f32(x, tokens, ws).expect_err("wrong");
        assert_eq!(
            experts.prepare_int8(x, tokens, ws).expect_err("wrong"),
            float
        );
        float
    };
    assert_eq!(prepare(&[0], &[1], ws), length("counts", 1, 2));
    assert_eq!(prepare(&[0], &[1, 1], ws), length("tokens", 1, 2));
    assert_eq!(
        prepare(&[0], &[usize::MAX, 2], ws),
        length("tokens", 1, usize::MAX)
    );
    assert_eq!(prepare(&[0, 2, 3], &[1, 2], ws), no_row("tokens", 2, 3, 3));
    let narrow = view(&[1.0f32; 99], 1, 99);
    let width = GemmError::InputWidth {
        cols: 99,
        expected: 100,
    };
    let got = experts.prepare_f32(narrow, one, ws).expect_err("wrong");
    assert_eq!(got, width);

    let mut routed = experts.prepare_int8(x, both, ws).expect("fits");
    let mut y = vec![CANARY; 3 * M];
    type Run<'a> = &'a dyn Fn(MatMut<'_, f32>, &mut Workspace) -> Result<(), GemmError>;
    let mut failed = |run: Run<'_>| {
        let got = run(view_mut(&mut y, 3, M), ws).expect_err("wrong");
        assert!(y.iter().all(|&y| y == CANARY), "{got}");
        got
    };
    let to = [0, 1, 2];
    let got = failed(&|y, ws| experts.scatter(&routed, &to[..2], y, ws));
    assert_eq!(got, length("to", 2, 3));
    let got = failed(&|y, ws| experts.scatter(&routed, &[0, 1, 3], y, ws));
    assert_eq!(got, no_row("to", 2, 3, 3));
    let got = failed(&|y, ws| experts.scatter(&routed, &[1, 0, 1], y, ws));
    assert_eq!(
        got,
        GemmError::RowTwice {
            argument: "to",
            index: 2,
            row: 1
        }
    );
    let got = failed(&|y, ws| experts.add_weighted(&routed, &to, &[1.0], y, ws));
    assert_eq!(got, length("weights", 1, 3));
    let got = failed(&|y, ws| experts.add_weighted(&routed, &[0, 1, 9], &[1.0; 3], y, ws));
    assert_eq!(got, no_row("to", 2, 9, 3));
    let other = self::experts(100, 2, 3);
    let got = failed(&|y, ws| other.forward(&routed, y, ws));
    assert_eq!(got, length("counts of the activations", 2, 3));
    let grouped = self::experts(100, 64, 2);
    let got = failed(&|y, ws| grouped.forward(&routed, y, ws));
    let matrix = Some(GroupSize::G64);
    let group = GemmError::Group {
        prepared: None,
        matrix,
    };
    assert_eq!(got, group);
    let narrower = self::experts(99, 2, 2);
    let got = failed(&|y, ws| narrower.forward(&routed, y, ws));
    let width = GemmError::InputWidth {
        cols: 100,
        expected: 99,
    };
    assert_eq!(got, width);
    let mut small = vec![CANARY; 2 * M];
    let got = experts.forward(&routed, view_mut(&mut small, 2, M), ws);
    assert!(
        matches!(got, Err(GemmError::OutputShape { rows: 2, .. })),
        "{got:?}"
    );

    // What could not be prepared again is gone.
    let nan = vec![f32::NAN; 100];
    let got = experts.prepare_int8_into(view(&nan, 1, 100), one, &mut routed, ws);
    assert!(matches!(got, Err(GemmError::Quant(_))), "{got:?}");
    assert_eq!(routed.rows(), 0);
}

#[test]
fn experts_are_alike() {
    let layer = |m, k, granularity| {
        let shape = Shape {
            granularity,
            ..Shape::new(m, k, 1)
        };
        Case::new(shape).layer
    };
    let with = |other: Linear| Experts::new(vec![layer(64, 100, 2), other]).expect_err("differs");
    let length = |argument, len, expected| GemmError::Length {
        argument,
        len,
        expected,
    };
    assert_eq!(with(layer(65, 100, 2)), length("out_features", 65, 64));
    assert_eq!(with(layer(64, 101, 2)), length("in_features", 101, 100));
    assert!(matches!(with(layer(64, 100, 128)), GemmError::Group { .. }));
    let (none, ws) = (
        Experts::new(Vec::new()).expect("nothing"),
        &mut Workspace::new(),
    );
    let x = view(&[1.0f32; 6], 2, 3);
    let nowhere = Routes {
        tokens: &[],
        counts: &[],
    };
    let routed = none.prepare_f32(x, nowhere, ws).expect("nothing");
    let missing = Experts::forward_many::<MatMut<'_, f32>>(&[&none], &routed, &mut [], ws);
    assert_eq!(missing, Err(length("outputs", 0, 1)));
    none.forward(&routed, view_mut::<f32>(&mut [], 0, 0), ws)
        .expect("nothing");
}
