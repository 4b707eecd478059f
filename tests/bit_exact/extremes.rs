//! Where kernels break: the largest sums, the longest rows, values that are no
//! numbers, codes that are no weights.

use tritgemm::{
    Backend, Linear, MAX_COLS, Options, PanelFile, Panels, Scales, TernaryMatrix, Verify,
};
use tritgemm_testing::case::assert_same;
use tritgemm_testing::{Rng, bits, quick, view, view_mut, ways, workspace};

fn pack(trits: &[i8], m: usize, k: usize) -> Panels {
    let matrix =
        TernaryMatrix::from_trits(view(trits, m, k), Scales::per_tensor(1.0)).expect("a matrix");
    Panels::pack_on(&matrix, &workspace(Options::new().backend(Backend::best()))).expect("memory")
}

fn gemm_i8(panels: &Panels, x: &[i8], n: usize, way: &Options) -> Vec<i32> {
    let (m, k) = (panels.rows(), panels.cols());
    let mut y = vec![-1; n * m];
    let ws = &mut workspace(way);
    panels
        .gemm_i8(view(x, n, k), view_mut(&mut y, n, m), ws)
        .expect("fits");
    y
}

fn forward_f32(layer: &Linear, x: &[f32], n: usize, way: &Options) -> Vec<f32> {
    let (m, k) = (layer.out_features(), layer.in_features());
    let mut y = vec![7.0; n * m];
    let ws = &mut workspace(way);
    layer
        .forward_f32(view(x, n, k), view_mut(&mut y, n, m), ws)
        .expect("fits");
    y
}

/// Depths around every limit that a sum meets on its way: 16-bit blocks, 8-bit
/// lanes, and the 57,600 weights after which column accumulators are emptied.
fn depths() -> Vec<usize> {
    let depths = [240, 241, 1920, 4096, 57_600, 57_601, 65_536, 115_300];
    if quick() {
        vec![240, 241, 4096, 57_700]
    } else {
        depths.to_vec()
    }
}

/// One row a pattern: every weight the same, alternating, or zero, against
/// every activation the same. No sum can be larger.
#[test]
fn the_largest_sums_are_exact() {
    let rows: [fn(usize) -> i8; 6] = [
        |_| 1,
        |_| -1,
        |_| 0,
        |i| [1, -1][i % 2],
        |i| [-1, 1, 1][i % 3],
        |i| if i < 100 { -1 } else { 1 },
    ];
    for k in depths() {
        let trits: Vec<i8> = rows.iter().flat_map(|row| (0..k).map(row)).collect();
        let panels = pack(&trits, rows.len(), k);
        for x in [127i8, -128] {
            // One token, and a column tile with one more.
            for n in [1, 33] {
                let wanted = rows.map(|row| {
                    let weights: i64 = (0..k).map(|i| i64::from(row(i))).sum();
                    i32::try_from(weights * i64::from(x)).expect("fits int32")
                });
                let wanted = wanted.repeat(n);
                for way in &ways() {
                    let got = gemm_i8(&panels, &vec![x; n * k], n, way);
                    assert_same(
                        "gemm_i8",
                        &format!("x = {x}, {k} deep, {way:?}"),
                        &got,
                        &wanted,
                    );
                }
            }
        }
    }
}

/// Sums that swing far out within a block before they come back.
#[test]
fn partial_sums_may_swing() {
    let k = 57_600 + 480;
    for half in [8, 40, 80, 120, 240, 28_800] {
        let sign = |i: usize| {
            if (i / half).is_multiple_of(2) {
                1i8
            } else {
                -1
            }
        };
        let trits: Vec<i8> = (0..k).map(sign).chain((0..k).map(|i| -sign(i))).collect();
        let panels = pack(&trits, 2, k);
        for x in [127i8, -128] {
            let sum = (0..k).map(|i| i32::from(sign(i))).sum::<i32>() * i32::from(x);
            for way in &ways() {
                let got = gemm_i8(&panels, &vec![x; 2 * k], 2, way);
                let wanted = [sum, -sum, sum, -sum];
                assert_same(
                    "gemm_i8",
                    &format!("x = {x}, {half}, {way:?}"),
                    &got,
                    &wanted,
                );
            }
        }
    }
}

