//! Whether the ternary block computes what a dense one does.

use crate::Result;
use crate::attention::KvCache;
use crate::block::Block;
use crate::config::Config;
use crate::project::{Checked, Dense, Project, Ternary, random_weights};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How far two runs of a block may part, as the root mean square of the
/// difference over that of the output.
///
/// Rounding alone is 1e-6 or so. But where it moves an activation across a step
/// of its int8 grid a whole step follows, and moves others: after seven
/// projections the runs can be as far apart as two roundings to the grid. A
/// step is 4/127 of the root mean square of normal activations (their largest
/// is about 4), two roundings differ by 1/sqrt(6) of it, 0.013; relu^2 has longer
/// tails. One projection with other weights moves the output by more than 0.1.
pub const MAX_DIFFERENCE: f64 = 2e-2;

/// What [`check`] saw.
#[derive(Debug)]
pub struct Agreement {
    /// The largest error of a projection, as a part of its bound.
    pub projections: f32,
    /// The relative difference to the dense block.
    pub dense: f64,
    /// The relative difference of one token at a time to all at once.
    pub decode: f64,
}

/// `[tokens][hidden]` random inputs.
pub fn inputs(config: &Config, tokens: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let values = (0..tokens * config.hidden).map(|_| rng.random_range(-1.0..1.0));
    values.collect()
}

/// The block's output for `x` `[tokens][hidden]`, `step` tokens at a time.
pub fn run(
    config: Config,
    x: &[f32],
    step: usize,
    projections: &mut dyn Project,
) -> Result<Vec<f32>> {
    let tokens = x.len() / config.hidden;
    let mut block = Block::new(config, tokens)?;
    let mut cache = KvCache::new(&config, tokens);
    let mut y = x.to_vec();
    for y in y.chunks_mut(step * config.hidden) {
        block.forward(y, &mut cache, projections)?;
    }
    Ok(y)
}

/// The root mean square of `a - b` over that of `b`.
pub fn difference(a: &[f32], b: &[f32]) -> f64 {
    let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let apart = sum(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (apart / sum(&mut b.iter().map(|&b| f64::from(b)))).sqrt()
}

/// Runs `tokens` tokens through the block of `config` on the kernels, each
/// projection compared with a dense one of the same input; the whole compared
/// with the dense block on the same weights and int8 grid; and one token at a
/// time, from the cache, compared with all at once.
///
/// An error says what parted by more than it may.
pub fn check(config: Config, tokens: usize, seed: u64) -> Result<Agreement> {
    let weights = random_weights(&config, seed)?;
    let mut ternary = Ternary::new(&weights)?;
    let mut dense = Dense::new(&weights, true)?;
    let x = inputs(&config, tokens, seed + 100);
    let mut checked = Checked {
        ternary: &mut ternary,
        dense: &mut dense,
        worst: 0.0,
    };
    let y = run(config, &x, tokens, &mut checked)?;
    let agreement = Agreement {
        projections: checked.worst,
        dense: difference(&y, &run(config, &x, tokens, &mut dense)?),
        decode: difference(&run(config, &x, 1, &mut ternary)?, &y),
    };
    for (what, found) in [
        ("the dense block", agreement.dense),
        ("decoding", agreement.decode),
    ] {
        if found.is_nan() || found > MAX_DIFFERENCE {
            return Err(
                format!("{found:.2e} from {what}, at most {MAX_DIFFERENCE:.0e} allowed").into(),
            );
        }
    }
    Ok(agreement)
}
