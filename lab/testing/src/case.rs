//! One product: a shape, operands, scales, strides, and every way to compute it.

use crate::oracle::{self, Affine, Operands};
use crate::{Output, Rng, bits, view, view_mut, workspace};
use std::fmt::{self, Debug};
use tritgemm::quant::QuantError;
use tritgemm::{
    Activation, GemmError, GroupSize, Linear, MatMut, MatRef, Options, PreparedActivations, Scales,
    TernaryMatrix, Workspace,
};

/// What a scale covers, by the numbers of the panel file: 1 the tensor, 2 a
/// row, else a group of so many.
pub const GRANULARITIES: [usize; 6] = [1, 2, 32, 64, 128, 256];

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
    /// Up to the largest float, so that sums overflow. int8 activations and
    /// scales are the extreme ones, and a bias may be no number.
    Huge,
    /// Any 32 bits.
    Bits,
}

pub const VALUES: [Values; 6] = [
    Values::Unit,
    Values::Wide,
    Values::Tiny,
    Values::Special,
    Values::Huge,
    Values::Bits,
];

#[derive(Clone, Copy, Debug)]
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

impl Shape {
    /// Dense operands, a scale a row, a bias and uniform values.
    pub const fn new(m: usize, k: usize, n: usize) -> Self {
        Self {
            m,
            k,
            n,
            gaps: [0, 0],
            granularity: 2,
            bias: true,
            values: Values::Unit,
            seed: 1,
        }
    }

    /// Multiply-adds of the product.
    pub const fn macs(&self) -> usize {
        self.m * self.k * self.n
    }

    /// Any shape, next to where a tile ends more often than not, and large enough
    /// to be shared among threads if `shared`.
    pub fn draw(rng: &mut Rng, shared: bool) -> Self {
        let [m, k, n] = draw_sizes(rng, shared);
        Self {
            gaps: [rng.below(9), rng.below(9)],
            granularity: GRANULARITIES[rng.below(GRANULARITIES.len())],
            bias: rng.below(2) == 0,
            values: VALUES[rng.below(VALUES.len())],
            seed: rng.bits(),
            ..Self::new(m, k, n)
        }
    }
}

/// M x K, as names of benchmarks have it.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.m, self.k)
    }
}

fn draw_sizes(rng: &mut Rng, shared: bool) -> [usize; 3] {
    if shared {
        let (k, n) = (200 + rng.below(1800), 1 + rng.below(130));
        // Products of less than 2^21 multiply-adds are not shared.
        let macs = (1 << 21) + rng.below(3 << 20);
        return [macs / k / n + 1, k, n];
    }
    const MACS: usize = 1 << 19;
    let k = match rng.below(40) {
        0 => 0,
        1 => rng.below(1 << 20),
        _ => near(rng, &[4, 12, 60, 64, 128, 240, 256], 2600),
    };
    let n = near(rng, &[1, 4, 8, 16, 32, 64], 140).min(MACS / k.max(1));
    let m = near(rng, &[64, 256], 700).min(MACS / k.max(1) / n.max(1));
    // A single row of one token is always affordable.
    if k > MACS { [1, k, 1] } else { [m, k, n] }
}

/// Up to `max`, often small, often next to a multiple of one of `units`.
fn near(rng: &mut Rng, units: &[usize], max: usize) -> usize {
    match rng.below(4) {
        0 => rng.below(20),
        1 => rng.below(max + 1),
        _ => {
            let unit = units[rng.below(units.len())];
            let multiple = unit * rng.below(max / unit + 1);
            (multiple + rng.below(5)).saturating_sub(2).min(max)
        }
    }
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
        Values::Huge => rng.unit() * f32::MAX,
        Values::Bits => f32::from_bits(rng.bits() as u32),
    }
}

