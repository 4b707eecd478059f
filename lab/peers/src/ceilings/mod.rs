//! The machine's ceilings: how fast it multiplies and adds with nothing to load, how
//! fast it adds up table entries, and how fast it reads with nothing to compute. Measured once per run for the
//! report, and again inside every cell as contenders, interleaved with the rest.

#[cfg_attr(target_arch = "x86_64", path = "x86.rs")]
#[cfg_attr(not(target_arch = "x86_64"), path = "portable.rs")]
mod loops;

use crate::contender::{Family, Info, Loaded, Output, Path, Role, Run, Work};
use crate::machine::Machine;
use crate::memory::Bytes;
use crate::pools::{Pools, split};
use crate::problem::{COLD_BYTES, Job, Residency, Weights};
use crate::timing::undisturbed;
use anyhow::Context;
use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::Arc;

/// A loop of arithmetic that products are made of.
#[derive(Clone, Copy)]
pub struct Peak {
    pub name: &'static str,
    pub macs_per_step: f64,
    pub steps: fn(u64),
}

/// A reading loop: `read(bytes, ahead)`.
#[derive(Clone)]
pub struct Reader {
    pub name: String,
    pub ahead: usize,
    pub read: fn(&[u8], usize) -> u64,
}

/// A reading loop and the size of the pieces it is given one after the other:
/// its streams then lie close together, which spares the TLB and the DRAM pages.
#[derive(Clone)]
struct Way {
    reader: Reader,
    block: usize,
}

impl Way {
    /// All ways to read `len` bytes.
    fn all(len: usize) -> Vec<Self> {
        let blocks = [len, 4 << 20, 1 << 20, 256 << 10];
        blocks
            .into_iter()
            .enumerate()
            .filter(|&(i, block)| i == 0 || 2 * block <= len)
            .flat_map(|(_, block)| {
                let way = move |reader| Way { reader, block };
                loops::readers().into_iter().map(way)
            })
            .collect()
    }

    fn name(&self, len: usize) -> String {
        if self.block < len {
            format!(
                "{} in blocks of {}",
                self.reader.name,
                crate::machine::bytes(self.block)
            )
        } else {
            self.reader.name.clone()
        }
    }

    fn read(&self, bytes: &[u8]) {
        for block in bytes.chunks(self.block) {
            black_box((self.reader.read)(black_box(block), self.reader.ahead));
        }
    }
}

/// Read speed of one level of the memory hierarchy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bandwidth {
    pub level: String,
    /// Bytes read again and again by each thread.
    pub bytes_per_thread: usize,
    pub threads: usize,
    pub gigabytes_per_second: f64,
    /// The loop that was fastest.
    pub best: String,
}

/// Speed of one loop of arithmetic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeakRate {
    pub name: String,
    pub threads: usize,
    pub gmacs: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ceilings {
    pub bandwidths: Vec<Bandwidth>,
    pub peaks: Vec<PeakRate>,
}

impl Ceilings {
    pub fn measure(machine: &Machine, pools: &Pools, threads: &[usize]) -> Self {
        let mut bandwidths = Vec::new();
        let mut peaks = Vec::new();
        for &threads in threads {
            let pool = pools.get(threads);
            for (level, bytes) in levels(machine, threads) {
                bandwidths.push(bandwidth(level, bytes, threads, &pool));
            }
            for peak in loops::peaks() {
                // A few milliseconds at any rate there is.
                let steps = 1_000_000_000 / peak.macs_per_step as u64;
                let seconds = median(threads, 7, || {
                    pool.broadcast(|_| (peak.steps)(steps));
                });
                peaks.push(PeakRate {
                    name: peak.name.to_owned(),
                    threads,
                    gmacs: peak.macs_per_step * steps as f64 * threads as f64 / seconds / 1e9,
                });
            }
        }
        Self { bandwidths, peaks }
    }

    pub fn bandwidth(&self, level: &str, threads: usize) -> Option<f64> {
        self.bandwidths
            .iter()
            .find(|b| b.level == level && b.threads == threads)
            .map(|b| b.gigabytes_per_second)
    }

    pub fn peak(&self, name: &str, threads: usize) -> Option<f64> {
        self.peaks
            .iter()
            .find(|p| p.name == name && p.threads == threads)
            .map(|p| p.gmacs)
    }
}

/// Buffer sizes per thread that sit well inside one level and outside the one
/// below; L3 is shared by the threads.
fn levels(machine: &Machine, threads: usize) -> Vec<(&'static str, usize)> {
    let mut levels = Vec::new();
    if let Some(l1) = machine.cache_bytes(1) {
        levels.push(("L1", l1 / 2));
    }
    if let Some(l2) = machine.cache_bytes(2) {
        levels.push(("L2", l2 / 2));
        if let Some(l3) = machine.cache_bytes(3) {
            levels.push(("L3", (4 * l2).min(l3 / 2 / threads)));
        }
    }
    levels.push(("memory", COLD_BYTES / threads));
    levels
}

