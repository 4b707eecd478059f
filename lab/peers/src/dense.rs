//! Dense f32 by the `gemm` crate: what a program does that unpacks the weights.
//! It reads 16 times the bytes and multiplies; AVX-512 is enabled in it.

use crate::contender::{Family, Info, Loaded, Output, Path, Role, Run, Work};
use crate::pools::Pools;
use crate::problem::{Job, Residency, Shape, Weights};
use gemm::Parallelism;
use rayon::ThreadPool;
use std::sync::Arc;
use std::time::Instant;

pub const NAME: &str = "gemm-f32";

pub struct DenseFamily {
    infos: [Info; 1],
    pools: Arc<Pools>,
}

impl DenseFamily {
    pub fn new(pools: Arc<Pools>) -> Self {
        Self {
            infos: [Info::new(NAME, Role::Peer, Path::F32)],
            pools,
        }
    }
}

impl Family for DenseFamily {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    fn load(
        &self,
        weights: &Weights,
        residency: Residency,
        _wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let Shape { rows, cols } = weights.shape;
        let value =
            |row: usize, col: usize| f32::from(weights.trits[row * cols + col]) * weights.scale;
        let by_row: Vec<f32> = (0..rows * cols)
            .map(|i| value(i / cols, i % cols))
            .collect();
        let by_col: Vec<f32> = (0..rows * cols)
            .map(|i| value(i % rows, i / rows))
            .collect();
        let copies = residency.copies(rows * cols * size_of::<f32>());
        Ok(Box::new(LoadedDense {
            shape: weights.shape,
            stores: [
                Store {
                    copies: vec![by_row; copies],
                    row_stride: cols,
                    col_stride: 1,
                },
                Store {
                    copies: vec![by_col; copies],
                    row_stride: 1,
                    col_stride: rows,
                },
            ],
            pools: Arc::clone(&self.pools),
        }))
    }
}

/// The weights in one storage order.
struct Store {
    copies: Vec<Vec<f32>>,
    row_stride: usize,
    col_stride: usize,
}

struct LoadedDense {
    shape: Shape,
    stores: [Store; 2],
    pools: Arc<Pools>,
}

impl Loaded for LoadedDense {
    fn start<'a>(&'a self, _index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let mut run = DenseRun {
            loaded: self,
            store: &self.stores[0],
            weights_left: true,
            x: &job.activations.f32s,
            y: vec![0.0; job.activations.tokens * self.shape.rows],
            tokens: job.activations.tokens,
            pool: self.pools.get(job.threads),
            parallelism: match job.threads {
                1 => Parallelism::None,
                threads => Parallelism::Rayon(threads),
            },
            next: 0,
        };
        run.choose_form();
        Ok(Box::new(run))
    }
}

struct DenseRun<'a> {
    loaded: &'a LoadedDense,
    store: &'a Store,
    /// Whether the weights are the left operand: y^T = W x^T rather than
    /// y = x W^T.
    weights_left: bool,
    x: &'a [f32],
    y: Vec<f32>,
    tokens: usize,
    pool: Arc<ThreadPool>,
    parallelism: Parallelism,
    next: usize,
}

impl DenseRun<'_> {
    /// The crate's speed depends on the storage order and on which operand is
    /// on the left, so it gets whichever of the four forms is fastest here.
    fn choose_form(&mut self) {
        let mut best = (f64::INFINITY, self.store, true);
        for store in &self.loaded.stores {
            for weights_left in [true, false] {
                (self.store, self.weights_left) = (store, weights_left);
                self.run(1);
                let seconds = (0..3)
                    .map(|_| {
                        let start = Instant::now();
                        self.run(1);
                        start.elapsed().as_secs_f64()
                    })
                    .fold(f64::INFINITY, f64::min);
                if seconds < best.0 {
                    best = (seconds, store, weights_left);
                }
            }
        }
        (_, self.store, self.weights_left) = best;
    }
}

impl Run for DenseRun<'_> {
    fn work(&self) -> Work {
        let weights = self.loaded.shape.weights() as f64;
        Work {
            macs: weights * self.tokens as f64,
            bytes: weights * 4.0,
        }
    }

    fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn run(&mut self, calls: usize) {
        let Shape { rows, cols } = self.loaded.shape;
        let (store, tokens, first) = (self.store, self.tokens, self.next);
        let (x, y, weights_left) = (self.x, &mut self.y, self.weights_left);
        let parallelism = self.parallelism;
        self.pool.install(|| {
            for call in 0..calls {
                let w = &store.copies[(first + call) % store.copies.len()];
                let (w, w_row, w_col) = (
                    w.as_ptr(),
                    store.row_stride as isize,
                    store.col_stride as isize,
                );
                let (x_row, y_row) = (cols as isize, rows as isize);
                let y = y.as_mut_ptr();
                // SAFETY: w holds rows x cols values by its strides, x holds
                // tokens x cols and y tokens x rows, both dense; y is not shared.
                unsafe {
                    if weights_left {
                        gemm::gemm(
                            rows,
                            tokens,
                            cols,
                            y,
                            y_row,
                            1,
                            false,
                            w,
                            w_col,
                            w_row,
                            x.as_ptr(),
                            x_row,
                            1,
                            0.0,
                            1.0,
                            false,
                            false,
                            false,
                            parallelism,
                        );
                    } else {
                        gemm::gemm(
                            tokens,
                            rows,
                            cols,
                            y,
                            1,
                            y_row,
                            false,
                            x.as_ptr(),
                            1,
                            x_row,
                            w,
                            w_row,
                            w_col,
                            0.0,
                            1.0,
                            false,
                            false,
                            false,
                            parallelism,
                        );
                    }
                }
            }
        });
        self.next = (first + calls) % store.copies.len();
    }

    fn output(&self) -> Output<'_> {
        Output::Float(&self.y)
    }
}
