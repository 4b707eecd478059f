//! Dense f32 by the `gemm` crate: what a program does that unpacks the weights.
//! It reads 16 times the bytes and multiplies; AVX-512 is enabled in it.

use crate::contender::{Arithmetic, GEMM_CRATE, Info, Library, Loaded, Output, Role, Run, Work};
use crate::pools::Pools;
use crate::problem::{Job, Shape, Weights, WeightsFrom};
use gemm::Parallelism;
use rayon::ThreadPool;
use std::sync::Arc;
use std::time::Instant;

pub struct GemmCrate {
    infos: [Info; 1],
    pools: Arc<Pools>,
}

impl GemmCrate {
    pub fn new(pools: Arc<Pools>) -> Self {
        Self {
            infos: [Info::new(GEMM_CRATE, Role::Peer, Arithmetic::F32)],
            pools,
        }
    }
}

impl Library for GemmCrate {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    fn load(
        &self,
        weights: &Weights,
        from: WeightsFrom,
        _wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let Shape { rows, cols } = weights.shape;
        let len = rows * cols;
        let value = |at: usize| f32::from(weights.trits[at]) * weights.scale;
        let by_row: Vec<f32> = (0..len).map(value).collect();
        let by_col: Vec<f32> = (0..len)
            .map(|i| value(i % rows * cols + i / rows))
            .collect();
        let copies = from.copies(len * size_of::<f32>());
        Ok(Box::new(LoadedDense {
            shape: weights.shape,
            stores: [(by_row, [1, cols]), (by_col, [rows, 1])].map(|(weights, strides)| Store {
                copies: vec![weights; copies],
                strides,
            }),
            pools: Arc::clone(&self.pools),
        }))
    }
}

/// The weights in one storage order.
struct Store {
    copies: Vec<Vec<f32>>,
    /// From column to column and from row to row.
    strides: [usize; 2],
}

struct LoadedDense {
    shape: Shape,
    stores: [Store; 2],
    pools: Arc<Pools>,
}

impl Loaded for LoadedDense {
    /// The crate's speed depends on the storage order and on which operand is
    /// on the left, so it gets whichever of the four forms is fastest here.
    fn start<'a>(&'a self, _index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let mut run = DenseRun {
            shape: self.shape,
            form: (&self.stores[0], true),
            x: &job.activations.f32s,
            y: vec![0.0; job.activations.tokens * self.shape.rows],
            tokens: job.activations.tokens,
            pool: self.pools.get(job.threads),
            next: 0,
        };
        let mut best = (f64::INFINITY, run.form);
        for form in self
            .stores
            .iter()
            .flat_map(|store| [(store, true), (store, false)])
        {
            run.form = form;
            run.run(1);
            for _ in 0..3 {
                let start = Instant::now();
                run.run(1);
                let seconds = start.elapsed().as_secs_f64();
                if seconds < best.0 {
                    best = (seconds, form);
                }
            }
        }
        run.form = best.1;
        Ok(Box::new(run))
    }
}

struct DenseRun<'a> {
    shape: Shape,
    /// And whether the weights are the left operand: y^T = W x^T rather than y = x W^T.
    form: (&'a Store, bool),
    x: &'a [f32],
    y: Vec<f32>,
    tokens: usize,
    pool: Arc<ThreadPool>,
    next: usize,
}

impl Run for DenseRun<'_> {
    fn work(&self) -> Work {
        let weights = self.shape.weights() as f64;
        Work {
            macs: weights * self.tokens as f64,
            bytes: weights * 4.0,
        }
    }

    fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn run(&mut self, calls: usize) {
        let Shape { rows, cols } = self.shape;
        let ((store, weights_left), tokens, first) = (self.form, self.tokens, self.next);
        let (x, y) = (self.x, &mut self.y);
        let parallelism = match self.pool.current_num_threads() {
            1 => Parallelism::None,
            threads => Parallelism::Rayon(threads),
        };
        self.pool.install(|| {
            // Strides from column to column and from row to row: of W, x^T and y^T, or
            // turned round.
            let mut strides = [store.strides, [cols, 1], [rows, 1]]
                .map(|strides| strides.map(|stride| stride as isize));
            let (mut m, mut n) = (rows, tokens);
            if !weights_left {
                strides.iter_mut().for_each(|strides| strides.reverse());
                (m, n) = (n, m);
            }
            let [w_strides, x_strides, [y_cs, y_rs]] = strides;
            for call in 0..calls {
                let w = store.copies[(first + call) % store.copies.len()].as_ptr();
                let mut operands = [(w, w_strides), (x.as_ptr(), x_strides)];
                if !weights_left {
                    operands.reverse();
                }
                let [(a, [a_cs, a_rs]), (b, [b_cs, b_rs])] = operands;
                let y = y.as_mut_ptr();
                // SAFETY: W holds rows x cols values by its strides, x holds
                // tokens x cols and y tokens x rows, both dense; y is not shared.
                unsafe {
                    #[rustfmt::skip]
                    gemm::gemm(
                        m, n, cols, y, y_cs, y_rs, false, a, a_cs, a_rs, b, b_cs, b_rs,
                        0.0, 1.0, false, false, false, parallelism,
                    );
                }
            }
        });
        self.next = (first + calls) % store.copies.len();
    }

    fn output(&self) -> Output<'_> {
        Output::Float(&self.y)
    }
}
