//! Memory bandwidth: a sum over words, as fast as this machine reads.

use rayon::prelude::*;
use std::hint::black_box;

/// Words added side by side: enough accumulators in flight to hide the
/// additions, few enough for the registers of every instruction set.
const LANES: usize = 32;

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
        let len = bytes.div_ceil(8).next_multiple_of(LANES);
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
            let share = self.len.div_ceil(self.threads).next_multiple_of(LANES);
            black_box(
                part.par_chunks(share)
                    .map(sum)
                    .reduce(|| 0, u64::wrapping_add),
            );
        }
    }
}

/// pulp runs the loop compiled for the best instruction set of this CPU.
fn sum(words: &[u64]) -> u64 {
    struct Sum<'a>(&'a [u64]);
    impl pulp::NullaryFnOnce for Sum<'_> {
        type Output = u64;

        #[inline(always)]
        fn call(self) -> u64 {
            let mut sums = [0u64; LANES];
            for chunk in self.0.as_chunks::<LANES>().0 {
                for (sum, word) in sums.iter_mut().zip(chunk) {
                    *sum = sum.wrapping_add(*word);
                }
            }
            sums.into_iter().fold(0, u64::wrapping_add)
        }
    }
    pulp::Arch::new().dispatch(Sum(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (0..1024).collect();
        assert_eq!(sum(&words), 1023 * 512);
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
