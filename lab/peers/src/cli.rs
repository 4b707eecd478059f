//! The command line, and the sweep it asks for.

use crate::contender::Info;
use crate::problem::{Cell, Shape, WeightsFrom};
use crate::timing::Protocol;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// tritgemm against its peers and the machine's ceilings, in one interleaved run.
#[derive(Parser, Debug)]
#[command(version)]
pub struct Cli {
    /// Weight matrices, ROWSxCOLS (M x K), COLS a multiple of 256
    /// [default: 2560x2560,4096x4096; with --full or --bars six shapes]
    #[arg(long, value_delimiter = ',')]
    pub shapes: Vec<Shape>,

    /// Tokens (N)
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
          value_parser = positive)]
    pub tokens: Vec<usize>,

    /// Only contenders whose name contains one of these (see --list)
    /// [default: all, of ours on the best backend of each level]
    #[arg(long, value_delimiter = ',')]
    pub contenders: Vec<String>,

    /// Thread counts
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2], value_parser = positive)]
    pub threads: Vec<usize>,

    /// Timed repeats of each contender in each cell, interleaved
    /// [default: 7; with --full 11]
    #[arg(long, value_parser = positive)]
    pub repeats: Option<usize>,

    /// The default: two shapes, under five minutes
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,

    /// All six shapes and more repeats; may take half an hour
    #[arg(long)]
    pub full: bool,

    /// Skip the cells with weights from memory (N = 1 over more than 512 MB of them)
    #[arg(long)]
    pub no_cold: bool,

    /// Instead of the sweep, check every bar of the project's performance goals;
    /// exits with status 1 if one fails
    #[arg(long)]
    pub bars: bool,

    /// Instead of the sweep, what our int8 products would gain from 2 to 64 workers, of which
    /// one may be slow, by a schedule of work items timed one by one
    #[arg(long, conflicts_with = "bars")]
    pub scaling: bool,

    /// Instead of the sweep, a whole model of random weights in turns, with those of --generate,
    /// --llama, --plugin and --candle that there are; `model.sh` builds them all
    #[arg(long, value_name = "NAME", conflicts_with_all = ["bars", "scaling"],
          value_parser = ["bitnet-2b", "bonsai-8b", "falcon-e-3b"])]
    pub model: Option<String>,

    /// Where `--model` finds NAME.tq2_0.gguf and NAME.q4_0.gguf
    #[arg(
        long,
        value_name = "DIR",
        requires = "model",
        default_value = "target/models"
    )]
    pub files: PathBuf,

    /// The example `generate` of `engines/candle`, for `--model`
    #[arg(long, value_name = "PROGRAM", requires = "model")]
    pub generate: Option<PathBuf>,

    /// The program of `lab/peers/candle`, for `--model`
    #[arg(long, value_name = "PROGRAM", requires = "model")]
    pub candle: Option<PathBuf>,

    /// This llama-bench: instead of the sweep with and without the plug-in, on `--models`; with
    /// `--model` a contender
    #[arg(long, value_name = "LLAMA_BENCH", conflicts_with_all = ["bars", "scaling"],
          requires = "plugin")]
    pub llama: Option<PathBuf>,

    /// The plug-in that `engines/ggml` builds
    #[arg(long, value_name = "LIBRARY", requires = "llama")]
    pub plugin: Option<PathBuf>,

    /// GGUF files for `--llama` without `--model`
    #[arg(long, value_delimiter = ',', requires = "llama")]
    pub models: Vec<PathBuf>,

    /// Tokens of a prompt, for `--llama`; `--model` has the first
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512], value_parser = positive)]
    pub prompts: Vec<usize>,

    /// Tokens to generate, for `--llama` and `--model`
    #[arg(long, default_value_t = 32)]
    pub generated: usize,

    /// Also measure this library of litespark-inference
    #[arg(long, value_name = "LIBRARY")]
    pub litespark: Option<PathBuf>,

    /// Also measure this ONNX Runtime, a libonnxruntime of 1.22 or newer
    #[cfg(feature = "onnxruntime")]
    #[arg(long, value_name = "LIBRARY")]
    pub onnxruntime: Option<PathBuf>,

    /// Write everything measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a plot over the number of tokens, tokens.svg, to this folder; with --scaling one
    /// over the number of workers, workers.svg; with --model bars, NAME-light.svg and -dark.svg
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,

    /// Redraw the plot from a JSON file of an earlier run (with --model of one with it),
    /// measuring nothing
    #[arg(long, value_name = "FILE", requires = "plots")]
    pub replot: Option<PathBuf>,

    /// The shape that the plot shows
    #[arg(long, default_value = "4096x4096")]
    pub plot_shape: Shape,

    /// List the contenders that this machine can run
    #[arg(long)]
    pub list: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

/// The shapes of BitNet b1.58 2B4T and of 8B-class models.
const ALL_SHAPES: [Shape; 6] = [
    Shape::new(2560, 2560),
    Shape::new(6912, 2560),
    Shape::new(2560, 6912),
    Shape::new(4096, 4096),
    Shape::new(14336, 4096),
    Shape::new(4096, 14336),
];

const QUICK_SHAPES: [Shape; 2] = [Shape::new(2560, 2560), Shape::new(4096, 4096)];

impl Cli {
    pub fn shapes(&self) -> Vec<Shape> {
        if !self.shapes.is_empty() {
            self.shapes.clone()
        } else if self.full || self.bars {
            ALL_SHAPES.to_vec()
        } else {
            QUICK_SHAPES.to_vec()
        }
    }

    pub fn protocol(&self) -> Protocol {
        Protocol {
            repeats: self.repeats.unwrap_or(if self.full { 11 } else { 7 }),
            repeat_time: Duration::from_millis(10),
            look_ups: 0.0,
        }
    }

    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for shape in self.shapes() {
            for &threads in &self.threads {
                for &tokens in &self.tokens {
                    let from_memory = tokens == 1 && !self.no_cold;
                    let places = [WeightsFrom::Cache, WeightsFrom::Memory];
                    for &weights_from in &places[..1 + usize::from(from_memory)] {
                        cells.push(Cell {
                            shape,
                            weights_from,
                            threads,
                            tokens,
                        });
                    }
                }
            }
        }
        cells
    }

    pub fn wants(&self, info: &Info) -> bool {
        let named = |part: &String| info.name.contains(part.as_str());
        match self.contenders.as_slice() {
            [] => !info.on_request,
            parts => parts.iter().any(named),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_single_tokens_run_from_memory() {
        let cli = Cli::parse_from(["peers", "--shapes", "64x256", "--tokens", "1,4"]);
        let mut cells = cli.cells();
        cells.retain(|c| c.weights_from == WeightsFrom::Memory);
        assert_eq!(cells.len(), cli.threads.len());
        assert!(cells.iter().all(|c| c.tokens == 1));
    }

    #[test]
    fn shapes_that_ggml_cannot_hold_are_refused() {
        for bad in ["64", "0x256", "64x100", "64x256x2", "ax256"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }
}