/// 16-bit accumulators for many tokens at the very ends of their range: they are
/// folded by the magnitudes of what is to come, and what a fold leaves is the largest
/// it can be, 255, or the least, 0.
#[test]
fn accumulators_reach_their_limits() {
    // Chunks of 48 activations. After six of them, all that a fold leaves is 255;
    // then 254 times 128 more, and some that no longer fit.
    for more in [&[][..], &[-1], &[-128], &[-128; 34]] {
        let mut x = vec![127_i8, 127, 1];
        x.resize(48, 0);
        x.resize(11 * 48 + 14, -128);
        x.extend(more);
        x.resize(12 * 48, 0);
        x.resize(15 * 48, -128);
        let k = x.len();
        // Against the signs of the activations, with them, and both in turns of 240.
        let row = |sign: i8| x.iter().map(move |&x| if x < 0 { -sign } else { sign });
        let turns = row(1).enumerate();
        let turns = turns.map(|(i, w)| if (i / 240).is_multiple_of(2) { w } else { -w });
        let trits: Vec<i8> = row(1).chain(row(-1)).chain(turns).collect();
        let wanted: Vec<i32> = trits
            .chunks(k)
            .map(|row| {
                row.iter()
                    .zip(&x)
                    .map(|(&w, &x)| i32::from(w) * i32::from(x))
                    .sum()
            })
            .collect();
        let panels = pack(&trits, 3, k);
        // A narrow tile, a wide one, and both.
        for n in [16, 32, 48] {
            for way in &ways() {
                let got = gemm_i8(&panels, &x.repeat(n), n, way);
                let context = format!("{} more, N = {n}, {way:?}", more.len());
                assert_same("gemm_i8", &context, &got, &wanted.repeat(n));
            }
        }
    }
}

/// The longest row there may be, at its largest sum: 128 * (2^24 - 1).
#[test]
fn the_longest_row_fits_int32() {
    if quick() {
        return;
    }
    let k = MAX_COLS;
    let panels = pack(&vec![-1; k], 1, k);
    let x = vec![-128; k];
    for way in ways().iter().step_by(3) {
        let got = gemm_i8(&panels, &x, 1, way);
        assert_eq!(got, [i32::MAX - 127], "{way:?}");
    }
}

#[test]
fn zero_weights_give_positive_zero() {
    let (m, k, n) = (65, 500, 33);
    let mut rng = Rng::new(1);
    let x_i8 = rng.vec(n * k, Rng::i8);
    let x = rng.vec(n * k, |r| match r.below(3) {
        0 => f32::NAN,
        1 => f32::NEG_INFINITY,
        _ => -r.unit(),
    });
    let panels = pack(&vec![0; m * k], m, k);
    let layer = Linear::from_parts(panels, Scales::per_tensor(3.0), None).expect("a layer");
    for way in &ways() {
        let y = gemm_i8(layer.panels(), &x_i8, n, way);
        assert!(y.iter().all(|&v| v == 0), "{way:?}");
        let y = forward_f32(&layer, &x, n, way);
        assert!(y.iter().all(|v| v.to_bits() == 0), "{way:?}");
    }
}

/// What a weight of zero meets is never seen, in any lane, in any block.
#[test]
fn nothing_spreads_from_beside_a_zero_weight() {
    let (m, k, n) = (129, 733, 18);
    let mut rng = Rng::new(2);
    let dead: Vec<bool> = rng.vec(k, |r| r.below(3) == 0);
    let trits: Vec<i8> = (0..m * k)
        .map(|i| if dead[i % k] { 0 } else { rng.trit() })
        .collect();
    let clean: Vec<f32> = (0..n * k).map(|_| rng.unit()).collect();
    let poison = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -0.0];
    let mut dirty = clean.clone();
    for (i, x) in dirty.iter_mut().enumerate().filter(|(i, _)| dead[i % k]) {
        *x = poison[i % poison.len()];
    }
    let layer = Linear::from_parts(pack(&trits, m, k), Scales::per_tensor(0.5), None);
    let layer = layer.expect("a layer");
    for way in &ways() {
        let (got, wanted) = (
            forward_f32(&layer, &dirty, n, way),
            forward_f32(&layer, &clean, n, way),
        );
        assert!(wanted.iter().all(|v| v.is_finite()), "{way:?}");
        assert_same(
            "forward_f32",
            &format!("{way:?}"),
            &bits(&got),
            &bits(&wanted),
        );
    }
}

/// One poisoned activation reaches exactly the rows that weigh it, and every
/// NaN that comes out is the same one.
#[test]
fn nan_and_infinity_reach_only_who_weighs_them() {
    let (m, k, n) = (70, 300, 17);
    let mut rng = Rng::new(4);
    let trits = rng.vec(m * k, Rng::trit);
    let layer = Linear::from_parts(pack(&trits, m, k), Scales::per_tensor(-2.0), None);
    let layer = layer.expect("a layer");
    let clean = rng.vec(n * k, Rng::unit);
    let (token, at) = (9, 241);
    for poison in [
        f32::NAN,
        -f32::NAN,
        f32::from_bits(0x7f80_0001),
        f32::INFINITY,
    ] {
        let mut x = clean.clone();
        x[token * k + at] = poison;
        for way in &ways() {
            let y = forward_f32(&layer, &x, n, way);
            let wanted = forward_f32(&layer, &clean, n, way);
            for (i, (y, wanted)) in y.iter().zip(&wanted).enumerate() {
                let weight = trits[i % m * k + at];
                let wanted = match weight {
                    0 => *wanted,
                    _ if i / m != token => *wanted,
                    _ if poison.is_nan() => f32::from_bits(0x7fc0_0000),
                    w => poison * f32::from(w) * -2.0,
                };
                let what = format!("output {i}, weight {weight}, {poison} {way:?}");
                assert_eq!(y.to_bits(), wanted.to_bits(), "{what}");
            }
        }
    }
}

