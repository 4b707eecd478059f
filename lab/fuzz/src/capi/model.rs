//! What matrices, panels, layers, panel files and activations stand for.

use super::{DISTINCT, Step};
use crate::memory::Memory;
use std::ops::Range;
use std::rc::Rc;
use tritgemm_testing::oracle::{self, Affine, Operands};

/// What matrices, panels, layers and panel files stand for.
#[derive(Clone)]
pub struct Weights {
    pub m: usize,
    pub k: usize,
    pub trits: Rc<[i8]>,
    pub granularity: i32,
    pub scales: Rc<[f32]>,
    pub bias: Option<Rc<[f32]>>,
    /// Memory that they are in.
    pub lent: Option<Rc<Memory<u8>>>,
}

impl Weights {
    pub fn group(&self) -> Option<usize> {
        (self.granularity > 2).then_some(self.granularity as usize)
    }

    pub fn slice(&self, rows: Range<usize>) -> Self {
        let cut =
            |values: &[f32], width: usize| values[rows.start * width..rows.end * width].into();
        Self {
            m: rows.len(),
            trits: self.trits[rows.start * self.k..rows.end * self.k].into(),
            scales: match self.granularity {
                1 => self.scales.clone(),
                2 => cut(&self.scales, 1),
                group => cut(&self.scales, self.k.div_ceil(group as usize)),
            },
            bias: self.bias.as_ref().map(|bias| cut(bias, 1)),
            ..self.clone()
        }
    }

    pub fn operands<'a, X>(&'a self, x: &'a [X], n: usize) -> Operands<'a, X> {
        let (trits, m, k) = (&self.trits, self.m, self.k);
        Operands { trits, x, m, n, k }
    }

    pub fn sums(&self, x: &Activations) -> Vec<i32> {
        let sums = oracle::integers(self.operands(&x.values, x.distinct));
        let sums: Vec<i32> = sums.into_iter().map(|sum| sum as i32).collect();
        x.repeat(&sums, self.m)
    }

    pub fn outputs(&self, x: &Activations) -> Vec<f32> {
        // Sums are cut where a group of either kind ends.
        let groups = [self.group(), x.x_group].into_iter().flatten();
        let affine = Affine {
            scale: &|row, col| match self.granularity {
                1 => self.scales[0],
                2 => self.scales[row],
                group => self.scales[row * self.k.div_ceil(group as usize) + col / group as usize],
            },
            group: groups.min(),
            bias: self.bias.as_deref(),
        };
        let y = match &x.floats {
            Some(floats) => oracle::canonical(self.operands(floats, x.distinct), &affine),
            None => {
                let operands = self.operands(&x.values, x.distinct);
                let of_token = |token, col| x.scale(token, col);
                oracle::scaled_integers(operands, of_token, &affine)
            }
        };
        x.repeat(&y, self.m)
    }
}

/// Activations: `distinct` tokens over and over, `n` in all, as floats or as int8
/// values with a scale a token or, if there are groups, one for each.
#[derive(Clone, Default)]
pub struct Activations {
    pub n: usize,
    pub k: usize,
    pub distinct: usize,
    pub values: Vec<i8>,
    pub scales: Vec<f32>,
    pub floats: Option<Vec<f32>>,
    /// Of the weights.
    pub group: Option<usize>,
    /// Of their own scales.
    pub x_group: Option<usize>,
}

impl Activations {
    pub fn new(n: usize, k: usize) -> Self {
        let distinct = n.min(DISTINCT);
        Self {
            n,
            k,
            distinct,
            ..Self::default()
        }
    }

    /// The scale of a value.
    fn scale(&self, token: usize, col: usize) -> f32 {
        let group = self.x_group.unwrap_or(self.k.max(1));
        self.scales[token * self.k.div_ceil(group) + col / group]
    }

    /// Floats, to be used as they are or to be quantised; whether they can be.
    pub fn floats(
        step: &Step,
        [n, k]: [usize; 2],
        (quantized, x_group): (bool, Option<usize>),
    ) -> (Vec<f32>, Self, bool) {
        let mut model = Self::new(n, k);
        let x = step.fill.floats(model.distinct * k, step.style);
        if !quantized {
            model.floats = Some(x.clone());
            return (x, model, true);
        }
        for token in 0..model.distinct {
            for part in x[token * k..][..k].chunks(x_group.unwrap_or(k.max(1))) {
                let (values, scale) = oracle::quantize(part);
                model.values.extend(values);
                model.scales.push(scale);
            }
        }
        model.x_group = x_group;
        let finite = x.iter().all(|v| v.is_finite());
        (x, model, finite)
    }

    /// All tokens' rows of `cols` values out of those of the distinct ones.
    pub fn repeat<T: Copy>(&self, rows: &[T], cols: usize) -> Vec<T> {
        let token = |n: usize| &rows[n % DISTINCT * cols..][..cols];
        (0..self.n).flat_map(token).copied().collect()
    }
}
