//! Rotary embedding, the cache of keys and values, and causal attention with
//! grouped queries. Nothing here is ternary; both blocks share it.

use crate::config::Config;
use crate::dense::{Strided, product};
use rayon::prelude::*;

/// Queries that are attended together: what lies above the diagonal of a block
/// is computed for nothing, so not too many.
const QUERIES: usize = 64;

/// Cosines and sines of the rotary embedding (arXiv:2104.09864), the two halves
/// of a head being the coordinates that turn.
pub struct Rope {
    half: usize,
    /// `[position][half]`.
    turns: Vec<[f32; 2]>,
}

impl Rope {
    pub fn new(config: &Config, positions: usize) -> Self {
        let half = config.head_dim / 2;
        let turn = |position: usize, i: usize| {
            let frequency = config.rope_theta.powf(-(i as f64) / half as f64);
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            [cos as f32, sin as f32]
        };
        let turns = (0..positions).flat_map(|p| (0..half).map(move |i| turn(p, i)));
        Self {
            half,
            turns: turns.collect(),
        }
    }

    /// Turns every head of `x`, tokens of `width` values from `position` on.
    pub fn apply(&self, x: &mut [f32], width: usize, position: usize) {
        x.par_chunks_mut(width).enumerate().for_each(|(token, x)| {
            let turns = &self.turns[(position + token) * self.half..][..self.half];
            for head in x.chunks_mut(2 * self.half) {
                let (first, second) = head.split_at_mut(self.half);
                for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        });
    }
}

/// Keys and values of the tokens so far, `[kv_head][capacity][head_dim]`.
#[derive(Clone)]
pub struct KvCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    head_dim: usize,
    capacity: usize,
    len: usize,
}

impl KvCache {
    pub fn new(config: &Config, capacity: usize) -> Self {
        let zeros = vec![0.0; config.kv_width() * capacity];
        Self {
            keys: zeros.clone(),
            values: zeros,
            head_dim: config.head_dim,
            capacity,
            len: 0,
        }
    }

    /// Tokens it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds tokens: `keys` and `values` are `[tokens][kv_head][head_dim]`.
    ///
    /// # Panics
    /// If they are more than the cache has room for.
    pub fn push(&mut self, keys: &[f32], values: &[f32]) {
        let (dim, capacity) = (self.head_dim, self.capacity);
        let width = self.keys.len() / capacity;
        let tokens = keys.len() / width;
        assert!(
            self.len + tokens <= capacity,
            "a cache of {capacity} tokens"
        );
        for (cache, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (token, new) in new.chunks(width).enumerate() {
                for (head, new) in new.chunks(dim).enumerate() {
                    let at = (head * capacity + self.len + token) * dim;
                    cache[at..at + dim].copy_from_slice(new);
                }
            }
        }
        self.len += tokens;
    }

    fn head<'a>(&self, cache: &'a [f32], head: usize) -> &'a [f32] {
        &cache[head * self.capacity * self.head_dim..][..self.len * self.head_dim]
    }
}

/// Attention of the cache's last tokens over all of it: `queries` and `out` are
/// `[tokens][heads][head_dim]`.
pub fn attend(config: &Config, queries: &[f32], cache: &KvCache, out: &mut [f32]) {
    let (width, dim) = (config.query_width(), config.head_dim);
    let tokens = queries.len() / width;
    let past = cache.len() - tokens;
    let work: Vec<(usize, usize)> = (0..config.heads)
        .flat_map(|head| (0..tokens).step_by(QUERIES).map(move |first| (head, first)))
        .collect();
    let results: Vec<Vec<f32>> = work
        .par_iter()
        .map(|&(head, first)| {
            let count = QUERIES.min(tokens - first);
            let seen = past + first + count;
            let kv_head = head * config.kv_heads / config.heads;
            let queries = &queries[first * width + head * dim..];
            let mut scores = vec![0.0; count * seen];
            product(
                [count, seen, dim],
                Strided::rows(queries, width),
                Strided::transposed(cache.head(&cache.keys, kv_head), dim),
                (&mut scores, seen),
                false,
            );
            let scale = 1.0 / (dim as f32).sqrt();
            for (i, scores) in scores.chunks_mut(seen).enumerate() {
                let (visible, hidden) = scores.split_at_mut(past + first + i + 1);
                softmax(visible, scale);
                hidden.fill(0.0);
            }
            let mut out = vec![0.0; count * dim];
            product(
                [count, dim, seen],
                Strided::rows(&scores, seen),
                Strided::rows(cache.head(&cache.values, kv_head), dim),
                (&mut out, dim),
                false,
            );
            out
        })
        .collect();
    for (&(head, first), result) in work.iter().zip(&results) {
        for (token, result) in result.chunks(dim).enumerate() {
            out[(first + token) * width + head * dim..][..dim].copy_from_slice(result);
        }
    }
}

fn softmax(scores: &mut [f32], scale: f32) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in &mut *scores {
        *score = ((*score - max) * scale).exp();
        sum += *score;
    }
    for score in scores {
        *score /= sum;
    }
}
