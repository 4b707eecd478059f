//! One product: a shape, operands, scales, strides, and every way to compute it.

use crate::oracle::{self, Affine, Operands};
use crate::{Output, Rng, bits, workspace};
use tritgemm::{
    GroupSize, Linear, MatRef, Options, PreparedActivations, Scales, TernaryMatrix, Workspace,
};

/// What a scale covers, by the numbers of the panel file: 1 the tensor, 2 a
/// row, else a group of so many.
pub const GRANULARITIES: [usize; 5] = [1, 2, 64, 128, 256];

/// How f32 activations are distributed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// Uniform in -1..1.
    Unit,
    /// Magnitudes from 2^-20 to 2^20: cancellation and absorption.
    Wide,
    /// Subnormals and zeros of both signs.
    Tiny,
    /// As `Wide`, with NaNs of several payloads and infinities strewn in.
    Special,
}

pub const VALUES: [Values; 4] = [Values::Unit, Values::Wide, Values::Tiny, Values::Special];

#[derive(Clone, Debug)]
pub struct Shape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Elements between the end of a row and the start of the next, in x and y.
    pub gaps: [usize; 2],
    pub granularity: usize,
    pub bias: bool,
    pub values: Values,
    pub seed: u64,
}

pub struct Case {
    pub shape: Shape,
    pub trits: Vec<i8>,
    pub scales: Scales,
    pub bias: Option<Vec<f32>>,
    pub layer: Linear,
    /// Dense `[n][k]`.
    pub x_i8: Vec<i8>,
    pub x_f32: Vec<f32>,
}

fn activation(rng: &mut Rng, values: Values) -> f32 {
    let wide = |rng: &mut Rng| rng.unit() * f32::powi(2.0, rng.below(41) as i32 - 20);
    match values {
        Values::Unit => rng.unit(),
        Values::Wide => wide(rng),
        Values::Tiny => match rng.below(4) {
            0 => -0.0,
            1 => 0.0,
            _ => f32::from_bits(rng.bits() as u32 & 0x807f_ffff),
        },
        Values::Special => match rng.below(200) {
            0 => f32::INFINITY,
            1 => f32::NEG_INFINITY,
            2 => f32::from_bits(0x7fc0_1234),
            3 => f32::from_bits(0xffff_ffff),
            4 => f32::from_bits(0x7f80_0001),
            _ => wide(rng),
        },
    }
}

impl Case {
    pub fn new(shape: Shape) -> Self {
        let Shape { m, k, n, .. } = shape;
        let mut rng = Rng::new(shape.seed);
        // Some matrices are nearly all zeros, some have none.
        let zeros = rng.below(4);
        let trits = rng.vec(m * k, |r| match zeros {
            0 if r.below(8) > 0 => 0,
            1 => [-1, 1][r.below(2)],
            _ => r.trit(),
        });
        let scale = |r: &mut Rng| r.unit() * f32::powi(2.0, r.below(9) as i32 - 4);
        let scales = match shape.granularity {
            1 => Scales::per_tensor(scale(&mut rng)),
            2 => Scales::per_row(rng.vec(m, scale)),
            group => {
                let size = GroupSize::from_len(group).expect("a group size");
                Scales::per_group(size, rng.vec(m * k.div_ceil(group), scale))
            }
        };
        let bias = shape.bias.then(|| rng.vec(m, scale));
        let matrix = TernaryMatrix::from_trits(&trits, m, k, scales.clone()).expect("a matrix");
        let mut layer = Linear::new(&matrix).expect("a layer");
        if let Some(bias) = &bias {
            layer = layer.with_bias(bias.clone()).expect("a bias");
        }
        let x_i8 = rng.vec(n * k, Rng::i8);
        let x_f32 = rng.vec(n * k, |r| activation(r, shape.values));
        Self {
            shape,
            trits,
            scales,
            bias,
            layer,
            x_i8,
            x_f32,
        }
    }

    pub fn group(&self) -> Option<usize> {
        Some(self.shape.granularity).filter(|&g| g > 2)
    }

    pub fn operands<'a, X>(&'a self, x: &'a [X]) -> Operands<'a, X> {
        let Shape { m, k, n, .. } = self.shape;
        let trits = &self.trits;
        Operands { trits, x, m, n, k }
    }

