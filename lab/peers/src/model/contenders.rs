//! Who runs a whole model, and how: a program that loads it, warms up and says its speed.

use crate::llama;
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs that take part; those that are missing are left out.
pub struct Programs {
    /// The example `generate` of `engines/candle`.
    pub generate: Option<PathBuf>,
    pub llama: Option<PathBuf>,
    pub plugin: Option<PathBuf>,
    /// That of `lab/peers/candle`.
    pub candle: Option<PathBuf>,
}

/// What each of them does.
pub struct Task {
    /// The name of the shapes.
    pub model: String,
    /// Where `MODEL.tq2_0.gguf` and `MODEL.q4_0.gguf` are, and where `generate` keeps its own.
    pub files: PathBuf,
    pub prompt: usize,
    pub generated: usize,
}

impl Task {
    fn gguf(&self, ty: &str) -> PathBuf {
        self.files.join(format!("{}.{ty}.gguf", self.model))
    }
}

/// What a program says of a run.
pub struct Speed {
    /// Tokens a second.
    pub prefill: f64,
    pub decode: f64,
    /// Of ours those that a token reads, of others the file's.
    pub weight_bytes: u64,
}

/// One way to run the model.
#[derive(Clone, Copy)]
pub struct Contender {
    pub name: &'static str,
    /// Whether the picture shows it.
    pub in_picture: bool,
    engine: Engine,
}

#[derive(Clone, Copy)]
enum Engine {
    Generate {
        activations: &'static str,
        head: &'static str,
    },
    Llama {
        file: &'static str,
        mode: &'static str,
    },
    Candle,
}

const fn ours(name: &'static str, activations: &'static str, head: &'static str) -> Contender {
    Contender {
        name,
        in_picture: true,
        engine: Engine::Generate { activations, head },
    }
}

const fn llama(name: &'static str, file: &'static str, mode: &'static str) -> Contender {
    Contender {
        name,
        in_picture: true,
        engine: Engine::Llama { file, mode },
    }
}

const WITHOUT: &str = llama::MODES[0];

/// All of them, in the order of tables and pictures.
const ALL: [Contender; 8] = [
    ours("tritgemm, int8", "int8", "int8"),
    Contender {
        in_picture: false,
        ..ours("tritgemm, int8, head as stored", "int8", "stored")
    },
    ours("tritgemm, f32", "f32", "int8"),
    llama("llama.cpp TQ2_0 + tritgemm, int8", "tq2_0", "int8"),
    llama("llama.cpp TQ2_0 + tritgemm, f32", "tq2_0", "f32"),
    llama("llama.cpp TQ2_0", "tq2_0", WITHOUT),
    llama("llama.cpp Q4_0", "q4_0", WITHOUT),
    Contender {
        name: "candle Q4_0",
        in_picture: true,
        engine: Engine::Candle,
    },
];

impl Programs {
    /// Those contenders whose programs there are.
    pub fn contenders(&self) -> Vec<Contender> {
        let mut all = ALL.to_vec();
        all.retain(|contender| match contender.engine {
            Engine::Generate { .. } => self.generate.is_some(),
            Engine::Llama { mode: WITHOUT, .. } => self.llama.is_some(),
            Engine::Llama { .. } => self.llama.is_some() && self.plugin.is_some(),
            Engine::Candle => self.candle.is_some(),
        });
        all
    }

    /// Runs a contender once.
    pub fn run(&self, contender: &Contender, task: &Task, threads: usize) -> anyhow::Result<Speed> {
        let program = |path: &Option<PathBuf>| path.clone().context("no program for it");
        match contender.engine {
            Engine::Generate { activations, head } => {
                let mut command = Command::new(program(&self.generate)?);
                command.arg(task.files.join(&task.model));
                command.args(["--random", &task.model, "--bench", "--bench-runs", "1"]);
                command.args(["--bench-prompt", &task.prompt.to_string()]);
                // The first of them belongs to the prompt.
                command.args(["--max-tokens", &(task.generated + 1).to_string()]);
                command.args(["--threads", &threads.to_string()]);
                command.args(["--activations", activations, "--head", head]);
                let said: Generated = said_by(&mut command)?;
                Ok(Speed {
                    prefill: said.prefill.tokens_per_second.median,
                    decode: said.decode.tokens_per_second.median,
                    weight_bytes: said.weight_bytes_per_token,
                })
            }
            Engine::Llama { file, mode } => {
                let bench = llama::Bench {
                    program: program(&self.llama)?,
                    plugin: self.plugin.clone().unwrap_or_default(),
                    prompts: vec![task.prompt],
                    generated: task.generated,
                };
                let path = task.gguf(file);
                let said = bench.run(&path, threads, mode)?;
                let [(_, prefill), (_, decode)] = said[..] else {
                    bail!(
                        "llama-bench was asked for two tests and made {}",
                        said.len()
                    );
                };
                Ok(Speed {
                    prefill,
                    decode,
                    weight_bytes: bytes_of(&path)?,
                })
            }
            Engine::Candle => {
                let path = task.gguf("q4_0");
                let mut command = Command::new(program(&self.candle)?);
                command.arg(&path);
                command.args(["--prompt", &task.prompt.to_string()]);
                command.args(["--generated", &task.generated.to_string()]);
                command.env("RAYON_NUM_THREADS", threads.to_string());
                let said: Plain = said_by(&mut command)?;
                Ok(Speed {
                    prefill: said.prefill,
                    decode: said.decode,
                    weight_bytes: bytes_of(&path)?,
                })
            }
        }
    }
}

fn bytes_of(path: &Path) -> anyhow::Result<u64> {
    let found = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(found.len())
}

/// What `generate --bench` says.
#[derive(Deserialize)]
struct Generated {
    weight_bytes_per_token: u64,
    prefill: Measured,
    decode: Measured,
}

#[derive(Deserialize)]
struct Measured {
    tokens_per_second: Spread,
}

#[derive(Deserialize)]
struct Spread {
    median: f64,
}

/// What the program of `lab/peers/candle` says.
#[derive(Deserialize)]
struct Plain {
    prefill: f64,
    decode: f64,
}

/// The JSON that a program prints.
fn said_by<T: DeserializeOwned>(command: &mut Command) -> anyhow::Result<T> {
    let name = command.get_program().display().to_string();
    let done = command.output().with_context(|| name.clone())?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{name}: {}\n{errors}", done.status);
    serde_json::from_slice(&done.stdout).with_context(|| format!("{name}'s JSON"))
}
