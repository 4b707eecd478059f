//! What surrounds the products: quantisers, the estimator, the norm, files.

use half::{bf16, f16};
use tritgemm::nn::{RmsNorm, ste};
use tritgemm::{
    Activation, Granularity, GroupSize, Linear, PanelFile, TernaryMatrix, Verify, quant,
};
use tritgemm_testing::{Rng, bits};

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
        let matrix = TernaryMatrix::quantize(&weights, ROWS, COLS, granularity).expect("finite");
        assert!(matrix.nonzero_mask().contains(&true));
    }
    let mut sparse = weights.clone();
    quant::sparsify_2_4(&mut sparse, ROWS, COLS - 2).expect_err("another length");
    quant::sparsify_2_4(&mut sparse, ROWS, COLS).expect("finite");
    let four = |row: &[f32]| row.iter().filter(|w| **w != 0.0).count();
    assert!(
        sparse
            .chunks(COLS)
            .all(|row| row[..68].chunks(4).all(|f| four(f) == 2))
    );

    let (q, scales) = quant::quantize_activations(&weights, ROWS, COLS).expect("finite");
    assert!(
        q.chunks(COLS)
            .all(|row| row.iter().any(|v| v.unsigned_abs() == 127))
    );
    assert_eq!(scales.len(), ROWS);
}

fn round_trip<T: Activation + Default>() {
    let (wide, mut narrow) = (weights(), vec![T::default(); ROWS * COLS]);
    T::narrow(&wide, &mut narrow);
    let mut back = vec![9.0; wide.len()];
    T::widen(&narrow, &mut back);
    assert!(wide.iter().zip(&back).all(|(a, b)| (a - b).abs() < 0.01));
}

#[test]
fn float_types() {
    round_trip::<f32>();
    round_trip::<f16>();
    round_trip::<bf16>();
}

#[test]
fn norm_and_estimator() {
    let x = weights();
    let norm = RmsNorm::new(vec![1.0; COLS]).expect("a norm");
    let (mut y, mut in_place) = (vec![9.0; x.len()], x.clone());
    norm.forward(&x, &mut y).expect("fits");
    norm.forward_in_place(&mut in_place).expect("fits");
    assert_eq!(bits(&y), bits(&in_place));
    let (mut grad_x, mut grad_gain) = (vec![9.0; x.len()], vec![0.0; COLS]);
    norm.backward(&x, &y, &mut grad_x, &mut grad_gain)
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
    let matrix = TernaryMatrix::quantize(&weights(), ROWS, COLS, Granularity::PerRow);
    let matrix = matrix.expect("finite");
    let mut bytes = Vec::new();
    let layer = Linear::new(&matrix).expect("a layer");
    PanelFile::from(&layer)
        .write_to(&mut bytes)
        .expect("written");
    let file = PanelFile::from_bytes(bytes, Verify::Full).expect("read");
    assert_eq!(file.panels().to_packed(), matrix.packed());
}