    /// What oracles need to know of scales and bias.
    pub fn affine<R>(&self, with: impl FnOnce(&Affine<'_>) -> R) -> R {
        let values = self.scales.values();
        let (granularity, k) = (self.shape.granularity, self.shape.k);
        with(&Affine {
            scale: &|row, col| match granularity {
                1 => values[0],
                2 => values[row],
                group => values[row * k.div_ceil(group) + col / group],
            },
            group: self.group(),
            bias: self.bias.as_deref(),
        })
    }

    /// `x` with the gaps of the shape between its rows, filled with `poison`,
    /// from an odd address on.
    pub fn strided<X: Copy>(&self, x: &[X], poison: X) -> Vec<X> {
        let Shape { k, n, gaps, .. } = self.shape;
        let mut strided = vec![poison; 1];
        for row in 0..n {
            strided.extend_from_slice(&x[row * k..][..k]);
            strided.extend(std::iter::repeat_n(poison, gaps[0]));
        }
        strided
    }

    /// A view of what [`Case::strided`] made.
    pub fn strided_view<'a, X>(&self, strided: &'a [X]) -> MatRef<'a, X> {
        let Shape { k, n, gaps, .. } = self.shape;
        MatRef::with_stride(&strided[1..], n, k, k + gaps[0]).expect("a strided view")
    }

    pub fn output<T: Copy + PartialEq + std::fmt::Debug>(&self, canary: T) -> Output<T> {
        let Shape { m, n, gaps, .. } = self.shape;
        Output::new(n, m, m + gaps[1], canary)
    }

    /// Every expected result.
    pub fn expected(&self) -> Expected {
        let Shape { k, n, .. } = self.shape;
        let integers = oracle::integers(self.operands(&self.x_i8));
        let integers = integers
            .into_iter()
            .map(|v| v.try_into().expect("fits int32"));
        let float = self.affine(|a| oracle::canonical(self.operands(&self.x_f32), a));
        let finite = self.x_f32.iter().all(|v| v.is_finite());
        let quantized = finite.then(|| {
            let (mut q, mut token_scales) = (Vec::new(), Vec::new());
            for token in 0..n {
                let (values, scale) = oracle::quantize(&self.x_f32[token * k..][..k]);
                q.extend(values);
                token_scales.push(scale);
            }
            self.affine(|a| oracle::scaled_integers(self.operands(&q), &token_scales, a))
        });
        Expected {
            integers: integers.collect(),
            float: bits(&float),
            quantized: quantized.as_deref().map(bits),
        }
    }

    pub fn gemm_i8(&self, ws: &mut Workspace) -> Vec<i32> {
        let x = self.strided(&self.x_i8, 77);
        let mut y = self.output(0x5a5a_5a5a);
        let panels = self.layer.panels();
        panels
            .gemm_i8(self.strided_view(&x), y.view(), ws)
            .expect("fits");
        y.take(&(&self.shape, ws.options()))
    }

    pub fn forward_f32(&self, ws: &mut Workspace) -> Vec<u32> {
        let x = self.strided(&self.x_f32, f32::NAN);
        self.floats(ws, |layer, y, ws| {
            layer
                .forward_f32(self.strided_view(&x), y, ws)
                .expect("fits");
        })
    }

    pub fn forward(&self, ws: &mut Workspace) -> Vec<u32> {
        let x = self.strided(&self.x_f32, f32::NAN);
        self.floats(ws, |layer, y, ws| {
            layer.forward(self.strided_view(&x), y, ws).expect("fits");
        })
    }

    pub fn forward_prepared(&self, x: &PreparedActivations, ws: &mut Workspace) -> Vec<u32> {
        self.floats(ws, |layer, y, ws| {
            layer.forward_prepared(x, y, ws).expect("fits");
        })
    }

    fn floats(
        &self,
        ws: &mut Workspace,
        run: impl FnOnce(&Linear, tritgemm::MatMut<'_, f32>, &mut Workspace),
    ) -> Vec<u32> {
        let mut y = self.output(-12345.678);
        run(&self.layer, y.view(), ws);
        bits(&y.take(&(&self.shape, ws.options())))
    }

    /// The three products computed as `options` say, against `expected`.
    pub fn check(&self, options: Options, expected: &Expected) {
        // One workspace for all: what a product leaves must not show in the next.
        let ws = &mut workspace(options);
        let what = format!("{:?} {options:?}", self.shape);
        let (got, wanted) = (self.gemm_i8(ws), &expected.integers);
        assert_same("gemm_i8", &what, &got, wanted);
        assert_same("forward_f32", &what, &self.forward_f32(ws), &expected.float);
        if let Some(wanted) = &expected.quantized {
            assert_same("forward", &what, &self.forward(ws), wanted);
        }
    }
}

pub struct Expected {
    pub integers: Vec<i32>,
    /// Bits of f32.
    pub float: Vec<u32>,
    /// Bits of f32; none if an activation is not finite.
    pub quantized: Option<Vec<u32>>,
}

/// Equal, or a message about the first difference instead of two long lists.
pub fn assert_same<T: PartialEq + std::fmt::Debug>(path: &str, what: &str, got: &[T], want: &[T]) {
    assert_eq!(got.len(), want.len(), "{path}: {what}");
    if let Some(i) = (0..got.len()).find(|&i| got[i] != want[i]) {
        panic!(
            "{path}: output {i} of {} is {:x?}, expected {:x?}: {what}",
            got.len(),
            got[i],
            want[i]
        );
    }
}
