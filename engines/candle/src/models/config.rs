//! What a model is: its architecture and its sizes, whatever file says so.

use super::error::{Result, config};

/// The architectures that are run.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// BitNet b1.58: as Llama, with a norm before the output and the down projection.
    BitNet,
    /// Llama, and all that is stored as one: Falcon3-1.58bit, Falcon-E, TriLM.
    Llama,
    /// Qwen3: as Llama, with norms of each head's queries and keys.
    Qwen3,
}

/// What the gate of a feed-forward layer goes through.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GateActivation {
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)^2`.
    SquaredRelu,
}

/// How positions turn queries and keys.
#[derive(Clone, PartialEq, Debug)]
pub struct RopeConfig {
    /// The base of the wavelengths.
    pub theta: f32,
    /// How the wavelengths are stretched for longer contexts.
    pub scaling: RopeScaling,
    /// Whether neighbours are turned together, as GGUF files of Llama have their rows
    /// ordered; otherwise value `i` of a head with value `i + head_dim / 2`.
    pub interleaved: bool,
}

/// How wavelengths are stretched.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All by this factor.
    Linear(f32),
    /// Llama 3's: long ones by the factor, short ones not, others in between.
    Llama3 {
        /// The factor.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are long.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are short.
        high_freq_factor: f32,
        /// The context of the training before.
        original_context: f32,
    },
    /// YaRN (arXiv:2309.00071).
    Yarn {
        /// The factor.
        factor: f32,
        /// Turns within the original context above which nothing is stretched.
        beta_fast: f32,
        /// Turns below which all is stretched.
        beta_slow: f32,
        /// What sines and cosines are multiplied by.
        attention_factor: f32,
        /// The context of the training before.
        original_context: f32,
    },
    /// Each wavelength by a factor of its own, `head_dim / 2` of them.
    Factors(Vec<f32>),
}

impl RopeScaling {
    /// YaRN's own choice of what sines and cosines are multiplied by.
    pub(crate) fn yarn_attention_factor(factor: f32) -> f32 {
        match factor > 1.0 {
            true => 0.1 * factor.ln() + 1.0,
            false => 1.0,
        }
    }
}

/// A model's configuration, of a `config.json` or of GGUF metadata.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The architecture.
    pub architecture: Architecture,
    /// Values of a token between layers.
    pub hidden_size: usize,
    /// Values of a token within a feed-forward layer.
    pub intermediate_size: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, which query heads share evenly.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Tokens that the model was made for.
    pub context: usize,
    /// What norms add to the mean square.
    pub rms_norm_eps: f32,
    /// The activation of the gate.
    pub activation: GateActivation,
    /// Whether the head is the embedding; nothing if the tensors tell.
    pub tied_head: Option<bool>,
    /// Positions.
    pub rope: RopeConfig,
    /// Projections have a norm of their own before them, with this epsilon: `use_rms_norm` of
    /// a `quantization_config`.
    pub projection_norm_eps: Option<f32>,
    /// Dense weights of projections are quantised by absmean, one scale a tensor, as
    /// `quantization_mode` `online` asks for.
    pub quantise_online: bool,
    /// The token before a text.
    pub bos_token: Option<u32>,
    /// The tokens that end one.
    pub eos_tokens: Vec<u32>,
}

impl Config {
    /// Checks what all later arithmetic takes for granted.
    pub(super) fn checked(self) -> Result<Self> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.context),
        ];
        for (key, size) in sizes {
            if !(1..=1 << 24).contains(&size) {
                return Err(config(key, format!("is {size}, expected 1 to 2^24")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let what = format!(
                "is {}, expected a divisor of {} heads",
                self.kv_heads, self.heads
            );
            return Err(config("num_key_value_heads", what));
        }
        if !self.head_dim.is_multiple_of(2) {
            let what = format!("is {}, expected an even number", self.head_dim);
            return Err(config("head_dim", what));
        }
        let positive = [
            ("rms_norm_eps", self.rms_norm_eps),
            ("rope_theta", self.rope.theta),
        ];
        for (key, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(config(
                    key,
                    format!("is {value}, expected a positive number"),
                ));
            }
        }
        Ok(self)
    }
}
