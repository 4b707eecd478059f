//! Where the time of tokens goes.

use std::time::{Duration, Instant};

/// A part of a token's work.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Stage {
    /// Rows of the embedding.
    Embedding,
    /// All norms, and adding to the residual stream.
    Norms,
    /// The projections to queries, keys and values.
    Qkv,
    /// Turning queries and keys by their positions, and storing keys and values.
    Positions,
    /// Scores, softmax and the sum of values.
    Attention,
    /// The projection of attention's output.
    AttentionOutput,
    /// The projections of the gate and up.
    GateUp,
    /// The gate's activation and its product with up.
    Gate,
    /// The projection down.
    Down,
    /// The logits.
    Head,
}

impl Stage {
    /// All stages, in the order of a token.
    pub const ALL: [Stage; 10] = [
        Stage::Embedding,
        Stage::Norms,
        Stage::Qkv,
        Stage::Positions,
        Stage::Attention,
        Stage::AttentionOutput,
        Stage::GateUp,
        Stage::Gate,
        Stage::Down,
        Stage::Head,
    ];

    /// Its name, as a table has it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Embedding => "embedding",
            Stage::Norms => "norms",
            Stage::Qkv => "q k v",
            Stage::Positions => "positions, cache",
            Stage::Attention => "attention",
            Stage::AttentionOutput => "attention output",
            Stage::GateUp => "gate, up",
            Stage::Gate => "gate activation",
            Stage::Down => "down",
            Stage::Head => "head",
        }
    }
}

/// The time that each stage took, of all tokens since it was reset.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    spent: [Duration; Stage::ALL.len()],
}

impl Profile {
    /// The time of a stage.
    pub fn spent(&self, stage: Stage) -> Duration {
        self.spent[stage as usize]
    }

    /// The time of all stages.
    pub fn total(&self) -> Duration {
        self.spent.iter().sum()
    }

    /// Forgets all times.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Does `work` and adds its time to a stage's.
    pub(crate) fn time<R>(&mut self, stage: Stage, work: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = work();
        self.spent[stage as usize] += start.elapsed();
        result
    }
}
