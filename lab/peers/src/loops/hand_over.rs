//! Reading matrices out of memory by two threads: what they lose by waiting for each
//! other after each, as products do, whose next activations are not there before.

use crate::measure::Loop;
use crate::memory::Bytes;
use crate::streams::{MATRIX_BYTES, Read};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;

const THREADS: usize = 2;

/// Both threads read all of `bytes`, by `read`.
pub fn loops(bytes: &Arc<Bytes>, read: Read) -> Vec<Loop> {
    let Ok(pool) = ThreadPoolBuilder::new().num_threads(THREADS).build() else {
        return Vec::new();
    };
    let pool = Arc::new(pool);
    let from = |name: &str, run: fn(&ThreadPool, &[u8], Read)| {
        let (bytes, pool) = (Arc::clone(bytes), Arc::clone(&pool));
        Loop {
            group: "streams from memory by two threads, matrices of 4096 x 4096",
            name: name.to_owned(),
            unit: "matrix",
            units: (bytes.len() / MATRIX_BYTES) as u64,
            macs: 4096 * 4096,
            run: Box::new(move || run(&pool, &bytes, read)),
        }
    };
    vec![
        from("half of each, no waiting", |pool, bytes, read| {
            pool.broadcast(|thread| {
                for matrix in bytes.chunks_exact(MATRIX_BYTES) {
                    let half = MATRIX_BYTES / THREADS;
                    read(&matrix[thread.index() * half..][..half]);
                }
            });
        }),
        from("half of each, joined after each", |pool, bytes, read| {
            in_parts::<{ THREADS }>(pool, bytes, read);
        }),
        from("in 8 parts, joined after each", |pool, bytes, read| {
            in_parts::<8>(pool, bytes, read);
        }),
    ]
}

/// Matrix by matrix, each in `PARTS` for whoever is free.
fn in_parts<const PARTS: usize>(pool: &ThreadPool, bytes: &[u8], read: Read) {
    for matrix in bytes.chunks_exact(MATRIX_BYTES) {
        // A call of a product enters the pool as well.
        pool.install(|| {
            matrix
                .par_chunks_exact(MATRIX_BYTES / PARTS)
                .with_max_len(1)
                .for_each(read);
        });
    }
}