fn bandwidth(level: &'static str, bytes: usize, threads: usize, pool: &ThreadPool) -> Bandwidth {
    // Written by the thread that reads it, so that it lies on its NUMA node.
    let buffers: Vec<Bytes> = pool.broadcast(|_| Bytes::filled(1, bytes));
    let seconds = |way: &Way, repeats, passes, bytes: usize| {
        median(threads, repeats, || {
            pool.broadcast(|thread| {
                let buffer = &buffers[thread.index()][..bytes];
                for _ in 0..passes {
                    way.read(buffer);
                }
            });
        })
    };
    // To choose the loop, a part that is still far larger than any cache does.
    let trial = bytes.min(192 << 20);
    let best = &Way::all(bytes)
        .into_iter()
        .map(|way| (seconds(&way, 2, (16 << 20) / bytes + 1, trial), way))
        .min_by(|a, b| f64::total_cmp(&a.0, &b.0))
        .expect("every architecture has a reader")
        .1;
    let passes = (128 << 20) / bytes + 1;
    Bandwidth {
        level: level.to_owned(),
        bytes_per_thread: bytes,
        threads,
        gigabytes_per_second: (bytes * passes * threads) as f64
            / seconds(best, 7, passes, bytes)
            / 1e9,
        best: best.name(bytes),
    }
}

fn median(threads: usize, repeats: usize, mut work: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..repeats)
        .map(|_| undisturbed(threads, &mut work).0)
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[(repeats - 1) / 2]
}

/// The ceilings as contenders: each loop of arithmetic, and reading
/// exactly the bytes of the packed weights from where the cell has them.
pub struct CeilingFamily {
    infos: Vec<Info>,
    peaks: Vec<Peak>,
    pools: Arc<Pools>,
}

/// The reading contender's name.
pub const READ: &str = "read-weights";
/// The name of the column lanes' look-ups with nothing around them.
pub const LOOK_UPS: &str = "look-ups-zmm";

impl CeilingFamily {
    pub fn new(pools: Arc<Pools>) -> Self {
        let peaks = loops::peaks();
        let mut infos: Vec<Info> = peaks
            .iter()
            .map(|p| {
                let path = if p.name.starts_with("fma") {
                    Path::F32
                } else {
                    Path::Int8
                };
                Info::new(p.name, Role::Ceiling, path)
            })
            .collect();
        infos.push(Info::new(READ, Role::Ceiling, Path::Bytes));
        Self {
            infos,
            peaks,
            pools,
        }
    }
}

impl Family for CeilingFamily {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    fn load(
        &self,
        weights: &Weights,
        residency: Residency,
        wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let bytes = weights.shape.packed_bytes();
        let copies = if wanted.contains(&self.peaks.len()) {
            residency.copies(bytes)
        } else {
            0
        };
        Ok(Box::new(LoadedCeilings {
            peaks: self.peaks.clone(),
            pools: Arc::clone(&self.pools),
            copies: (0..copies).map(|_| Bytes::filled(1, bytes)).collect(),
        }))
    }
}

struct LoadedCeilings {
    peaks: Vec<Peak>,
    pools: Arc<Pools>,
    copies: Vec<Bytes>,
}

impl Loaded for LoadedCeilings {
    fn start<'a>(&'a self, index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let pool = self.pools.get(job.threads);
        if let Some(&peak) = self.peaks.get(index) {
            return Ok(Box::new(PeakRun {
                peak,
                pool,
                threads: job.threads,
            }));
        }
        let mut run = ReadRun {
            copies: &self.copies,
            way: None,
            pool,
            threads: job.threads,
            next: 0,
        };
        run.choose_way().context("no reading loop")?;
        Ok(Box::new(run))
    }
}

struct PeakRun {
    peak: Peak,
    pool: Arc<ThreadPool>,
    threads: usize,
}

/// Steps of a call: a fraction of a millisecond, entering the pool included.
const STEPS_PER_CALL: u64 = 1 << 16;

impl Run for PeakRun {
    fn work(&self) -> Work {
        Work {
            macs: self.peak.macs_per_step * STEPS_PER_CALL as f64 * self.threads as f64,
            bytes: 0.0,
        }
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&mut self, calls: usize) {
        self.pool
            .broadcast(|_| (self.peak.steps)(STEPS_PER_CALL * calls as u64));
    }

    fn output(&self) -> Output<'_> {
        Output::None
    }
}

struct ReadRun<'a> {
    copies: &'a [Bytes],
    way: Option<Way>,
    pool: Arc<ThreadPool>,
    threads: usize,
    next: usize,
}

impl ReadRun<'_> {
    /// The fastest way for these bytes where they lie.
    fn choose_way(&mut self) -> Option<()> {
        let calls = (16 << 20) / self.copies[0].len() + 1;
        let mut best = f64::INFINITY;
        let mut chosen = None;
        for way in Way::all(self.copies[0].len()) {
            self.way = Some(way.clone());
            let seconds = median(self.threads, 3, || self.run(calls));
            if seconds < best {
                best = seconds;
                chosen = Some(way);
            }
        }
        self.way = chosen;
        self.way.is_some().then_some(())
    }
}

impl Run for ReadRun<'_> {
    fn work(&self) -> Work {
        Work {
            macs: 0.0,
            bytes: self.copies[0].len() as f64,
        }
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&mut self, calls: usize) {
        let way = self.way.as_ref().expect("chosen before the first run");
        let (copies, threads, first) = (self.copies, self.threads, self.next);
        // Each thread reads its share of every copy and waits for nobody
        // meanwhile: a ceiling has no synchronisation to pay for.
        self.pool.broadcast(|thread| {
            for call in 0..calls {
                let copy = &copies[(first + call) % copies.len()];
                let share = split(copy.len(), 64, threads, thread.index());
                way.read(&copy[share]);
            }
        });
        self.next = (first + calls) % copies.len();
    }

    fn output(&self) -> Output<'_> {
        Output::None
    }
}
