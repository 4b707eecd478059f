//! `tritgemm convert` and `tritgemm inspect`.

use crate::sharded::parse_size;
use clap::{Args, ValueEnum};
use globset::Glob;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use tritgemm_formats::ggml::I2sLayout;
use tritgemm_formats::hf::LinearClass;
use tritgemm_formats::{FloatType, OpenOptions};

/// What `tritgemm convert` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Target {
    /// ours: safetensors as `tritgemm quantize` writes it; any scales
    Safetensors,
    /// a panel file, the layout that kernels read; any scales, f32 biases
    Panels,
    /// GGUF, 1.69 bits a weight; K a multiple of 256, f16 scales
    #[value(name = "tq1_0")]
    Tq1_0,
    /// GGUF, 2.06 bits a weight; K a multiple of 256, f16 scales
    #[value(name = "tq2_0")]
    Tq2_0,
    /// GGUF, 2.25 bits a weight; K a multiple of 64, f16 scales
    #[value(name = "q2_0")]
    Q2_0,
    /// GGUF of PrismML's, 2.125 bits a weight; K a multiple of 128, f16 scales
    #[value(name = "pq2_0")]
    Pq2_0,
    /// GGUF of PrismML's, 1.75 bits a weight; K a multiple of 128, f16 scales
    #[value(name = "ptq1_0")]
    Ptq1_0,
    /// safetensors for transformers, linear_class autobitlinear; one scale a tensor
    Hf,
    /// the same with linear_class bitlinear: the reciprocal of the scale is stored
    HfBitlinear,
}

/// `--linear-class`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ClassName {
    /// outputs are divided by weight_scale
    Bitlinear,
    /// outputs are multiplied by weight_scale
    Autobitlinear,
}

impl ClassName {
    /// As the formats have it.
    pub fn class(self) -> LinearClass {
        match self {
            ClassName::Bitlinear => LinearClass::BitLinear,
            ClassName::Autobitlinear => LinearClass::AutoBitLinear,
        }
    }
}

/// `--i2s-layout`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LayoutName {
    /// flat blocks of 128 weights: published files, bitnet.cpp on x86
    X86,
    /// four rows a byte: bitnet.cpp on x86 built without ACT_PARALLEL
    Rows4,
    /// flat blocks of 64 weights: bitnet.cpp on NEON
    Arm,
}

/// What files do not say of themselves.
#[derive(Args)]
pub struct ReadArgs {
    /// What weight_scale means in HF BitNet files [default: as config.json says]
    #[arg(long, value_enum, value_name = "CLASS")]
    pub linear_class: Option<ClassName>,
    /// Rows of HF BitNet matrices of ceil(M / 4) packed rows [default: 4 times those]
    #[arg(long, value_name = "M")]
    pub rows: Option<usize>,
    /// Layout of I2_S matrices, which no file says [default: x86]
    #[arg(long, value_enum, value_name = "LAYOUT")]
    pub i2s_layout: Option<LayoutName>,
}

impl ReadArgs {
    /// As the formats have them. `tolerant`: files that do not say enough to be converted are
    /// opened all the same.
    pub fn options(&self, tolerant: bool) -> OpenOptions {
        OpenOptions {
            linear_class: self.linear_class.map(ClassName::class),
            rows: self.rows,
            i2s_layout: self.i2s_layout.map(|layout| match layout {
                LayoutName::X86 => I2sLayout::X86,
                LayoutName::Rows4 => I2sLayout::Rows4,
                LayoutName::Arm => I2sLayout::Arm,
            }),
            tolerant,
        }
    }
}

/// `--scale-type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ScaleTypeName {
    /// as published BitNet models have it
    Bf16,
    /// for models of type float16
    F16,
    /// for models of type float32: every scale fits
    F32,
}

impl ScaleTypeName {
    /// As the formats have it.
    pub fn float_type(self) -> FloatType {
        match self {
            ScaleTypeName::Bf16 => FloatType::Bf16,
            ScaleTypeName::F16 => FloatType::F16,
            ScaleTypeName::F32 => FloatType::F32,
        }
    }
}

const CONVERT_NOTES: &str = "\
IN is what its first bytes say: GGUF (TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, I2_S,
IQ2_BN and IQ1_BN matrices), a panel file, or safetensors (ours and HF BitNet).
Of an ONNX model, the weights of MatMulNBits nodes of 2 bits are read. Models in several files are read whole: a split GGUF from its first part,
sharded safetensors from their .index.json, ONNX with its external data. A
folder stands for the one model in it.

Weights are never changed, and neither are scales: one that OUT's type cannot
hold is an error that names its place, unless --round-scales takes the nearest.
Scales that are equal throughout a row or a matrix become one where IN has them
by block and OUT need not. Other tensors are copied if OUT has their type.
A file of ours that went through GGUF or HF comes back byte for byte: what those
formats have no place for is noted in their metadata.

Whether an HF BitNet model divides by weight_scale or multiplies is said by
quantization_config.linear_class of the config.json beside IN, or else by
--linear-class.";

/// `tritgemm convert`.
#[derive(Args)]
#[command(after_help = CONVERT_NOTES)]
pub struct ConvertArgs {
    /// File, safetensors index or folder to read; no file of it must change meanwhile
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// File to write
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Format to write [default: by OUT's ending: .safetensors, .panels, .gguf (tq2_0)]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: Option<Target>,
    /// Take only tensors whose name matches, leave out the rest (may be repeated)
    #[arg(long, value_name = "GLOB")]
    pub tensor: Vec<Glob>,
    #[command(flatten)]
    pub read: ReadArgs,
    /// Take the nearest scale where OUT's type lacks one
    #[arg(long)]
    pub round_scales: bool,
    /// Type of weight_scale in an HF BitNet OUT
    #[arg(long, value_enum, value_name = "TYPE", default_value = "bf16")]
    pub scale_type: ScaleTypeName,
    /// Leave out tensors whose type OUT does not have, instead of failing
    #[arg(long)]
    pub skip_others: bool,
    /// Write tensors of types that safetensors lacks as F32: Q4_0, Q8_0, Q4_K, Q5_K, Q6_K
    #[arg(long)]
    pub dequantize: bool,
    /// Write OUT as several files of at most SIZE where it is larger (not for panels)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub shard_size: Option<u64>,
    /// Replace OUT if it exists (never IN itself)
    #[arg(long)]
    pub force: bool,
    /// Threads to use [default: one for each core]
    #[arg(long, value_name = "T", value_parser = super::thread_count)]
    pub threads: Option<NonZeroUsize>,
}

/// `tritgemm inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// GGUF, safetensors, panel or .onnx file, a safetensors index or a folder of one model;
    /// no file of it must change meanwhile
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Draw the scales and the zeros into this SVG file
    #[arg(long, value_name = "OUT.svg")]
    pub svg: Option<PathBuf>,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
    /// List every tensor, not one line for those of all layers
    #[arg(long)]
    pub all: bool,
    /// Read the weights and scales of ternary matrices above 64 MiB too, to count them
    #[arg(long)]
    pub count: bool,
    #[command(flatten)]
    pub read: ReadArgs,
    /// Replace OUT.svg if it exists (never FILE itself)
    #[arg(long)]
    pub force: bool,
    /// Threads to use [default: one for each core]
    #[arg(long, value_name = "T", value_parser = super::thread_count)]
    pub threads: Option<NonZeroUsize>,
}
