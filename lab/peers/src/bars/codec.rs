//! The goals of encoding, decoding and packing: against memcpy, interleaved like
//! the rest.

use super::{Context, Sense, Verdict};
use crate::contender::{Output, Run, Work};
use crate::memory::Bytes;
use crate::ours;
use crate::problem::{Shape, Weights};
use crate::timing::interleaved;
use std::hint::black_box;
use tritgemm::codec::{self, Mode};
use tritgemm::{Backend, MatMut, MatRef, Panels, Threads};

const SHAPE: Shape = Shape::new(4096, 4096);

/// A closure as a run.
struct Timed<F: FnMut()>(F);

impl<F: FnMut()> Run for Timed<F> {
    fn work(&self) -> Work {
        Work {
            macs: 0.0,
            bytes: 0.0,
        }
    }

    fn threads(&self) -> usize {
        1
    }

    fn run(&mut self, calls: usize) {
        (0..calls).for_each(|_| (self.0)());
    }

    fn output(&self) -> Output<'_> {
        Output::None
    }
}

/// Bytes moved (read and written) a second by encoding, decoding and packing,
/// each over a memcpy that moves as many in total, into memory of the same kind:
/// the caller's, or freshly allocated where the operation returns its result.
pub fn check(context: &Context<'_>) -> anyhow::Result<Vec<Verdict>> {
    let weights = Weights::random(SHAPE);
    let matrix = ours::matrix(&weights)?;
    let Shape { rows, cols } = SHAPE;
    let (trits, packed) = (weights.trits.as_slice(), matrix.packed());
    let bytes = codec::row_bytes(cols);
    let mut encoded = vec![0u8; packed.len()];
    let mut decoded = vec![0i8; trits.len()];
    let source = vec![1u8; (trits.len() + packed.len()) / 2];
    let mut target = source.clone();
    let backend = Backend::best();
    let mut into = || {
        target.copy_from_slice(black_box(&source));
        black_box(&target);
    };
    let ratios = [
        (
            "encode",
            race(context, &mut into, &mut || {
                let trits = MatRef::new(black_box(trits), rows, cols).expect("trits");
                let encoded = MatMut::new(&mut encoded, rows, bytes).expect("bytes");
                codec::encode(trits, encoded, Mode::Strict).expect("valid trits");
                black_box(&encoded);
            }),
        ),
        (
            "decode to i8",
            race(context, &mut into, &mut || {
                let packed = MatRef::new(black_box(packed), rows, bytes).expect("bytes");
                let decoded = MatMut::new(&mut decoded, rows, cols).expect("trits");
                codec::decode(packed, decoded, Mode::Strict).expect("valid bytes");
                black_box(&decoded);
            }),
        ),
        (
            "pack panels from packed bytes",
            race(
                context,
                &mut || drop(black_box(Bytes::copy(black_box(packed)))),
                &mut || {
                    drop(black_box(Panels::pack_with(
                        backend,
                        Threads::Serial,
                        &matrix,
                    )))
                },
            ),
        ),
    ];
    Ok(ratios
        .into_iter()
        .map(|(case, ratio)| Verdict {
            case: format!("{case}, 4096x4096"),
            over: "memcpy, bytes moved".to_owned(),
            sense: Sense::AtLeast,
            bar: 0.5,
            aim: None,
            ratio: Some(ratio),
            note: format!("{} backend, 1 thread", backend.name()),
        })
        .collect())
}

/// How many times as fast as the copy the operation is.
fn race(context: &Context<'_>, copy: &mut dyn FnMut(), operation: &mut dyn FnMut()) -> f64 {
    let mut runs: Vec<Box<dyn Run + '_>> = vec![Box::new(Timed(copy)), Box::new(Timed(operation))];
    let samples = interleaved(&mut runs, context.protocol);
    samples[0].median / samples[1].median
}