/// Infinities of both signs meet: inf - inf, in a byte, a block, or the total.
#[test]
fn opposed_infinities_give_the_one_nan() {
    let k = 960;
    let layer = Linear::from_parts(pack(&vec![1; 64 * k], 64, k), Scales::per_tensor(1.0), None);
    let layer = layer.expect("a layer");
    for second in [1, 3, 5, 239, 240, 959] {
        let mut x = vec![1.0; 9 * k];
        (x[0], x[second]) = (f32::INFINITY, f32::NEG_INFINITY);
        for way in &ways() {
            let y = forward_f32(&layer, &x, 9, way);
            let nan = y[..64].iter().all(|v| v.to_bits() == 0x7fc0_0000);
            assert!(nan, "{second} {way:?}: {:?}", &y[..64]);
            assert_eq!(y[64..], [k as f32; 8 * 64], "{second} {way:?}");
        }
    }
}

/// A bias may be anything; scales are finite but may be zero, negative or
/// subnormal.
#[test]
fn odd_scales_and_biases() {
    let scales = [
        0.0,
        -0.0,
        -1.0,
        f32::MIN_POSITIVE / 8.0,
        f32::MAX,
        -f32::MAX,
    ];
    let biases = [f32::NAN, f32::INFINITY, -0.0, 0.0, 1e-40, f32::NEG_INFINITY];
    let (m, k) = (36, 4);
    let trits: Vec<i8> = [1, 0, -1, 0].repeat(m);
    let scale: Vec<f32> = (0..m).map(|i| scales[i % 6]).collect();
    let bias: Vec<f32> = (0..m).map(|i| biases[i / 6]).collect();
    let panels = pack(&trits, m, k);
    let plain = Linear::from_parts(panels, Scales::per_row(scale.clone()), None).expect("a layer");
    let biased = plain.clone().with_bias(bias.clone()).expect("a bias");
    for x in [
        [3.0, 9.0, 1.0, 9.0],
        [1.0, 0.0, 1.0, 0.0],
        [1.0, 0.0, -2.0, 0.0],
    ] {
        let sum = x[0] - x[2];
        let nan = |y: f32| if y.is_nan() { 0x7fc0_0000 } else { y.to_bits() };
        let wanted: Vec<u32> = scale.iter().map(|s| nan(sum * s)).collect();
        let with_bias: Vec<u32> = (0..m).map(|i| nan(sum * scale[i] + bias[i])).collect();
        for way in &ways() {
            let what = format!("{x:?} {way:?}");
            assert_same(
                "plain",
                &what,
                &bits(&forward_f32(&plain, &x, 1, way)),
                &wanted,
            );
            assert_same(
                "biased",
                &what,
                &bits(&forward_f32(&biased, &x, 1, way)),
                &with_bias,
            );
        }
    }
}

/// Panels that no packer made: any byte anywhere, also where rows and strips
/// are padding. Code 11 counts as 0 and padding as nothing.
#[test]
fn illegal_codes_are_zeros_everywhere() {
    let mut rng = Rng::new(5);
    for (m, k, n) in [
        (64, 48, 1),
        (1, 1, 3),
        (65, 99, 9),
        (130, 241, 33),
        (320, 500, 5),
    ] {
        let honest = PanelFile::new(pack(&vec![0; m * k], m, k), None, None).expect("fits");
        let len = honest.panels().as_bytes().len();
        let wild = rng.vec(len, |r| match r.below(4) {
            0 => 0xff,
            _ => r.bits() as u8,
        });
        let mut file = Vec::new();
        honest.write_to(&mut file).expect("written to memory");
        file[128..][..len].copy_from_slice(&wild);
        let wild_file = PanelFile::from_bytes(file, Verify::Header).expect("the header is right");

        let strips = len / 64 / m.div_ceil(64);
        let trits: Vec<i8> = (0..m * k)
            .map(|i| {
                let (row, col) = (i / k, i % k);
                let byte = wild[(row / 64 * strips + col / 4) * 64 + row % 64];
                [0, 1, -1, 0][usize::from(byte >> (6 - 2 * (col % 4)) & 3)]
            })
            .collect();
        let tame = pack(&trits, m, k);
        let x_i8 = rng.vec(n * k, Rng::i8);
        let x = rng.vec(n * k, Rng::unit);
        let layer = |panels: &Panels| {
            Linear::from_parts(panels.clone(), Scales::per_tensor(1.5), None).expect("a layer")
        };
        for way in &ways() {
            let what = format!("{m} x {k}, {n} tokens, {way:?}");
            let wild = wild_file.panels();
            let (got, wanted) = (gemm_i8(wild, &x_i8, n, way), gemm_i8(&tame, &x_i8, n, way));
            assert_same("gemm_i8", &what, &got, &wanted);
            let got = forward_f32(&layer(wild), &x, n, way);
            let wanted = forward_f32(&layer(&tame), &x, n, way);
            assert_same("forward_f32", &what, &bits(&got), &bits(&wanted));
        }
    }
}
