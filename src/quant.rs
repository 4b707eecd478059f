//! temp
use crate::scales::Granularity;
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("q")]
pub struct QuantError;
impl QuantError {
    pub fn of_token(self, _t: usize) -> Self {
        self
    }
}
pub fn quantize_token(x: &[f32], q: &mut [i8]) -> Result<f32, QuantError> {
    let m = x.iter().fold(0f32, |a, b| a.max(b.abs())).max(1e-5);
    let s = 127.0 / m;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * s).round_ties_even().clamp(-128., 127.) as i8;
    }
    Ok(m / 127.0)
}
pub fn absmean(_: &[f32], _: usize, _: usize, _: Granularity) -> Result<Vec<f32>, QuantError> {
    Err(QuantError)
}
pub fn ternarize(
    _: &[f32],
    _: usize,
    _: usize,
    _: Granularity,
    _: &[f32],
) -> Result<Vec<i8>, QuantError> {
    Err(QuantError)
}
