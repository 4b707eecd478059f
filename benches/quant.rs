//! The quantisers and RMSNorm on one thread, in GB/s of what they read.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

mod common;

use common::Profile;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use std::hint::black_box;
use tritgemm::nn::RmsNorm;
use tritgemm::quant::{
    absmean_into, quantize_token, sparsify_2_4, sparsify_trits_2_4, ternarize_into,
};
use tritgemm::{Activation, Granularity};
use tritgemm_testing::Rng;

fn values(count: usize) -> Vec<f32> {
    Rng::new(1).vec(count, Rng::unit)
}

fn token<T: Activation>(c: &mut Criterion, name: &str, zero: T) {
    let mut group = c.benchmark_group("token");
    for &features in Profile::get().pick(&[4096][..], &[1024, 4096, 16384]) {
        let mut x = vec![zero; features];
        T::narrow(&values(features), &mut x);
        group.throughput(Throughput::Bytes(size_of_val(&x[..]) as u64));
        let mut q = vec![0; features];
        group.bench_function(
            BenchmarkId::new(format!("quantize-{name}"), features),
            |b| b.iter(|| quantize_token(black_box(&x), black_box(&mut q))),
        );
        let norm = RmsNorm::new(values(features)).expect("features > 0");
        let mut y = x.clone();
        group.bench_function(
            BenchmarkId::new(format!("rms-norm-{name}"), features),
            |b| b.iter(|| norm.forward(black_box(&x), black_box(&mut y))),
        );
    }
}

fn tokens(c: &mut Criterion) {
    token(c, "f32", 0.0_f32);
    token(c, "f16", f16::ZERO);
    token(c, "bf16", bf16::ZERO);
}

fn weights(c: &mut Criterion) {
    let (rows, cols) = (1024, 4096);
    let mut w = values(rows * cols);
    let mut trits = vec![0_i8; w.len()];
    let mut alphas = vec![1.0; rows];
    let mut group = c.benchmark_group("weights");
    group.throughput(Throughput::Bytes(size_of_val(&w[..]) as u64));
    group.bench_function("absmean", |b| {
        b.iter(|| absmean_into(black_box(&w), rows, cols, Granularity::PerRow, &mut alphas))
    });
    group.bench_function("ternarize", |b| {
        b.iter(|| {
            ternarize_into(
                black_box(&w),
                rows,
                cols,
                Granularity::PerRow,
                &alphas,
                &mut trits,
            )
        })
    });
    group.bench_function("sparsify-2-4", |b| {
        b.iter(|| sparsify_2_4(black_box(&mut w), rows, cols))
    });
    group.bench_function("sparsify-trits-2-4", |b| {
        b.iter(|| sparsify_trits_2_4(black_box(&mut trits), rows, cols))
    });
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = tokens, weights
}
criterion_main!(benches);
