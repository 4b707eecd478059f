//! Memory bandwidth: a sum over bytes, as fast as this machine reads.

use rayon::prelude::*;
use std::hint::black_box;

/// Sums in flight, to hide the latency of additions.
const SUMS: usize = 8;

/// Bytes of the widest vector there is.
const WIDEST: usize = 64;

/// Reads `bytes` on `threads` threads of the pool that this is called in.
pub fn read(bytes: &[u8], threads: usize) {
    let share = bytes
        .len()
        .div_ceil(threads)
        .next_multiple_of(SUMS * WIDEST);
    match threads {
        1 => black_box(sum(bytes)),
        _ => black_box(
            bytes
                .par_chunks(share)
                .map(sum)
                .reduce(|| 0, u8::wrapping_add),
        ),
    };
}

/// Vectors are spelled out: left to itself the compiler may turn the loop into
/// gathers, at a quarter of the speed.
fn sum(bytes: &[u8]) -> u8 {
    struct Sum<'a>(&'a [u8]);
    impl pulp::WithSimd for Sum<'_> {
        type Output = u8;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, simd: S) -> u8 {
            let (vectors, rest) = S::as_simd_u8s(self.0);
            let (chunks, few) = vectors.as_chunks::<SUMS>();
            let mut sums = [simd.splat_u8s(0); SUMS];
            for chunk in chunks {
                for (sum, vector) in sums.iter_mut().zip(chunk) {
                    *sum = simd.add_u8s(*sum, *vector);
                }
            }
            let sums = sums.iter().chain(few).copied();
            let total = sums.fold(simd.splat_u8s(0), |a, b| simd.add_u8s(a, b));
            let mut lanes = [0; WIDEST];
            if let Some(lanes) = S::as_mut_simd_u8s(&mut lanes).0.first_mut() {
                *lanes = total;
            }
            lanes.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
        }
    }
    pulp::Arch::new().dispatch(Sum(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        for len in [0, 3, 64, 1031, 5000] {
            let bytes: Vec<u8> = (0..len).map(|i: u32| (i * i % 251) as u8).collect();
            let want = bytes.iter().fold(0u8, |a, b| a.wrapping_add(*b));
            assert_eq!(sum(&bytes), want, "{len}");
        }
    }
}
