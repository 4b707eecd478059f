//! The weights of a measurement: one matrix, or so many copies that the one to be
//! used next is in no cache.

use crate::args::{Shape, WeightsFrom};
use crate::cpu;
use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cell::Cell;
use tritgemm::{Linear, MatRef, Panels, Scales, TernaryMatrix};

/// Bytes that are touched before a copy is used again, at least.
const BETWEEN_USES: usize = 512 << 20;

/// Fewer bytes than this would need more copies than is sensible.
const LEAST: usize = 4 << 10;

/// Copies of a random matrix, used in turn.
pub struct Weights {
    copies: Vec<Linear>,
    next: Cell<usize>,
}

impl Weights {
    /// Weights of `shape` for at most `tokens` tokens, or why they do not fit.
    pub fn new(shape: Shape, from: WeightsFrom, tokens: usize) -> Result<Self> {
        const TOO_LARGE: &str = "the shape does not fit in memory";
        let Shape { m, k } = shape;
        let bytes = Panels::byte_len(m, k).context(TOO_LARGE)?;
        let copies = match from {
            WeightsFrom::Cache => 1,
            WeightsFrom::Memory => {
                ensure!(
                    bytes >= LEAST,
                    "{bytes} bytes of weights are too few to be cold, take {LEAST} or more"
                );
                let cache = cpu::last_level_bytes().and_then(|bytes| bytes.try_into().ok());
                let between = BETWEEN_USES.max(cache.unwrap_or(0usize).saturating_mul(4));
                1 + between.div_ceil(bytes)
            }
        };
        cpu::check_memory([m, k], tokens, copies.checked_mul(bytes)).context(TOO_LARGE)?;
        let mut random = SmallRng::seed_from_u64(1);
        let trits: Vec<i8> = (0..m * k).map(|_| random.random_range(-1..=1)).collect();
        let scales = Scales::per_row((0..m).map(|_| random.random_range(0.5..1.5)).collect());
        let matrix = TernaryMatrix::from_trits(MatRef::new(&trits, m, k)?, scales)?;
        let copies = (0..copies).map(|_| Linear::new(&matrix));
        Ok(Self {
            copies: copies.collect::<Result<_, _>>()?,
            next: Cell::new(0),
        })
    }

    /// The copy that was used the longest time ago.
    pub fn next(&self) -> &Linear {
        let at = self.next.get();
        self.next.set((at + 1) % self.copies.len());
        &self.copies[at]
    }
}
