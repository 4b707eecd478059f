//! The gradient of a layer's input.

use crate::BitLinear;
use crate::op::{Float, NAME, Work, not_on, on_rows};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Error, Layout, MetalStorage, Result, Shape};
use std::sync::{Arc, PoisonError};
use tritgemm::{Granularity, Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};

/// The ternary weights of a layer as `[K, M]`, in parts along K that share
/// their scales.
#[derive(Debug)]
pub(crate) struct Transposed {
    /// First column of K and the weights from there on, without scales.
    parts: Vec<(usize, Linear)>,
    /// The scales of each part, `[M]`.
    scales: Vec<Vec<f32>>,
}

impl Transposed {
    fn new(layer: &Linear) -> Result<Self> {
        let (rows, cols) = (layer.out_features(), layer.in_features());
        let packed = layer.panels().to_packed();
        let matrix = TernaryMatrix::from_packed(packed, rows, cols, layer.scales().clone());
        let matrix = matrix.map_err(Error::wrap)?;
        let trits = transpose(&matrix.to_trits().map_err(Error::wrap)?, rows, cols);
        let trits = MatRef::new(&trits, cols, rows).map_err(Error::wrap)?;
        let whole = TernaryMatrix::from_trits(trits, Scales::per_tensor(1.0));
        let whole = Linear::new(&whole.map_err(Error::wrap)?).map_err(Error::wrap)?;
        let width = match matrix.scales().granularity() {
            // A multiple of 64, where panels can be cut.
            Granularity::PerGroup(size) => size.len(),
            _ => cols.max(1),
        };
        let starts = (0..cols).step_by(width);
        let part = |start: usize| {
            let part = whole.slice_rows(start..cols.min(start + width));
            Ok((start, part.map_err(Error::wrap)?))
        };
        Ok(Self {
            parts: starts.clone().map(part).collect::<Result<_>>()?,
            scales: starts
                .map(|start| (0..rows).map(|row| matrix.scale(row, start)).collect())
                .collect(),
        })
    }

    /// That of a layer, made by the first call.
    fn shared(layer: &BitLinear) -> Result<Arc<Self>> {
        let mut made = layer
            .packed
            .transposed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made {
            return Ok(made.clone());
        }
        let new = Arc::new(Self::new(layer.linear())?);
        *made = Some(new.clone());
        Ok(new)
    }
}

/// `[rows, cols]` to `[cols, rows]`, in blocks that stay in the L1 cache.
fn transpose(trits: &[i8], rows: usize, cols: usize) -> Vec<i8> {
    const BLOCK: usize = 64;
    let mut out = vec![0; trits.len()];
    for row in (0..rows).step_by(BLOCK) {
        for col in (0..cols).step_by(BLOCK) {
            for r in row..rows.min(row + BLOCK) {
                for c in col..cols.min(col + BLOCK) {
                    out[c * rows + r] = trits[r * cols + c];
                }
            }
        }
    }
    out
}

/// `grad_x[n][k] = sum_m grad_y[n][m] scale[m] w[m][k]`, as an op on `grad_y`:
/// in f32 on the kernels, whatever the mode of the layer.
pub(crate) struct InputGradient(pub(crate) BitLinear);

impl Work for (&BitLinear, &Transposed) {
    fn run<T: Float>(self, grad_y: MatRef<'_, T>, mut grad_x: MatMut<'_, f32>) -> Result<()> {
        let (layer, transposed) = self;
        let (tokens, rows, cols) = (grad_y.rows(), grad_y.cols(), grad_x.cols());
        let macs = [tokens, rows, cols];
        let macs = macs.into_iter().fold(1, usize::saturating_mul);
        layer.run(macs, |ws: &mut Workspace| {
            let mut wide = Vec::new();
            let grad_y = T::widened(grad_y, &mut wide)?;
            let mut scaled = vec![0.0; tokens * rows];
            let mut part = Vec::new();
            for ((start, weights), scales) in transposed.parts.iter().zip(&transposed.scales) {
                for token in 0..tokens {
                    let out = &mut scaled[token * rows..][..rows];
                    for ((out, grad), scale) in out.iter_mut().zip(grad_y.row(token)).zip(scales) {
                        *out = grad * scale;
                    }
                }
                let width = weights.out_features();
                part.resize(tokens * width, 0.0);
                let x = MatRef::new(&scaled, tokens, rows).map_err(Error::wrap)?;
                let y = MatMut::new(&mut part, tokens, width).map_err(Error::wrap)?;
                weights.forward_f32(x, y, ws).map_err(Error::wrap)?;
                for token in 0..tokens {
                    grad_x.row_mut(token)[*start..][..width]
                        .copy_from_slice(&part[token * width..][..width]);
                }
            }
            Ok(())
        })
    }
}

impl CustomOp1 for InputGradient {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = [self.0.out_features(), self.0.in_features()];
        let transposed = Transposed::shared(&self.0)?;
        on_rows((storage, layout), shape, (&self.0, &*transposed))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Err(not_on("CUDA"))
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        Err(not_on("Metal"))
    }
}
