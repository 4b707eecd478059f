//! The choice of a token.

use super::error::{ModelError, Result};
use candle_core::{D, DType, Tensor};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How tokens are chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token each time.
    pub temperature: f32,
    /// Of the most likely tokens as many are left as have this probability together.
    pub top_p: f32,
    /// The same seed makes the same choices.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token each time.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
    };
}

/// Chooses tokens.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: StdRng,
}

impl Sampler {
    /// A sampler that starts at its seed.
    ///
    /// # Errors
    /// If the temperature is negative or no number, or `top_p` is not above 0 and up to 1.
    pub fn new(sampling: Sampling) -> Result<Self> {
        let Sampling {
            temperature, top_p, ..
        } = sampling;
        let wrong = |name, value: f32, expected| ModelError::Sampling {
            name,
            value: value.into(),
            expected,
        };
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(wrong("temperature", temperature, "0 or more"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(wrong("top_p", top_p, "more than 0 and at most 1"));
        }
        Ok(Self {
            sampling,
            random: StdRng::seed_from_u64(sampling.seed),
        })
    }

    /// A token for the logits `[vocabulary]`.
    ///
    /// # Errors
    /// If they are of another shape.
    pub fn sample(&mut self, logits: &Tensor) -> Result<u32> {
        let Sampling {
            temperature, top_p, ..
        } = self.sampling;
        if temperature == 0.0 {
            return Ok(logits.argmax(D::Minus1)?.to_scalar::<u32>()?);
        }
        let logits = (logits.to_dtype(DType::F32)? / f64::from(temperature))?;
        let probabilities = candle_nn::ops::softmax_last_dim(&logits)?.to_vec1::<f32>()?;
        let mut likely: Vec<(u32, f32)> = (0..).zip(probabilities).collect();
        likely.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        // The fewest that reach `top_p` together, the first in any case.
        let (mut sum, mut kept) = (0.0, 0);
        for &(_, probability) in &likely {
            sum += probability;
            kept += 1;
            if sum >= top_p {
                break;
            }
        }
        let mut left = self.random.random::<f32>() * sum;
        for &(token, probability) in &likely[..kept] {
            left -= probability;
            if left < 0.0 {
                return Ok(token);
            }
        }
        Ok(likely
            .get(kept.wrapping_sub(1))
            .map_or(0, |&(token, _)| token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn drawn(sampling: Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let logits = Tensor::new(logits, &Device::Cpu).unwrap();
        let mut sampler = Sampler::new(sampling).unwrap();
        (0..count)
            .map(|_| sampler.sample(&logits).unwrap())
            .collect()
    }

    #[test]
    fn greedy_takes_the_largest() {
        assert_eq!(drawn(Sampling::GREEDY, &[0.0, 3.0, 2.9], 3), [1, 1, 1]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        // Probabilities 0.1, 0.6 and 0.3.
        let logits = [0.1f32, 0.6, 0.3].map(f32::ln);
        let sampling = Sampling {
            temperature: 1.0,
            top_p: 1.0,
            seed: 7,
        };
        let all = drawn(sampling, &logits, 4000);
        let share = |token| all.iter().filter(|&&t| t == token).count() as f32 / 4000.0;
        for (token, expected) in [(0, 0.1), (1, 0.6), (2, 0.3)] {
            assert!(
                (share(token) - expected).abs() < 0.03,
                "{token}: {}",
                share(token)
            );
        }
        assert_eq!(all, drawn(sampling, &logits, 4000));
        assert_ne!(
            all,
            drawn(
                Sampling {
                    seed: 8,
                    ..sampling
                },
                &logits,
                4000
            )
        );
        let narrow = drawn(
            Sampling {
                top_p: 0.8,
                ..sampling
            },
            &logits,
            1000,
        );
        assert!(narrow.contains(&1) && narrow.contains(&2) && !narrow.contains(&0));
        let first = drawn(
            Sampling {
                top_p: 0.5,
                ..sampling
            },
            &logits,
            100,
        );
        assert!(first.iter().all(|&t| t == 1));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let with = |temperature, top_p| {
            let sampling = Sampling {
                temperature,
                top_p,
                seed: 0,
            };
            Sampler::new(sampling)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        assert_eq!(
            with(-1.0, 1.0).unwrap_err(),
            "temperature of -1, expected 0 or more"
        );
        assert!(with(f32::NAN, 1.0).is_err());
        assert!(
            with(1.0, 0.0)
                .unwrap_err()
                .starts_with("top_p of 0, expected more than 0")
        );
        assert!(with(1.0, 1.5).is_err());
    }
}
