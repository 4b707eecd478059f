//! int8 activations with a scale for each group along K, and those that are not finite.

use tritgemm::{
    Experts, GemmError, GroupSize, Grouped, Linear, NonFinite, Options, PreparedActivations,
    Routes, Workspace,
};
use tritgemm_testing::case::{Case, GRANULARITIES, Shape};
use tritgemm_testing::oracle::{self, Affine};
use tritgemm_testing::{bits, quick, view, view_mut, ways, workspace};

/// int8 values and scales `[tokens][groups]`, group after group by the definition.
fn quantized(x: &[f32], k: usize, group: GroupSize) -> (Vec<i8>, Vec<f32>) {
    let (mut values, mut scales) = (Vec::new(), Vec::new());
    for token in x.chunks(k.max(1)) {
        for part in token.chunks(group.len()) {
            let (q, scale) = oracle::quantize(part);
            values.extend(q);
            scales.push(scale);
        }
    }
    (values, scales)
}

/// What comes of such values: sums are cut where a group of either kind ends.
fn expected(case: &Case, (values, scales): &(Vec<i8>, Vec<f32>), group: GroupSize) -> Vec<u32> {
    let groups = group.groups(case.shape.k);
    let own = case.group().unwrap_or(usize::MAX);
    let y = case.affine(|affine| {
        let affine = Affine {
            scale: affine.scale,
            group: Some(group.len().min(own)),
            bias: affine.bias,
        };
        let token_scale = |token: usize, col: usize| scales[token * groups + col / group.len()];
        oracle::scaled_integers(case.operands(values), token_scale, &affine)
    });
    bits(&y)
}

fn forward(case: &Case, run: impl FnOnce(&Linear, &mut [f32])) -> Vec<u32> {
    let mut y = vec![f32::NAN; case.shape.m * case.shape.n];
    run(&case.layer, &mut y);
    bits(&y)
}

/// Quantised in the call, prepared, and given as int8, beside weights of every granularity.
#[test]
fn groups_of_activations_give_the_bits_of_the_definition() {
    let ways: Vec<Options> = ways()
        .into_iter()
        .step_by(1 + 2 * usize::from(quick()))
        .collect();
    for (m, k, n) in [
        (70, 300, 35),
        (130, 33, 3),
        (5, 31, 1),
        (64, 1024, 1),
        (3, 0, 2),
    ] {
        for granularity in GRANULARITIES {
            let case = Case::new(Shape {
                granularity,
                bias: m != 64,
                ..Shape::new(m, k, n)
            });
            for &group in GroupSize::ALL {
                let int8 = quantized(&case.x_f32, k, group);
                let want = expected(&case, &int8, group);
                for options in &ways {
                    let ws = &mut workspace(options);
                    let x = Grouped(view(&case.x_f32, n, k), group);
                    let what = format!("{:?} in groups of {group}, {options:?}", case.shape);
                    let got = forward(&case, |layer, y| {
                        layer.forward_int8(x, view_mut(y, n, m), ws).expect("fits");
                    });
                    assert_eq!(got, want, "{what}");
                    let mut prepared = case.layer.prepare_int8(x, ws).expect("fits");
                    let int8_x = Grouped(view(&int8.0, n, k), group);
                    for given in [false, true] {
                        if given {
                            let own = case.layer.group();
                            let scales = int8.1.clone();
                            let made = PreparedActivations::from_int8(int8_x, scales, own, ws);
                            prepared = made.expect("fits");
                        }
                        let got = forward(&case, |layer, y| {
                            layer
                                .forward_int8(&prepared, view_mut(y, n, m), ws)
                                .expect("fits");
                        });
                        assert_eq!(got, want, "prepared, {what}");
                    }
                }
            }
        }
    }
}

/// As many rows as take several passes, since the sums of all do not fit the cache.
#[test]
fn groups_of_many_rows_give_the_bits_of_the_definition() {
    let (m, k, n, group) = (20_003, 96, 18, GroupSize::G32);
    let case = Case::new(Shape {
        granularity: group.len(),
        ..Shape::new(m, k, n)
    });
    let want = expected(&case, &quantized(&case.x_f32, k, group), group);
    for options in ways() {
        let ws = &mut workspace(&options);
        let x = Grouped(view(&case.x_f32, n, k), group);
        let got = forward(&case, |layer, y| {
            layer.forward_int8(x, view_mut(y, n, m), ws).expect("fits");
        });
        assert!(got == want, "{options:?}");
    }
}

