//! What the benches share: how long they run, on which backends, on what data.
//!
//! | variable | value | effect |
//! |---|---|---|
//! | `TRITGEMM_BENCH` | `quick`, the default | few shapes, the best backend and one of the next instruction set, short measurements: all targets within 5 minutes on 2 cores |
//! | | `full` | every shape, number of tokens and backend, hot and cold: over an hour |
//! | `TRITGEMM_BENCH_ISA` | levels or `level/tuning`, comma-separated, as `avx2` or `avx512-vbmi/zen5,avx512` | those backends, no others |
//!
//! Criterion's own arguments come after `--` and win over the profile:
//! `cargo bench --bench gemm -- i8/4096x4096/N=8 --measurement-time 5`.
//!
//! Each bench is a crate of its own and uses a part of this file.
#![allow(dead_code)]

pub mod product;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use std::env;
use std::time::{Duration, Instant};
use tritgemm::{Backend, Isa};

/// How much to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    Quick,
    Full,
}

impl Profile {
    /// The one that `TRITGEMM_BENCH` asks for.
    pub fn get() -> Self {
        match env::var("TRITGEMM_BENCH").as_deref() {
            Ok("full") => Profile::Full,
            Err(env::VarError::NotPresent) | Ok("" | "quick") => Profile::Quick,
            other => panic!("TRITGEMM_BENCH is {other:?}, expected quick or full"),
        }
    }

    /// The element of a pair that belongs to this profile.
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Profile::Quick => quick,
            Profile::Full => full,
        }
    }
}

/// Criterion as the profile wants it; `criterion_group!` lets the command line
/// override it.
pub fn criterion() -> Criterion {
    let profile = Profile::get();
    let milliseconds = |quick, full| Duration::from_millis(profile.pick(quick, full));
    Criterion::default()
        .without_plots()
        .warm_up_time(milliseconds(100, 200))
        .measurement_time(milliseconds(500, 1000))
        .sample_size(10)
        // Bootstrap resamples: the default of 100,000 takes longer than a quick
        // measurement itself.
        .nresamples(profile.pick(2_000, 20_000))
}

/// For sweeps of very many points.
pub fn short_criterion() -> Criterion {
    let profile = Profile::get();
    let milliseconds = |quick, full| Duration::from_millis(profile.pick(quick, full));
    criterion()
        .warm_up_time(milliseconds(20, 100))
        .measurement_time(milliseconds(120, 500))
}

/// The backends to measure, best first.
pub fn backends() -> Vec<Backend> {
    let available = tritgemm_testing::backends();
    let wanted = env::var("TRITGEMM_BENCH_ISA").unwrap_or_default();
    if !wanted.trim().is_empty() {
        let by_name = |name: &str| {
            Backend::by_name(name.trim())
                .unwrap_or_else(|error| panic!("TRITGEMM_BENCH_ISA={wanted}: {error}"))
        };
        return wanted.split(',').map(by_name).collect();
    }
    match Profile::get() {
        Profile::Full => available,
        Profile::Quick => {
            let best = available[0];
            let other = |b: &&Backend| b.isa() != best.isa() && b.isa() != Isa::Scalar;
            std::iter::once(best)
                .chain(available.iter().find(other).copied())
                .collect()
        }
    }
}

/// MACs of one product up to which the reference kernels, at some 1.6 GMAC/s, are
/// measured: their rate is the same beyond, a full sweep would take hours more.
const SCALAR_MACS: usize = 1 << 27;

/// Whether a product of so many MACs belongs to a sweep on this backend.
pub fn affordable(backend: Backend, macs: usize) -> bool {
    backend.isa() != Isa::Scalar || macs <= SCALAR_MACS
}

/// Multiply-accumulates as criterion's elements: Gelem/s is GMAC/s.
pub fn macs(count: usize) -> Throughput {
    Throughput::Elements(count as u64)
}

/// Runs `work` on end, and says how long that took.
pub fn repeat(iterations: u64, mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        work();
    }
    start.elapsed()
}

/// How long this thread has stood in the queue for a core, as Linux counts it;
/// zero elsewhere. What a stretch of time loses to other programs by this can
/// be taken off it.
pub fn queued() -> Duration {
    let file = std::fs::read_to_string("/proc/thread-self/schedstat");
    let queued = |text: String| text.split(' ').nth(1)?.parse().ok();
    Duration::from_nanos(file.ok().and_then(queued).unwrap_or(0))
}

/// As [`time_batches`], one call of `work` an iteration.
pub fn time<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: String,
    setup: impl FnOnce() -> S,
    mut work: impl FnMut(&mut S),
) -> Option<f64> {
    time_batches(group, name, setup, |state, iterations| {
        repeat(iterations, || work(state))
    })
}

/// Measures `batch`, which runs so many iterations and returns their time, as
/// benchmark `name`. Returns the seconds of one iteration in the median batch,
/// `None` if a name filter left it out or nothing was measured (`--test`,
/// `--list`).
///
/// `setup` runs only if the name is wanted. It and one iteration are outside of
/// what is timed, so that workspaces have grown and pages are mapped by then.
pub fn time_batches<S>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: String,
    setup: impl FnOnce() -> S,
    mut batch: impl FnMut(&mut S, u64) -> Duration,
) -> Option<f64> {
    let (mut setup, mut state) = (Some(setup), None);
    let mut seconds = Vec::new();
    group.bench_function(name, |bencher| {
        if let Some(setup) = setup.take() {
            batch(state.insert(setup()), 1);
        }
        let state = state.as_mut().expect("made at the first call");
        bencher.iter_custom(|iterations| {
            let elapsed = batch(state, iterations);
            seconds.push(elapsed.as_secs_f64() / iterations as f64);
            elapsed
        });
    });
    // Criterion takes at least 10 samples when it measures.
    (seconds.len() >= 10).then(|| median(&mut seconds))
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
