//! The machine's ceilings as contenders, interleaved with the rest: each loop of
//! arithmetic, and reading exactly the bytes of the packed weights from where the cell
//! has them.

use crate::contender::{Arithmetic, Info, LOOK_UPS, Library, Loaded, READ, Role, Run, Work};
use crate::pools::{Pools, split};
use crate::problem::{Job, Weights, WeightsFrom};
use crate::timing::undisturbed;
use anyhow::Context;
use rayon::ThreadPool;
use std::hint::black_box;
use std::sync::Arc;
use tritgemm_loops::memory::Bytes;
use tritgemm_loops::{Peak, Reader, peaks, readers};

/// A reading loop and the size of the pieces it is given one after the other:
/// its streams then lie close together, which spares the TLB and the DRAM pages.
#[derive(Clone)]
struct Way {
    reader: Reader,
    piece: usize,
}

impl Way {
    /// All ways to read `len` bytes.
    fn all(len: usize) -> Vec<Self> {
        let mut pieces = vec![len];
        pieces.extend(
            [4 << 20, 1 << 20, 256 << 10]
                .into_iter()
                .filter(|p| 2 * p <= len),
        );
        let ways = |piece| {
            readers()
                .into_iter()
                .map(move |reader| Way { reader, piece })
        };
        pieces.into_iter().flat_map(ways).collect()
    }

    fn read(&self, bytes: &[u8]) {
        for piece in bytes.chunks(self.piece) {
            (self.reader.read)(black_box(piece), self.reader.ahead);
        }
    }
}

/// GMAC/s of the bare look-ups on one thread, or 0 where there are none.
pub fn look_ups_rate() -> f64 {
    let Some(peak) = peaks().into_iter().find(|peak| peak.name == LOOK_UPS) else {
        return 0.0;
    };
    // A few milliseconds at any rate there is.
    let steps = 1_000_000_000 / peak.macs_per_step as u64;
    let seconds = median(1, 7, || (peak.steps)(steps));
    peak.macs_per_step * steps as f64 / seconds / 1e9
}

fn median(threads: usize, repeats: usize, mut work: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..repeats)
        .map(|_| undisturbed(threads, &mut work).0)
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[(repeats - 1) / 2]
}

pub struct Ceilings {
    /// Of the peaks, and of reading as the last.
    infos: Vec<Info>,
    peaks: Vec<Peak>,
    pools: Arc<Pools>,
}

impl Ceilings {
    pub fn new(pools: Arc<Pools>) -> Self {
        let peaks = peaks();
        let info = |peak: &Peak| {
            let float = peak.name.starts_with("fma");
            let arithmetic = [Arithmetic::Int8, Arithmetic::F32][usize::from(float)];
            Info::new(peak.name, Role::Ceiling, arithmetic)
        };
        let mut infos: Vec<Info> = peaks.iter().map(info).collect();
        infos.push(Info::new(READ, Role::Ceiling, Arithmetic::Bytes));
        Self {
            infos,
            peaks,
            pools,
        }
    }
}

impl Library for Ceilings {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    fn load(
        &self,
        weights: &Weights,
        from: WeightsFrom,
        wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let bytes = weights.shape.packed_bytes();
        let reads = wanted.contains(&self.peaks.len());
        let copies = if reads { from.copies(bytes) } else { 0 };
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
            return Ok(Box::new(PeakRun { peak, pool }));
        }
        Ok(Box::new(ReadRun::new(&self.copies, pool)?))
    }
}

struct PeakRun {
    peak: Peak,
    pool: Arc<ThreadPool>,
}

/// Steps of a call: a fraction of a millisecond, entering the pool included.
const STEPS_PER_CALL: u64 = 1 << 16;

impl Run for PeakRun {
    fn work(&self) -> Work {
        Work {
            macs: self.peak.macs_per_step * STEPS_PER_CALL as f64 * self.threads() as f64,
            bytes: 0.0,
        }
    }

    fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn run(&mut self, calls: usize) {
        self.pool
            .broadcast(|_| (self.peak.steps)(STEPS_PER_CALL * calls as u64));
    }
}

struct ReadRun<'a> {
    copies: &'a [Bytes],
    way: Way,
    pool: Arc<ThreadPool>,
    next: usize,
}

impl<'a> ReadRun<'a> {
    /// By the fastest way for these bytes where they lie.
    fn new(copies: &'a [Bytes], pool: Arc<ThreadPool>) -> anyhow::Result<Self> {
        let ways = Way::all(copies[0].len());
        let mut run = ReadRun {
            copies,
            way: ways.first().context("no reading loop")?.clone(),
            pool,
            next: 0,
        };
        let calls = (16 << 20) / copies[0].len() + 1;
        let mut best = f64::INFINITY;
        let mut fastest = run.way.clone();
        for way in ways {
            run.way = way;
            let seconds = median(run.threads(), 3, || run.run(calls));
            if seconds < best {
                (best, fastest) = (seconds, run.way.clone());
            }
        }
        run.way = fastest;
        Ok(run)
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
        self.pool.current_num_threads()
    }

    fn run(&mut self, calls: usize) {
        let (copies, way, first, threads) = (self.copies, &self.way, self.next, self.threads());
        // Each thread reads its share of every copy and waits for nobody
        // meanwhile: a ceiling has no synchronisation to pay for.
        self.pool.broadcast(|thread| {
            for call in 0..calls {
                let copy = &copies[(first + call) % copies.len()];
                way.read(&copy[split(copy.len(), 64, threads, thread.index())]);
            }
        });
        self.next = (first + calls) % copies.len();
    }
}
