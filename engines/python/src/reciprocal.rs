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
        // Magnitudes are ordered as their bits are, NaN last: integers, which compilers know
        // how to compare many at a time.
        let bits = x.iter().map(|&value| value.into().abs().to_bits() as i32);
        let absmax = f32::from_bits(bits.max().unwrap_or(0) as u32);
        if !absmax.is_finite() {
            return Err(first_non_finite(token, x));
        }
        let factor = absmax.max(MIN_ABSMAX).recip() * 127.0;
        for (to, &value) in q.iter_mut().zip(x) {
            // No more than 127 away from 0 once rounded: the integer is the lowest byte.
            *to = (value.into() * factor + ROUND).to_bits() as i8;
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
