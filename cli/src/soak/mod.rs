//! `tritgemm soak`: random cases on every kernel against plain loops, for as
//! long as one likes.
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command line |
//! | [`draw`] | sizes and values from a seed |
//! | [`case`] | a case and what should come of it |
//! | [`oracle`] | the definitions, as loops that share nothing with the kernels |
//! | [`compute`] | a case computed by the library |
//! | [`tally`] | what was compared so far |

pub mod args;
mod case;
mod compute;
mod draw;
mod oracle;
mod tally;

use crate::output::{self, Out, count};
use anyhow::{Context, Result, anyhow, bail};
use args::SoakArgs;
use case::{Case, Outcome};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tally::Tally;
use tritgemm::Backend;

/// Runs the command.
pub fn run(args: &SoakArgs, out: &mut Out) -> Result<()> {
    let mut soak = Soak::new(args)?;
    if let Some(seed) = args.replay {
        out.line(Case::new(seed, soak.max_threads)?)?;
        soak.case(seed)?;
        return out.line(format!(
            "{} as it should be.",
            count(soak.tally.results() as usize, "result is", "results are")
        ));
    }

    let first = args.seed.unwrap_or_else(clock);
    out.line(format!("Seed {first:#x}, {}.", soak.backend_names()))?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Without the handler an interrupt ends the program as ever.
    let _ = crate::signals::on_end(move || flag.store(true, Ordering::Relaxed));

    let (start, time) = (Instant::now(), args.time.0);
    let bar = output::progress(time.as_secs(), "{bar:30} {elapsed} of {msg}");
    let mut cases = 0;
    let mut done = Ok(());
    while done.is_ok() && start.elapsed() < time && !stop.load(Ordering::Relaxed) {
        done = soak.case(spread(first.wrapping_add(cases)));
        cases += 1;
        bar.set_position(start.elapsed().as_secs());
        bar.set_message(format!("{}s  {}", time.as_secs(), soak.tally.running()));
    }
    bar.finish_and_clear();
    out.table(&soak.tally.table(&soak.backends))?;
    out.line(soak.tally.summary(start.elapsed()))?;
    done
}

/// What cases run with.
struct Soak {
    backends: Vec<Backend>,
    max_threads: usize,
    pools: HashMap<usize, ThreadPool>,
    plant: bool,
    tally: Tally,
}

impl Soak {
    fn new(args: &SoakArgs) -> Result<Self> {
        let backends: Vec<Backend> = Backend::available()
            .filter(|b| args.isa.is_empty() || args.isa.contains(&b.isa()))
            .collect();
        for &isa in &args.isa {
            Backend::for_isa(isa)?;
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Self {
            tally: Tally::new(backends.len()),
            backends,
            max_threads: args.threads.map_or(2 * cores, |n| n.get()),
            pools: HashMap::new(),
            plant: args.plant,
        })
    }

    fn backend_names(&self) -> String {
        let names: Vec<&str> = self.backends.iter().map(|b| b.name()).collect();
        names.join(", ")
    }

    /// Runs the case of a seed on every backend.
    fn case(&mut self, seed: u64) -> Result<()> {
        let mut what = String::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.compare(seed, &mut what)));
        let found = outcome.unwrap_or_else(|_| Err(anyhow!("panicked")));
        found.with_context(|| {
            format!(
                "{what}; replay it by `tritgemm soak --replay {seed:#x}{}`",
                self.replay()
            )
        })
    }

    /// What a replay must be told besides the seed.
    fn replay(&self) -> String {
        format!(" --threads {}", self.max_threads)
    }

    fn compare(&mut self, seed: u64, what: &mut String) -> Result<()> {
        let case = Case::new(seed, self.max_threads)?;
        *what = case.to_string();
        let want = case.expected()?;
        if let Some(threads) = case.pool
            && !self.pools.contains_key(&threads)
        {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            self.pools
                .insert(threads, pool.context("cannot start threads")?);
        }
        for (i, &backend) in self.backends.iter().enumerate() {
            *what = format!("{}: {case}", backend.name());
            let mut got = match case.pool.and_then(|threads| self.pools.get(&threads)) {
                Some(pool) => pool.install(|| case.computed(backend)),
                None => case.computed(backend),
            }?;
            if self.plant {
                plant(&mut got);
            }
            agree(&got, &want, case.rows.len())?;
            self.tally.add(&case, i, &want);
        }
        self.tally.case();
        Ok(())
    }
}

/// Whether a result is as it should be, bit for bit.
fn agree(got: &Outcome, want: &Outcome, rows: usize) -> Result<()> {
    let (Outcome::Bits(got), Outcome::Bits(want)) = (got, want) else {
        if got != want {
            bail!("{}, expected {}", brief(got), brief(want));
        }
        return Ok(());
    };
    if got.len() != want.len() {
        bail!("{} values, expected {}", got.len(), want.len());
    }
    match (0..got.len()).find(|&i| got[i] != want[i]) {
        Some(i) => bail!(
            "value {i} (token {}, row {}) is {:#010x}, expected {:#010x}",
            i / rows.max(1),
            i % rows.max(1),
            got[i],
            want[i]
        ),
        None => Ok(()),
    }
}

fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Bits(bits) => format!("{} values", bits.len()),
        Outcome::NotFinite { token, index } => {
            format!("an error about activation {index} of token {token}")
        }
    }
}

/// Changes the lowest bit of a value in the middle.
fn plant(outcome: &mut Outcome) {
    if let Outcome::Bits(bits) = outcome {
        let middle = bits.len() / 2;
        if let Some(bits) = bits.get_mut(middle) {
            *bits ^= 1;
        }
    }
}

/// Neighbouring numbers to seeds far apart (the finalizer of SplitMix64).
fn spread(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since: Duration| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_is_a_difference() {
        let want = Outcome::Bits(vec![0.0f32.to_bits(), 1, 2]);
        assert!(agree(&want, &want, 3).is_ok());
        let mut got = want.clone();
        plant(&mut got);
        let error = agree(&got, &want, 3).expect_err("one bit");
        assert!(
            error.to_string().contains("value 1 (token 0, row 1)"),
            "{error}"
        );
        let negative = Outcome::Bits(vec![(-0.0f32).to_bits(), 1, 2]);
        assert!(agree(&negative, &want, 3).is_err());
    }

    #[test]
    fn other_outcomes_are_differences() {
        let (empty, bits) = (Outcome::Bits(vec![]), Outcome::Bits(vec![1]));
        let error = |token| Outcome::NotFinite { token, index: 4 };
        assert!(agree(&empty, &bits, 1).is_err());
        assert!(agree(&error(0), &bits, 1).is_err());
        assert!(agree(&bits, &error(0), 1).is_err());
        assert!(agree(&error(1), &error(0), 1).is_err());
        assert!(agree(&error(1), &error(1), 1).is_ok());
    }
}
