//! The table for people and the JSON for machines.

use crate::bars::Verdict;
use crate::contender::{READ, Role};
use crate::machine::Machine;
use crate::problem::{Cell, threads};
use crate::ratios::Ratio;
use crate::run::{CellResult, Measurement};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Everything one run found out.
#[derive(Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    /// What was found of the linked ggml, if there is one.
    pub ggml: Option<String>,
    pub tritgemm_version: String,
    /// Load average over the minute before the run: above 0.3 or so, the
    /// machine was not ours alone.
    pub load_before: Option<f64>,
    pub seconds_since_1970: u64,
    pub repeats: usize,
    pub cells: Vec<CellResult>,
    pub bars: Vec<Verdict>,
}

/// The load average over the last minute, where the system says it.
pub fn load_now() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

impl Report {
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }

    pub fn read_json(path: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a report of this program", path.display()))
    }

    /// Median over all measurements of the spread between their repeats.
    pub fn typical_spread(&self) -> f64 {
        let mut spreads: Vec<f64> = self
            .cells
            .iter()
            .flat_map(|c| c.measurements.iter().map(|m| m.sample.spread))
            .collect();
        spreads.sort_by(f64::total_cmp);
        spreads.get(spreads.len() / 2).copied().unwrap_or(0.0)
    }

    pub fn table(&self) -> String {
        let mut out = String::new();
        for group in self
            .cells
            .chunk_by(|a, b| heading(&a.cell) == heading(&b.cell))
        {
            let _ = writeln!(out, "\n{}, GMAC/s by tokens (N)", heading(&group[0].cell));
            write_group(&mut out, group);
        }
        out
    }

    /// What the run can be trusted with, in words.
    pub fn remarks(&self) -> String {
        let mut out = format!(
            "\nMedians of {} interleaved repeats; typical spread between quartiles {:.1} %.\n",
            self.repeats,
            100.0 * self.typical_spread()
        );
        let samples = || {
            self.cells
                .iter()
                .flat_map(|c| &c.measurements)
                .map(|m| &m.sample)
        };
        let repeats: usize = samples().map(|s| s.repeats).sum();
        let disturbed =
            samples().map(|s| s.disturbed).sum::<usize>() as f64 / repeats.max(1) as f64;
        if disturbed > 0.01 || self.load_before.is_some_and(|l| l > 0.5) {
            let _ = writeln!(
                out,
                "NOTE: the machine was busy (load {:.2} before the run; {:.0} % of the repeats \
                 disturbed by other processes at every attempt): repeat on a quiet one before \
                 quoting anything.",
                self.load_before.unwrap_or(f64::NAN),
                100.0 * disturbed
            );
        }
        out
    }
}

fn heading(cell: &Cell) -> String {
    let threads = threads(cell.threads);
    format!("{}, {}, {threads}", cell.shape, cell.weights_from)
}

/// Contenders down, tokens across; then our ratios in the same grid.
fn write_group(out: &mut String, cells: &[CellResult]) {
    let _ = write!(out, "{:42}", "");
    for cell in cells {
        let _ = write!(out, "{:>8}", cell.cell.tokens);
    }
    out.push('\n');
    let mut names: Vec<&Measurement> = cells[0].measurements.iter().collect();
    names.sort_by_key(|m| m.info.role);
    for m in &names {
        let name = &m.info.name;
        if name == READ {
            write_row(out, "read-weights, GB/s", cells, |c| {
                Some(c.find(name)?.gigabytes_per_second)
            });
        } else {
            write_row(out, name, cells, |c| c.gmacs(name));
        }
    }
    for m in names.iter().filter(|m| m.info.role == Role::Ours) {
        let name = &m.info.name;
        for Ratio { over, .. } in &m.ratios {
            write_row(out, &format!("{name} : {over}"), cells, |c| {
                Some(c.find(name)?.ratios.iter().find(|r| r.over == *over)?.value)
            });
        }
    }
}

fn write_row(
    out: &mut String,
    name: &str,
    cells: &[CellResult],
    value: impl Fn(&CellResult) -> Option<f64>,
) {
    let _ = write!(out, "  {name:40}");
    for cell in cells {
        // Three digits that count.
        let _ = match value(cell) {
            Some(v) if v >= 99.95 => write!(out, "{v:>8.0}"),
            Some(v) if v >= 9.995 => write!(out, "{v:>8.1}"),
            Some(v) => write!(out, "{v:>8.2}"),
            None => write!(out, "{:>8}", "-"),
        };
    }
    out.push('\n');
}