/// An outlier costs the precision of its group alone.
#[test]
fn groups_keep_precision_beside_outliers() {
    let (m, k) = (64, 1024);
    let case = Case::new(Shape::new(m, k, 1));
    let mut x: Vec<f32> = (0..k)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
        .collect();
    x[100] = 200.0;
    let ws = &mut Workspace::new();
    let mut exact = vec![0.0f32; m];
    let x = view(&x, 1, k);
    case.layer
        .forward_f32(x, view_mut(&mut exact, 1, m), ws)
        .expect("fits");
    let mut error = |group: Option<GroupSize>| {
        let mut y = vec![0.0f32; m];
        let to = view_mut(&mut y, 1, m);
        match group {
            None => case.layer.forward_int8(x, to, ws),
            Some(group) => case.layer.forward_int8(Grouped(x, group), to, ws),
        }
        .expect("fits");
        let squares = y.iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let errors = [
        None,
        Some(GroupSize::G256),
        Some(GroupSize::G64),
        Some(GroupSize::G32),
    ]
    .map(&mut error);
    assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
    assert!(errors[0] > 3.0 * errors[3], "{errors:?}");
}

/// Tokens that are not finite are NaN in all their outputs and change no other's, where that
/// was asked for.
#[test]
fn what_is_not_finite_is_propagated_where_asked_for() {
    let (m, k, n) = (70, 150, 5);
    for granularity in [1, 64] {
        let case = Case::new(Shape {
            granularity,
            ..Shape::new(m, k, n)
        });
        let mut x = case.x_f32.clone();
        x[k + 3] = f32::NAN;
        x[3 * k + 149] = f32::NEG_INFINITY;
        for options in ways() {
            let refusing = &mut workspace(&options);
            let ws = &mut workspace(options.non_finite(NonFinite::Propagate));
            for group in [None, Some(GroupSize::G64)] {
                let run = |x: &[f32], y: &mut [f32], ws: &mut Workspace| {
                    let (x, y) = (view(x, n, k), view_mut(y, n, m));
                    match group {
                        None => case.layer.forward_int8(x, y, ws),
                        Some(group) => case.layer.forward_int8(Grouped(x, group), y, ws),
                    }
                };
                let (mut y, mut finite) = (vec![0.0f32; n * m], vec![0.0f32; n * m]);
                run(&case.x_f32, &mut finite, ws).expect("finite");
                run(&x, &mut y, ws).expect("propagated");
                for (token, (y, finite)) in y.chunks(m).zip(finite.chunks(m)).enumerate() {
                    match token {
                        1 | 3 => assert_eq!(bits(y), vec![0x7fc0_0000; m], "token {token}"),
                        _ => assert_eq!(bits(y), bits(finite), "token {token}"),
                    }
                }
                let refused = run(&x, &mut y, refusing);
                assert!(matches!(refused, Err(GemmError::Quant(_))), "{refused:?}");
            }
        }
    }
}

/// Groups reach the experts, and sums without scales are not to be had of them.
#[test]
fn groups_of_experts_and_of_raw_products() {
    let (m, k, n) = (64, 100, 3);
    let case = Case::new(Shape::new(m, k, n));
    let experts = Experts::new(vec![case.layer.clone()]).expect("one");
    let (x, ws) = (
        Grouped(view(&case.x_f32, n, k), GroupSize::G32),
        &mut Workspace::new(),
    );
    let routes = Routes {
        tokens: &[2, 0],
        counts: &[2],
    };
    let routed = experts.prepare_int8(x, routes, ws).expect("fits");
    let (mut y, mut all) = (vec![0.0f32; 2 * m], vec![0.0f32; n * m]);
    experts
        .forward(&routed, view_mut(&mut y, 2, m), ws)
        .expect("fits");
    case.layer
        .forward_int8(x, view_mut(&mut all, n, m), ws)
        .expect("fits");
    assert_eq!(bits(&y[..m]), bits(&all[2 * m..]));
    assert_eq!(bits(&y[m..]), bits(&all[..m]));

    let prepared = case.layer.prepare_int8(x, ws).expect("fits");
    let mut sums = vec![7; n * m];
    let raw = case
        .layer
        .panels()
        .gemm_i8(&prepared, view_mut(&mut sums, n, m), ws);
    let group = GemmError::Group {
        prepared: Some(GroupSize::G32),
        matrix: None,
    };
    assert_eq!(raw, Err(group));
    assert!(sums.iter().all(|&sum| sum == 7));
    let x = Grouped(view(&case.x_i8, n, k), GroupSize::G64);
    let few = PreparedActivations::from_int8(x, vec![1.0; n], None, ws).expect_err("two a token");
    let length = GemmError::Length {
        argument: "token_scales",
        len: n,
        expected: 2 * n,
    };
    assert_eq!(few, length);
}
