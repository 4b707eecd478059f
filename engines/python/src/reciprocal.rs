//! int8 activations with the scales that torch computes.
//!
//! `127 / absmax` is `absmax.reciprocal() * 127` to torch, with two roundings instead of
//! one. The scale may be one ulp away from ours then, and a value at a tie may round the
//! other way.

use tritgemm::quant::QuantError;
use tritgemm::{
    Activation, GemmError, GroupSize, Linear, MatRef, Output, PreparedActivations, Workspace,
};

/// Below this, max |x| counts as this.
const MIN_ABSMAX: f32 = 1e-5;

/// 1.5 * 2^23: adding it rounds a small f32 to an integer, half to even.
const ROUND: f32 = 12_582_912.0;

/// Quantises `x` [N, K] into `q` [N, K] and `scales` [N], the factors that restore it.
///
/// # Errors
/// If a value is NaN or infinite.
pub fn quantize<T: Activation + Into<f32>>(
    x: MatRef<'_, T>,
    q: &mut [i8],
    scales: &mut [f32],
) -> Result<(), QuantError> {
    let cols = x.cols();
    for (token, scale) in scales.iter_mut().enumerate() {
        let (x, q) = (x.row(token), &mut q[token * cols..][..cols]);
        let (mut absmax, mut finite) = (MIN_ABSMAX, true);
        for &value in x {
            let size = value.into().abs();
            finite &= size < f32::INFINITY;
            absmax = if size > absmax { size } else { absmax };
        }
        if !finite {
            return Err(first_non_finite(token, x));
        }
        let factor = absmax.recip() * 127.0;
        for (to, &value) in q.iter_mut().zip(x) {
            // Clamped first, which changes nothing: the bounds are integers.
            let value = (value.into() * factor).clamp(-128.0, 127.0);
            *to = ((value + ROUND) - ROUND) as i8;
        }
        *scale = factor.recip();
    }
    Ok(())
}

fn first_non_finite<T: Copy + Into<f32>>(token: usize, x: &[T]) -> QuantError {
    let mut values = x.iter().map(|&value| value.into()).enumerate();
    let (index, value) = values.find(|(_, v)| !v.is_finite()).unwrap_or_default();
    QuantError::Activation {
        token,
        index,
        value,
    }
}

/// The int8 pass of layers on what [`quantize`] makes of `x`.
///
/// # Errors
/// Those of [`quantize`] and of the pass.
pub fn forward<T: Activation + Into<f32>, O: Output>(
    layers: &[&Linear],
    x: MatRef<'_, T>,
    group: Option<GroupSize>,
    ys: &mut [O],
    ws: &mut Workspace,
) -> Result<(), GemmError> {
    // As long as the activations vouch for.
    let (mut q, mut scales) = (vec![0; x.rows() * x.cols()], vec![0.0; x.rows()]);
    quantize(x, &mut q, &mut scales)?;
    let q = MatRef::with_stride(&q, x.rows(), x.cols(), x.cols());
    let q = q.map_err(|_| QuantError::TooLarge {
        rows: x.rows(),
        cols: x.cols(),
    })?;
    let x = PreparedActivations::from_int8(q, scales, group, ws)?;
    Linear::forward_many_int8(layers, &x, ys, ws)
}
