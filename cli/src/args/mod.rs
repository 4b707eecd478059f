//! The command line.

mod convert;

pub use convert::{ConvertArgs, InspectArgs, ReadArgs, Target};

use crate::format::Grain;
use crate::sharded::parse_size;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use globset::Glob;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use tritgemm::{Isa, diagnostics};

/// Ternary weights on CPUs: quantise, convert, verify, measure.
///
/// Weights of -1, 0 and +1 take 2 bits each, and their products with
/// activations need additions and subtractions only. `tritgemm demo` shows all
/// of it without any file.
#[derive(Parser)]
#[command(name = "tritgemm", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Ternarise the 2-D float tensors of a safetensors file or another model
    Quantize(QuantizeArgs),
    /// Convert ternary matrices between safetensors, GGUF, HF BitNet and panel files
    Convert(ConvertArgs),
    /// Show what a file holds: formats, shapes, zeros and scales of its tensors
    Inspect(InspectArgs),
    /// Check every kernel on a file's packed matrices against the scalar path
    Verify(VerifyArgs),
    /// Show the CPU, which kernels run on it and why the others do not
    Info(InfoArgs),
    /// Measure products, and how fast their weights could be read
    Bench(BenchArgs),
    /// Show everything on a small stack of layers made for it; needs no file
    Demo(DemoArgs),
}

const LAYOUT: &str = "\
Output: a tensor NAME of shape [M, K] becomes
  NAME         U8  [M, ceil(K/4)]   4 weights a byte, the first in bits 7-6;
                                    -1 = 10, 0 = 00, +1 = 01; K padded with 00
  NAME.scales  F32 [1], [M] or [M, ceil(K/group)]
                                    for --granularity tensor, row, groupSIZE
and is worth weight * scale. The file's metadata keeps what it had and gains
  tritgemm.version   1
  tritgemm.tensors   {\"NAME\": {\"dtype\": \"F16\", \"shape\": [M, K],
                      \"granularity\": \"row\"}, ...} (as JSON; with
                      \"sparsity\": \"2:4\" where --sparsity-2-4 made it so,
                      \"stack\": [E, M / E, K] of a stack of matrices and
                      \"rotation\" of rotated inputs, where convert made it)
Everything else is copied byte for byte. Matrices that an earlier run packed
are kept as they are. Tables of floats that belong to weights which another
method packed are copied and named, unless --include has their whole name.
The same input and options give the same output bytes.

OUT appears whole or not at all: it is written under a temporary name beside
it and renamed at the end.";

/// `tritgemm quantize`.
#[derive(Args)]
#[command(after_help = LAYOUT)]
pub struct QuantizeArgs {
    /// File, safetensors index or folder to read; no file of it must change meanwhile
    #[arg(value_name = "IN.safetensors")]
    pub input: PathBuf,
    /// Safetensors file to write
    #[arg(value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Ternarise only tensors whose name matches (`*` also matches dots; may be repeated)
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<Glob>,
    /// Copy tensors whose name matches, e.g. '*embed*' (may be repeated)
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<Glob>,
    /// What shares one scale: the tensor, a row, or so many weights of a row
    #[arg(long, value_enum, default_value_t = Grain::Row)]
    pub granularity: Grain,
    /// First set the 2 smallest of every 4 consecutive weights of a row to zero
    #[arg(long)]
    pub sparsity_2_4: bool,
    /// Write OUT as several files of at most SIZE where it is larger, and their index
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub shard_size: Option<u64>,
    /// Replace OUT if it exists (never IN itself)
    #[arg(long)]
    pub force: bool,
    /// Threads to use [default: one for each core]
    #[arg(long, value_name = "T", value_parser = thread_count)]
    pub threads: Option<NonZeroUsize>,
}

/// `tritgemm verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// What `tritgemm inspect` reads; no file of it must change meanwhile
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub read: ReadArgs,
    /// Numbers of tokens to multiply at once; each by the kernels for few and for many
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',', default_values_t = [1, 5, 33])]
    pub tokens: Vec<usize>,
    /// Seed of the random activations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Threads to use [default: one for each core]
    #[arg(long, value_name = "T", value_parser = thread_count)]
    pub threads: Option<NonZeroUsize>,
}

