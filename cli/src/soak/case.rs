//! A case: operands, one of the library's paths, and what should come out.

use super::draw::{Draw, Values};
use super::oracle::{self, Problem};
use anyhow::Result;
use half::{bf16, f16};
use std::fmt;
use std::ops::Range;
use tritgemm::{GroupSize, Lanes, Scales, TernaryMatrix, Threads};

/// What of the library a case goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// The raw int8 product.
    Int8,
    /// A layer on f32 activations.
    F32,
    /// A layer on activations that it quantises to int8.
    W1a8,
    /// A layer on activations prepared beforehand.
    Prepared,
    /// A range of a matrix's rows.
    Slice,
    /// A layer that was written as a panel file and read again.
    PanelFile,
    /// Encoding and decoding.
    Codec,
}

impl Path {
    /// All of them.
    pub const ALL: [Path; 7] = [
        Path::Int8,
        Path::F32,
        Path::W1a8,
        Path::Prepared,
        Path::Slice,
        Path::PanelFile,
        Path::Codec,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Path::Int8 => "int8",
            Path::F32 => "f32",
            Path::W1a8 => "w1a8",
            Path::Prepared => "prepared",
            Path::Slice => "slices of rows",
            Path::PanelFile => "panel file",
            Path::Codec => "codec",
        }
    }
}

/// The activations of a case.
#[derive(Clone, PartialEq, Debug)]
pub enum Inputs {
    /// int8, with a scale a token.
    Int8(Vec<i8>, Vec<f32>),
    /// f32, for the f32 path.
    Float(Vec<f32>),
    /// f32, to be quantised.
    F32(Vec<f32>),
    /// f16, to be quantised.
    F16(Vec<f16>),
    /// bf16, to be quantised.
    Bf16(Vec<bf16>),
}

/// What a computation comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The bits of its results.
    Bits(Vec<u32>),
    /// An activation that cannot be quantised.
    NotFinite {
        /// Its token.
        token: usize,
        /// Its place in the token.
        index: usize,
    },
}

/// One case.
pub struct Case {
    pub path: Path,
    /// Rows, columns, tokens.
    pub sizes: [usize; 3],
    /// Elements between the rows of the activations, and of the output.
    pub gaps: [usize; 2],
    pub trits: Vec<i8>,
    pub matrix: TernaryMatrix,
    pub bias: Option<Vec<f32>>,
    pub inputs: Inputs,
    pub rows: Range<usize>,
    pub lanes: Lanes,
    /// Threads of the pool it runs in, if in one.
    pub pool: Option<usize>,
    pub threads: Threads,
    /// How often the same workspace computes it.
    pub repeats: usize,
    /// For paths with some choice of their own.
    pub variant: usize,
    values: Values,
}

impl Case {
    /// The case of a seed, for products shared among `max_threads` at most.
    pub fn new(seed: u64, max_threads: usize) -> Result<Self> {
        let mut draw = Draw::new(seed);
        let path = draw.pick(&Path::ALL);
        let pool = draw.once_in(3).then(|| 1 + draw.below(max_threads));
        let shared = pool.is_some_and(|threads| threads > 1) && draw.once_in(2);
        let sizes = draw.sizes(shared);
        let [m, k, n] = sizes;
        let trits = draw.trits(m * k);
        let scales = match draw.below(4) {
            0 => Scales::per_tensor(draw.scale()),
            1 | 2 => Scales::per_row((0..m).map(|_| draw.scale()).collect()),
            _ => {
                let size = draw.pick(GroupSize::ALL);
                let count = m * size.groups(k);
                Scales::per_group(size, (0..count).map(|_| draw.scale()).collect())
            }
        };
        let values = draw.values();
        let bias = draw.once_in(2).then(|| draw.floats(m, values));
        let inputs = inputs(&mut draw, path, values, [n, k]);
        // Rows are cut where panels are: at multiples of 64, and at the end.
        let cut = |draw: &mut Draw| (64 * draw.below(m / 64 + 2)).min(m);
        let (a, b) = (cut(&mut draw), cut(&mut draw));
        let rows = if path == Path::Slice {
            a.min(b)..a.max(b)
        } else {
            0..m
        };
        Ok(Self {
            path,
            sizes,
            gaps: [draw.below(9), draw.below(9)],
            matrix: TernaryMatrix::from_trits(&trits, m, k, scales)?,
            trits,
            bias,
            inputs,
            rows,
            lanes: draw.pick(&[Lanes::Auto, Lanes::Row, Lanes::Column]),
            pool,
            threads: if shared {
                Threads::Rayon
            } else {
                draw.pick(&[Threads::Rayon, Threads::Serial])
            },
            repeats: if draw.once_in(4) { 2 } else { 1 },
            variant: draw.below(16),
            values,
        })
    }

    /// Weights in a group with a scale of its own, if there are several.
    pub fn group(&self) -> Option<GroupSize> {
        match self.matrix.scales().granularity() {
            tritgemm::Granularity::PerGroup(size) => Some(size),
            _ => None,
        }
    }

    /// Multiply-adds of its product.
    pub fn macs(&self) -> u64 {
        let [_, k, n] = self.sizes;
        (self.rows.len() * k * n) as u64
    }

