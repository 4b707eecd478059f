//! Formats are read and written by the caller's threads: outside of a pool nobody starts one.
#![cfg(feature = "rayon")]

mod common;

use common::{Backwards, matrix};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tritgemm::{GroupSize, Options, Scales, Threads, Workspace};
use tritgemm_formats::ScaleRounding;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::hf::{self, LinearClass, Packed};

#[test]
fn no_pool_is_started() {
    // Large enough to be shared.
    let (rows, cols) = (512, 1024);
    let trits: Vec<i8> = (0..rows * cols).map(|i| (i % 3) as i8 - 1).collect();
    let scales = Scales::per_group(GroupSize::G256, vec![0.5; rows * 4]);
    let grouped = matrix(&trits, rows, cols, scales);
    let ty = TernaryType::Tq2_0;
    let bytes = ty.encode(&grouped, ScaleRounding::Exact, "w").unwrap();
    let read = ty.decode(&bytes, rows, cols, "w").unwrap();
    assert_eq!(read.packed(), grouped.packed());
    let whole = matrix(&trits, rows, cols, Scales::per_tensor(0.5));
    let bytes = hf::encode(&whole);
    let packed = Packed {
        tensor: "w",
        bytes: &bytes,
        packed_rows: rows / 4,
        cols,
        weight_scale: 0.5,
    };
    let read = hf::decode(&packed, LinearClass::AutoBitLinear, None).unwrap();
    assert_eq!(read.packed(), whole.packed());
    let ws = Workspace::new();
    ty.linear(
        &ty.encode(&grouped, ScaleRounding::Exact, "w").unwrap(),
        rows,
        cols,
        "w",
        &ws,
    )
    .unwrap();
    hf::linear(&packed, LinearClass::AutoBitLinear, None, &ws).unwrap();
    // A pool of the caller's own gets the rows.
    let pool = Arc::<Backwards>::default();
    let options = Options::new().threads(Threads::Pool(pool.clone()));
    let large = packed.bytes.repeat(16);
    let large = Packed {
        bytes: &large,
        packed_rows: 4 * rows,
        ..packed
    };
    let ws = Workspace::with_options(options);
    hf::linear(&large, LinearClass::AutoBitLinear, None, &ws).unwrap();
    assert!(pool.0.load(Ordering::Relaxed) > 1);
    // The global pool can be built once: whoever had started it built it.
    let built = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build_global();
    built.expect("nobody has started the global pool");
}
