//! Random layers, activations, and the product of both.

use tritgemm::{Linear, Options, PreparedActivations, Scales, TernaryMatrix, Workspace};
use tritgemm_testing::case::Shape;
use tritgemm_testing::{Rng, view, view_mut};

/// A layer, with one token.
pub const fn layer(m: usize, k: usize) -> Shape {
    Shape::new(m, k, 1)
}

/// Layers of BitNet b1.58 2B4T and 3B, and of 7 to 8 B Llamas.
pub const SHAPES: [Shape; 6] = [
    layer(2560, 2560),
    layer(6912, 2560),
    layer(2560, 6912),
    layer(4096, 4096),
    layer(14336, 4096),
    layer(4096, 14336),
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
    copies(shape, COLD_BYTES / (shape.m * shape.k / 4) + 1)
}

/// `count` copies of one random layer.
pub fn copies(shape: Shape, count: usize) -> Vec<Linear> {
    let matrix = matrix(shape);
    let layer = |_| Linear::new(&matrix).expect("memory");
    (0..count).map(layer).collect()
}

/// Random weights, as many of each sign, with a scale a row.
pub fn matrix(Shape { m, k, seed, .. }: Shape) -> TernaryMatrix {
    let rng = &mut Rng::new(seed);
    let trits = rng.vec(m * k, Rng::trit);
    let scales = Scales::per_row(rng.vec(m, |rng| 1.25 + 0.75 * rng.unit()));
    TernaryMatrix::from_trits(view(&trits, m, k), scales).expect("trits")
}

/// Everything of a product but its weights. Once it ran, running it again with
/// the same shape allocates nothing.
pub struct Product {
    path: Path,
    shape: Shape,
    x_i8: Vec<i8>,
    x_f32: Vec<f32>,
    y_i32: Vec<i32>,
    y_f32: Vec<f32>,
    ws: Workspace,
}

impl Product {
    pub fn new(path: Path, shape: Shape, options: Options) -> Self {
        let rng = &mut Rng::new(2);
        let Shape { m, k, n, .. } = shape;
        let (ints, floats) = match path {
            Path::I8 => (n, 0),
            Path::F32 | Path::W1a8 => (0, n),
        };
        Self {
            path,
            shape,
            x_i8: rng.vec(ints * k, Rng::i8),
            x_f32: rng.vec(floats * k, Rng::unit),
            y_i32: vec![0; ints * m],
            y_f32: vec![0.0; floats * m],
            ws: Workspace::with_options(options),
        }
    }

    /// One call of the public API.
    pub fn run(&mut self, layer: &Linear) {
        let Shape { m, k, n, .. } = self.shape;
        let ws = &mut self.ws;
        let done = match self.path {
            Path::I8 => {
                let y = view_mut(&mut self.y_i32, n, m);
                layer.panels().gemm_i8(view(&self.x_i8, n, k), y, ws)
            }
            Path::F32 => {
                let y = view_mut(&mut self.y_f32, n, m);
                layer.forward_f32(view(&self.x_f32, n, k), y, ws)
            }
            Path::W1a8 => {
                let y = view_mut(&mut self.y_f32, n, m);
                layer.forward_int8(view(&self.x_f32, n, k), y, ws)
            }
        };
        done.expect("shapes that fit");
    }

    /// The activations prepared for `layer`; allocates, as the API does.
    pub fn prepare(&mut self, layer: &Linear) -> PreparedActivations {
        let Shape { k, n, .. } = self.shape;
        let ws = &mut self.ws;
        let prepared = match self.path {
            Path::I8 => {
                let x = view(&self.x_i8, n, k);
                PreparedActivations::from_int8(x, vec![1.0; n], None, ws)
            }
            Path::F32 => layer.prepare_f32(view(&self.x_f32, n, k), ws),
            Path::W1a8 => layer.prepare_int8(view(&self.x_f32, n, k), ws),
        };
        prepared.expect("finite activations")
    }

    /// One product with prepared activations.
    pub fn run_prepared(&mut self, layer: &Linear, x: &PreparedActivations) {
        let Shape { m, n, .. } = self.shape;
        let ws = &mut self.ws;
        let done = match self.path {
            Path::I8 => layer
                .panels()
                .gemm_i8(x, view_mut(&mut self.y_i32, n, m), ws),
            Path::F32 => layer.forward_f32(x, view_mut(&mut self.y_f32, n, m), ws),
            Path::W1a8 => layer.forward_int8(x, view_mut(&mut self.y_f32, n, m), ws),
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
