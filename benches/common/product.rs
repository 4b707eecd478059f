//! Random layers, activations, and the product of both.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fmt;
use tritgemm::{
    Backend, Linear, MatMut, MatRef, Options, Panels, PreparedActivations, Scales, TernaryMatrix,
    Threads, Workspace,
};

/// M x K, as benchmark names write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub rows: usize,
    pub cols: usize,
}

impl Shape {
    pub const fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols }
    }

    /// Multiply-accumulates of a product with so many tokens.
    pub fn macs(self, tokens: usize) -> usize {
        self.rows * self.cols * tokens
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// Layers of BitNet b1.58 2B4T and 3B, and of 7 to 8 B Llamas.
pub const SHAPES: [Shape; 6] = [
    Shape::new(2560, 2560),
    Shape::new(6912, 2560),
    Shape::new(2560, 6912),
    Shape::new(4096, 4096),
    Shape::new(14336, 4096),
    Shape::new(4096, 14336),
];

/// Which way activations go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// int8 in, int32 out: the bare product.
    I8,
    /// f32 in and out, in the canonical order.
    F32,
    /// f32 in, quantised a token at a time, int8 product, scaled f32 out.
    W1a8,
}

impl Path {
    pub const ALL: [Path; 3] = [Path::I8, Path::F32, Path::W1a8];

    pub fn name(self) -> &'static str {
        match self {
            Path::I8 => "i8",
            Path::F32 => "f32",
            Path::W1a8 => "w1a8",
        }
    }
}

/// Weights that no cache holds: more than this many bytes are rotated over.
const COLD_BYTES: usize = 512 << 20;

/// One layer of random weights, the same at every call: hot, as it stays in
/// whichever cache it fits.
pub fn hot(shape: Shape) -> Vec<Linear> {
    copies(shape, 1)
}

/// Copies of one layer that together exceed [`COLD_BYTES`], each in memory of
/// its own: cold, if they are used in turn.
pub fn cold(shape: Shape) -> Vec<Linear> {
    copies(shape, COLD_BYTES / (shape.rows * shape.cols / 4) + 1)
}

/// `count` copies of one random layer.
pub fn copies(shape: Shape, count: usize) -> Vec<Linear> {
    let matrix = matrix(shape);
    let layer = |_| {
        let panels = Panels::pack_on(&matrix, &workspace(Options::new().backend(Backend::best())))
            .expect("memory");
        Linear::from_parts(panels, matrix.scales().clone(), None).expect("scales of this matrix")
    };
    (0..count).map(layer).collect()
}

/// Random weights, as many of each sign, with a scale a row.
pub fn matrix(Shape { rows, cols }: Shape) -> TernaryMatrix {
    assert!(cols.is_multiple_of(4), "no padding bits to clear");
    let rng = &mut StdRng::seed_from_u64(1);
    let legal: Vec<u8> = (0..=u8::MAX)
        .filter(|byte| byte & byte >> 1 & 0x55 == 0)
        .collect();
    let packed = (0..rows * cols / 4).map(|_| legal[rng.random_range(0..legal.len())]);
    let packed = packed.collect();
    let scales = (0..rows).map(|_| rng.random_range(0.5..2.0)).collect();
    TernaryMatrix::from_packed(packed, rows, cols, Scales::per_row(scales)).expect("legal codes")
}

/// Everything of a product but its weights. Once it ran, running it again with
/// the same shape allocates nothing.
pub struct Product {
    path: Path,
    tokens: usize,
    shape: Shape,
    x_i8: Vec<i8>,
    x_f32: Vec<f32>,
    y_i32: Vec<i32>,
    y_f32: Vec<f32>,
    ws: Workspace,
}

impl Product {
    pub fn new(path: Path, shape: Shape, tokens: usize, options: Options) -> Self {
        let rng = &mut StdRng::seed_from_u64(2);
        let (inputs, outputs) = (tokens * shape.cols, tokens * shape.rows);
        let (i8s, f32s) = match path {
            Path::I8 => (inputs, 0),
            Path::F32 | Path::W1a8 => (0, inputs),
        };
        Self {
            path,
            tokens,
            shape,
            x_i8: (0..i8s).map(|_| rng.random()).collect(),
            x_f32: (0..f32s).map(|_| rng.random_range(-1.0..1.0)).collect(),
            y_i32: vec![0; if path == Path::I8 { outputs } else { 0 }],
            y_f32: vec![0.0; if path == Path::I8 { 0 } else { outputs }],
            ws: Workspace::with_options(options),
        }
    }

    /// One call of the public API.
    pub fn run(&mut self, layer: &Linear) {
        let Shape { rows, cols } = self.shape;
        let (n, ws) = (self.tokens, &mut self.ws);
        let done = match self.path {
            Path::I8 => {
                let x = MatRef::new(&self.x_i8, n, cols).expect("N x K");
                let y = MatMut::new(&mut self.y_i32, n, rows).expect("N x M");
                layer.panels().gemm_i8(x, y, ws)
            }
            Path::F32 => {
                let x = MatRef::new(&self.x_f32, n, cols).expect("N x K");
                let y = MatMut::new(&mut self.y_f32, n, rows).expect("N x M");
                layer.forward_f32(x, y, ws)
            }
            Path::W1a8 => {
                let x = MatRef::new(&self.x_f32, n, cols).expect("N x K");
                let y = MatMut::new(&mut self.y_f32, n, rows).expect("N x M");
                layer.forward(x, y, ws)
            }
        };
        done.expect("shapes that fit");
    }

    /// The activations prepared; allocates, as the API does.
    pub fn prepare(&mut self) -> PreparedActivations {
        let (n, cols, ws) = (self.tokens, self.shape.cols, &mut self.ws);
        let f32s = || MatRef::new(&self.x_f32, n, cols).expect("N x K");
        let prepared = match self.path {
            Path::I8 => {
                let x = MatRef::new(&self.x_i8, n, cols).expect("N x K");
                PreparedActivations::from_int8(x, vec![1.0; n], None, ws)
            }
            Path::F32 => PreparedActivations::float(f32s(), None, ws),
            Path::W1a8 => PreparedActivations::quantize(f32s(), None, ws),
        };
        prepared.expect("finite activations")
    }

    /// One product with prepared activations.
    pub fn run_prepared(&mut self, layer: &Linear, x: &PreparedActivations) {
        let (n, rows, ws) = (self.tokens, self.shape.rows, &mut self.ws);
        let done = match self.path {
            Path::I8 => {
                let y = MatMut::new(&mut self.y_i32, n, rows).expect("N x M");
                layer.panels().gemm_i8(x, y, ws)
            }
            Path::F32 | Path::W1a8 => {
                let y = MatMut::new(&mut self.y_f32, n, rows).expect("N x M");
                layer.forward_prepared(x, y, ws)
            }
        };
        done.expect("shapes that fit");
    }
}

/// Layers taken in turn.
pub struct Rotation<'a> {
    layers: &'a [Linear],
    next: usize,
}

impl<'a> Rotation<'a> {
    pub fn new(layers: &'a [Linear]) -> Self {
        Self { layers, next: 0 }
    }

    pub fn next_layer(&mut self) -> &'a Linear {
        let layer = &self.layers[self.next];
        self.next = (self.next + 1) % self.layers.len();
        layer
    }
}
