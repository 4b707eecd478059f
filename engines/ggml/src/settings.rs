//! What the environment asks of the plug-in.

use std::env;
use tritgemm::GroupSize;
use tritgemm_formats::ggml::TernaryType;

/// How products take their activations. One that is NaN or infinite reaches the outputs that use
/// it where they are f32, and all outputs of its token where they are int8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activations {
    /// As they are.
    F32,
    /// int8 with a scale a token.
    Int8,
    /// int8 with a scale for each [`activation_group`] of a token.
    Int8Grouped,
}

/// Activations that share a scale: as many as where ggml itself multiplies weights of a type,
/// whose activations are Q8_K for TQ1_0 and TQ2_0, and Q8_0 for Q2_0.
pub fn activation_group(weights: TernaryType) -> GroupSize {
    match weights {
        TernaryType::Tq1_0 | TernaryType::Tq2_0 => GroupSize::G256,
        _ => GroupSize::G32,
    }
}

impl Activations {
    /// In the message at load.
    pub fn describe(self) -> &'static str {
        match self {
            Activations::F32 => "f32 activations",
            Activations::Int8 => "int8 activations, a scale a token",
            Activations::Int8Grouped => "int8 activations, scales for groups of a token",
        }
    }
}

/// What the environment says.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `TRITGEMM_GGML`; `None` if the plug-in is off.
    pub activations: Option<Activations>,
    /// `TRITGEMM_GGML_STATS`: a line of figures at exit.
    pub stats: bool,
    /// `TRITGEMM_GGML_FORCE`: versions of ggml that nobody has tried.
    pub force: bool,
    /// `TRITGEMM_GGML_ANY`, for ggml's tests: products of tensors that are no weights, packed
    /// anew at every use.
    pub any: bool,
}

impl Settings {
    /// # Errors
    /// If `TRITGEMM_GGML` is none of its values.
    pub fn from_environment() -> Result<Self, String> {
        let value = env::var_os("TRITGEMM_GGML").unwrap_or_default();
        let activations = match value.to_str() {
            Some("" | "f32") => Some(Activations::F32),
            Some("int8") => Some(Activations::Int8),
            Some("int8g") => Some(Activations::Int8Grouped),
            Some("off") => None,
            _ => {
                return Err(format!(
                    "TRITGEMM_GGML is {value:?}, expected f32, int8, int8g or off"
                ));
            }
        };
        let on = |name: &str| env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
        Ok(Self {
            activations,
            stats: on("TRITGEMM_GGML_STATS"),
            force: on("TRITGEMM_GGML_FORCE"),
            any: on("TRITGEMM_GGML_ANY"),
        })
    }
}
