//! What the tests share.
#![allow(dead_code)] // Each test uses its part.

use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tritgemm::{MatRef, Scales, TernaryMatrix};

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
