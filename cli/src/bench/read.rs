//! Memory bandwidth: a sum over words, as fast as this machine reads.

use rayon::prelude::*;
use std::hint::black_box;

/// Sums in flight, to hide the latency of additions.
const SUMS: usize = 8;

/// Words in the widest vector there is, 64 bytes.
const WIDEST: usize = 8;

/// A read is a multiple of this many words.
const STEP: usize = SUMS * WIDEST;

/// Bytes at rest to be read.
pub struct Reader {
    words: Vec<u64>,
    /// Words of one read.
    len: usize,
    next: usize,
    threads: usize,
}

impl Reader {
    /// Reads `bytes` at a time from a buffer of at least `buffer` bytes, part
    /// after part.
    pub fn new(bytes: usize, buffer: usize, threads: usize) -> Self {
        let len = bytes.div_ceil(8).next_multiple_of(STEP);
        let parts = buffer.div_ceil(8).div_ceil(len).max(1);
        Self {
            // Not zeros: the system would map them all to one page.
            words: vec![0x0123_4567_89ab_cdef; len * parts],
            len,
            next: 0,
            threads,
        }
    }

    /// Bytes of one read.
    pub fn bytes(&self) -> usize {
        self.len * 8
    }

    /// Reads the next part.
    pub fn read(&mut self) {
        let part = &self.words[self.next..][..self.len];
        self.next = (self.next + self.len) % self.words.len();
        if self.threads == 1 {
            black_box(sum(part));
        } else {
            let share = self.len.div_ceil(self.threads).next_multiple_of(STEP);
            black_box(
                part.par_chunks(share)
                    .map(sum)
                    .reduce(|| 0, u64::wrapping_add),
            );
        }
    }
}

/// Vectors are spelled out: left to itself the compiler turns the AVX-512 form
/// of this loop into gathers, at a quarter of the speed.
fn sum(words: &[u64]) -> u64 {
    struct Sum<'a>(&'a [u64]);
    impl pulp::WithSimd for Sum<'_> {
        type Output = u64;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, simd: S) -> u64 {
            let (vectors, rest) = S::as_simd_u64s(self.0);
            let (chunks, few) = vectors.as_chunks::<SUMS>();
            let mut sums = [simd.splat_u64s(0); SUMS];
            for chunk in chunks {
                for (sum, vector) in sums.iter_mut().zip(chunk) {
                    *sum = simd.add_u64s(*sum, *vector);
                }
            }
            let sums = sums.iter().chain(few).copied();
            let total = sums.fold(simd.splat_u64s(0), |a, b| simd.add_u64s(a, b));
            let mut lanes = [0u64; WIDEST];
            if let Some(lanes) = S::as_mut_simd_u64s(&mut lanes).0.first_mut() {
                *lanes = total;
            }
            lanes.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
        }
    }
    pulp::Arch::new().dispatch(Sum(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (0..1031).collect();
        assert_eq!(sum(&words), 1030 * 1031 / 2);
        assert_eq!(sum(&words[..3]), 3);
    }

    #[test]
    fn parts_follow_each_other() {
        let mut reader = Reader::new(1000, 5000, 1);
        assert_eq!((reader.bytes(), reader.words.len()), (1024, 5 * 128));
        for part in [1, 2, 3, 4, 0, 1] {
            reader.read();
            assert_eq!(reader.next, part * 128);
        }
    }
}
