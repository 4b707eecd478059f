//! The gradients of a layer.

use super::BitLinear;
use crate::isa::Backend;
use crate::kernels::auto::training;
use crate::kernels::call::decode_row_i8;
use crate::kernels::environment::in_default;
use crate::kernels::memory::dense;
use crate::linear::Linear;
use crate::matrix::TernaryMatrix;
use crate::memory;
use crate::mismatch::{check_length, check_shape};
use crate::nn::error::LayerError;
use crate::panels::Panels;
use crate::quant::QuantError;
use crate::scales::Scales;
use crate::threads::{Threads, all_rows, each_row_mut};
use crate::view::{MatMut, MatRef};
use crate::workspace::Workspace;

/// Where [`BitLinear::backward`] writes gradients; what is `None` is not
/// computed.
#[derive(Debug, Default)]
pub struct BitLinearGrads<'a> {
    /// The gradient of the input, `[N][K]`.
    pub x: Option<MatMut<'a, f32>>,
    /// The gradient of the latent weights, `[M][K]`.
    pub weight: Option<&'a mut [f32]>,
    /// The gradient of the bias, `[M]`.
    pub bias: Option<&'a mut [f32]>,
}

impl BitLinear {
    /// The gradients at input `x` `[N][K]` from that of the output, `grad_y`
    /// `[N][M]`; they overwrite what `grads` points to.
    ///
    /// - `grad_x[n][k] = sum_m grad_y[n][m] alpha[m] q[m][k]`: a product with
    ///   the transposed ternary weights, on the kernels like the forward pass.
    /// - `grad_weight[m][k] = sum_n grad_y[n][m] x[n][k]` where
    ///   `|w[m][k] / alpha[m]| < 1`, else 0; with 2:4 sparsity also 0 where the
    ///   trit is 0. Alpha counts as a constant. This is the straight-through
    ///   gradient ([`ste`](crate::nn::ste)); its product is dense, by the `gemm`
    ///   crate, and as the one result here it is not bit for bit the same on
    ///   every machine.
    /// - `grad_bias[m] = sum_n grad_y[n][m]`, in f64 up to the last rounding.
    ///
    /// ```
    /// use tritgemm::nn::{BitLinear, BitLinearGrads};
    /// use tritgemm::{MatMut, MatRef, Workspace};
    ///
    /// let mut layer = BitLinear::new(vec![0.75, -0.25, -1.0, 0.5], 2, 2)?;
    /// let (x, grad_y) = ([1.0, 2.0], [1.0, 10.0]);
    /// let (mut grad_x, mut grad_weight) = ([0.0; 2], [0.0; 4]);
    /// layer.backward(
    ///     MatRef::new(&x, 1, 2)?,
    ///     MatRef::new(&grad_y, 1, 2)?,
    ///     BitLinearGrads {
    ///         x: Some(MatMut::new(&mut grad_x, 1, 2)?),
    ///         weight: Some(&mut grad_weight),
    ///         bias: None,
    ///     },
    ///     &mut Workspace::new(),
    /// )?;
    /// // Alphas 0.5 and 0.75, trits 1 0 and -1 1.
    /// assert_eq!(grad_x, [0.5 - 7.5, 7.5]);
    /// assert_eq!(grad_weight, [0.0, 2.0, 0.0, 20.0]); // 0.75 and -1 exceed their alphas
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If a shape does not fit, a latent weight is NaN or infinite, or an
    /// instruction set that was asked for is not available.
    pub fn backward(
        &mut self,
        x: MatRef<'_, f32>,
        grad_y: MatRef<'_, f32>,
        grads: BitLinearGrads<'_>,
        ws: &mut Workspace,
    ) -> Result<(), LayerError> {
        in_default(|| {
            let (tokens, rows, cols) = (grad_y.rows(), self.rows, self.cols);
            check_shape("grad_y", [grad_y.rows(), grad_y.cols()], [tokens, rows])?;
            check_shape("x", [x.rows(), x.cols()], [tokens, cols])?;
            if let Some(grad) = &grads.x {
                check_shape("grads.x", [grad.rows(), grad.cols()], [tokens, cols])?;
            }
            if let Some(grad) = &grads.weight {
                check_length("grads.weight", grad.len(), self.weight.len())?;
            }
            if let Some(grad) = &grads.bias {
                check_length("grads.bias", grad.len(), rows)?;
            }
            if let Some(grad) = grads.x {
                self.input_gradient(grad_y, grad, ws)?;
            }
            if let Some(grad) = grads.weight {
                self.weight_gradient(x, grad_y, grad, ws)?;
            }
            if let Some(grad) = grads.bias {
                bias_gradient(grad_y, grad);
            }
            Ok(())
        })
    }

