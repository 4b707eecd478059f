//! What products would gain from more workers than this machine has: `--scaling`.
//!
//! The calling thread runs the work items one after the other, each as the worker that would
//! be free first, which has tables of its own. An item takes as long as it took, divided by
//! its worker's speed. What is found is the schedule of a pool that hands out items one by
//! one.
//!
//! All workers have one core's caches here. So what a worker allocated is read before it works
//! again after another: there its own core's second-level cache would have kept it. The weights
//! stay in the third-level cache, as they do for one worker. What is not in the time: waking a
//! worker, waiting for a lock, and that a line which another core has written is slow to fetch.

use crate::problem::{Activations, Shape, Weights, WeightsFrom};
use crate::{ours, owned};
use anyhow::Context;
use cpu_time::ThreadTime;
use serde::Serialize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tritgemm::{Backend, Linear, MatMut, MatRef, ParallelFor, Threads, Workspace};

/// Numbers of equal workers.
const WORKERS: [usize; 6] = [2, 4, 8, 16, 32, 64];
/// Numbers of workers of which the last is slow, and its speeds.
const UNEVEN: ([usize; 3], [f64; 2]) = ([2, 4, 8], [0.5, 0.1]);

/// What was found of a product.
#[derive(Serialize)]
pub struct Scaling {
    pub shape: Shape,
    pub tokens: usize,
    /// Seconds on one worker.
    serial: f64,
    /// Workers, and the time on one over theirs times their number.
    pub efficiency: Vec<(usize, f64)>,
    /// Workers, the time of all their items over that on one worker, and what is in no loop
    /// over that.
    work: Vec<(usize, f64, f64)>,
    /// Workers, the last one's speed, and their time over that of the work divided by the
    /// sum of their speeds.
    uneven: Vec<(usize, f64, f64)>,
}

/// Workers of some speeds, which are one thread.
struct Simulated {
    speeds: Vec<f64>,
    /// Who runs an item.
    worker: AtomicUsize,
    loops: Mutex<Loops>,
    /// Tells their memory apart from that of others.
    owner: usize,
}

/// Seconds of all loops of a product.
#[derive(Clone, Copy, Default)]
struct Loops {
    /// The calling thread took.
    real: f64,
    /// Their items took.
    work: f64,
    /// They would take with all workers at once.
    simulated: f64,
}

/// Seconds that `work` takes. While another program has the core the clock goes on, and the
/// thread's CPU time does not; but that takes as long to read as a short item.
fn timed(work: impl FnOnce()) -> f64 {
    let (cpu, start) = (ThreadTime::now(), Instant::now());
    work();
    let took = start.elapsed();
    took.min(cpu.elapsed()).as_secs_f64()
}

impl Simulated {
    fn new(speeds: Vec<f64>) -> Self {
        static OWNERS: AtomicUsize = AtomicUsize::new(0);
        Self {
            owner: OWNERS.fetch_add(speeds.len(), Ordering::Relaxed),
            speeds,
            worker: AtomicUsize::new(0),
            loops: Mutex::default(),
        }
    }

    fn loops(&self) -> std::sync::MutexGuard<'_, Loops> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what a worker allocated into the cache, where its own core would have kept it.
    fn warm(&self, worker: usize) {
        owned::read(self.owner + worker);
    }

    /// Runs `work` as one of the workers.
    fn work_as<R>(&self, worker: usize, work: impl FnOnce() -> R) -> R {
        self.worker.store(worker, Ordering::Relaxed);
        owned::working(self.owner + worker, work)
    }
}

impl ParallelFor for Simulated {
    fn workers(&self) -> usize {
        self.speeds.len()
    }

    fn worker(&self) -> Option<usize> {
        Some(self.worker.load(Ordering::Relaxed))
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        let start = Instant::now();
        let mut free_at = vec![0.0_f64; self.speeds.len()];
        // The first is the calling thread.
        let (mut work_done, mut last) = (0.0, 0);
        for item in 0..items {
            let first = (0..free_at.len()).min_by(|&a, &b| free_at[a].total_cmp(&free_at[b]));
            let first = first.expect("at least one worker");
            if first != last {
                self.warm(first);
            }
            last = first;
            let took = timed(|| self.work_as(first, || work(item)));
            free_at[first] += took / self.speeds[first];
            work_done += took;
        }
        let mut loops = self.loops();
        loops.work += work_done;
        loops.simulated += free_at.into_iter().fold(0.0, f64::max);
        loops.real += start.elapsed().as_secs_f64();
    }
}

/// Measures every shape and number of tokens.
pub fn measure(shapes: &[Shape], tokens: &[usize], repeats: usize) -> anyhow::Result<Vec<Scaling>> {
    let mut all = Vec::new();
    for &shape in shapes {
        let weights = Weights::random(shape);
        let matrix = ours::matrix(&weights)?;
        let layer = Linear::from_parts(ours::pack(&matrix)?, matrix.scales().clone(), None)?;
        for &tokens in tokens {
            let x = Activations::random(tokens, shape.cols);
            eprintln!("{shape}, {tokens} tokens");
            all.push(product(&layer, shape, &x, repeats)?);
        }
    }
    Ok(all)
}

