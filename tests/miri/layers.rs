//! What surrounds the products: quantisers, the estimator, the norm, files.

use half::{bf16, f16};
use tritgemm::nn::{RmsNorm, ste};
use tritgemm::{Granularity, GroupSize, Linear, PanelFile, TernaryMatrix, Verify, quant};
use tritgemm_testing::floats::{Float, narrowed, widened};
use tritgemm_testing::{Rng, bits, view, view_mut};

const ROWS: usize = 3;
const COLS: usize = 70;

fn weights() -> Vec<f32> {
    Rng::new(5).vec(ROWS * COLS, Rng::unit)
}

#[test]
fn quantisers() {
    let weights = weights();
    for granularity in [
        Granularity::PerTensor,
        Granularity::PerRow,
        Granularity::PerGroup(GroupSize::G64),
    ] {
        let matrix =
            TernaryMatrix::quantize(view(&weights, ROWS, COLS), granularity).expect("finite");
        assert!(
            matrix
                .to_trits()
                .expect("memory")
                .iter()
                .any(|&trit| trit != 0)
        );
    }
    let mut sparse = weights.clone();
    quant::sparsify_2_4(view_mut(&mut sparse, ROWS, COLS)).expect("finite");
    let four = |row: &[f32]| row.iter().filter(|w| **w != 0.0).count();
    assert!(
        sparse
            .chunks(COLS)
            .all(|row| row[..68].chunks(4).all(|f| four(f) == 2))
    );

    let (q, scales) = quant::quantize_activations(view(&weights, ROWS, COLS)).expect("finite");
    assert!(
        q.chunks(COLS)
            .all(|row| row.iter().any(|v| v.unsigned_abs() == 127))
    );
    assert_eq!(scales.len(), ROWS);
}

/// The loops over a float type: quantising, and the norm.
fn run<T: Float>() {
    let x = narrowed::<T>(&weights());
    let (q, scales) = quant::quantize_activations(view(&x, ROWS, COLS)).expect("finite");
    for (i, (&q, x)) in q.iter().zip(widened(&x)).enumerate() {
        assert!((f32::from(q) * scales[i / COLS] - x).abs() <= scales[i / COLS]);
    }
    let norm = RmsNorm::new(vec![1.0; COLS]).expect("a norm");
    let (mut y, mut in_place) = (x.clone(), x.clone());
    norm.forward(view(&x, ROWS, COLS), view_mut(&mut y, ROWS, COLS))
        .expect("fits");
    norm.forward_in_place(view_mut(&mut in_place, ROWS, COLS))
        .expect("fits");
    assert_eq!(bits(&widened(&y)), bits(&widened(&in_place)));
}

#[test]
fn float_types() {
    run::<f32>();
    run::<f16>();
    run::<bf16>();
}

#[test]
fn norm_and_estimator() {
    let x = weights();
    let norm = RmsNorm::new(vec![1.0; COLS]).expect("a norm");
    let mut y = vec![9.0; x.len()];
    norm.forward(view(&x, ROWS, COLS), view_mut(&mut y, ROWS, COLS))
        .expect("fits");
    let (mut grad_x, mut grad_gain) = (vec![9.0; x.len()], vec![0.0; COLS]);
    let (x_view, grad_y) = (view(&x, ROWS, COLS), view(&y, ROWS, COLS));
    let into = view_mut(&mut grad_x, ROWS, COLS);
    norm.backward(x_view, grad_y, into, &mut grad_gain)
        .expect("fits");
    assert!(grad_x.iter().chain(&grad_gain).all(|v| v.is_finite()));

    let mut ternary = vec![9.0; x.len()];
    ste::forward(&x, &mut ternary).expect("fits");
    assert!(ternary.iter().all(|t| [-1.0, 0.0, 1.0].contains(t)));
    let mut grad = vec![9.0; x.len()];
    ste::backward(&x, &y, &mut grad).expect("fits");
    assert_eq!(bits(&grad), bits(&y));
}

#[test]
fn panel_files() {
    let matrix = TernaryMatrix::quantize(view(&weights(), ROWS, COLS), Granularity::PerRow);
    let matrix = matrix.expect("finite");
    let mut bytes = Vec::new();
    let layer = Linear::new(&matrix).expect("a layer");
    PanelFile::from(&layer)
        .write_to(&mut bytes)
        .expect("written");
    let file = PanelFile::from_bytes(bytes, Verify::Full).expect("read");
    assert_eq!(file.panels().to_packed(), matrix.packed());
}
