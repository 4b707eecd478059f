//! Attention: of one token by a kernel of our own, of several by candle's products.
//!
//! candle's product of a few rows with the keys costs more to start than to compute. One token
//! reads each key and value once, so each head is one pass over both.

use super::sums::{ROWS, add_scaled, dots};
use candle_core::{CpuStorage, D, Device, Error, Layout, Result, Storage, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// The attention of `q` `[heads, tokens, head_dim]` to `k` and `v`
/// `[kv_heads, positions, head_dim]`, of which the last positions are the tokens' own: each
/// token sees those up to its own. `[tokens, heads * head_dim]`.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (heads, tokens, dim) = q.dims3()?;
    let kv_heads = k.dim(0)?;
    let scale = (dim as f32).powf(-0.5);
    if tokens == 1 {
        return of_one_token(q, k, v, scale);
    }
    // Query heads of one key head are rows of one product: keys are not repeated.
    let q = q.reshape((kv_heads, heads / kv_heads * tokens, dim))?;
    let weights = causal_softmax(&q.matmul(&k.t()?)?, tokens, scale)?;
    let y = weights.matmul(v)?.reshape((heads, tokens, dim))?;
    y.transpose(0, 1)?.reshape((tokens, heads * dim))
}

/// The softmax of the positions that each token sees, of `scores` times `scale`
/// `[_, heads * tokens, positions]`, and 0 for the others.
fn causal_softmax(scores: &Tensor, tokens: usize, scale: f32) -> Result<Tensor> {
    let positions = scores.dim(D::Minus1)?;
    let scores = scores.contiguous()?;
    let (storage, layout) = scores.storage_and_layout();
    let from = values(&storage, layout)?.data;
    let mut weights = vec![0.0; scores.elem_count()];
    let rows = weights
        .par_chunks_exact_mut(positions)
        .zip(from.par_chunks_exact(positions));
    rows.enumerate().for_each(|(row, (weights, scores))| {
        let seen = positions - tokens + row % tokens + 1;
        let scores = &scores[..seen];
        // The scale is positive: the largest score stays that.
        let largest = scores.iter().fold(f32::NEG_INFINITY, |max, s| max.max(*s));
        let mut sum = 0.0;
        for (weight, score) in weights.iter_mut().zip(scores) {
            *weight = ((score - largest) * scale).exp();
            sum += *weight;
        }
        weights[..seen].iter_mut().for_each(|weight| *weight /= sum);
    });
    Tensor::from_vec(weights, scores.shape(), &Device::Cpu)
}

/// Heads of one token: `[1, heads * head_dim]`.
fn of_one_token(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Tensor> {
    let (heads, _, dim) = q.dims3()?;
    let shared = heads / k.dim(0)?;
    let q = q.contiguous()?;
    let (q, k, v) = (
        q.storage_and_layout(),
        k.storage_and_layout(),
        v.storage_and_layout(),
    );
    let (q, k, v) = (values(&q.0, q.1)?, values(&k.0, k.1)?, values(&v.0, v.1)?);
    let mut y = vec![0.0; heads * dim];
    let each = y
        .par_chunks_exact_mut(dim)
        .zip(q.data.par_chunks_exact(dim))
        .enumerate();
    each.try_for_each_init(Vec::new, |scores, (head, (y, q))| {
        let (k, v) = (k.head(head / shared)?, v.head(head / shared)?);
        Arch::new().dispatch(Head {
            q,
            k,
            v,
            y,
            scores,
            scale,
        });
        Result::Ok(())
    })?;
    Tensor::from_vec(y, (1, heads * dim), &Device::Cpu)
}

/// The values of `[heads, positions, head_dim]`, each head's one after the other.
struct Heads<'a> {
    data: &'a [f32],
    /// From a head to the next, and values of a head.
    stride: usize,
    len: usize,
}

impl<'a> Heads<'a> {
    fn head(&self, head: usize) -> Result<&'a [f32]> {
        let values = self
            .data
            .get(head * self.stride..)
            .and_then(|d| d.get(..self.len));
        values.ok_or_else(|| Error::msg("a head that the cache does not have"))
    }
}

fn values<'a>(storage: &'a Storage, layout: &Layout) -> Result<Heads<'a>> {
    let (Storage::Cpu(CpuStorage::F32(data)), [_, positions, dim], [stride, row, 1]) =
        (storage, layout.dims(), layout.stride())
    else {
        candle_core::bail!("attention takes f32 values [heads, positions, head_dim] on the CPU");
    };
    if *positions > 1 && row != dim {
        candle_core::bail!("positions of a head {row} values apart, expected {dim}");
    }
    Ok(Heads {
        data: data.get(layout.start_offset()..).unwrap_or_default(),
        stride: *stride,
        len: positions * dim,
    })
}

/// A head of one token.
struct Head<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// The output, zeros.
    y: &'a mut [f32],
    scores: &'a mut Vec<f32>,
    scale: f32,
}

impl WithSimd for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { q, y, scores, .. } = self;
        let dim = q.len();
        scores.clear();
        let several = self.k.chunks_exact(dim * ROWS);
        let rest = several.remainder();
        for k in several {
            scores.extend(dots::<ROWS>(
                std::array::from_fn(|r| &k[r * dim..][..dim]),
                q,
            ));
        }
        for k in rest.chunks_exact(dim) {
            scores.extend(dots([k], q));
        }
        let largest = scores.iter().fold(f32::NEG_INFINITY, |max, s| max.max(*s));
        let mut sum = 0.0;
        for score in scores.iter_mut() {
            *score = ((*score - largest) * self.scale).exp();
            sum += *score;
        }
        let (weights, last) = scores.as_chunks::<ROWS>();
        let several = self.v.chunks_exact(dim * ROWS);
        let rest = several.remainder();
        for (weights, v) in weights.iter().zip(several) {
            add_scaled(y, *weights, std::array::from_fn(|r| &v[r * dim..][..dim]));
        }
        for (&weight, v) in last.iter().zip(rest.chunks_exact(dim)) {
            add_scaled(y, [weight], [v]);
        }
        y.iter_mut().for_each(|y| *y /= sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_is_the_last_of_several() -> Result<()> {
        for (heads, kv_heads, dim, positions) in [(6, 2, 20, 2), (6, 3, 128, 7), (4, 4, 66, 300)] {
            let random =
                |heads, tokens| Tensor::randn(0f32, 1.0, (heads, tokens, dim), &Device::Cpu);
            let (q, k, v) = (
                random(heads, 2)?,
                random(kv_heads, positions + 5)?.narrow(1, 0, positions)?,
                random(kv_heads, positions + 5)?.narrow(1, 0, positions)?,
            );
            let both = attend(&q, &k, &v)?;
            let one = attend(&q.narrow(1, 1, 1)?, &k, &v)?;
            let off = (both.narrow(0, 1, 1)? - one)?
                .abs()?
                .max_all()?
                .to_scalar::<f32>()?;
            assert!(off < 1e-5, "{heads} {kv_heads} {dim} {positions}: {off}");
        }
        Ok(())
    }
}