    /// What should come out.
    pub fn expected(&self) -> Result<Outcome> {
        let [_, k, n] = self.sizes;
        if self.path == Path::Codec {
            return Ok(Outcome::Bits(self.encoded()));
        }
        let segment = self.group().map_or(k, GroupSize::len);
        let scales = self.segment_scales();
        let segments = k.div_ceil(segment.max(1));
        let problem = Problem {
            trits: &self.trits[self.rows.start * k..self.rows.end * k],
            sizes: [self.rows.len(), k, n],
            scales: &scales[self.rows.start * segments..self.rows.end * segments],
            segment,
            bias: self.bias.as_ref().map(|bias| &bias[self.rows.clone()]),
        };
        let widened: Vec<f32> = match &self.inputs {
            Inputs::Int8(x, _) if self.raw() => {
                let bits = problem.integers(x);
                return Ok(Outcome::Bits(
                    bits.ok_or(anyhow::anyhow!("sums leave int32"))?,
                ));
            }
            Inputs::Int8(x, scales) => return Ok(Outcome::Bits(problem.quantized(x, scales))),
            Inputs::Float(x) => return Ok(Outcome::Bits(problem.float(x))),
            Inputs::F32(x) => x.clone(),
            Inputs::F16(x) => x.iter().map(|v| v.to_f32()).collect(),
            Inputs::Bf16(x) => x.iter().map(|v| v.to_f32()).collect(),
        };
        if let Some(at) = widened.iter().position(|v| !v.is_finite()) {
            let (token, index) = (at / k, at % k);
            return Ok(Outcome::NotFinite { token, index });
        }
        let (mut q, mut token_scales) = (Vec::new(), Vec::new());
        for token in 0..n {
            let (values, scale) = oracle::quantize(&widened[token * k..][..k]);
            q.extend(values);
            token_scales.push(scale);
        }
        Ok(Outcome::Bits(problem.quantized(&q, &token_scales)))
    }

    /// Whether int8 activations give int32 sums, not a layer's floats.
    pub fn raw(&self) -> bool {
        self.path != Path::Prepared
    }

    /// Scales `[m][segments]`.
    fn segment_scales(&self) -> Vec<f32> {
        let ([m, k, _], scales) = (self.sizes, self.matrix.scales());
        match scales.values() {
            _ if k == 0 => Vec::new(),
            // One for all, or one a row, or the groups as they are.
            &[scale] => vec![scale; m.max(1)],
            values => values.to_vec(),
        }
    }

    /// Bytes, trits and floats of the encoding.
    fn encoded(&self) -> Vec<u32> {
        let [_, k, _] = self.sizes;
        let packed = oracle::encode(&self.trits, k);
        let mut bits: Vec<u32> = packed.into_iter().map(u32::from).collect();
        bits.extend(self.trits.iter().map(|&t| t as u32));
        for (i, &trit) in self.trits.iter().enumerate() {
            let scale = self.row_scale(i / k);
            bits.push(match trit {
                0 => 0,
                1 => scale.to_bits(),
                _ => (-scale).to_bits(),
            });
        }
        bits
    }

    /// A scale for every row, whatever the matrix has.
    pub fn row_scale(&self, row: usize) -> f32 {
        let values = self.matrix.scales().values();
        let scale = values.get(row % values.len().max(1));
        scale.copied().unwrap_or(1.0)
    }
}

fn inputs(draw: &mut Draw, path: Path, values: Values, [n, k]: [usize; 2]) -> Inputs {
    let kind = match path {
        Path::Int8 => 0,
        Path::F32 | Path::PanelFile => 1,
        Path::Slice => draw.below(2),
        Path::W1a8 => 2 + draw.below(3),
        Path::Prepared => draw.below(5),
        Path::Codec => return Inputs::Float(Vec::new()),
    };
    let floats = |draw: &mut Draw| draw.floats(n * k, values);
    match kind {
        0 => Inputs::Int8(draw.i8s(n * k), (0..n).map(|_| draw.scale()).collect()),
        1 => Inputs::Float(floats(draw)),
        2 => Inputs::F32(floats(draw)),
        3 => Inputs::F16(floats(draw).into_iter().map(f16::from_f32).collect()),
        _ => Inputs::Bf16(floats(draw).into_iter().map(bf16::from_f32).collect()),
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, k, n] = self.sizes;
        let x = match &self.inputs {
            Inputs::Int8(..) => "int8",
            Inputs::Float(_) | Inputs::F32(_) => "f32",
            Inputs::F16(_) => "f16",
            Inputs::Bf16(_) => "bf16",
        };
        write!(
            f,
            "{}, M = {m}, K = {k}, N = {n}, {:?} {x} activations, scales {}, bias {}, \
             lanes {:?}, {:?}",
            self.path.name(),
            self.values,
            self.matrix.scales().granularity(),
            if self.bias.is_some() { "yes" } else { "no" },
            self.lanes,
            self.threads,
        )?;
        match self.pool {
            Some(threads) => write!(f, " in a pool of {threads}"),
            None => write!(f, " outside of a pool"),
        }
    }
}
