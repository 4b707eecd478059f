//! Every NEON kernel against the scalar reference, on the same data, exactly.

mod codec;
mod few;
mod many;

use super::NEON;
use crate::kernels::contract::*;
use crate::kernels::generated::DECODE;
use crate::kernels::registry::KernelSet;
use crate::kernels::scalar::SCALAR;
use aligned_vec::{AVec, ConstAlign, avec};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Bytes on a cache line, as the preconditions want tables.
fn lines(len: usize) -> AVec<u8, ConstAlign<64>> {
    avec![[64]| 0; len]
}

/// Panel bytes: all `weight` if given, else random, illegal codes included.
fn panels(len: usize, weight: Option<u8>, rng: &mut StdRng) -> Vec<u8> {
    match weight {
        Some(byte) => vec![byte; len],
        None => (0..len).map(|_| rng.random()).collect(),
    }
}

/// What is compared: the bits, except that all NaN are one (the epilogue
/// stores one NaN for all).
trait Bits: Copy {
    fn bits(self) -> u32;
}
impl Bits for i32 {
    fn bits(self) -> u32 {
        self as u32
    }
}
impl Bits for f32 {
    fn bits(self) -> u32 {
        if self.is_nan() { !0 } else { self.to_bits() }
    }
}

fn bits<T: Bits>(values: &[T]) -> Vec<u32> {
    values.iter().map(|v| v.bits()).collect()
}

const SETS: [&KernelSet; 2] = [&NEON, &SCALAR];
