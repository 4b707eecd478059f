//! What is multiplied: shapes, one ternary matrix, one set of activations, and
//! the exact results that every contender is checked against.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A weight matrix's size: `rows` outputs (M), `cols` inputs (K).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Shape {
    pub rows: usize,
    pub cols: usize,
}

impl Shape {
    pub const fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols }
    }

    pub fn weights(self) -> usize {
        self.rows * self.cols
    }

    /// Bytes of the weights at two bits each: what a ternary kernel must read.
    pub fn packed_bytes(self) -> usize {
        self.weights() / 4
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

impl FromStr for Shape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (rows, cols) = text
            .split_once('x')
            .with_context(|| format!("shape `{text}` is not of the form ROWSxCOLS"))?;
        let shape = Shape {
            rows: rows.parse().with_context(|| format!("shape `{text}`"))?,
            cols: cols.parse().with_context(|| format!("shape `{text}`"))?,
        };
        // ggml's TQ2_0 has blocks of 256 along K, and no tail.
        if shape.rows == 0 || shape.cols == 0 || !shape.cols.is_multiple_of(256) {
            bail!("shape `{text}`: rows must be positive and cols a positive multiple of 256");
        }
        Ok(shape)
    }
}

/// Where the weights are when a product starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsFrom {
    /// The same matrix call after call: in the smallest cache that holds it.
    Cache,
    /// Calls rotate over copies of more than [`COPIES_BYTES`] in total.
    Memory,
}

impl fmt::Display for WeightsFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightsFrom::Cache => "weights in cache",
            WeightsFrom::Memory => "weights from memory",
        })
    }
}

/// Total size of the copies that a run from memory rotates over.
const COPIES_BYTES: usize = 512 << 20;

impl WeightsFrom {
    /// How many copies of a matrix of `bytes` bytes a run keeps.
    pub fn copies(self, bytes: usize) -> usize {
        match self {
            WeightsFrom::Cache => 1,
            WeightsFrom::Memory => COPIES_BYTES / bytes + 1,
        }
    }
}

/// A generator for test data: xorshift64*, the same numbers in every run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next_u32(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// Uniform in [-1, 1).
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A ternary matrix, row-major, with one scale for all of it.
pub struct Weights {
    pub shape: Shape,
    pub trits: Vec<i8>,
    pub scale: f32,
}

impl Weights {
    /// Each of -1, 0 and +1 with the same probability.
    pub fn random(shape: Shape) -> Self {
        let mut rng = Rng::new(shape.weights() as u64);
        let trits = (0..shape.weights())
            .map(|_| ((u64::from(rng.next_u32()) * 3) >> 32) as i8 - 1)
            .collect();
        // A power of two, so that a format with f16 scales holds it exactly.
        Self {
            shape,
            trits,
            scale: 0.03125,
        }
    }
}

/// Activations of `tokens` tokens, token-major, as f32 and as int8.
pub struct Activations {
    pub tokens: usize,
    pub cols: usize,
    pub f32s: Vec<f32>,
    pub int8: Vec<i8>,
}

impl Activations {
    pub fn random(tokens: usize, cols: usize) -> Self {
        let mut rng = Rng::new((tokens * cols) as u64 ^ 0xAC71);
        let f32s: Vec<f32> = (0..tokens * cols).map(|_| rng.next_f32()).collect();
        let int8 = f32s
            .iter()
            .map(|x| (x * 128.0).round_ties_even() as i8)
            .collect();
        Self {
            tokens,
            cols,
            f32s,
            int8,
        }
    }
}

/// One product: every contender of a cell gets the same.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub weights: &'a Weights,
    pub activations: &'a Activations,
    pub threads: usize,
}

/// One point of the sweep.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub shape: Shape,
    pub weights_from: WeightsFrom,
    pub threads: usize,
    pub tokens: usize,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { shape, tokens, .. } = self;
        write!(f, "{shape} N={tokens}, {}, ", self.weights_from)?;
        f.write_str(&threads(self.threads))
    }
}

/// A number of threads in words.
pub fn threads(threads: usize) -> String {
    format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
}