    fn input_gradient(
        &mut self,
        grad_y: MatRef<'_, f32>,
        grad_x: MatMut<'_, f32>,
        ws: &mut Workspace,
    ) -> Result<(), LayerError> {
        let (tokens, rows) = (grad_y.rows(), self.rows);
        let len = tokens.checked_mul(rows).ok_or(QuantError::TooLarge {
            rows: tokens,
            cols: rows,
        })?;
        let mut scaled = core::mem::take(&mut self.scaled);
        memory::resize(&mut scaled, len, 0.0)?;
        let packed = self.packed_now()?;
        let alphas = packed.matrix.scales().values();
        each_row_mut(&mut scaled, rows, |token, scaled| {
            training::scale_gradient(grad_y.row(token), alphas, scaled);
        });
        let linear = match packed.transposed.take() {
            Some(linear) => linear,
            None => transposed(&packed.matrix)?,
        };
        let linear = packed.transposed.insert(linear);
        let view = MatRef::new(&scaled, tokens, rows).expect("sized for the shape");
        linear.forward_f32(view, grad_x, ws)?;
        self.scaled = scaled;
        Ok(())
    }

    fn weight_gradient(
        &mut self,
        x: MatRef<'_, f32>,
        grad_y: MatRef<'_, f32>,
        grad_weight: &mut [f32],
        ws: &Workspace,
    ) -> Result<(), LayerError> {
        let (rows, cols, sparse) = (self.rows, self.cols, self.sparse);
        // The dense product knows no other pool.
        let workers = match ws.options().workers() {
            threads @ Threads::Rayon => threads.workers(),
            _ => 1,
        };
        dense::transposed_product(
            [x.rows(), rows, cols],
            (grad_y.data(), x.data()),
            [grad_y.stride(), x.stride()],
            grad_weight,
            workers,
        );
        let backend = Backend::active()?;
        self.packed_now()?;
        let Some(packed) = &self.packed else {
            return Ok(());
        };
        let alphas = packed.matrix.scales().values();
        let row_bytes = cols.div_ceil(4);
        let bytes = packed.matrix.packed();
        let gate = |row: usize, weights: &[f32], grad: &mut [f32], (): &mut ()| {
            const SPAN: usize = 2048;
            let packed = &bytes[row * row_bytes..][..row_bytes];
            let chunks = weights.chunks(SPAN).zip(grad.chunks_mut(SPAN));
            for ((weights, grad), packed) in chunks.zip(packed.chunks(SPAN / 4)) {
                let mut trits = [0; SPAN];
                let mask = sparse.then(|| {
                    let trits = &mut trits[..weights.len()];
                    decode_row_i8(backend.runnable(), packed, trits);
                    &*trits
                });
                training::gate_gradient(weights, alphas[row], mask, grad);
            }
            true
        };
        all_rows(
            (&self.weight, cols),
            (grad_weight, cols),
            &mut vec![(); rows],
            gate,
        );
        Ok(())
    }
}

/// The transposed matrix as a layer, its scales all 1: alpha has gone into the
/// gradient.
fn transposed(matrix: &TernaryMatrix) -> Result<Linear, LayerError> {
    let panels = Panels::pack_transposed(matrix)?;
    Ok(Linear::from_parts(panels, Scales::per_tensor(1.0), None)?)
}

fn bias_gradient(grad_y: MatRef<'_, f32>, grad_bias: &mut [f32]) {
    const SPAN: usize = 256;
    for (c, grad_bias) in grad_bias.chunks_mut(SPAN).enumerate() {
        let mut sums = [0.0; SPAN];
        let sums = &mut sums[..grad_bias.len()];
        for token in 0..grad_y.rows() {
            training::add_to_sums(&grad_y.row(token)[c * SPAN..], sums);
        }
        for (grad_bias, &sum) in grad_bias.iter_mut().zip(&*sums) {
            *grad_bias = sum as f32;
        }
    }
}