/// `tritgemm info`.
#[derive(Args)]
pub struct InfoArgs {
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}

/// An `MxK` shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Rows: outputs.
    pub m: usize,
    /// Columns: inputs.
    pub k: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(format!("`{text}` is not a number from 1 up")),
            Ok(n) => Ok(n),
        };
        let (m, k) = text
            .split_once(['x', 'X'])
            .ok_or("expected MxK, for example 4096x11008")?;
        Ok(Shape {
            m: number(m)?,
            k: number(k)?,
        })
    }
}

/// The kind of activations of a product.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Act {
    /// int8 in, exact int32 out
    I8,
    /// f32 in and out, in the canonical order of summation
    F32,
    /// f32 in and out through int8: quantise, multiply, scale (BitNet b1.58)
    W1a8,
}

impl Act {
    /// All of them.
    pub const ALL: [Act; 3] = [Act::I8, Act::F32, Act::W1a8];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Act::I8 => "i8",
            Act::F32 => "f32",
            Act::W1a8 => "w1a8",
        }
    }
}

/// Where the weights of a product come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum WeightsFrom {
    /// from the cache, as far as they fit; the library is told so
    #[value(name = "hot")]
    Cache,
    /// from memory: 512 MB and 4 times the last-level cache, or more, are touched before a reuse
    #[value(name = "cold")]
    Memory,
}

/// The names that `--isa` takes: levels, and rows of the registry.
fn isa_names() -> PossibleValuesParser {
    let mut names: Vec<&str> = Isa::ALL.iter().map(|isa| isa.name()).collect();
    let rows = diagnostics::registry().into_iter().map(|row| row.name);
    names.extend(rows.filter(|name| name.contains('/')));
    names.into()
}

const BENCH_NOTES: &str = "\
Every line times our product and a plain read of as many bytes as its weights
have, in turn, and reports the median of each. Preparing the activations is part
of the time. 1 MAC is one weight times one activation.

--json prints one object a line with the fields
  backend act m k n threads weights_in_cache ns gmacs weight_gbs read_gbs spread
where spread is how far the middle half of the repeats lies apart, as a share of
their median.";

/// `tritgemm bench`.
#[derive(Args, Clone)]
#[command(after_help = BENCH_NOTES)]
pub struct BenchArgs {
    /// Shape of the weights, M outputs by K inputs (may be repeated) [default: 4096x4096]
    #[arg(long, value_name = "MxK", value_delimiter = ',')]
    pub shape: Vec<Shape>,
    /// Numbers of tokens [default: 1,64]
    #[arg(long, value_name = "N[,N...]", value_delimiter = ',')]
    pub tokens: Vec<NonZeroUsize>,
    /// Kinds of activations (may be repeated) [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub act: Vec<Act>,
    /// Levels, or levels with a tuning (may be repeated) [default: the active one]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = isa_names())]
    pub isa: Vec<String>,
    /// Threads of the rayon pool the products run in
    #[arg(long, value_name = "T", default_value = "1", value_parser = thread_count)]
    pub threads: NonZeroUsize,
    /// Whether the weights come from the cache or from memory (may be repeated)
    #[arg(long, value_enum, value_delimiter = ',', default_value = "cold")]
    pub residency: Vec<WeightsFrom>,
    /// Repeats of each measurement, of which the median counts
    #[arg(long, value_name = "R", default_value = "7")]
    pub repeats: NonZeroUsize,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `tritgemm demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// Seed of the weights that it makes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Threads that the library shares a product among, at most.
const MOST_THREADS: usize = 1024;

/// A number of threads that there may be.
fn thread_count(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(count) if count.get() <= MOST_THREADS => Ok(count),
        _ => Err(format!("expected a number from 1 to {MOST_THREADS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn shapes() {
        assert_eq!("64x7".parse(), Ok(Shape { m: 64, k: 7 }));
        for wrong in [
            "",
            "64",
            "x",
            "0x4",
            "4x-1",
            "4x4x4",
            "99999999999999999999x1",
        ] {
            assert!(wrong.parse::<Shape>().is_err(), "{wrong}");
        }
    }
}