fn product(
    layer: &Linear,
    shape: Shape,
    x: &Activations,
    repeats: usize,
) -> anyhow::Result<Scaling> {
    let mut y = vec![0.0; x.tokens * shape.rows];
    let mut forward = |ws: &mut Workspace| -> Result<(), tritgemm::Error> {
        let y = MatMut::new(&mut y, x.tokens, shape.rows)?;
        let x = MatRef::new(&x.f32s, x.tokens, x.cols)?;
        Ok(layer.forward_int8(x, y, ws)?)
    };
    let options = || ours::options(Backend::best(), WeightsFrom::Cache);
    let serial = &mut Workspace::with_options(options().threads(Threads::Serial));
    // The time on one worker, in turns, and theirs: what was outside of loops and the
    // schedule of the loops.
    let mut simulate = |speeds: Vec<f64>| -> anyhow::Result<[f64; 4]> {
        let pool = Arc::new(Simulated::new(speeds));
        let ws = &mut Workspace::with_options(options().threads(Threads::Pool(pool.clone())));
        let mut times: [Vec<f64>; 4] = Default::default();
        for repeat in 0..=repeats {
            // Twice, since the first finds the caches as the workers left them.
            forward(serial)?;
            let mut done = Ok(());
            let one = timed(|| done = forward(serial));
            done?;
            *pool.loops() = Loops::default();
            pool.warm(0);
            let start = Instant::now();
            pool.work_as(0, || forward(ws))?;
            let real = start.elapsed().as_secs_f64();
            let loops = *pool.loops();
            // The first call allocates.
            if repeat > 0 {
                let outside = real - loops.real;
                let all = [one, outside + loops.simulated, loops.work, outside];
                times
                    .iter_mut()
                    .zip(all)
                    .for_each(|(times, t)| times.push(t));
            }
        }
        Ok(times.map(|mut times| median(&mut times)))
    };
    let mut efficiency = Vec::new();
    let (mut work, mut times) = (Vec::new(), Vec::new());
    for workers in WORKERS {
        let [one, together, items, outside] = simulate(vec![1.0; workers])?;
        times.push(one);
        efficiency.push((workers, one / (workers as f64 * together)));
        work.push((workers, items / one, outside / one));
    }
    let mut uneven = Vec::new();
    for slow in UNEVEN.1 {
        for workers in UNEVEN.0 {
            let mut speeds = vec![1.0; workers];
            *speeds.last_mut().context("workers")? = slow;
            let sum: f64 = speeds.iter().sum();
            let [one, together, ..] = simulate(speeds)?;
            uneven.push((workers, slow, together / (one / sum)));
        }
    }
    Ok(Scaling {
        shape,
        tokens: x.tokens,
        serial: median(&mut times),
        efficiency,
        work,
        uneven,
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a table of efficiencies and one of uneven workers.
pub fn print(all: &[Scaling]) {
    let Some(first) = all.first() else { return };
    println!("\nint8, time on one worker over (workers x their time)");
    print!("{:>14} {:>6} {:>10}", "shape", "N", "one, us");
    first.efficiency.iter().for_each(|(w, _)| print!(" {w:>6}"));
    println!();
    for s in all {
        let shape = s.shape.to_string();
        print!("{shape:>14} {:>6} {:>10.1}", s.tokens, 1e6 * s.serial);
        s.efficiency.iter().for_each(|(_, e)| print!(" {e:>6.2}"));
        println!();
    }
    println!("\nwork of all workers' items over that of one worker, and what is in no loop");
    print!("{:>14} {:>6}", "shape", "N");
    first.work.iter().for_each(|(w, ..)| print!(" {w:>11}"));
    println!();
    for s in all {
        print!("{:>14} {:>6}", s.shape.to_string(), s.tokens);
        let cell = |(_, work, outside): &(_, f64, f64)| print!(" {work:>5.2} {outside:>5.3}");
        s.work.iter().for_each(cell);
        println!();
    }
    println!("\nthe last worker slow: time over (work / sum of speeds)");
    print!("{:>14} {:>6}", "shape", "N");
    let head = |(w, speed, _): &(usize, f64, f64)| print!(" {:>9}", format!("{w} at {speed}"));
    first.uneven.iter().for_each(head);
    println!();
    for s in all {
        print!("{:>14} {:>6}", s.shape.to_string(), s.tokens);
        s.uneven.iter().for_each(|(_, _, r)| print!(" {r:>9.2}"));
        println!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Eight items of equal length: two equal workers take four each, and one of a tenth of
    /// the speed the first alone.
    #[test]
    fn items_go_to_whoever_is_free_first() {
        for (speeds, shares) in [(vec![1.0, 1.0], 4.0), (vec![1.0, 0.1], 10.0)] {
            let pool = Simulated::new(speeds);
            let (ran, length) = (AtomicUsize::new(0), Duration::from_millis(5));
            pool.run(8, &|_| {
                ran.fetch_add(1, Ordering::Relaxed);
                let start = ThreadTime::now();
                while start.elapsed() < length {}
            });
            assert_eq!(ran.into_inner(), 8);
            let Loops {
                work, simulated, ..
            } = *pool.loops();
            // It takes at least as long as asked for.
            assert!(work >= 8.0 * length.as_secs_f64());
            assert!(simulated >= shares * length.as_secs_f64());
        }
    }
}
