//! llama.cpp with and without the plug-in of `engines/ggml`: its own llama-bench in turns.

use crate::machine::Machine;
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is run, and how often.
pub struct Plan {
    pub bench: Bench,
    /// Models, GGUF.
    pub models: Vec<PathBuf>,
    pub threads: Vec<usize>,
    pub repeats: usize,
}

/// llama-bench and its tests.
pub struct Bench {
    /// llama-bench, of any build.
    pub program: PathBuf,
    /// The plug-in's library.
    pub plugin: PathBuf,
    /// Tokens of a prompt (0: no such test), and how many are generated.
    pub prompts: Vec<usize>,
    pub generated: usize,
}

/// Values of `TRITGEMM_GGML`; the first is without the plug-in.
pub const MODES: [&str; 4] = ["ggml", "f32", "int8", "int8g"];

/// One test of one model, in every mode.
#[derive(Serialize)]
pub struct Row {
    model: String,
    test: String,
    threads: usize,
    modes: Vec<Mode>,
}

#[derive(Serialize)]
struct Mode {
    name: &'static str,
    /// Median of tokens a second.
    tokens_per_second: f64,
    /// First quartile, median and third quartile of the ratio to the run without the plug-in
    /// of the same turn.
    ratio: [f64; 3],
}

/// What llama-bench says of a test.
#[derive(Deserialize)]
struct Said {
    n_prompt: usize,
    n_gen: usize,
    avg_ts: f64,
}

/// Runs the plan and prints each row as it is there.
pub fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    ensure!(!plan.models.is_empty(), "--llama wants --models");
    println!("machine: {}", Machine::detect().summary());
    println!("tokens a second; in brackets the ratio to ggml of the same turn, median (quartiles)");
    let mut rows = Vec::new();
    for model in &plan.models {
        for &threads in &plan.threads {
            // [test][mode][turn]
            let mut found: Vec<(String, [Vec<f64>; MODES.len()])> = Vec::new();
            for turn in 0..plan.repeats {
                for i in 0..MODES.len() {
                    // None always follows the same one, which leaves the machine as it does.
                    let mode = (i + turn) % MODES.len();
                    for (test, speed) in plan.bench.run(model, threads, MODES[mode])? {
                        let at = found.iter().position(|(it, _)| *it == test);
                        let at = at.unwrap_or_else(|| {
                            found.push((test, Default::default()));
                            found.len() - 1
                        });
                        found[at].1[mode].push(speed);
                    }
                }
            }
            for (test, speeds) in found {
                let modes = (MODES.iter().zip(&speeds)).map(|(name, own)| Mode {
                    name,
                    tokens_per_second: quartiles(own.clone())[1],
                    ratio: quartiles(own.iter().zip(&speeds[0]).map(|(a, b)| a / b).collect()),
                });
                let row = Row {
                    model: model
                        .file_stem()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into(),
                    test,
                    threads,
                    modes: modes.collect(),
                };
                print(&row);
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

fn print(row: &Row) {
    let (
        Row {
            model,
            test,
            threads,
            ..
        },
        [ggml, ours @ ..],
    ) = (row, &row.modes[..])
    else {
        return;
    };
    print!(
        "{model:24} {test:6} t{threads}  ggml {:8.1}",
        ggml.tokens_per_second
    );
    for Mode {
        name,
        tokens_per_second,
        ratio: [low, median, high],
    } in ours
    {
        print!("   {name} {tokens_per_second:8.1} [{median:.2} ({low:.2}, {high:.2})]");
    }
    println!();
}

impl Bench {
    /// Runs the tests of a model once.
    pub fn run(
        &self,
        model: &Path,
        threads: usize,
        mode: &str,
    ) -> anyhow::Result<Vec<(String, f64)>> {
        let mut command = Command::new(&self.program);
        let prompts: Vec<_> = self.prompts.iter().map(usize::to_string).collect();
        command.arg("-m").arg(model).args(["-r", "1", "-o", "json"]);
        command.args(["-t", &threads.to_string(), "-p", &prompts.join(",")]);
        command.args(["-n", &self.generated.to_string()]);
        command.env_remove("GGML_BACKEND_PATH");
        if mode != MODES[0] {
            command
                .env("GGML_BACKEND_PATH", &self.plugin)
                .env("TRITGEMM_GGML", mode);
            command.env("TRITGEMM_GGML_STATS", "1");
        }
        let done = command
            .output()
            .with_context(|| format!("{}", self.program.display()))?;
        let errors = String::from_utf8_lossy(&done.stderr);
        if !done.status.success() {
            bail!("{}: {}\n{errors}", self.program.display(), done.status);
        }
        // Without it ggml would be compared with itself.
        let products = errors
            .lines()
            .filter_map(|line| line.strip_prefix("tritgemm: "));
        let products =
            products.filter_map(|line| line.split_once(" products in ")?.0.parse::<u64>().ok());
        let taken: u64 = products.sum();
        ensure!(
            mode == MODES[0] || taken > 0,
            "the plug-in took no product:\n{errors}"
        );
        let said: Vec<Said> = serde_json::from_slice(&done.stdout).context("llama-bench's JSON")?;
        let named = said.into_iter().map(|it| match it.n_prompt {
            0 => (format!("tg{}", it.n_gen), it.avg_ts),
            tokens => (format!("pp{tokens}"), it.avg_ts),
        });
        Ok(named.collect())
    }
}

/// The values a quarter, a half and three quarters of the way up; of an even number the lower of
/// two.
pub fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    [1, 2, 3].map(|i| values.get(last * i / 4).copied().unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::quartiles;

    #[test]
    fn quartiles_are_of_the_sorted_values() {
        assert_eq!(quartiles(vec![5.0, 1.0, 4.0, 2.0, 3.0]), [2.0, 3.0, 4.0]);
        assert_eq!(quartiles(vec![7.0]), [7.0; 3]);
    }
}
