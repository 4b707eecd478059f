//! The configuration of a `config.json`.

use super::config::{Architecture, Config, GateActivation, RopeConfig, RopeScaling};
use super::error::{ModelError, Result, config};
use serde::Deserialize;
use std::path::Path;

/// One token or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tokens {
    One(u32),
    Many(Vec<u32>),
}

#[derive(Deserialize)]
struct Json {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    hidden_act: String,
    tie_word_embeddings: Option<bool>,
    rope_theta: Option<f32>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    #[serde(default)]
    use_sliding_window: bool,
    quantization_config: Option<Quantization>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<Tokens>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    attention_factor: Option<f32>,
}

#[derive(Deserialize)]
struct Quantization {
    quantization_mode: Option<String>,
    #[serde(default)]
    use_rms_norm: bool,
    rms_norm_eps: Option<f32>,
}

#[derive(Deserialize)]
struct Generation {
    eos_token_id: Option<Tokens>,
}

/// Reads the `config.json` in `folder`, and the tokens that end a text of the
/// `generation_config.json`, which knows more of them.
pub(super) fn read(folder: &Path) -> Result<Config> {
    let json: Json = parse(&folder.join("config.json"))?;
    let mut all = json.config()?;
    let generation = folder.join("generation_config.json");
    if generation.is_file() {
        let generation: Generation = parse(&generation)?;
        for token in tokens(generation.eos_token_id) {
            if !all.eos_tokens.contains(&token) {
                all.eos_tokens.push(token);
            }
        }
    }
    Ok(all)
}

/// The JSON of a file.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(|source| ModelError::File {
        path: path.into(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| ModelError::Json {
        path: path.into(),
        source,
    })
}

fn tokens(tokens: Option<Tokens>) -> Vec<u32> {
    match tokens {
        None => Vec::new(),
        Some(Tokens::One(token)) => vec![token],
        Some(Tokens::Many(tokens)) => tokens,
    }
}

impl Json {
    fn config(self) -> Result<Config> {
        let architecture = match self.model_type.as_str() {
            "bitnet" => Architecture::BitNet,
            "llama" => Architecture::Llama,
            "qwen3" => Architecture::Qwen3,
            other => {
                let what = format!("is `{other}`, expected bitnet, llama or qwen3");
                return Err(config("model_type", what));
            }
        };
        let activation = match self.hidden_act.as_str() {
            "silu" => GateActivation::Silu,
            "relu2" => GateActivation::SquaredRelu,
            other => {
                let what = format!("is `{other}`, expected silu or relu2");
                return Err(config("hidden_act", what));
            }
        };
        if self.use_sliding_window {
            return Err(config("use_sliding_window", "is true, expected false"));
        }
        let quantization = self.quantization_config.as_ref();
        let mode = quantization.and_then(|q| q.quantization_mode.as_deref());
        let quantise_online = match mode {
            Some("online") => true,
            None | Some("offline") => false,
            Some(other) => {
                let what = format!("is `{other}`, expected online or offline");
                return Err(config("quantization_mode", what));
            }
        };
        let heads = self.num_attention_heads;
        Config {
            architecture,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size / heads.max(1)),
            context: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            activation,
            tied_head: self.tie_word_embeddings,
            projection_norm_eps: quantization
                .filter(|q| q.use_rms_norm)
                .map(|q| q.rms_norm_eps.unwrap_or(1e-6)),
            quantise_online,
            rope: self.rope()?,
            bos_token: self.bos_token_id,
            eos_tokens: tokens(self.eos_token_id),
        }
        .checked()
    }

    /// Of `rope_parameters`, or of `rope_theta` and `rope_scaling` as they were before.
    fn rope(&self) -> Result<RopeConfig> {
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let theta = rope.and_then(|r| r.rope_theta).or(self.rope_theta);
        let scaling = match rope {
            None => RopeScaling::None,
            Some(rope) => rope.scaling(self.max_position_embeddings)?,
        };
        Ok(RopeConfig {
            theta: theta.unwrap_or(10_000.0),
            scaling,
            interleaved: false,
        })
    }
}

impl Rope {
    fn scaling(&self, context: usize) -> Result<RopeScaling> {
        let need = |key: &str, value: Option<f32>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(config(
                key,
                format!("is {value}, expected a positive number"),
            )),
            None => Err(config(key, "is missing")),
        };
        let original = self.original_max_position_embeddings;
        let original = original.or(Some(context as f32));
        let original = || need("original_max_position_embeddings", original);
        Ok(match self.rope_type.as_deref() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear(need("factor", self.factor)?),
            Some("llama3") => RopeScaling::Llama3 {
                factor: need("factor", self.factor)?,
                low_freq_factor: need("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: need("high_freq_factor", self.high_freq_factor)?,
                original_context: original()?,
            },
            Some("yarn") => {
                let factor = need("factor", self.factor)?;
                let own = RopeScaling::yarn_attention_factor(factor);
                RopeScaling::Yarn {
                    factor,
                    beta_fast: need("beta_fast", self.beta_fast.or(Some(32.0)))?,
                    beta_slow: need("beta_slow", self.beta_slow.or(Some(1.0)))?,
                    attention_factor: need(
                        "attention_factor",
                        self.attention_factor.or(Some(own)),
                    )?,
                    original_context: original()?,
                }
            }
            Some(other) => {
                let what = format!("is `{other}`, expected default, linear, llama3 or yarn");
                return Err(config("rope_type", what));
            }
        })
    }
}
