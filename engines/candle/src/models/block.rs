//! A layer of a decoder: attention, then a gated feed-forward layer.

use super::attention::attend;
use super::config::{Architecture, Config, GateActivation};
use super::error::Result;
use super::gate::gated;
use super::norm::Norm;
use super::profile::{Profile, Stage};
use super::rope::Turns;
use super::weights::Weights;
use crate::{ActivationMode, BitLinear, forward_many};
use candle_core::{Module, Tensor};
use candle_nn::kv_cache::KvCache;

/// A ternary layer, with the norm before it that some have.
#[derive(Debug)]
struct Projection {
    norm: Option<Norm>,
    layer: BitLinear,
}

impl Projection {
    fn load(
        weights: &Weights,
        config: &Config,
        mode: ActivationMode,
        layer: usize,
        part: &str,
        [rows, cols]: [usize; 2],
    ) -> Result<Self> {
        let norm = config.projection_norm_eps.map(|eps| {
            let part = format!("{part}.rms_norm");
            weights.norm(Some(layer), &part, cols, eps)
        });
        let linear = weights.linear(layer, part, [rows, cols])?;
        Ok(Self {
            norm: norm.transpose()?,
            layer: linear.with_activations(mode),
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let [y] = Self::forward_many([self], x)?;
        Ok(y)
    }

    /// Those without a norm of their own share a preparation and a loop.
    fn forward_many<const N: usize>(
        all: [&Self; N],
        x: &Tensor,
    ) -> candle_core::Result<[Tensor; N]> {
        if all.iter().all(|p| p.norm.is_none()) {
            return forward_many(all.map(|p| &p.layer), x);
        }
        let forward = |p: &&Self| match &p.norm {
            Some(norm) => p.layer.forward(&norm.forward(x)?),
            None => p.layer.forward(x),
        };
        let outputs: candle_core::Result<Vec<Tensor>> = all.iter().map(forward).collect();
        outputs?
            .try_into()
            .map_err(|_| candle_core::Error::msg("as many outputs as projections"))
    }

    fn bytes(&self) -> usize {
        self.layer.linear().panels().as_bytes().len()
    }
}

/// A layer of a decoder.
#[derive(Debug)]
pub(crate) struct Block {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    activation: GateActivation,
    attention_norm: Norm,
    q: Projection,
    k: Projection,
    v: Projection,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    attention_sub_norm: Option<Norm>,
    o: Projection,
    feed_forward_norm: Norm,
    gate: Projection,
    up: Projection,
    feed_forward_sub_norm: Option<Norm>,
    down: Projection,
}

impl Block {
    pub(crate) fn load(
        weights: &Weights,
        config: &Config,
        mode: ActivationMode,
        layer: usize,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let q_size = config.heads * config.head_dim;
        let kv_size = config.kv_heads * config.head_dim;
        let norm = |part, len| weights.norm(Some(layer), part, len, config.rms_norm_eps);
        let norm_of = |architecture, part, len| match config.architecture == architecture {
            true => norm(part, len).map(Some),
            false => Ok(None),
        };
        let linear = |part, shape| Projection::load(weights, config, mode, layer, part, shape);
        let (bitnet, qwen3) = (Architecture::BitNet, Architecture::Qwen3);
        Ok(Self {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            activation: config.activation,
            attention_norm: norm("input_layernorm", hidden)?,
            q: linear("self_attn.q_proj", [q_size, hidden])?,
            k: linear("self_attn.k_proj", [kv_size, hidden])?,
            v: linear("self_attn.v_proj", [kv_size, hidden])?,
            q_norm: norm_of(qwen3, "self_attn.q_norm", config.head_dim)?,
            k_norm: norm_of(qwen3, "self_attn.k_norm", config.head_dim)?,
            attention_sub_norm: norm_of(bitnet, "self_attn.attn_sub_norm", q_size)?,
            o: linear("self_attn.o_proj", [hidden, q_size])?,
            feed_forward_norm: norm("post_attention_layernorm", hidden)?,
            gate: linear("mlp.gate_proj", [inner, hidden])?,
            up: linear("mlp.up_proj", [inner, hidden])?,
            feed_forward_sub_norm: norm_of(bitnet, "mlp.ffn_sub_norm", inner)?,
            down: linear("mlp.down_proj", [hidden, inner])?,
        })
    }

    /// Bytes of weights that the products of a stage read.
    pub(crate) fn bytes(&self, stage: Stage) -> usize {
        match stage {
            Stage::Qkv => self.q.bytes() + self.k.bytes() + self.v.bytes(),
            Stage::AttentionOutput => self.o.bytes(),
            Stage::GateUp => self.gate.bytes() + self.up.bytes(),
            Stage::Down => self.down.bytes(),
            _ => 0,
        }
    }

    /// `x` `[tokens, hidden]` after the layer.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        turns: &Turns,
        cache: &mut KvCache,
        profile: &mut Profile,
    ) -> candle_core::Result<Tensor> {
        let normed = profile.time(Stage::Norms, || self.attention_norm.forward(x))?;
        let [q, k, v] = profile.time(Stage::Qkv, || {
            Projection::forward_many([&self.q, &self.k, &self.v], &normed)
        })?;
        let (q, k, v) = profile.time(Stage::Positions, || {
            let q = turns.apply(&self.by_head(&q, self.heads, self.q_norm.as_ref())?)?;
            let k = turns.apply(&self.by_head(&k, self.kv_heads, self.k_norm.as_ref())?)?;
            let v = self.by_head(&v, self.kv_heads, None)?.contiguous()?;
            let (k, v) = cache.append(&k, &v)?;
            candle_core::Result::Ok((q, k, v))
        })?;
        let y = profile.time(Stage::Attention, || attend(&q, &k, &v))?;
        let y = profile.time(Stage::Norms, || {
            optional(self.attention_sub_norm.as_ref(), y)
        })?;
        let y = profile.time(Stage::AttentionOutput, || self.o.forward(&y))?;
        let (x, normed) = profile.time(Stage::Norms, || {
            let x = (x + y)?;
            let normed = self.feed_forward_norm.forward(&x)?;
            candle_core::Result::Ok((x, normed))
        })?;
        let [gate, up] = profile.time(Stage::GateUp, || {
            Projection::forward_many([&self.gate, &self.up], &normed)
        })?;
        let y = profile.time(Stage::Gate, || gated(&gate, &up, self.activation))?;
        let y = profile.time(Stage::Norms, || {
            optional(self.feed_forward_sub_norm.as_ref(), y)
        })?;
        let y = profile.time(Stage::Down, || self.down.forward(&y))?;
        profile.time(Stage::Norms, || x + y)
    }

    /// `x` `[tokens, heads * head_dim]` as `[heads, tokens, head_dim]`, each head normed.
    fn by_head(
        &self,
        x: &Tensor,
        heads: usize,
        norm: Option<&Norm>,
    ) -> candle_core::Result<Tensor> {
        let x = x.reshape((x.dim(0)?, heads, self.head_dim))?;
        optional(norm, x)?.transpose(0, 1)
    }
}

fn optional(norm: Option<&Norm>, x: Tensor) -> candle_core::Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}
