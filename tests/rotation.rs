//! Rotated inputs: the bits of rotating first, on every path, and nothing else.

use tritgemm::{
    Experts, GemmError, GroupSize, Grouped, Linear, MatrixError, NonFinite, Options,
    PreparedActivations, Rotation, Routes, Scales, TernaryMatrix, Threads, Workspace,
};
use tritgemm_testing::case::{Case, Shape};
use tritgemm_testing::{bits, quick, view, view_mut, ways, workspace};

fn signs(k: usize) -> Vec<i8> {
    (0..k).map(|i| if i * i % 7 < 3 { -1 } else { 1 }).collect()
}

/// Rotated by the definition, in the order of additions that is documented.
fn rotated(x: &[f32], block: usize, signs: &[i8]) -> Vec<f32> {
    let mut all: Vec<f32> = x
        .chunks(signs.len())
        .flat_map(|x| {
            x.iter()
                .zip(signs)
                .map(|(x, &s)| if s < 0 { -x } else { *x })
        })
        .collect();
    for x in all.chunks_mut(block) {
        let mut distance = 1;
        while distance < block {
            for i in (0..block).filter(|i| i & distance == 0) {
                (x[i], x[i + distance]) = (x[i] + x[i + distance], x[i] - x[i + distance]);
            }
            distance *= 2;
        }
        let scale = (1.0 / (block as f64).sqrt()) as f32;
        x.iter_mut().for_each(|x| *x *= scale);
    }
    all
}

fn outputs(
    layer: &Linear,
    x: &[f32],
    n: usize,
    group: Option<GroupSize>,
    ws: &mut Workspace,
) -> [Vec<u32>; 2] {
    let (m, k) = (layer.out_features(), layer.in_features());
    let (mut int8, mut float) = (vec![0.0f32; n * m], vec![0.0f32; n * m]);
    let (x, to) = (view(x, n, k), view_mut(&mut int8, n, m));
    match group {
        None => layer.forward_int8(x, to, ws),
        Some(group) => layer.forward_int8(Grouped(x, group), to, ws),
    }
    .expect("fits");
    layer
        .forward_f32(x, view_mut(&mut float, n, m), ws)
        .expect("fits");
    [bits(&int8), bits(&float)]
}

#[test]
fn a_rotated_layer_is_a_layer_on_rotated_inputs() {
    let ways: Vec<Options> = ways()
        .into_iter()
        .step_by(1 + 2 * usize::from(quick()))
        .collect();
    for (m, k, block, n) in [
        (70, 256, 64, 35),
        (130, 96, 32, 3),
        (64, 1024, 1024, 1),
        (5, 6, 2, 2),
        (3, 5, 1, 1),
    ] {
        let signs = signs(k);
        for granularity in [2, 64] {
            let case = Case::new(Shape {
                granularity,
                bias: true,
                ..Shape::new(m, k, n)
            });
            for (given, all) in [(Some(&signs[..]), &signs), (None, &vec![1; k])] {
                let rotation = Rotation::new(block, given).expect("a rotation");
                let layer = case.layer.clone().with_rotation(rotation).expect("fits");
                let x = rotated(&case.x_f32, block, all);
                for options in &ways {
                    let ws = &mut workspace(options);
                    for group in [None, Some(GroupSize::G32)] {
                        let want = outputs(&case.layer, &x, n, group, ws);
                        let got = outputs(&layer, &case.x_f32, n, group, ws);
                        assert_eq!(got, want, "{:?} blocks of {block} {options:?}", case.shape);
                    }
                }
            }
        }
    }
}

