//! The gradient of a layer's input.

use crate::float::{self, Float, Work, on_tokens};
use crate::settings::{Settings, macs};
use candle_core::{Device, Error, Result, Tensor};
use std::sync::{Arc, Mutex, PoisonError};
use tritgemm::{Granularity, Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};

/// What the gradients of one layer share, made when first needed.
#[derive(Debug, Default)]
pub(crate) struct Gradient(Mutex<Option<Arc<Transposed>>>);

impl Gradient {
    /// `grad_x[n][k] = sum_m grad_y[n][m] scale[m] w[m][k]`, in f32 on the
    /// kernels, whatever the mode of the layer, and rounded to the type of
    /// `grad_y` `[.., M]`.
    pub(crate) fn of_input(
        &self,
        layer: &Linear,
        settings: Settings,
        grad_y: &Tensor,
    ) -> Result<Tensor> {
        let transposed = &*self.transposed(layer)?;
        let shape = float::with_last(grad_y, layer.in_features());
        let product = InputGradient {
            transposed,
            settings,
            cols: layer.in_features(),
        };
        on_tokens(grad_y, product)?.reshape(shape)
    }

    fn transposed(&self, layer: &Linear) -> Result<Arc<Transposed>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made {
            return Ok(made.clone());
        }
        let new = Arc::new(Transposed::new(layer)?);
        *made = Some(new.clone());
        Ok(new)
    }
}

/// The ternary weights of a layer as `[K, M]`, in parts along K that share
/// their scales.
#[derive(Debug)]
struct Transposed {
    /// First column of K and the weights from there on, without scales.
    parts: Vec<(usize, Linear)>,
    /// The scales of each part, `[M]`.
    scales: Vec<Vec<f32>>,
}

impl Transposed {
    fn new(layer: &Linear) -> Result<Self> {
        if layer.rotation().is_some() {
            return Err(Error::Msg(
                "a layer that rotates its input has no gradient here".into(),
            ));
        }
        let (rows, cols) = (layer.out_features(), layer.in_features());
        let packed = layer.panels().to_packed();
        let scales = layer.scales().map_err(Error::wrap)?;
        let matrix = TernaryMatrix::from_packed(packed, rows, cols, scales);
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

/// The gradient `[tokens, cols]` of an input.
struct InputGradient<'a> {
    transposed: &'a Transposed,
    settings: Settings,
    cols: usize,
}

impl Work for InputGradient<'_> {
    type Output = Tensor;

    fn run<T: Float>(self, grad_y: MatRef<'_, T>) -> Result<Tensor> {
        let (tokens, rows, cols) = (grad_y.rows(), grad_y.cols(), self.cols);
        let mut grad_x = float::output::<T>(tokens, cols)?;
        let multiply = |ws: &mut Workspace| -> Result<()> {
            let mut wide = Vec::new();
            let grad_y = T::widened(grad_y, &mut wide)?;
            let mut scaled = vec![0.0; tokens * rows];
            let Transposed { parts, scales } = self.transposed;
            for ((start, weights), scales) in parts.iter().zip(scales) {
                for token in 0..tokens {
                    let out = &mut scaled[token * rows..][..rows];
                    for ((out, grad), scale) in out.iter_mut().zip(grad_y.row(token)).zip(scales) {
                        *out = grad * scale;
                    }
                }
                let x = MatRef::new(&scaled, tokens, rows).map_err(Error::wrap)?;
                let part = grad_x.get_mut(*start..).unwrap_or_default();
                let part = MatMut::with_stride(part, tokens, weights.out_features(), cols);
                let part = part.map_err(Error::wrap)?;
                weights.forward_f32(x, part, ws).map_err(Error::wrap)?;
            }
            Ok(())
        };
        self.settings.run(macs([tokens, rows, cols]), multiply)?;
        Tensor::from_vec(grad_x, (tokens, cols), &Device::Cpu)
    }
}
