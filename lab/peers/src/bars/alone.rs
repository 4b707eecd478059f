//! The goals that no cell of a sweep shows, each measured alone.

use super::{Bar, Context, Over};
use crate::best_of::best_of;
use crate::contender::{LOOK_UPS, Loaded, Run, Work};
use crate::host::Host;
use crate::ours;
use crate::problem::{Activations, Job, Shape, Weights};
use crate::timing::{Protocol, Sample, interleaved};
use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;
use tritgemm::codec::{self, Mode, row_bytes};
use tritgemm::{Backend, MatMut, MatRef, TernaryMatrix, Threads, Workspace};
use tritgemm_loops::memory::Bytes;

/// The ratio and what is worth knowing about it.
type Measured = (Option<f64>, String);

pub fn measure(context: &Context<'_>, bar: &Bar) -> anyhow::Result<Measured> {
    let weights = Weights::random(bar.shape.expect("these bars name their shape"));
    match bar.over {
        Over::OneThread(bare) => second_thread(context, bar, &weights, bare),
        Over::OneMoreToken => one_more_token(context, bar, &weights),
        Over::Copy(operation) => operation(context, &weights),
        _ => unreachable!("cells show this one"),
    }
}

/// A closure as a run.
struct Timed<F>(F);

impl<F: FnMut()> Run for Timed<F> {
    fn work(&self) -> Work {
        Work::default()
    }

    fn threads(&self) -> usize {
        1
    }

    fn run(&mut self, calls: usize) {
        (0..calls).for_each(|_| (self.0)());
    }
}

/// A contender by name, loaded, and its index.
fn find(
    context: &Context<'_>,
    bar: &Bar,
    name: &str,
    weights: &Weights,
) -> anyhow::Result<Option<(Box<dyn Loaded>, usize)>> {
    for library in context.libraries {
        if let Some(index) = library.contenders().iter().position(|i| i.name == name) {
            let loaded = library.load(weights, bar.weights_from, &[index])?;
            return Ok(Some((loaded, index)));
        }
    }
    Ok(None)
}

/// Times that a second thread's gain is measured while the bare loop itself gains less
/// than the bar: two cores of a shared host are not always two. The measurement in which
/// *it* gains most counts.
const MEASUREMENTS: usize = 6;
/// Before the next one: the host's states last from one second to minutes.
const PAUSE: Duration = Duration::from_secs(2);

/// Speed of two threads over that of one.
fn second_thread(
    context: &Context<'_>,
    bar: &Bar,
    weights: &Weights,
    bare: &str,
) -> anyhow::Result<Measured> {
    let activations = Activations::random(bar.tokens[0], weights.shape.cols);
    let Some(product) = find(context, bar, &bar.subject(), weights)? else {
        return Ok((None, format!("no {} here", bar.subject())));
    };
    let bare_loop = find(context, bar, bare, weights)?;
    let mut runs = Vec::new();
    for (loaded, index) in [Some(&product), bare_loop.as_ref()].into_iter().flatten() {
        for threads in [1, bar.threads] {
            let job = Job {
                weights,
                activations: &activations,
                threads,
            };
            runs.push(loaded.start(*index, &job)?);
        }
    }
    // Only four short runs take turns here, so more repeats cost little; gains by medians
    // of 7 differ by 5 % in the same state of the host.
    let protocol = Protocol {
        repeats: 4 * context.protocol.repeats + 1,
        ..context.protocol
    };
    let best = best_of(
        MEASUREMENTS,
        PAUSE,
        |gain| gain >= bar.bar,
        || {
            let samples = interleaved(&mut runs, protocol);
            let rates = runs.iter().zip(&samples).map(|(run, sample)| {
                let work = run.work();
                (work.macs + work.bytes) / sample.median
            });
            let rates: Vec<f64> = rates.collect();
            (rates.get(3).map(|two| two / rates[2]), rates[1] / rates[0])
        },
    );
    let note = best.mark.map_or_else(String::new, |gain| {
        let measurements = best.measurements;
        format!("the bare {bare} gains {gain:.2}, its most of {measurements}")
    });
    Ok((Some(best.found), note))
}

/// Steps from N to N + 1 that are measured again: those that looked worst.
const CONFIRMED: usize = 16;

