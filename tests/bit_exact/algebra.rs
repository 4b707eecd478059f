//! Relations between products, which need no oracle.

use crate::common::case::{Case, GRANULARITIES, Shape, Values, assert_same};
use crate::common::{Rng, bits, quick, view, view_mut, ways, workspace};
use tritgemm::{Linear, Options, Scales, TernaryMatrix};

fn shapes() -> Vec<Shape> {
    let sizes = [
        (65, 100, 9),
        (129, 500, 33),
        (320, 731, 18),
        (1, 1, 1),
        (7, 12, 70),
    ];
    let count = if quick() { 2 } else { sizes.len() };
    let shape = |(i, (m, k, n))| Shape {
        m,
        k,
        n,
        gaps: [0, 0],
        granularity: GRANULARITIES[i % GRANULARITIES.len()],
        bias: i % 2 == 0,
        values: Values::Wide,
        seed: i as u64 + 7,
    };
    let shapes = sizes.into_iter().enumerate().map(shape);
    shapes.take(count).collect()
}

fn for_each(check: impl Fn(&Case, Options, &str)) {
    for shape in shapes() {
        let case = Case::new(shape);
        for way in ways() {
            check(&case, way, &format!("{:?} {way:?}", case.shape));
        }
    }
}

fn layer(trits: &[i8], m: usize, k: usize, scales: Scales) -> Linear {
    let matrix = TernaryMatrix::from_trits(trits, m, k, scales).expect("a matrix");
    Linear::new(&matrix).expect("a layer")
}

fn gemm_i8(trits: &[i8], x: &[i8], [m, k, n]: [usize; 3], way: Options) -> Vec<i32> {
    let mut y = vec![-1; n * m];
    let layer = layer(trits, m, k, Scales::per_tensor(1.0));
    let x = view(x, n, k);
    let y_view = view_mut(&mut y, n, m);
    layer
        .panels()
        .gemm_i8(x, y_view, &mut workspace(way))
        .expect("fits");
    y
}

#[test]
fn tokens_at_once_equal_tokens_one_by_one() {
    for_each(|case, way, what| {
        let ws = &mut workspace(way);
        let Shape { m, k, n, .. } = case.shape;
        let (together_i8, together) = (case.gemm_i8(ws), case.forward_f32(ws));
        let together_quantized = case.forward(ws);
        for token in 0..n {
            let x = &case.x_f32[token * k..][..k];
            let mut y = vec![0.0; m];
            let outputs = token * m..(token + 1) * m;
            case.layer
                .forward_f32(view(x, 1, k), view_mut(&mut y, 1, m), ws)
                .expect("fits");
            assert_same("f32", what, &bits(&y), &together[outputs.clone()]);
            case.layer
                .forward(view(x, 1, k), view_mut(&mut y, 1, m), ws)
                .expect("fits");
            assert_same(
                "w1a8",
                what,
                &bits(&y),
                &together_quantized[outputs.clone()],
            );
            let x = &case.x_i8[token * k..][..k];
            let mut y = vec![0; m];
            let panels = case.layer.panels();
            panels
                .gemm_i8(view(x, 1, k), view_mut(&mut y, 1, m), ws)
                .expect("fits");
            assert_same("int8", what, &y, &together_i8[outputs]);
        }
    });
}

#[test]
fn negated_weights_negate() {
    for_each(|case, way, what| {
        let Shape { m, k, n, .. } = case.shape;
        let negative: Vec<i8> = case.trits.iter().map(|t| -t).collect();
        let y = gemm_i8(&case.trits, &case.x_i8, [m, k, n], way);
        let minus = gemm_i8(&negative, &case.x_i8, [m, k, n], way);
        let wanted: Vec<i32> = y.iter().map(|v| -v).collect();
        assert!(m * k < 100 || y.iter().any(|&v| v != 0), "{what}");
        assert_same("negated", what, &minus, &wanted);
    });
}

#[test]
fn permuted_rows_permute() {
    for_each(|case, way, what| {
        let Shape { m, k, n, .. } = case.shape;
        let mut rng = Rng::new(3);
        let mut order: Vec<usize> = (0..m).collect();
        for i in (1..m).rev() {
            order.swap(i, rng.below(i + 1));
        }
        let rows = order.iter().flat_map(|&r| &case.trits[r * k..][..k]);
        let permuted: Vec<i8> = rows.copied().collect();
        let y = gemm_i8(&case.trits, &case.x_i8, [m, k, n], way);
        let wanted: Vec<i32> = (0..n)
            .flat_map(|t| order.iter().map(move |&r| (t, r)))
            .map(|(t, r)| y[t * m + r])
            .collect();
        let got = gemm_i8(&permuted, &case.x_i8, [m, k, n], way);
        assert_same("permuted int8", what, &got, &wanted);

        let scales = Scales::per_tensor(0.75);
        let ws = &mut workspace(way);
        let mut run = |trits: &[i8]| {
            let mut y = vec![0.0; n * m];
            let x = view(&case.x_f32, n, k);
            let layer = layer(trits, m, k, scales.clone());
            layer
                .forward_f32(x, view_mut(&mut y, n, m), ws)
                .expect("fits");
            bits(&y)
        };
        let (y, got) = (run(&case.trits), run(&permuted));
        let wanted: Vec<u32> = (0..n)
            .flat_map(|t| order.iter().map(move |&r| (t, r)))
            .map(|(t, r)| y[t * m + r])
            .collect();
        assert_same("permuted f32", what, &got, &wanted);
    });
}

#[test]
fn parts_of_k_add_up() {
    for_each(|case, way, what| {
        let Shape { m, k, n, .. } = case.shape;
        let whole = gemm_i8(&case.trits, &case.x_i8, [m, k, n], way);
        for cut in [0, 1, k / 3, k - 1] {
            let part = |range: std::ops::Range<usize>| {
                let columns = |data: &[i8]| -> Vec<i8> {
                    data.chunks(k)
                        .flat_map(|row| row[range.clone()].to_vec())
                        .collect()
                };
                let (w, x) = (columns(&case.trits), columns(&case.x_i8));
                gemm_i8(&w, &x, [m, range.len(), n], way)
            };
            let (head, tail) = (part(0..cut), part(cut..k));
            let sum: Vec<i32> = head.iter().zip(&tail).map(|(a, b)| a + b).collect();
            assert_same(&format!("cut at {cut}"), what, &sum, &whole);
        }
    });
}

/// Nothing overflows or leaves the normal range, so a factor of 2^j passes
/// through every addition unrounded.
#[test]
fn powers_of_two_pass_through_f32() {
    for_each(|case, way, what| {
        let ws = &mut workspace(way);
        let Shape { m, k, n, .. } = case.shape;
        // Without the bias, which is not scaled along.
        let panels = case.layer.panels().clone();
        let layer = Linear::from_parts(panels, case.scales.clone(), None).expect("a layer");
        let mut run = |x: &[f32]| {
            let mut y = vec![0.0; n * m];
            layer
                .forward_f32(view(x, n, k), view_mut(&mut y, n, m), ws)
                .expect("fits");
            y
        };
        let y = run(&case.x_f32);
        for factor in [2.0f32.powi(-30), 0.5, 4.0, 2.0f32.powi(40)] {
            let x: Vec<f32> = case.x_f32.iter().map(|v| v * factor).collect();
            let wanted: Vec<f32> = y.iter().map(|v| v * factor).collect();
            let what = format!("factor {factor}: {what}");
            assert_same("forward_f32", &what, &bits(&run(&x)), &bits(&wanted));
        }
    });
}
