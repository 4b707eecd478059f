//! Encoding, decoding and packing on one thread, against a memcpy that reads and
//! writes as many bytes together: `pack/memory/avx2`.
//!
//! A group is one operation at one size: `L2` fits a core's second-level
//! cache, `memory` no cache at all. Throughput counts bytes read plus bytes
//! written, so a kernel's figure divided by the group's `memcpy` is the share
//! of copy speed that it reaches. `pack` is the kernel alone, `panels` is
//! `Panels::pack`, which also allocates (and here frees): `to_vec` is a copy that
//! does so too.

#![allow(
    missing_docs,
    reason = "criterion_group! writes an undocumented function"
)]

mod common;

use aligned_vec::AVec;
use common::product::{self, layer};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::cell::LazyCell;
use std::hint::black_box;
use tritgemm::codec::{self, Mode, row_bytes};
use tritgemm::{Options, Panels, Threads, Workspace};
use tritgemm_testing::{Rng, view, view_mut};

/// Name, rows and columns of each size.
const SIZES: &[(&str, usize, usize)] = &[("L2", 64, 2560), ("memory", 16384, 2560)];
const PANEL_ROWS: usize = 64;

fn group<'c>(c: &'c mut Criterion, name: String, bytes: usize) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes as u64));
    let source = vec![1_u8; bytes / 2];
    let mut copy = vec![0_u8; bytes / 2];
    group.bench_function("memcpy", |b| {
        b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&source)));
    });
    group
}

fn codec(c: &mut Criterion) {
    for &(size, rows, cols) in SIZES {
        let count = rows * cols;
        let bytes = row_bytes(cols);
        let trits = Rng::new(1).vec(count, Rng::trit);
        let mut packed = vec![0_u8; rows * bytes];
        codec::encode(
            view(&trits, rows, cols),
            view_mut(&mut packed, rows, row_bytes(cols)),
            Mode::Strict,
        )
        .expect("trits are legal");

        let mut g = group(c, format!("encode/{size}"), count + packed.len());
        let mut out = packed.clone();
        for backend in common::backends() {
            g.bench_function(backend.name(), |b| {
                b.iter(|| {
                    backend.encode(
                        view(&trits, rows, cols),
                        view_mut(&mut out, rows, row_bytes(cols)),
                        Mode::Strict,
                    )
                });
            });
        }
        g.finish();

        let mut g = group(c, format!("decode/{size}"), count + packed.len());
        let mut out = vec![0_i8; count];
        for backend in common::backends() {
            g.bench_function(backend.name(), |b| {
                b.iter(|| {
                    backend.decode(
                        view(&packed, rows, row_bytes(cols)),
                        view_mut(&mut out, rows, cols),
                        Mode::Strict,
                    )
                });
            });
        }
        g.finish();

        let mut g = group(c, format!("decode_f32/{size}"), 4 * count + packed.len());
        let scales = vec![0.5; rows];
        let mut out = vec![0.0_f32; count];
        for backend in common::backends() {
            g.bench_function(backend.name(), |b| {
                b.iter(|| {
                    let mode = Mode::Strict;
                    backend.decode_f32(
                        view(&packed, rows, row_bytes(cols)),
                        view_mut(&mut out, rows, cols),
                        &scales,
                        mode,
                    )
                });
            });
        }
        g.finish();

        let panel_bytes = bytes.next_multiple_of(3) * PANEL_ROWS;
        let panels = rows.div_ceil(PANEL_ROWS);
        let mut g = group(
            c,
            format!("pack/{size}"),
            packed.len() + panels * panel_bytes,
        );
        let mut out: AVec<u8> = AVec::from_iter(64, std::iter::repeat_n(0, panels * panel_bytes));
        for backend in common::backends() {
            g.bench_function(backend.name(), |b| {
                b.iter(|| {
                    let strips = packed.chunks(PANEL_ROWS * bytes);
                    for (strip, panel) in strips.zip(out.chunks_exact_mut(panel_bytes)) {
                        codec::pack_panel_with(backend, strip, bytes, panel);
                    }
                });
            });
        }
        g.finish();
    }
}

fn panels(c: &mut Criterion) {
    for &(size, rows, cols) in SIZES {
        let matrix = LazyCell::new(|| product::matrix(layer(rows, cols)));
        let bytes = rows * row_bytes(cols);
        let mut g = group(c, format!("panels/{size}"), 2 * bytes);
        let source = vec![1_u8; bytes];
        g.bench_function("to_vec", |b| {
            b.iter(|| black_box(&source).to_vec());
        });
        for backend in common::backends() {
            g.bench_function(backend.name(), |b| {
                let matrix = &*matrix;
                let options = Options::new().backend(backend).threads(Threads::Serial);
                let ws = &Workspace::with_options(options);
                b.iter(|| Panels::pack_on(matrix, ws));
            });
        }
        g.finish();
    }
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = codec, panels
}
criterion_main!(benches);
