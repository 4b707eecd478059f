//! Layers, and how outputs are compared.

use candle_core::{DType, Device, Result, Tensor};
use tritgemm::Granularity;
use tritgemm_candle::BitLinear;

pub fn random(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

/// A layer of random weights, and of a random bias if asked for.
pub fn layer(rows: usize, cols: usize, granularity: Granularity, bias: bool) -> Result<BitLinear> {
    let bias = bias.then(|| random(&[rows])).transpose()?;
    Ok(BitLinear::quantize_by(
        &random(&[rows, cols])?,
        bias.as_ref(),
        granularity,
    )?)
}

pub fn assert_within(a: &Tensor, b: &Tensor, bound: &Tensor) -> Result<()> {
    let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    let (a, b, bound) = (flat(a)?, flat(b)?, flat(bound)?);
    assert_eq!(a.len(), b.len());
    for (i, ((a, b), bound)) in a.iter().zip(&b).zip(&bound).enumerate() {
        assert!(
            (a - b).abs() <= *bound,
            "value {i}: {a} and {b} are more than {bound} apart"
        );
    }
    Ok(())
}

/// The bits of every value; those of 16-bit types widened exactly.
pub fn bits(x: &Tensor) -> Result<Vec<u32>> {
    let values = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(f32::to_bits).collect())
}
