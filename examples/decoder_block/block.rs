//! The block itself, whatever its projections run on.

use crate::Result;
use crate::attention::{KvCache, Rope, attend};
use crate::config::Config;
use crate::project::{Project, Site};
use rayon::prelude::*;
use tritgemm::nn::RmsNorm;
use tritgemm::{MatMut, MatRef};

/// A decoder block as BitNet b1.58 2B-4T has it: a norm before each half and a
/// second one in front of each half's last projection.
pub struct Block {
    config: Config,
    rope: Rope,
    input_norm: RmsNorm,
    attn_sub_norm: RmsNorm,
    post_attention_norm: RmsNorm,
    ffn_sub_norm: RmsNorm,
    buffers: Buffers,
}

/// Between-steps values, kept for the next call.
#[derive(Default)]
struct Buffers {
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    projected: Vec<f32>,
}

impl Block {
    /// With gains of 1, for up to `positions` tokens.
    pub fn new(config: Config, positions: usize) -> Result<Self> {
        let norm = |features| RmsNorm::new(vec![1.0; features])?.with_eps(config.norm_eps);
        Ok(Self {
            rope: Rope::new(&config, positions),
            input_norm: norm(config.hidden)?,
            attn_sub_norm: norm(config.query_width())?,
            post_attention_norm: norm(config.hidden)?,
            ffn_sub_norm: norm(config.ffn)?,
            buffers: Buffers::default(),
            config,
        })
    }

    /// Takes `x` `[tokens][hidden]`, the tokens after those in `cache`, to the
    /// block's output in place.
    pub fn forward(
        &mut self,
        x: &mut [f32],
        cache: &mut KvCache,
        projections: &mut dyn Project,
    ) -> Result<()> {
        let (config, b) = (&self.config, &mut self.buffers);
        let tokens = x.len() / config.hidden;
        let position = cache.len();
        b.normed.resize(x.len(), 0.0);
        b.projected.resize(x.len(), 0.0);
        b.queries.resize(tokens * config.query_width(), 0.0);
        b.attended.resize(tokens * config.query_width(), 0.0);
        b.keys.resize(tokens * config.kv_width(), 0.0);
        b.values.resize(tokens * config.kv_width(), 0.0);
        b.gate.resize(tokens * config.ffn, 0.0);
        b.up.resize(tokens * config.ffn, 0.0);

        let normed = MatMut::new(&mut b.normed, tokens, config.hidden)?;
        self.input_norm
            .forward(MatRef::new(x, tokens, config.hidden)?, normed)?;
        let qkv = &mut [
            (Site::Query, &mut b.queries),
            (Site::Key, &mut b.keys),
            (Site::Value, &mut b.values),
        ];
        projections.project(&b.normed, tokens, qkv)?;
        self.rope
            .apply(&mut b.queries, config.query_width(), position);
        self.rope.apply(&mut b.keys, config.kv_width(), position);
        cache.push(&b.keys, &b.values);
        attend(config, &b.queries, cache, &mut b.attended);
        let attended = MatMut::new(&mut b.attended, tokens, config.query_width())?;
        self.attn_sub_norm.forward_in_place(attended)?;
        let output = &mut [(Site::Output, &mut b.projected)];
        projections.project(&b.attended, tokens, output)?;
        add(x, &b.projected);

        let normed = MatMut::new(&mut b.normed, tokens, config.hidden)?;
        self.post_attention_norm
            .forward(MatRef::new(x, tokens, config.hidden)?, normed)?;
        let gate_up = &mut [(Site::Gate, &mut b.gate), (Site::Up, &mut b.up)];
        projections.project(&b.normed, tokens, gate_up)?;
        let rows = b
            .gate
            .par_chunks_mut(config.ffn)
            .zip(b.up.par_chunks(config.ffn));
        rows.for_each(|(gate, up)| {
            for (gate, up) in gate.iter_mut().zip(up) {
                let relu = gate.max(0.0);
                *gate = relu * relu * up;
            }
        });
        let gate = MatMut::new(&mut b.gate, tokens, config.ffn)?;
        self.ffn_sub_norm.forward_in_place(gate)?;
        let down = &mut [(Site::Down, &mut b.projected)];
        projections.project(&b.gate, tokens, down)?;
        add(x, &b.projected);
        Ok(())
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