/// In threads, prepared, sliced, of experts and of 16 bits: all rotate, and once.
#[test]
fn every_path_rotates() {
    let (m, k, n, block) = (130, 512, 33, 128);
    let case = Case::new(Shape::new(m, k, n));
    let rotation = Rotation::new(block, Some(&signs(k))).expect("a rotation");
    let layer = case
        .layer
        .clone()
        .with_rotation(rotation.clone())
        .expect("fits");
    let ws = &mut workspace(Options::new().threads(Threads::Serial));
    let want = outputs(&layer, &case.x_f32, n, None, ws);
    let x = view(&case.x_f32, n, k);
    let prepared = [
        layer.prepare_int8(x, ws).expect("finite"),
        layer.prepare_f32(x, ws).expect("fits"),
    ];
    for (i, prepared) in prepared.iter().enumerate() {
        let mut y = vec![0.0f32; n * m];
        let to = view_mut(&mut y, n, m);
        match i {
            0 => layer.forward_int8(prepared, to, ws),
            _ => layer.forward_f32(prepared, to, ws),
        }
        .expect("fits");
        assert_eq!(bits(&y), want[i]);
    }
    let shard = layer.slice_rows(64..130).expect("at a panel");
    let got = outputs(&shard, &case.x_f32, n, None, ws);
    for (got, want) in got.iter().zip(&want) {
        assert!(got.chunks(66).eq(want.chunks(m).map(|row| &row[64..])));
    }
    let experts = Experts::new(vec![layer.clone()]).expect("one");
    let (tokens, counts) = ((0..n).collect::<Vec<_>>(), [n]);
    let routes = Routes {
        tokens: &tokens,
        counts: &counts,
    };
    let routed = [
        experts.prepare_int8(x, routes, ws).expect("finite"),
        experts.prepare_f32(x, routes, ws).expect("fits"),
    ];
    for (routed, want) in routed.iter().zip(&want) {
        let mut y = vec![0.0f32; n * m];
        experts
            .forward(routed, view_mut(&mut y, n, m), ws)
            .expect("fits");
        assert_eq!(bits(&y), *want);
    }
    #[cfg(feature = "rayon")]
    {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build();
        let got = pool
            .expect("a pool")
            .install(|| outputs(&layer, &case.x_f32, n, None, &mut Workspace::new()));
        assert_eq!(got, want);
    }
    // A value that is not finite is named where it was.
    let mut bad = case.x_f32.clone();
    bad[2 * k + 300] = f32::INFINITY;
    let mut y = vec![0.0f32; n * m];
    let got = layer
        .forward_int8(view(&bad, n, k), view_mut(&mut y, n, m), ws)
        .expect_err("infinite");
    assert!(
        got.to_string().contains("token 2") && got.to_string().contains("300"),
        "{got}"
    );
}

/// What is not finite spreads over its rotated block. In int8 its token is lost, as without a
/// rotation; in f32 the outputs whose weights of the block are 0 have the bits they had.
#[test]
fn what_is_not_finite_stays_in_its_block_or_token() {
    const NAN: u32 = 0x7fc0_0000;
    let (m, k, n, block) = (70, 256, 5, 64);
    // Every other row has no weights in block 2.
    let case = Case::new(Shape::new(m, k, n));
    let untouched = |row: usize| row.is_multiple_of(2);
    let trit = |i: usize| match (untouched(i / k), i % k / block) {
        (true, 2) => 0,
        _ => [1i8, -1, 0][(i * i + i / k) % 3],
    };
    let trits: Vec<i8> = (0..m * k).map(trit).collect();
    let matrix = TernaryMatrix::from_trits(view(&trits, m, k), Scales::per_tensor(0.5));
    let plain = Linear::new(&matrix.expect("trits")).expect("a layer");
    let rotation = Rotation::new(block, Some(&signs(k))).expect("a rotation");
    let layer = plain.clone().with_rotation(rotation).expect("fits");
    let finite = &case.x_f32;
    let mut x = finite.clone();
    // Token 3 overflows where it is rotated.
    (x[k + 2 * block + 5], x[2 * k + 130]) = (f32::NAN, f32::NEG_INFINITY);
    x[3 * k + 2 * block..][..block].fill(f32::MAX);
    let turned = rotated(&x, block, &signs(k));
    assert!(turned[3 * k..][..k].iter().any(|x| x.is_infinite()));
    let lost = |token: usize| (1..4).contains(&token);
    let experts = Experts::new(vec![layer.clone()]).expect("one");
    let (tokens, counts) = ([4, 3, 1, 0], [4]);
    let routes = Routes {
        tokens: &tokens,
        counts: &counts,
    };
    for options in ways() {
        let refusing = &mut workspace(&options);
        let ws = &mut workspace(options.non_finite(NonFinite::Propagate));
        for group in [None, Some(GroupSize::G32)] {
            let [mut int8, float] = outputs(&layer, finite, n, group, ws);
            let [got_int8, got] = outputs(&layer, &x, n, group, ws);
            for (token, row) in int8.chunks_mut(m).enumerate() {
                if lost(token) {
                    row.fill(NAN);
                }
            }
            assert_eq!(got_int8, int8);
            assert_eq!(got, outputs(&plain, &turned, n, group, ws)[1]);
            for (i, (got, want)) in got.iter().zip(&float).enumerate() {
                let same = !lost(i / m) || untouched(i % m);
                assert_eq!(got == want, same, "output {} of token {}", i % m, i / m);
            }

            let (x, to) = (view(&x, n, k), &mut vec![0.0f32; 4 * m]);
            let routed = match group {
                None => experts.prepare_int8(x, routes, ws),
                Some(group) => experts.prepare_int8(Grouped(x, group), routes, ws),
            };
            experts
                .forward(&routed.expect("propagated"), view_mut(to, 4, m), ws)
                .expect("fits");
            let want = tokens.iter().flat_map(|&t| &int8[t * m..][..m]);
            assert!(bits(to).iter().eq(want));
            let refused = match group {
                None => layer.prepare_int8(x, refusing),
                Some(group) => layer.prepare_int8(Grouped(x, group), refusing),
            };
            let text = refused.expect_err("not finite").to_string();
            assert!(text.contains("token 1"), "{text}");
        }
    }
}