/// A scale, which is finite.
fn scale(rng: &mut Rng, values: Values) -> f32 {
    if values == Values::Huge && rng.below(4) == 0 {
        return [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE / 4.0][rng.below(4)];
    }
    rng.unit() * f32::powi(2.0, rng.below(9) as i32 - 4)
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
        let scale = |r: &mut Rng| scale(r, shape.values);
        let scales = match shape.granularity {
            1 => Scales::per_tensor(scale(&mut rng)),
            2 => Scales::per_row(rng.vec(m, scale)),
            group => {
                let size = GroupSize::from_len(group).expect("a group size");
                // Half of the cases as files have them, each an f16, of up to 11 bits.
                let f16 = shape.seed.is_multiple_of(2) && shape.values != Values::Huge;
                let scale = |r: &mut Rng| match scale(r) {
                    value if f16 => (value * 128.0).round() / 128.0,
                    value => value,
                };
                Scales::per_group(size, rng.vec(m * k.div_ceil(group), scale))
            }
        };
        let bias = shape.bias.then(|| match shape.values {
            Values::Huge => rng.vec(m, |r| activation(r, Values::Special)),
            _ => rng.vec(m, scale),
        });
        let matrix =
            TernaryMatrix::from_trits(view(&trits, m, k), scales.clone()).expect("a matrix");
        let mut layer = Linear::new(&matrix).expect("a layer");
        if let Some(bias) = &bias {
            layer = layer.with_bias(bias.clone()).expect("a bias");
        }
        let x_i8 = rng.vec(n * k, |r| match shape.values {
            Values::Huge => [-128, 127][r.below(2)],
            _ => r.i8(),
        });
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

    pub fn output<T: Copy + PartialEq + Debug>(&self, canary: T) -> Output<T> {
        let Shape { m, n, gaps, .. } = self.shape;
        Output::new(n, m, m + gaps[1], canary)
    }

    /// Every expected result.
    pub fn expected(&self) -> Expected {
        let integers = oracle::integers(self.operands(&self.x_i8));
        let integers = integers
            .into_iter()
            .map(|v| v.try_into().expect("fits int32"));
        let float = self.affine(|a| oracle::canonical(self.operands(&self.x_f32), a));
        Expected {
            integers: integers.collect(),
            float: bits(&float),
            quantized: self.quantized(&self.x_f32),
        }
    }

    /// Bits of what comes of `x` quantised, or the token and the index of the first
    /// activation that is no number.
    pub fn quantized(&self, x: &[f32]) -> Result<Vec<u32>, (usize, usize)> {
        let Shape { k, n, .. } = self.shape;
        if let Some(at) = x.iter().position(|v| !v.is_finite()) {
            return Err((at / k, at % k));
        }
        let (mut q, mut token_scales) = (Vec::new(), Vec::new());
        for token in 0..n {
            let (values, scale) = oracle::quantize(&x[token * k..][..k]);
            q.extend(values);
            token_scales.push(scale);
        }
        let y = self.affine(|a| {
            oracle::scaled_integers(self.operands(&q), |token, _| token_scales[token], a)
        });
        Ok(bits(&y))
    }

    /// Scales for the tokens of the int8 activations.
    pub fn token_scales(&self) -> Vec<f32> {
        (0..self.shape.n).map(|i| 0.25 + i as f32).collect()
    }

    /// Bits of what comes of the int8 activations with [`Self::token_scales`].
    pub fn expected_int8(&self) -> Vec<u32> {
        let x = self.operands(&self.x_i8);
        let scales = self.token_scales();
        bits(&self.affine(|a| oracle::scaled_integers(x, |token, _| scales[token], a)))
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

    pub fn forward_int8(&self, ws: &mut Workspace) -> Vec<u32> {
        let x = self.strided(&self.x_f32, f32::NAN);
        self.floats(ws, |layer, y, ws| {
            layer
                .forward_int8(self.strided_view(&x), y, ws)
                .expect("fits");
        })
    }

    pub fn prepared_int8(&self, x: &PreparedActivations, ws: &mut Workspace) -> Vec<u32> {
        self.floats(ws, |layer, y, ws| {
            layer.forward_int8(x, y, ws).expect("fits");
        })
    }

    pub fn prepared_f32(&self, x: &PreparedActivations, ws: &mut Workspace) -> Vec<u32> {
        self.floats(ws, |layer, y, ws| {
            layer.forward_f32(x, y, ws).expect("fits");
        })
    }

    fn floats(
        &self,
        ws: &mut Workspace,
        run: impl FnOnce(&Linear, MatMut<'_, f32>, &mut Workspace),
    ) -> Vec<u32> {
        let mut y = self.output(-12345.678);
        run(&self.layer, y.view(), ws);
        bits(&y.take(&(&self.shape, ws.options())))
    }

    /// The three products computed as `options` say, against `expected`.
    pub fn check(&self, options: &Options, expected: &Expected) {
        // One workspace for all: what a product leaves must not show in the next.
        let ws = &mut workspace(options);
        let what = format!("{:?} {options:?}", self.shape);
        let (got, wanted) = (self.gemm_i8(ws), &expected.integers);
        assert_same("gemm_i8", &what, &got, wanted);
        assert_same("forward_f32", &what, &self.forward_f32(ws), &expected.float);
        self.check_quantized(&self.x_f32, f32::NAN, &expected.quantized, ws);
    }

    /// `x`, of any float type, quantised and multiplied: `expected`, or an error
    /// about the same activation and an output that was left alone.
    pub fn check_quantized<T: Activation>(
        &self,
        x: &[T],
        poison: T,
        expected: &Result<Vec<u32>, (usize, usize)>,
        ws: &mut Workspace,
    ) {
        let what = format!("{:?} {:?}", self.shape, ws.options());
        let x = self.strided(x, poison);
        let canary = -12345.678f32;
        let mut y = self.output(canary);
        let done = self.layer.forward_int8(self.strided_view(&x), y.view(), ws);
        let got = bits(&y.take(&what));
        match expected {
            Ok(wanted) => {
                assert_eq!(done, Ok(()), "{what}");
                assert_same("forward_int8", &what, &got, wanted);
            }
            Err((token, index)) => {
                let error = done.expect_err("an activation is no number");
                let GemmError::Quant(QuantError::Activation {
                    token: t, index: i, ..
                }) = error
                else {
                    panic!("{error}: {what}");
                };
                assert_eq!((t, i), (*token, *index), "{what}");
                let untouched = got.iter().all(|&v| v == canary.to_bits());
                assert!(untouched, "the output was written before an error: {what}");
            }
        }
    }

    /// Products of prepared activations, against `expected` and, for int8 ones,
    /// [`Self::expected_int8`].
    pub fn check_prepared(&self, options: &Options, expected: &Expected, int8_expected: &[u32]) {
        let ws = &mut workspace(options);
        let Shape { m, k, n, .. } = self.shape;
        let what = format!("{:?} {options:?}", self.shape);
        let group = self.layer.group();

        let strided = self.strided(&self.x_f32, f32::NAN);
        let x = self.strided_view(&strided);
        let float = self.layer.prepare_f32(x, ws).expect("prepared");
        let quantized = self.layer.prepare_int8(x, ws);
        assert_eq!(quantized.is_ok(), expected.quantized.is_ok(), "{what}");
        let strided = self.strided(&self.x_i8, 77);
        let x = self.strided_view(&strided);
        let scales = self.token_scales();
        let int8 = PreparedActivations::from_int8(x, scales.clone(), group, ws).expect("prepared");
        assert_eq!([float.tokens(), float.cols()], [n, k]);

        // Twice: a product must leave prepared activations as they were.
        for _ in 0..2 {
            let got = self.prepared_f32(&float, ws);
            assert_same("prepared f32", &what, &got, &expected.float);
            if let (Ok(x), Ok(wanted)) = (&quantized, &expected.quantized) {
                let got = self.prepared_int8(x, ws);
                assert_same("prepared, quantised", &what, &got, wanted);
            }
            let got = self.prepared_int8(&int8, ws);
            assert_same("prepared int8", &what, &got, int8_expected);
        }
        let raw = PreparedActivations::from_int8(x, scales, None, ws).expect("prepared");
        let mut y = vec![-1; n * m];
        let panels = self.layer.panels();
        panels
            .gemm_i8(&raw, view_mut(&mut y, n, m), ws)
            .expect("fits");
        assert_same("gemm_i8_prepared", &what, &y, &expected.integers);
    }
}

pub struct Expected {
    pub integers: Vec<i32>,
    /// Bits of f32.
    pub float: Vec<u32>,
    /// As [`Case::quantized`].
    pub quantized: Result<Vec<u32>, (usize, usize)>,
}

/// Equal, or a message about the first difference instead of two long lists.
pub fn assert_same<T: PartialEq + Debug>(path: &str, what: &str, got: &[T], want: &[T]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_shapes_reach_every_kind() {
        let rng = &mut Rng::new(1);
        let shapes: Vec<Shape> = (0..4000).map(|_| Shape::draw(rng, false)).collect();
        let any = |what: &str, is: &dyn Fn(&Shape) -> bool| {
            assert!(shapes.iter().any(is), "{what}");
        };
        any("no rows", &|s| s.m == 0);
        any("no columns", &|s| s.k == 0);
        any("no tokens", &|s| s.n == 0);
        any("a long K with weights", &|s| {
            s.k > 1 << 19 && s.m > 0 && s.n > 0
        });
        any("multiples", &|s| {
            s.m > 0 && s.m % 64 == 0 && s.k > 0 && s.k % 60 == 0
        });
        any("tails", &|s| s.m % 64 == 63 && s.k % 4 == 1);
        assert!(shapes.iter().all(|s| s.m * s.k * s.n <= 1 << 20));
        for _ in 0..200 {
            let Shape { m, k, n, .. } = Shape::draw(rng, true);
            assert!((1 << 21..8 << 20).contains(&(m * k * n)), "{m} {k} {n}");
        }
    }
}