/// One token more never makes a product faster by more than a little, or the caller
/// would have to pad.
fn one_more_token(context: &Context<'_>, bar: &Bar, weights: &Weights) -> anyhow::Result<Measured> {
    let (last, Shape { rows, cols }) = (bar.tokens[0], weights.shape);
    let backend = Backend::best();
    let panels = ours::pack(&ours::matrix(weights)?)?;
    let x = Activations::random(last + 1, cols).int8;
    // All numbers of tokens share these, as in an engine: separate buffers lie in other
    // pages, which alone makes 5 % of difference in the L2 cache.
    let options = ours::options(backend, bar.weights_from).threads(Threads::Serial);
    let shared = RefCell::new((vec![0; (last + 1) * rows], Workspace::with_options(options)));
    let run = |n: usize| {
        let (panels, x, shared) = (&panels, &x[..n * cols], &shared);
        Box::new(Timed(move || {
            let (y, ws) = &mut *shared.borrow_mut();
            let x = MatRef::new(x, n, cols).expect("n tokens");
            let y = MatMut::new(&mut y[..n * rows], n, rows).expect("n tokens");
            panels.gemm_i8(x, y, ws).expect("shapes that fit");
        })) as Box<dyn Run + '_>
    };
    let protocol = Protocol {
        repeats: 2 * context.protocol.repeats + 1,
        ..context.protocol
    };
    let ratio = |pair: &[Sample]| pair[0].median / pair[1].median;
    let samples = interleaved(&mut (1..=last + 1).map(run).collect::<Vec<_>>(), protocol);
    let mut steps: Vec<(f64, usize)> = samples.windows(2).map(ratio).zip(1..).collect();
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));

    // The worst of 512 ratios is mostly the noisiest, and all of them together take
    // minutes, in which the host is not always the same. So those that look worst
    // are measured again, two neighbours at a time; what that says counts.
    steps.truncate(CONFIRMED);
    let witness = find(context, bar, LOOK_UPS, weights)?;
    let activations = Activations::random(1, cols);
    let job = Job {
        weights,
        activations: &activations,
        threads: 1,
    };
    let mut host = Host::new(protocol.look_ups);
    for (worst, n) in &mut steps {
        let mut runs = vec![run(*n), run(*n + 1)];
        if let Some((loaded, index)) = &witness {
            runs.push(loaded.start(*index, &job)?);
        }
        let macs = runs.get(2).map(|witness| witness.work().macs);
        let rate = |samples: &[Sample]| macs.map(|macs| macs / samples[2].median / 1e9);
        *worst = ratio(&host.calm(rate, || interleaved(&mut runs, protocol)));
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worst: Vec<String> = steps
        .iter()
        .take(3)
        .map(|(ratio, n)| format!("N={n}: {ratio:.3}"))
        .collect();
    Ok((steps.first().map(|step| step.0), worst.join(", ")))
}

/// An operation on weights to compare with a copy that moves (reads and writes) as many
/// bytes in total, into memory of the same kind: the caller's, or freshly allocated where
/// the operation returns its result.
pub type Operation = fn(&Context<'_>, &Weights) -> anyhow::Result<Measured>;

pub fn encode(context: &Context<'_>, weights: &Weights) -> anyhow::Result<Measured> {
    let Shape { rows, cols } = weights.shape;
    let mut encoded = vec![0u8; weights.shape.packed_bytes()];
    let trits = weights.trits.as_slice();
    Ok(race(
        context,
        &mut copy(trits.len() + encoded.len()),
        &mut || {
            let trits = MatRef::new(black_box(trits), rows, cols).expect("all trits");
            let packed = MatMut::new(&mut encoded, rows, row_bytes(cols)).expect("all bytes");
            codec::encode(trits, packed, Mode::Strict).expect("valid trits");
            black_box(&encoded);
        },
    ))
}

pub fn decode(context: &Context<'_>, weights: &Weights) -> anyhow::Result<Measured> {
    let Shape { rows, cols } = weights.shape;
    let matrix = ours::matrix(weights)?;
    let mut trits = vec![0i8; weights.trits.len()];
    Ok(race(
        context,
        &mut copy(trits.len() + matrix.packed().len()),
        &mut || {
            let packed = black_box(matrix.packed());
            let packed = MatRef::new(packed, rows, row_bytes(cols)).expect("all bytes");
            let out = MatMut::new(&mut trits, rows, cols).expect("all trits");
            codec::decode(packed, out, Mode::Strict).expect("valid bytes");
            black_box(&trits);
        },
    ))
}

pub fn pack(context: &Context<'_>, weights: &Weights) -> anyhow::Result<Measured> {
    let matrix: TernaryMatrix = ours::matrix(weights)?;
    Ok(race(
        context,
        &mut || drop(black_box(Bytes::copy(black_box(matrix.packed())))),
        &mut || drop(black_box(ours::pack(&matrix))),
    ))
}

/// A copy that reads and writes so many bytes in total.
fn copy(moved: usize) -> impl FnMut() {
    let source = vec![1u8; moved / 2];
    let mut target = source.clone();
    move || {
        target.copy_from_slice(black_box(&source));
        black_box(&target);
    }
}

/// How many times as fast as the copy the operation is.
fn race(context: &Context<'_>, copy: &mut dyn FnMut(), operation: &mut dyn FnMut()) -> Measured {
    let mut runs: Vec<Box<dyn Run + '_>> = vec![Box::new(Timed(copy)), Box::new(Timed(operation))];
    let samples = interleaved(&mut runs, context.protocol);
    let note = format!("{} backend, 1 thread", Backend::best().name());
    (Some(samples[0].median / samples[1].median), note)
}
