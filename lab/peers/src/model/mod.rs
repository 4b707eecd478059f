//! A whole model: this engine, llama.cpp and candle in turns, on random weights of a published
//! model's shapes.

mod contenders;
mod plot;

pub use contenders::{Programs, Task};
pub use plot::draw;

use crate::llama::quartiles;
use crate::machine::Machine;
use crate::problem::threads as count_of_threads;
use crate::report::load_now;
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// Everything one run found out.
#[derive(Serialize, Deserialize)]
pub struct ModelReport {
    pub model: String,
    pub machine: Machine,
    /// Load average over the minute before the run.
    pub load_before: Option<f64>,
    /// Tokens of the prompt, and after it.
    pub prompt: usize,
    pub generated: usize,
    pub turns: usize,
    pub rows: Vec<Row>,
}

/// One contender on so many threads.
#[derive(Serialize, Deserialize)]
pub struct Row {
    pub contender: String,
    pub threads: usize,
    pub in_picture: bool,
    /// Of tritgemm those that a token reads, of others the file's.
    pub weight_bytes: u64,
    /// First quartile, median and third quartile of tokens a second.
    pub prefill: [f64; 3],
    pub decode: [f64; 3],
}

/// Runs every contender once a turn.
pub fn measure(
    programs: &Programs,
    task: &Task,
    threads: &[usize],
    turns: usize,
) -> anyhow::Result<ModelReport> {
    let contenders = programs.contenders();
    ensure!(
        !contenders.is_empty(),
        "--model wants --generate, --llama or --candle"
    );
    let (load_before, start) = (load_now(), Instant::now());
    let mut rows = Vec::new();
    for &threads in threads {
        let mut found = vec![(Vec::new(), Vec::new(), 0); contenders.len()];
        for turn in 0..turns {
            for i in 0..contenders.len() {
                // Nobody always follows the same one.
                let at = (i + turn) % contenders.len();
                let contender = &contenders[at];
                eprintln!(
                    "{:6.0} s  {}, turn {}, {}",
                    start.elapsed().as_secs_f64(),
                    count_of_threads(threads),
                    turn + 1,
                    contender.name
                );
                let speed = programs.run(contender, task, threads);
                let speed = speed.with_context(|| contender.name)?;
                let (prefill, decode, weight_bytes) = &mut found[at];
                prefill.push(speed.prefill);
                decode.push(speed.decode);
                *weight_bytes = speed.weight_bytes;
            }
        }
        for (contender, (prefill, decode, weight_bytes)) in contenders.iter().zip(found) {
            rows.push(Row {
                contender: contender.name.to_owned(),
                threads,
                in_picture: contender.in_picture,
                weight_bytes,
                prefill: quartiles(prefill),
                decode: quartiles(decode),
            });
        }
    }
    Ok(ModelReport {
        model: task.model.clone(),
        machine: Machine::detect(),
        load_before,
        prompt: task.prompt,
        generated: task.generated,
        turns,
        rows,
    })
}

impl ModelReport {
    pub fn read_json(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let report = serde_json::from_str(&text);
        report.with_context(|| format!("{} is no report of --model", path.display()))
    }

    /// The table and what it can be trusted with.
    pub fn table(&self) -> String {
        let Self { model, machine, .. } = self;
        let mut out = format!(
            "machine: {}\nfeatures: {}\nrandom weights of the shapes of {model}; tokens a second, \
             medians (quartiles) of {} turns\n",
            machine.summary(),
            machine.features.join(" "),
            self.turns
        );
        for rows in self.rows.chunk_by(|a, b| a.threads == b.threads) {
            let heading = count_of_threads(rows[0].threads);
            let (prompt, generated) = (self.prompt, self.generated);
            let columns = [
                format!("prompt of {prompt}"),
                format!("{generated} generated"),
            ];
            let _ = writeln!(
                out,
                "\n{heading:36}{:>12}{:>26}{:>26}",
                "weights, MB", columns[0], columns[1]
            );
            for row in rows {
                let speed =
                    |[low, median, high]: [f64; 3]| format!("{median:.1} ({low:.1}, {high:.1})");
                let _ = writeln!(
                    out,
                    "{:36}{:>12.0}{:>26}{:>26}",
                    row.contender,
                    row.weight_bytes as f64 / 1e6,
                    speed(row.prefill),
                    speed(row.decode)
                );
            }
        }
        let least = self.rows.iter().map(|row| row.weight_bytes).min();
        if let (Some(least), Some(&cache)) = (least, machine.caches.last()) {
            let times = least as f64 / cache as f64;
            let note = if times < 2.0 { "NOTE: " } else { "" };
            let _ = writeln!(
                out,
                "\n{note}one token goes through all layers and the head; it reads {:.0} MB of weights or \
                 more, {times:.1} times the last-level cache of {} MiB.",
                least as f64 / 1e6,
                cache >> 20
            );
        }
        if self.was_busy() {
            let _ = writeln!(
                out,
                "NOTE: the machine was busy (load {:.2} before the run): repeat on a quiet one \
                 before quoting anything.",
                self.load_before.unwrap_or(f64::NAN)
            );
        }
        out
    }

    /// Whether others worked on the machine before the run.
    fn was_busy(&self) -> bool {
        self.load_before.is_some_and(|load| load > 0.5)
    }
}
