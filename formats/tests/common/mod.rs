//! What the tests share.
#![allow(dead_code)] // Each test uses its part.

pub mod wire;

use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tritgemm::{
    Linear, MatRef, Options, Panels, ParallelFor, Scales, TernaryMatrix, Threads, Workspace,
};
use tritgemm_formats::{FormatError, simplify};

pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

pub fn trits(rng: &mut StdRng, len: usize) -> Vec<i8> {
    (0..len).map(|_| rng.random_range(-1..=1)).collect()
}

/// Finite f16s of either sign, subnormal ones too.
pub fn halves(rng: &mut StdRng, len: usize) -> Vec<f16> {
    let finite = || f16::from_bits(rng.random());
    std::iter::repeat_with(finite)
        .filter(|half| half.is_finite())
        .take(len)
        .collect()
}

pub fn f32s(halves: &[f16]) -> Vec<f32> {
    halves.iter().map(|half| half.to_f32()).collect()
}

pub fn matrix(trits: &[i8], rows: usize, cols: usize, scales: Scales) -> TernaryMatrix {
    TernaryMatrix::from_trits(MatRef::new(trits, rows, cols).unwrap(), scales).unwrap()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The same trits, the same granularity, the same bits of the scales.
#[track_caller]
pub fn assert_same(a: &TernaryMatrix, b: &TernaryMatrix) {
    assert_eq!((a.rows(), a.cols()), (b.rows(), b.cols()));
    assert_eq!(a.scales().granularity(), b.scales().granularity());
    assert_eq!(bits(a.scales().values()), bits(b.scales().values()));
    assert_eq!(a.to_trits().unwrap(), b.to_trits().unwrap());
    assert_eq!(a.packed(), b.packed());
}

/// Runs the last item first, each twice, and counts them.
#[derive(Default)]
pub struct Backwards(pub AtomicUsize);

impl ParallelFor for Backwards {
    fn workers(&self) -> usize {
        3
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        self.0.fetch_add(items, Ordering::Relaxed);
        (0..2 * items).rev().for_each(|i| work(i / 2));
    }
}

/// What a format reads as a matrix, after a look at what it reads as a layer at once: the
/// same panels and scales, or the same error.
#[track_caller]
pub fn both_ways(
    matrix: Result<TernaryMatrix, FormatError>,
    layer: impl Fn(&Workspace) -> Result<Linear, FormatError>,
) -> Result<TernaryMatrix, FormatError> {
    for threads in [Threads::Serial, Threads::Pool(Arc::<Backwards>::default())] {
        let ws = Workspace::with_options(Options::new().threads(threads));
        match (&matrix, layer(&ws)) {
            (Ok(matrix), Ok(layer)) => {
                let simple = simplify(matrix.clone());
                let (wanted, scales) = (simple.scales(), layer.scales().unwrap());
                assert_eq!(
                    layer.panels().as_bytes(),
                    Panels::pack(matrix).unwrap().as_bytes()
                );
                assert_eq!(scales.granularity(), wanted.granularity());
                assert_eq!(bits(scales.values()), bits(wanted.values()));
            }
            (Err(wanted), Err(error)) => assert_eq!(error.to_string(), wanted.to_string()),
            (Ok(_), Err(error)) => panic!("no layer: {error}"),
            (Err(error), Ok(_)) => panic!("a layer in spite of: {error}"),
        }
    }
    matrix
}
