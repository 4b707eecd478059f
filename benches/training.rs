//! A training step of one [4096, 4096] layer with 256 tokens, beside the dense
//! f32 product of the `gemm` crate in the same run.
//!
//! `forward` changes a weight before each pass, so it packs all of them anew,
//! as training does.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tritgemm::nn::{BitLinear, BitLinearGrads};
use tritgemm::{MatMut, MatRef, Workspace};
use tritgemm_testing::Rng;

const TOKENS: usize = 256;
const ROWS: usize = 4096;
const COLS: usize = 4096;

fn values(count: usize) -> Vec<f32> {
    Rng::new(1).vec(count, Rng::unit)
}

/// `y[n][m] = sum_k w[m][k] x[n][k]`, dense.
fn dense(w: &[f32], x: &[f32], y: &mut [f32]) {
    let threads = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    assert!(w.len() == ROWS * COLS && x.len() == TOKENS * COLS && y.len() == TOKENS * ROWS);
    // SAFETY: the three matrices have the asserted shapes, y is exclusive.
    unsafe {
        #[rustfmt::skip]
        gemm::gemm(
            TOKENS, ROWS, COLS, y.as_mut_ptr(), 1, ROWS as isize, false, x.as_ptr(), 1,
            COLS as isize, w.as_ptr(), COLS as isize, 1, 0.0_f32, 1.0, false, false, false,
            threads,
        );
    }
}

fn step(c: &mut Criterion, threads: usize) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a pool");
    let mut layer = BitLinear::kaiming_uniform(ROWS, COLS, 1).expect("a valid shape");
    let (x, grad_y) = (values(TOKENS * COLS), values(TOKENS * ROWS));
    let x_view = MatRef::new(&x, TOKENS, COLS).expect("sized for it");
    let grad_view = MatRef::new(&grad_y, TOKENS, ROWS).expect("sized for it");
    let (mut y, mut grad_x) = (grad_y.clone(), x.clone());
    let mut grad_weight = layer.weight().to_vec();
    let mut ws = Workspace::new();

    let mut group = c.benchmark_group(format!("training-{threads}-threads"));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements((TOKENS * ROWS * COLS) as u64));
    group.bench_function("dense-forward-gemm-crate", |b| {
        b.iter(|| pool.install(|| dense(black_box(layer.weight()), black_box(&x), &mut y)))
    });
    group.bench_function("forward-with-packing", |b| {
        b.iter(|| {
            pool.install(|| {
                layer.weight_mut()[0] += 1e-6;
                let y = MatMut::new(&mut y, TOKENS, ROWS).expect("sized for it");
                layer.forward_training(black_box(x_view), y, &mut ws)
            })
        })
    });
    group.bench_function("packing", |b| {
        b.iter(|| {
            pool.install(|| {
                layer.weight_mut()[0] += 1e-6;
                layer.prepare_for_inference().map(|_| ())
            })
        })
    });
    group.bench_function("backward-input", |b| {
        b.iter(|| {
            pool.install(|| {
                let grads = BitLinearGrads {
                    x: Some(MatMut::new(&mut grad_x, TOKENS, COLS).expect("sized for it")),
                    ..Default::default()
                };
                layer.backward(x_view, black_box(grad_view), grads, &mut ws)
            })
        })
    });
    group.bench_function("backward-weight", |b| {
        b.iter(|| {
            pool.install(|| {
                let grads = BitLinearGrads {
                    weight: Some(&mut grad_weight),
                    ..Default::default()
                };
                layer.backward(x_view, black_box(grad_view), grads, &mut ws)
            })
        })
    });
}

fn steps(c: &mut Criterion) {
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    step(c, 1);
    if all > 1 {
        step(c, all);
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
