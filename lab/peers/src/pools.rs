//! One rayon pool per thread count, shared by every contender that uses rayon.
//! A pool's idle workers sleep, so they do not disturb the others' turns.

use anyhow::Context;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

pub struct Pools(BTreeMap<usize, Arc<ThreadPool>>);

impl Pools {
    pub fn new(thread_counts: &[usize]) -> anyhow::Result<Self> {
        let pools = thread_counts.iter().map(|&threads| {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .with_context(|| format!("starting a pool of {threads} threads"))?;
            Ok((threads, Arc::new(pool)))
        });
        Ok(Self(pools.collect::<anyhow::Result<_>>()?))
    }

    /// # Panics
    /// If `new` was not given this count: the sweep decides both.
    pub fn get(&self, threads: usize) -> Arc<ThreadPool> {
        Arc::clone(&self.0[&threads])
    }
}

/// Part `index` of `parts` of `0..len`, cut at multiples of `unit`.
pub fn split(len: usize, unit: usize, parts: usize, index: usize) -> Range<usize> {
    let units = len.div_ceil(unit);
    let at = |i: usize| (units * i / parts * unit).min(len);
    at(index)..at(index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (len, parts) in [(0, 1), (64, 2), (1000, 3), (1 << 20, 2)] {
            let mut next = 0;
            for i in 0..parts {
                let part = split(len, 64, parts, i);
                assert_eq!(part.start, next);
                next = part.end;
            }
            assert_eq!(next, len);
        }
    }
}
