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
use tritgemm_testing::{Rng, view, view_mut};

fn values(count: usize) -> Vec<f32> {
    Rng::new(1).vec(count, Rng::unit)
}

fn token<T: Activation>(c: &mut Criterion, name: &str, narrow: impl Fn(f32) -> T) {
    let mut group = c.benchmark_group("token");
    for &features in Profile::get().pick(&[4096][..], &[1024, 4096, 16384]) {
        let x: Vec<T> = values(features).into_iter().map(&narrow).collect();
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
            |b| {
                b.iter(|| {
                    let (x, y) = (black_box(&x), black_box(&mut y));
                    norm.forward(view(x, 1, features), view_mut(y, 1, features))
                })
            },
        );
    }
}

fn tokens(c: &mut Criterion) {
    token(c, "f32", |value| value);
    token(c, "f16", f16::from_f32);
    token(c, "bf16", bf16::from_f32);
}

fn weights(c: &mut Criterion) {
    let (rows, cols) = (1024, 4096);
    let mut w = values(rows * cols);
    let mut trits = vec![0_i8; w.len()];
    let mut alphas = vec![1.0; rows];
    let mut group = c.benchmark_group("weights");
    group.throughput(Throughput::Bytes(size_of_val(&w[..]) as u64));
    group.bench_function("absmean", |b| {
        b.iter(|| {
            let w = view(black_box(&w), rows, cols);
            absmean_into(w, Granularity::PerRow, &mut alphas)
        })
    });
    group.bench_function("ternarize", |b| {
        b.iter(|| {
            let w = view(black_box(&w), rows, cols);
            let trits = view_mut(&mut trits, rows, cols);
            ternarize_into(w, Granularity::PerRow, &alphas, trits)
        })
    });
    group.bench_function("sparsify-2-4", |b| {
        b.iter(|| sparsify_2_4(view_mut(black_box(&mut w), rows, cols)))
    });
    group.bench_function("sparsify-trits-2-4", |b| {
        b.iter(|| sparsify_trits_2_4(view_mut(black_box(&mut trits), rows, cols)))
    });
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = tokens, weights
}
criterion_main!(benches);
