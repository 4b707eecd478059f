//! What was compared so far.

use super::case::{Case, Outcome, Path};
use crate::output::{self, Col};
use comfy_table::Table;
use std::time::Duration;
use tritgemm::Backend;

/// Counts by path and backend.
pub struct Tally {
    cases: u64,
    /// Results compared, `[path][backend]`.
    results: Vec<Vec<u64>>,
    /// Values compared.
    values: u64,
    /// Multiply-adds behind them.
    macs: u64,
    /// Results that threads worked on together.
    pooled: u64,
    /// Errors that were to be.
    errors: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new(backends: usize) -> Self {
        Self {
            cases: 0,
            results: vec![vec![0; backends]; Path::ALL.len()],
            values: 0,
            macs: 0,
            pooled: 0,
            errors: 0,
        }
    }

    /// A case is done on all backends.
    pub fn case(&mut self) {
        self.cases += 1;
    }

    /// A result was as it should be.
    pub fn add(&mut self, case: &Case, backend: usize, outcome: &Outcome) {
        let path = Path::ALL.iter().position(|&path| path == case.path);
        self.results[path.unwrap_or_default()][backend] += 1;
        self.pooled += u64::from(case.pool.is_some_and(|threads| threads > 1));
        match outcome {
            Outcome::Bits(bits) => {
                self.values += bits.len() as u64;
                self.macs += if case.path == Path::Codec {
                    0
                } else {
                    case.macs()
                };
            }
            Outcome::NotFinite { .. } => self.errors += 1,
        }
    }

    /// Results compared.
    pub fn results(&self) -> u64 {
        self.results.iter().flatten().sum()
    }

    /// The count while it runs.
    pub fn running(&self) -> String {
        format!("{} cases, {} results equal", self.cases, self.results())
    }

    /// Results by path and backend.
    pub fn table(&self, backends: &[Backend]) -> Table {
        let mut columns = vec![Col::Left("path")];
        columns.extend(backends.iter().map(|b| Col::Right(b.name())));
        let mut table = output::table(&columns, 2);
        let row = |name: &str, counts: &[u64]| {
            let counts = counts.iter().map(u64::to_string);
            std::iter::once(name.to_owned())
                .chain(counts)
                .collect::<Vec<_>>()
        };
        for (path, counts) in Path::ALL.iter().zip(&self.results) {
            table.add_row(row(path.name(), counts));
        }
        let sum = |i| self.results.iter().map(|counts: &Vec<u64>| counts[i]).sum();
        let sums: Vec<u64> = (0..backends.len()).map(sum).collect();
        table.add_row(row("all", &sums));
        table
    }

    /// The end of the report.
    pub fn summary(&self, time: Duration) -> String {
        format!(
            "{} cases in {:.0} s: {} results of {} values ({:.3e} multiply-adds) equal the plain \
             loops bit for bit,\n{} of them from pools of several threads, {} of them errors that \
             were to be.",
            self.cases,
            time.as_secs_f64(),
            self.results(),
            self.values,
            self.macs as f64,
            self.pooled,
            self.errors,
        )
    }
}
