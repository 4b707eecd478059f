//! ONNX Runtime's MatMulNBits of two bits: MLAS's kernels for block-quantised weights, of a
//! library that is loaded while the program runs.

use crate::contender::{Arithmetic, Info, Library, Loaded, Output, Role, Run, Work};
use crate::problem::{Job, Shape, Weights, WeightsFrom};
use anyhow::Context;
use ort::editor::{Graph, Model, Node, Opset};
use ort::memory::Allocator;
use ort::operator::Attribute;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::{Outlet, Shape as Dims, SymbolicDimensions, Tensor, TensorElementType, ValueType};
use std::path::Path;

/// Weights along K that share a scale.
const BLOCKS: [usize; 2] = [128, 64];

/// Activations become int8 with a scale for each block: the fastest that the operator has.
const INT8: i64 = 4;

/// MLAS's form by tables of sums, which takes float activations.
const TABLES: &str = "mlas.use_lut_gemm";

pub struct OnnxRuntime {
    infos: Vec<Info>,
}

/// A contender: weights of a block, and whether by [`TABLES`].
type Kind = (usize, bool);

fn kinds() -> impl Iterator<Item = Kind> {
    BLOCKS
        .into_iter()
        .flat_map(|block| [(block, false), (block, true)])
}

impl OnnxRuntime {
    /// `library` is libonnxruntime, of version 1.22 or newer.
    pub fn new(library: &Path) -> anyhow::Result<Self> {
        ort::init_from(library)
            .with_context(|| format!("loading {}", library.display()))?
            .commit();
        let infos = kinds().map(|(block, tables)| {
            let form = if tables { "-tables" } else { "" };
            let name = format!("onnxruntime{form}-g{block}");
            Info::new(name, Role::Peer, Arithmetic::W1a8)
        });
        Ok(Self {
            infos: infos.collect(),
        })
    }
}

impl Library for OnnxRuntime {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    fn load(
        &self,
        weights: &Weights,
        from: WeightsFrom,
        _wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let codes = weights.trits.chunks(4).map(|four| {
            // The zero point of two bits is 2; the first weight is in the lowest bits.
            let code = |i: usize| ((four[i] + 2) as u8) << (2 * i);
            code(0) | code(1) | code(2) | code(3)
        });
        Ok(Box::new(LoadedBytes {
            shape: weights.shape,
            bytes: codes.collect(),
            scale: weights.scale,
            copies: from.copies(weights.shape.packed_bytes()),
        }))
    }
}

/// What sessions are made of, one for each contender and number of threads.
struct LoadedBytes {
    shape: Shape,
    bytes: Vec<u8>,
    scale: f32,
    copies: usize,
}

impl Loaded for LoadedBytes {
    fn start<'a>(&'a self, index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let kind = kinds().nth(index).context("no such contender")?;
        let sessions = (0..self.copies).map(|_| self.session(kind, job.threads));
        let x = job.activations;
        let dims = |len: usize| [x.tokens as i64, len as i64];
        Ok(Box::new(OrtRun {
            shape: self.shape,
            tokens: x.tokens,
            threads: job.threads,
            sessions: sessions.collect::<ort::Result<_>>()?,
            x: Tensor::from_array((dims(x.cols), x.f32s.clone()))?,
            y: vec![0.0; x.tokens * self.shape.rows],
            next: 0,
        }))
    }
}

impl LoadedBytes {
    /// A model of the one operator, with weights of its own.
    fn session(&self, (block, tables): Kind, threads: usize) -> ort::Result<Session> {
        let Shape { rows, cols } = self.shape;
        let (m, k, block) = (rows as i64, cols as i64, block as i64);
        let mut graph = Graph::new()?;
        let floats = |name: &str, len: i64| {
            let ty = ValueType::Tensor {
                ty: TensorElementType::Float32,
                shape: Dims::new([-1, len]),
                dimension_symbols: SymbolicDimensions::new([String::from("n"), String::new()]),
            };
            Outlet::new(name, ty)
        };
        graph.set_inputs([floats("x", k)])?;
        graph.set_outputs([floats("y", m)])?;
        let allocator = Allocator::default();
        let mut bytes = Tensor::<u8>::new(&allocator, [m, k / block, block / 4])?;
        bytes.extract_tensor_mut().1.copy_from_slice(&self.bytes);
        graph.add_initializer("bytes", bytes, false)?;
        let mut scales = Tensor::<f32>::new(&allocator, [m * (k / block)])?;
        scales.extract_tensor_mut().1.fill(self.scale);
        graph.add_initializer("scales", scales, false)?;
        let attributes = [
            ("K", k),
            ("N", m),
            ("bits", 2),
            ("block_size", block),
            ("accuracy_level", INT8),
        ];
        let attributes = attributes.map(|(name, value)| Attribute::new(name, value));
        let attributes = attributes.into_iter().collect::<ort::Result<Vec<_>>>()?;
        let (inputs, outputs) = (["x", "bytes", "scales"], ["y"]);
        let domain = "com.microsoft";
        let node = Node::new(
            "MatMulNBits",
            domain,
            "product",
            inputs,
            outputs,
            attributes,
        )?;
        graph.add_node(node)?;
        let mut model = Model::new([Opset::new("", 17)?, Opset::new(domain, 1)?])?;
        model.add_graph(graph)?;
        let builder = SessionBuilder::new()?
            .with_intra_threads(threads)?
            // Its threads may wait in loops while it runs, and not while others do.
            .with_config_entry("session.force_spinning_stop", "1")?
            .with_config_entry(TABLES, if tables { "1" } else { "0" })?;
        model.into_session(&builder)
    }
}

struct OrtRun {
    shape: Shape,
    tokens: usize,
    threads: usize,
    sessions: Vec<Session>,
    x: Tensor<f32>,
    y: Vec<f32>,
    next: usize,
}

impl Run for OrtRun {
    fn work(&self) -> Work {
        Work {
            macs: (self.shape.weights() * self.tokens) as f64,
            bytes: self.shape.packed_bytes() as f64,
        }
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&mut self, calls: usize) {
        let count = self.sessions.len();
        for call in 0..calls {
            let session = &mut self.sessions[(self.next + call) % count];
            let found = session.run(ort::inputs![&self.x]).expect("it ran once");
            if call + 1 == calls {
                let (_, y) = found[0].try_extract_tensor::<f32>().expect("f32 outputs");
                self.y.copy_from_slice(y);
            }
        }
        self.next = (self.next + calls) % count;
    }

    fn output(&self) -> Output<'_> {
        Output::Float(&self.y)
    }
}
