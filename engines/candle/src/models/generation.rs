//! A prompt, and what a model writes after it.

use super::decoder::Session;
use super::error::Result;
use super::profile::Profile;
use super::sampling::Sampler;
use std::time::{Duration, Instant};

/// What was written, and how long it took.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Generation {
    /// The tokens, without one that ended the text.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// From the prompt to its logits.
    pub prefill: Duration,
    /// Tokens that went through the model after the prompt, one at a time.
    pub decoded: usize,
    /// All time after the prompt's logits: sampling is in it, and what was done with tokens.
    pub decode: Duration,
    /// Where the time of the prompt went.
    pub prefill_profile: Profile,
    /// Where the time of the other tokens went.
    pub decode_profile: Profile,
}

impl Session<'_> {
    /// Goes on with `prompt`, then with at most `count` tokens of the model's own, until one
    /// of `ends` or until there is no room. `each` is given every token as it is made.
    ///
    /// # Errors
    /// As [`Session::forward`], or that of `each`.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        count: usize,
        sampler: &mut Sampler,
        ends: &[u32],
        mut each: impl FnMut(u32) -> Result<()>,
    ) -> Result<Generation> {
        self.profile().reset();
        let start = Instant::now();
        let mut logits = self.forward(prompt)?;
        let prefill = start.elapsed();
        let prefill_profile = self.profile().clone();
        self.profile().reset();
        let start = Instant::now();
        let (mut tokens, mut decoded) = (Vec::new(), 0);
        while tokens.len() < count {
            let token = sampler.sample(&logits)?;
            if ends.contains(&token) {
                break;
            }
            tokens.push(token);
            each(token)?;
            if tokens.len() == count || self.room() == 0 {
                break;
            }
            logits = self.forward(&[token])?;
            decoded += 1;
        }
        Ok(Generation {
            tokens,
            prompt_tokens: prompt.len(),
            prefill,
            decoded,
            decode: start.elapsed(),
            prefill_profile,
            decode_profile: self.profile().clone(),
        })
    }
}
