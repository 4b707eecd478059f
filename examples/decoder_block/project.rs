//! The projections of a block: on the ternary kernels, dense, and both compared.

use crate::Result;
use crate::config::Config;
use crate::dense::{Strided, product};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;
use tritgemm::quant::quantize_activations;
use tritgemm::{Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};

/// Which projection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// Something that computes projections of tokens: `x` is `[tokens][K]`, every
/// output `[tokens][M]` of its site.
pub trait Project {
    /// The projections of one input at one or more sites.
    fn project(
        &mut self,
        x: &[f32],
        tokens: usize,
        outputs: &mut [(Site, &mut Vec<f32>)],
    ) -> Result<()>;
}

/// Random ternary weights for every site, about a third of each value, scaled
/// per tensor so that outputs are as large as inputs.
pub fn random_weights(config: &Config, seed: u64) -> Result<Vec<TernaryMatrix>> {
    let shapes: Vec<[usize; 2]> = config.shapes().to_vec();
    let matrices = shapes.par_iter().enumerate().map(|(i, &[rows, cols])| {
        let mut rng = StdRng::seed_from_u64(seed + i as u64);
        let trits: Vec<i8> = (0..rows * cols).map(|_| rng.random_range(-1..=1)).collect();
        let scale = (1.5 / cols as f32).sqrt();
        let trits = MatRef::new(&trits, rows, cols)?;
        Ok(TernaryMatrix::from_trits(trits, Scales::per_tensor(scale))?)
    });
    let matrices: std::result::Result<Vec<_>, tritgemm::Error> = matrices.collect();
    Ok(matrices?)
}

/// W1.58A8 on the kernels.
pub struct Ternary {
    layers: Vec<Linear>,
    ws: Workspace,
}

impl Ternary {
    pub fn new(weights: &[TernaryMatrix]) -> Result<Self> {
        let layers: std::result::Result<Vec<_>, _> = weights.iter().map(Linear::new).collect();
        Ok(Self {
            layers: layers?,
            ws: Workspace::new(),
        })
    }
}

impl Project for Ternary {
    fn project(
        &mut self,
        x: &[f32],
        tokens: usize,
        outputs: &mut [(Site, &mut Vec<f32>)],
    ) -> Result<()> {
        let x = MatRef::new(x, tokens, x.len() / tokens)?;
        let layers: Vec<&Linear> = outputs
            .iter()
            .map(|(site, _)| &self.layers[*site as usize])
            .collect();
        let outputs = layers.iter().zip(outputs);
        let outputs = outputs.map(|(layer, (_, y))| MatMut::new(y, tokens, layer.out_features()));
        let mut outputs = outputs.collect::<std::result::Result<Vec<_>, _>>()?;
        // Quantised once, and all of them in one loop.
        Linear::forward_many_int8(&layers, x, &mut outputs, &mut self.ws)?;
        Ok(())
    }
}

/// Dense f32 products with the same weights.
pub struct Dense {
    /// `[M][K]` of every site.
    weights: Vec<Vec<f32>>,
    rows: Vec<usize>,
    /// Whether inputs are rounded to the values that int8 activations have.
    quantized_inputs: bool,
}

impl Dense {
    pub fn new(weights: &[TernaryMatrix], quantized_inputs: bool) -> Result<Self> {
        let dense: std::result::Result<_, _> = weights.iter().map(TernaryMatrix::to_f32).collect();
        Ok(Self {
            weights: dense?,
            rows: weights.iter().map(TernaryMatrix::rows).collect(),
            quantized_inputs,
        })
    }
}

/// `x` as int8 activations restore it.
fn restored(x: &[f32], tokens: usize) -> Result<Vec<f32>> {
    let features = x.len() / tokens;
    let (q, scales) = quantize_activations(MatRef::new(x, tokens, features)?)?;
    let rows = q.chunks(features).zip(scales);
    Ok(rows
        .flat_map(|(q, scale)| q.iter().map(move |&q| f32::from(q) * scale))
        .collect())
}

impl Project for Dense {
    fn project(
        &mut self,
        x: &[f32],
        tokens: usize,
        outputs: &mut [(Site, &mut Vec<f32>)],
    ) -> Result<()> {
        let restored = match self.quantized_inputs {
            true => Some(restored(x, tokens)?),
            false => None,
        };
        let x = restored.as_deref().unwrap_or(x);
        let cols = x.len() / tokens;
        for (site, y) in outputs {
            let (weights, rows) = (&self.weights[*site as usize], self.rows[*site as usize]);
            product(
                [tokens, rows, cols],
                Strided::rows(x, cols),
                Strided::transposed(weights, cols),
                (y, rows),
                true,
            );
        }
        Ok(())
    }
}

/// The ternary projections, each compared with the dense one of the same input.
pub struct Checked<'a> {
    pub ternary: &'a mut Ternary,
    /// With quantised inputs.
    pub dense: &'a mut Dense,
    /// The largest difference so far, in units of the bound.
    pub worst: f32,
}

impl Project for Checked<'_> {
    /// Fails where a value is further from the dense one than rounding explains.
    ///
    /// The ternary value is the exact sum, rounded three times (its conversion is
    /// exact). The dense one is a sum of K products of restored activations, each
    /// rounded once before: both are within `(K + 4) u / (1 - (K + 4) u)` of the
    /// exact value, times the sum of magnitudes.
    fn project(
        &mut self,
        x: &[f32],
        tokens: usize,
        outputs: &mut [(Site, &mut Vec<f32>)],
    ) -> Result<()> {
        self.ternary.project(x, tokens, outputs)?;
        let cols = x.len() / tokens;
        let restored = restored(x, tokens)?;
        let nu = (cols + 4) as f32 * f32::EPSILON / 2.0;
        for (site, y) in outputs {
            let layer = &self.ternary.layers[*site as usize];
            // The weights' magnitudes are all the scale, or zero.
            let scale = layer.scales()?.values()[0];
            let mut dense = vec![0.0; y.len()];
            self.dense.project(x, tokens, &mut [(*site, &mut dense)])?;
            let rows = layer.out_features();
            let tokens = y
                .chunks(rows)
                .zip(dense.chunks(rows))
                .zip(restored.chunks(cols));
            for ((y, dense), x) in tokens {
                let magnitude = scale * x.iter().map(|x| x.abs()).sum::<f32>();
                let bound = 2.0 * nu / (1.0 - nu) * magnitude;
                let worst = y.iter().zip(dense).map(|(y, d)| (y - d).abs());
                let worst = worst.fold(0.0, |a: f32, b| if b > a || b.is_nan() { b } else { a });
                if worst.is_nan() || worst > bound {
                    return Err(format!("{site:?}: {worst} off, rounding explains {bound}").into());
                }
                self.worst = self.worst.max(worst / bound);
            }
        }
        Ok(())
    }
}