/// Back and forth, the table of an embedding.
#[test]
fn a_rotation_is_undone() {
    let (k, block) = (192, 64);
    let rotation = Rotation::new(block, Some(&signs(k))).expect("a rotation");
    assert_eq!(rotation.block(), block);
    assert!(rotation.signs().expect("signs").eq(signs(k)));
    // Integers, so that every sum is exact.
    let x: Vec<f32> = (0..k).map(|i| (i % 17) as f32 - 8.0).collect();
    let mut y = x.clone();
    rotation.apply(&mut y).expect("fits");
    assert_eq!(bits(&y), bits(&rotated(&x, block, &signs(k))));
    assert_ne!(y, x);
    rotation.invert(&mut y).expect("fits");
    assert_eq!(y, x);
}

#[test]
fn bad_rotations_are_errors() {
    let block = |block, cols| MatrixError::RotationBlock { block, cols };
    for wrong in [0, 3, 96] {
        assert_eq!(Rotation::new(wrong, None), Err(block(wrong, None)));
    }
    assert_eq!(Rotation::new(4, Some(&[1; 6])), Err(block(4, Some(6))));
    let sign = MatrixError::RotationSign { index: 2, value: 0 };
    assert_eq!(Rotation::new(2, Some(&[1, -1, 0, 1])), Err(sign));
    let least = MatrixError::RotationSign {
        index: 0,
        value: -128,
    };
    assert_eq!(Rotation::new(1, Some(&[-128])), Err(least));
    let case = Case::new(Shape::new(64, 96, 2));
    let refused = |rotation: Rotation| {
        case.layer
            .clone()
            .with_rotation(rotation)
            .expect_err("no fit")
    };
    assert_eq!(
        refused(Rotation::new(64, None).expect("alone")),
        block(64, Some(96))
    );
    let length = MatrixError::Length {
        argument: "signs",
        len: 64,
        expected: 96,
    };
    let short = Rotation::new(32, Some(&[1; 64])).expect("alone");
    assert_eq!(refused(short.clone()), length);
    assert_eq!(short.apply(&mut [0.0; 96]), Err(length.clone()));
    assert_eq!(short.invert(&mut [0.0; 96]), Err(length));

    // Prepared for one rotation and used with another.
    let ws = &mut Workspace::new();
    let turned = |signs: Option<&[i8]>| {
        let rotation = Rotation::new(32, signs).expect("a rotation");
        case.layer.clone().with_rotation(rotation).expect("fits")
    };
    let (plain, all, some) = (&case.layer, turned(None), turned(Some(&signs(96))));
    let x = view(&case.x_f32, 2, 96);
    let mut y = vec![7.0f32; 128];
    for (from, to, blocks) in [
        (plain, &all, [None, Some(32)]),
        (&all, plain, [Some(32), None]),
        (&all, &some, [Some(32); 2]),
    ] {
        let [prepared, matrix] = blocks;
        let error = GemmError::Rotation { prepared, matrix };
        let x = from.prepare_f32(x, ws).expect("fits");
        assert_eq!(
            to.forward_f32(&x, view_mut(&mut y, 2, 64), ws),
            Err(error.clone())
        );
        let mut ys = y.clone();
        let mut ys = [view_mut(&mut y, 2, 64), view_mut(&mut ys, 2, 64)];
        let many = Linear::forward_many_f32(&[from, to], &x, &mut ys, ws);
        assert_eq!(many, Err(error.clone()));
        assert_eq!(
            Experts::new(vec![from.clone(), to.clone()]).map(|_| ()),
            Err(error)
        );
    }
    assert!(y.iter().all(|&y| y == 7.0));
    // Raw sums, and values that are int8 already, are the caller's matter.
    let x = some.prepare_int8(x, ws).expect("finite");
    some.panels()
        .gemm_i8(&x, view_mut(&mut vec![0; 128], 2, 64), ws)
        .expect("fits");
    let x = PreparedActivations::from_int8(view(&case.x_i8, 2, 96), vec![1.0; 2], None, ws);
    some.forward_int8(&x.expect("fits"), view_mut(&mut y, 2, 64), ws)
        .expect("fits");
}
