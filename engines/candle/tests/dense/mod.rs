//! candle's dense results and how far rounding may part the two.

use candle_core::{DType, Device, Result, Tensor};
use tritgemm::TernaryMatrix;
use tritgemm_candle::BitLinear;

/// The ternary weights times their scales, `[M, K]`.
pub fn weights(layer: &BitLinear) -> Result<Tensor> {
    let linear = layer.linear();
    let (rows, cols) = (linear.out_features(), linear.in_features());
    let packed = linear.panels().to_packed();
    let matrix = TernaryMatrix::from_packed(packed, rows, cols, linear.scales().expect("memory"));
    let weights = matrix.and_then(|matrix| matrix.to_f32());
    let weights = weights.map_err(candle_core::Error::wrap)?;
    Tensor::from_vec(weights, (rows, cols), &Device::Cpu)
}

fn bias(layer: &BitLinear) -> Result<Tensor> {
    let rows = layer.out_features();
    match layer.linear().bias() {
        Some(bias) => Tensor::from_slice(bias, rows, &Device::Cpu),
        None => Tensor::zeros(rows, DType::F32, &Device::Cpu),
    }
}

/// `x w^T + b` by candle's own product.
fn product(x: &Tensor, weights: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (rows, cols) = weights.dims2()?;
    let dims = x.dims();
    let tokens = dims[..dims.len() - 1].iter().product::<usize>();
    let y = x
        .reshape((tokens, cols))?
        .matmul(&weights.t()?)?
        .broadcast_add(bias)?;
    y.reshape([&dims[..dims.len() - 1], &[rows]].concat())
}

/// What candle computes with the dense weights.
pub fn dense(layer: &BitLinear, x: &Tensor) -> Result<Tensor> {
    product(x, &weights(layer)?, &bias(layer)?)
}

/// How many units of the sum of magnitudes two sums of `terms` products may be
/// apart: each is within `(n + 2) u / (1 - (n + 2) u)` of the exact one, for n
/// terms, its scale and its bias (Higham, "Accuracy and Stability of Numerical
/// Algorithms", section 3.1), and the magnitudes are themselves such a sum.
pub fn rounding(terms: usize) -> f64 {
    let nu = (terms + 2) as f64 * f64::from(f32::EPSILON) / 2.0;
    let gamma = nu / (1.0 - nu);
    2.0 * gamma / (1.0 - gamma)
}

/// The most that a layer's f32 output may differ from [`dense`].
pub fn bound(layer: &BitLinear, x: &Tensor) -> Result<Tensor> {
    let magnitude = product(&x.abs()?, &weights(layer)?.abs()?, &bias(layer)?.abs()?)?;
    magnitude * rounding(layer.in_features())
}
