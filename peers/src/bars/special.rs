//! The goals that no single cell shows: speed-up by threads, the shape of time
//! over N, and the codec against memcpy. Interleaved like the rest.

use super::{Context, Sense, Verdict};
use crate::ceilings::READ;
use crate::contender::{Family, Loaded, Output, Path, Run, Work};
use crate::memory::Bytes;
use crate::ours;
use crate::problem::{Activations, Job, Residency, Shape, Weights};
use crate::timing::{Sample, interleaved};
use std::hint::black_box;
use tritgemm::codec::{self, Mode};
use tritgemm::{Backend, Panels, Threads};

const SHAPE: Shape = Shape::new(4096, 4096);

/// A contender by name, loaded.
struct Found {
    loaded: Box<dyn Loaded>,
    index: usize,
}

fn find(
    families: &[Box<dyn Family>],
    name: &str,
    weights: &Weights,
    residency: Residency,
) -> anyhow::Result<Option<Found>> {
    for family in families {
        if let Some(index) = family.contenders().iter().position(|i| i.name == name) {
            let loaded = family.load(weights, residency, &[index])?;
            return Ok(Some(Found { loaded, index }));
        }
    }
    Ok(None)
}

fn best_int8() -> String {
    ours::name(
        Path::Int8,
        ours::backends().first().map_or("none", |b| b.name()),
    )
}

pub fn threads(context: &Context<'_>) -> anyhow::Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for (residency, tokens) in [(Residency::Cold, 1), (Residency::Hot, 128)] {
        let weights = Weights::random(SHAPE);
        let activations = Activations::random(tokens, SHAPE.cols);
        let subject = find(context.families, &best_int8(), &weights, residency)?;
        let rival = match residency {
            Residency::Cold => READ,
            Residency::Hot => "vpdpbusd-zmm",
        };
        let rival = find(context.families, rival, &weights, residency)?;
        // What the machine itself gains from a second core is measured along,
        // by the ceiling of the case: on a shared machine it is not always 2.
        let mut gains = Vec::new();
        let mut runs = Vec::new();
        for found in [&subject, &rival].into_iter().flatten() {
            for threads in [1, 2] {
                let job = Job {
                    weights: &weights,
                    activations: &activations,
                    threads,
                };
                runs.push(found.loaded.start(found.index, &job)?);
            }
        }
        let samples = interleaved(&mut runs, context.protocol);
        for (runs, samples) in runs.chunks(2).zip(samples.chunks(2)) {
            let rate = |run: &dyn Run, sample: &Sample| {
                let work = run.work();
                (work.macs + work.bytes) / sample.median
            };
            gains.push(rate(runs[1].as_ref(), &samples[1]) / rate(runs[0].as_ref(), &samples[0]));
        }
        let own = subject.is_some().then(|| gains[0]);
        verdicts.push(Verdict {
            case: match residency {
                Residency::Cold => format!("int8 N={tokens} from memory, 4096x4096"),
                Residency::Hot => format!("int8 N={tokens}, 4096x4096"),
            },
            over: "2 threads over 1".to_owned(),
            sense: Sense::AtLeast,
            bar: 1.9,
            aim: Some(2.0),
            ratio: own,
            note: gains
                .get(1)
                .map_or_else(String::new, |g| format!("the bare ceiling gains {g:.2}")),
        });
    }
    Ok(verdicts)
}

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
pub fn codec(context: &Context<'_>) -> anyhow::Result<Vec<Verdict>> {
    let weights = Weights::random(SHAPE);
    let matrix = ours::matrix(&weights)?;
    let Shape { rows, cols } = SHAPE;
    let (trits, packed) = (weights.trits.as_slice(), matrix.packed());
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
                codec::encode(black_box(trits), rows, cols, &mut encoded, Mode::Strict)
                    .expect("valid trits");
                black_box(&encoded);
            }),
        ),
        (
            "decode to i8",
            race(context, &mut into, &mut || {
                codec::decode(black_box(packed), rows, cols, &mut decoded, Mode::Strict)
                    .expect("valid bytes");
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
