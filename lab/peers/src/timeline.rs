//! Where two threads lose time: what each worker does when in an int8 product.
//!
//! ```sh
//! cargo run --release -p tritgemm-peers --bin timeline -- --tokens 128
//! ```
//!
//! One thread and several run the same product in turns. Then it prints the parts of
//! the product whose time was the median, and over all of them what a worker's first
//! part takes against its later ones, and how far apart the workers end.

use anyhow::Context;
use clap::Parser;
use rayon::ThreadPool;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tritgemm::{
    MatMut, MatRef, Options, Panels, ParallelFor, Scales, TernaryMatrix, Threads, Workspace,
};

/// What each worker does when in an int8 product.
#[derive(Parser)]
struct Cli {
    /// Rows of the weight matrix (M).
    #[arg(long, default_value_t = 4096)]
    rows: usize,
    /// Its columns (K), a multiple of 4.
    #[arg(long, default_value_t = 4096)]
    cols: usize,
    /// Tokens (N).
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Threads, to compare with one.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Products of each kind.
    #[arg(long, default_value_t = 61)]
    repeats: usize,
}

/// One part of a product: which loop over parts it belongs to, and who ran it when.
#[derive(Clone, Copy)]
struct Item {
    pass: usize,
    worker: usize,
    start: Instant,
    end: Instant,
}

/// A rayon pool that notes what it runs.
struct Noting {
    pool: ThreadPool,
    /// Loops so far, and their parts.
    log: Mutex<(usize, Vec<Item>)>,
}

impl Noting {
    fn take(&self) -> Vec<Item> {
        let mut log = self.log.lock().expect("nobody panics");
        std::mem::take(&mut *log).1
    }
}

impl ParallelFor for Noting {
    fn workers(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        let pass = self.log.lock().expect("nobody panics").0;
        let next = AtomicUsize::new(0);
        // To every thread, so that none sleeps on.
        self.pool.broadcast(|thread| {
            let item = || next.fetch_add(1, Ordering::Relaxed);
            for i in std::iter::repeat_with(item).take_while(|&i| i < items) {
                let start = Instant::now();
                work(i);
                let item = Item {
                    pass,
                    worker: thread.index(),
                    start,
                    end: Instant::now(),
                };
                self.log.lock().expect("nobody panics").1.push(item);
            }
        });
        self.log.lock().expect("nobody panics").0 += 1;
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The parts of each worker in the last loop, which is the longest, in order.
fn workers(items: &[Item]) -> Vec<Vec<Item>> {
    let last = items.iter().map(|item| item.pass).max().unwrap_or(0);
    let count = items.iter().map(|item| item.worker + 1).max().unwrap_or(0);
    let of = |worker| {
        let mine = items
            .iter()
            .filter(|i| i.worker == worker && i.pass == last);
        let mut mine: Vec<Item> = mine.copied().collect();
        mine.sort_by_key(|item| item.start);
        mine
    };
    (0..count).map(of).filter(|mine| !mine.is_empty()).collect()
}

fn main() -> anyhow::Result<()> {
    let Cli {
        rows,
        cols,
        tokens,
        threads,
        repeats,
    } = Cli::parse();
    // Knuth's generator: any weights will do.
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let trits: Vec<i8> = (0..rows * cols).map(|_| random() as i8 % 2).collect();
    let matrix = TernaryMatrix::from_trits(
        MatRef::new(&trits, rows, cols)?,
        Scales::per_row(vec![1.0; rows]),
    )?;
    let panels = Panels::pack(&matrix)?;
    let x: Vec<i8> = (0..tokens * cols).map(|_| random() as i8).collect();
    let mut y = vec![0; tokens * rows];

    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let noting = Arc::new(Noting {
        pool: pool.context("starting the threads")?,
        log: Mutex::default(),
    });
    let mut one = Workspace::with_options(Options::new().threads(Threads::Serial));
    let mut several = Workspace::new().with_parallel_for(noting.clone());
    let (mut alone, mut shared) = (Vec::new(), Vec::new());
    for round in 0..=repeats {
        for (ws, is_one) in [(&mut one, true), (&mut several, false)] {
            let (x, y) = (
                MatRef::new(&x, tokens, cols)?,
                MatMut::new(&mut y, tokens, rows)?,
            );
            let start = Instant::now();
            panels.gemm_i8(x, y, ws)?;
            let time = us(start.elapsed());
            let items = noting.take();
            // The first round fills caches and allocates.
            match (round, is_one) {
                (0, _) => {}
                (_, true) => alone.push(time),
                (_, false) => shared.push((time, start, items)),
            }
        }
    }

    let alone = median(&mut alone);
    shared.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (time, start, items) = shared.get(repeats / 2).context("no repeats")?;
    println!(
        "{rows}x{cols}, N = {tokens}: one thread {alone:.0} us, {threads} {time:.0}, gain {:.3}",
        alone / time
    );
    println!("\nthe median product of {threads} threads, us since its start");
    let mut items = items.clone();
    items.sort_by_key(|item| (item.pass, item.worker, item.start));
    for item in items {
        println!(
            "loop {} worker {}  {:>6.0} to {:>6.0}  {:>6.0}",
            item.pass,
            item.worker,
            us(item.start - *start),
            us(item.end - *start),
            us(item.end - item.start)
        );
    }

    let [mut first, mut later, mut apart] = [const { Vec::new() }; 3];
    for (_, _, items) in &shared {
        let workers = workers(items);
        for mine in &workers {
            let time = |item: &Item| us(item.end - item.start);
            first.extend(mine.first().map(time));
            later.extend(mine.iter().skip(1).map(time));
        }
        let ends = || workers.iter().filter_map(|mine| Some(mine.last()?.end));
        apart.extend(
            ends()
                .max()
                .zip(ends().min())
                .map(|(last, first)| us(last - first)),
        );
    }
    println!("\nmedians of the last loop, us");
    println!("a worker's first part      {:>7.0}", median(&mut first));
    println!("its later parts            {:>7.0}", median(&mut later));
    println!("from first end to last end {:>7.0}", median(&mut apart));
    Ok(())
}
