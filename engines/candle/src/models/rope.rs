//! Rotary positions (arXiv:2104.09864).

use super::config::{Config, RopeScaling};
use candle_core::{Device, Result, Tensor};
use std::f32::consts::TAU;

/// Turns queries and keys by their positions.
#[derive(Debug)]
pub(crate) struct Rope {
    /// Radians a token, for each pair of values.
    frequencies: Vec<f32>,
    /// What sines and cosines are multiplied by.
    factor: f32,
    interleaved: bool,
}

/// The sines and cosines of consecutive positions.
pub(crate) struct Turns {
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
}

impl Rope {
    pub(crate) fn new(config: &Config) -> Self {
        let (theta, dim) = (config.rope.theta, config.head_dim);
        let frequency = |i: usize| 1.0 / theta.powf((2 * i) as f32 / dim as f32);
        let mut frequencies: Vec<f32> = (0..dim / 2).map(frequency).collect();
        let mut factor = 1.0;
        match &config.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear(by) => frequencies.iter_mut().for_each(|f| *f /= by),
            RopeScaling::Factors(by) => {
                frequencies.iter_mut().zip(by).for_each(|(f, by)| *f /= by);
            }
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context,
            } => {
                for f in &mut frequencies {
                    let turns = original_context * *f / TAU;
                    // 0 for long wavelengths, 1 for short ones.
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    *f = (1.0 - kept) * *f / factor + kept * *f;
                }
            }
            &RopeScaling::Yarn {
                factor: by,
                beta_fast,
                beta_slow,
                attention_factor,
                original_context,
            } => {
                factor = attention_factor;
                // The pair that makes so many turns within the original context.
                let pair = |turns: f32| {
                    dim as f32 * (original_context / (turns * TAU)).ln() / (2.0 * theta.ln())
                };
                let low = pair(beta_fast).floor().max(0.0);
                let high = pair(beta_slow).ceil().min((dim - 1) as f32);
                for (i, f) in frequencies.iter_mut().enumerate() {
                    let stretched = ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    *f = stretched * *f / by + (1.0 - stretched) * *f;
                }
            }
        }
        Self {
            frequencies,
            factor,
            interleaved: config.rope.interleaved,
        }
    }

    /// The turns of `tokens` positions from `start` on.
    pub(crate) fn turns(&self, start: usize, tokens: usize) -> Result<Turns> {
        let shape = (tokens, self.frequencies.len());
        let table = |of: fn(f32) -> f32| {
            let positions = start..start + tokens;
            let angles = positions.flat_map(|p| self.frequencies.iter().map(move |f| p as f32 * f));
            let values: Vec<f32> = angles.map(|angle| of(angle) * self.factor).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        Ok(Turns {
            cos: table(f32::cos)?,
            sin: table(f32::sin)?,
            interleaved: self.interleaved,
        })
    }
}

impl Turns {
    /// Turns `x` `[heads, tokens, head_dim]`.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.unsqueeze(0)?.contiguous()?;
        let turn = match self.interleaved {
            true => candle_nn::rotary_emb::rope_i,
            false => candle_nn::rotary_emb::rope,
        };
        turn(&x, &self.cos, &self.sin)?.squeeze(0)
    }
}
