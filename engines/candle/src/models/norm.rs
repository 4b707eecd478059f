//! RMSNorm of tensors, on the library's own kernel: candle's adds a row up value by value.

use super::error::{Result, tensor};
use crate::float::{Float, Work, on_tokens};
use candle_core::{Device, Error, Tensor};
use rayon::prelude::*;
use tritgemm::{MatMut, MatRef, nn::RmsNorm};

/// Rows that a thread takes at least.
const ROWS: usize = 8;

/// A norm of the last dimension.
#[derive(Debug)]
pub(crate) struct Norm(RmsNorm);

impl Norm {
    pub(crate) fn new(name: &str, gain: Vec<f32>, eps: f32) -> Result<Self> {
        let norm = RmsNorm::new(gain).and_then(|norm| norm.with_eps(eps));
        Ok(Self(norm.map_err(|e| {
            tensor(name, format!("is no gain of a norm: {e}"))
        })?))
    }

    /// Of `x` `[.., features]`.
    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        crate::float::check_input(x.shape(), self.0.features())?;
        on_tokens(x, Normalise(&self.0))?.reshape(x.shape())
    }
}

struct Normalise<'a>(&'a RmsNorm);

impl Work for Normalise<'_> {
    type Output = Tensor;

    fn run<T: Float>(self, x: MatRef<'_, T>) -> candle_core::Result<Tensor> {
        let (tokens, features) = (x.rows(), x.cols());
        let mut y = crate::float::output::<T>(tokens, features)?;
        let rows = y.par_chunks_exact_mut(features.max(1)).enumerate();
        rows.with_min_len(ROWS).try_for_each(|(token, y)| {
            let x = MatRef::new(x.row(token), 1, features).map_err(Error::wrap)?;
            let y = MatMut::new(y, 1, features).map_err(Error::wrap)?;
            self.0.forward(x, y).map_err(Error::wrap)
        })?;
        Tensor::from_vec(y, (tokens, features), &Device::Cpu)
    }
}
