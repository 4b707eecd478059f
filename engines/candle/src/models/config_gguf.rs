//! The configuration of GGUF metadata.

use super::config::{Architecture, Config, GateActivation, RopeConfig, RopeScaling};
use super::error::{Result, config};
use std::collections::HashMap;
use tritgemm_formats::gguf::Value;

/// Texts of tokens that end an answer, whatever the metadata names.
const ENDS: [&str; 6] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
];

/// Metadata by its keys.
pub(super) struct Metadata<'a>(HashMap<&'a str, Value<'a>>);

impl<'a> Metadata<'a> {
    pub(super) fn new(metadata: &'a [(String, Value<'a>)]) -> Self {
        Self(metadata.iter().map(|(k, v)| (k.as_str(), *v)).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.0.get(key).copied()
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.0.get(key)?.as_str()
    }

    /// A value that must be there.
    pub(super) fn need<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<T> {
        let read = self.optional(key, expected, read)?;
        read.ok_or_else(|| config(key, format!("is missing, expected {expected}")))
    }

    /// A value that may be missing, but not be another.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        let wrong = || config(key, format!("is `{value}`, expected {expected}"));
        read(value).map(Some).ok_or_else(wrong)
    }

    pub(super) fn token(&self, key: &str) -> Result<Option<u32>> {
        self.optional(key, "a token", |v| v.as_u64()?.try_into().ok())
    }

    /// The strings of an array; nothing if it is none of strings.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<&'a str>> {
        match self.get(key)? {
            Value::Array(array) => {
                let texts = array.iter().map(|v| match v {
                    Value::String(bytes) => std::str::from_utf8(bytes).ok(),
                    _ => None,
                });
                texts.collect()
            }
            _ => None,
        }
    }
}

fn size(value: &Value<'_>) -> Option<usize> {
    value.as_u64()?.try_into().ok()
}

fn float(value: &Value<'_>) -> Option<f32> {
    match *value {
        Value::F32(value) => Some(value),
        Value::F64(value) => Some(value as f32),
        _ => None,
    }
}

pub(super) fn read(metadata: &[(String, Value<'_>)]) -> Result<Config> {
    let all = Metadata::new(metadata);
    let name = all.need("general.architecture", "a name", |v| v.as_str())?;
    let (architecture, activation) = match name {
        "bitnet" => (Architecture::BitNet, GateActivation::Silu),
        "bitnet-25" | "bitnet-b1.58" => (Architecture::BitNet, GateActivation::SquaredRelu),
        "llama" => (Architecture::Llama, GateActivation::Silu),
        "qwen3" => (Architecture::Qwen3, GateActivation::Silu),
        other => {
            let what =
                format!("is `{other}`, expected bitnet, bitnet-25, bitnet-b1.58, llama or qwen3");
            return Err(config("general.architecture", what));
        }
    };
    let key = |key: &str| format!("{name}.{key}");
    let need = |suffix: &str| all.need(&key(suffix), "a size", size);
    let hidden_size = need("embedding_length")?;
    let heads = need("attention.head_count")?;
    let head_dim = all.optional(&key("attention.key_length"), "a size", size)?;
    let head_dim = head_dim.unwrap_or(hidden_size / heads.max(1));
    let same = ["attention.value_length", "rope.dimension_count"];
    for suffix in same {
        let other = all.optional(&key(suffix), "a size", size)?;
        if let Some(other) = other.filter(|other| *other != head_dim) {
            let what = format!("is {other}, expected {head_dim} as heads have");
            return Err(config(key(suffix), what));
        }
    }
    let kv_heads = all.optional(&key("attention.head_count_kv"), "a size", size)?;
    let context = need("context_length")?;
    let theta = all.optional(&key("rope.freq_base"), "a number", float)?;
    let scaling = scaling(&all, name, context)?;
    Config {
        architecture,
        hidden_size,
        intermediate_size: need("feed_forward_length")?,
        layers: need("block_count")?,
        heads,
        kv_heads: kv_heads.unwrap_or(heads),
        head_dim,
        context,
        rms_norm_eps: all.need(&key("attention.layer_norm_rms_epsilon"), "a number", float)?,
        activation,
        tied_head: None,
        rope: RopeConfig {
            theta: theta.unwrap_or(10_000.0),
            scaling,
            interleaved: architecture == Architecture::Llama,
        },
        projection_norm_eps: None,
        quantise_online: false,
        bos_token: all.token("tokenizer.ggml.bos_token_id")?,
        eos_tokens: ends(&all)?,
    }
    .checked()
}

fn scaling(all: &Metadata<'_>, name: &str, context: usize) -> Result<RopeScaling> {
    let key = |key: &str| format!("{name}.rope.scaling.{key}");
    let number = |suffix: &str| all.optional(&key(suffix), "a number", float);
    let factor = || all.need(&key("factor"), "a number", float);
    let kind = all.optional(&key("type"), "a name", |v| v.as_str())?;
    Ok(match kind {
        None | Some("none") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear(factor()?),
        Some("yarn") => {
            let factor = factor()?;
            let original = all.optional(&key("original_context_length"), "a size", size)?;
            let attention_factor = number("attn_factor")?.unwrap_or(1.0);
            RopeScaling::Yarn {
                factor,
                beta_fast: number("yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: number("yarn_beta_slow")?.unwrap_or(1.0),
                attention_factor: attention_factor * RopeScaling::yarn_attention_factor(factor),
                original_context: original.unwrap_or(context) as f32,
            }
        }
        Some(other) => {
            let what = format!("is `{other}`, expected none, linear or yarn");
            return Err(config(key("type"), what));
        }
    })
}

/// The tokens that end a text: those that are named, and those known by their texts.
fn ends(all: &Metadata<'_>) -> Result<Vec<u32>> {
    let mut ends = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ends.extend(all.token(&format!("tokenizer.ggml.{key}"))?);
    }
    let tokens = all.texts("tokenizer.ggml.tokens").unwrap_or_default();
    for (token, text) in tokens.iter().enumerate() {
        let token = token as u32;
        if ENDS.contains(text) && !ends.contains(&token) {
            ends.push(token);
        }
    }
    Ok(ends)
}
