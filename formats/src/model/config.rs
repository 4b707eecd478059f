//! What the `config.json` beside a model says of its weights.

use super::files::refused;
use super::ours::{HF_KEY, HfInfo};
use super::{BOM, OpenOptions};
use crate::error::Result;
use crate::hf::LinearClass;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The part of a `config.json` that is about weights.
#[derive(Default)]
pub(super) struct Config {
    path: PathBuf,
    /// `quantization_config`; `None` where there is none.
    quantization: Option<Value>,
    /// Whether there is a file at all.
    found: bool,
}

impl Config {
    /// Reads the file beside the model at `path`.
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let path = match path.is_dir() {
            true => path.join("config.json"),
            false => path.with_file_name("config.json"),
        };
        let regular = std::fs::metadata(&path).is_ok_and(|kind| kind.is_file());
        if !regular {
            return Ok(Self::default());
        }
        let place = format!("`{}`", path.display());
        let json = std::fs::read(&path).map_err(|e| refused(format!("{place}: {e}")))?;
        let json = json.strip_prefix(BOM).unwrap_or(&json);
        let mut config: Value = serde_json::from_slice(json)
            .map_err(|e| refused(format!("{place} is no JSON: {e}")))?;
        let quantization = config.get_mut("quantization_config").map(Value::take);
        Ok(Self {
            path,
            quantization: quantization.filter(|q| !q.is_null()),
            found: true,
        })
    }

    /// What to say if the weights are packed by another method.
    pub(super) fn other_method(&self) -> Option<String> {
        let method = self.quantization.as_ref()?.get("quant_method")?;
        let name = match method {
            Value::Null => return None,
            Value::String(name) if name == "bitnet" => return None,
            Value::String(name) => name.clone(),
            other => other.to_string(),
        };
        Some(format!(
            "`{}` says quant_method {name}, whose packed weights are not read: expected bitnet",
            self.path.display()
        ))
    }
}

/// What `weight_scale` means: from the options, our own note, or `config.json`. It is never
/// guessed.
pub(super) fn linear_class(
    options: &OpenOptions,
    noted: Option<&HfInfo>,
    config: Result<Config>,
) -> Result<LinearClass> {
    if let Some(class) = options.linear_class {
        return Ok(class);
    }
    let named = |name: &str, place: &str| {
        LinearClass::from_name(name).ok_or_else(|| {
            refused(format!(
                "linear_class in {place} is {name:?}, expected bitlinear or autobitlinear"
            ))
        })
    };
    if let Some(noted) = noted {
        return named(&noted.linear_class, &format!("metadata `{HF_KEY}`"));
    }
    let config = config?;
    if !config.found {
        return Err(refused(
            "holds HF BitNet matrices, and there is no config.json beside it that says whether \
             outputs are divided by weight_scale or multiplied: --linear-class bitlinear or \
             autobitlinear does",
        ));
    }
    let place = format!("`{}`", config.path.display());
    match &config.quantization {
        None => Err(refused(format!(
            "{place} has no quantization_config; --linear-class says what it lacks"
        ))),
        Some(config) => match config.get("linear_class") {
            // As transformers has it.
            None | Some(Value::Null) => Ok(LinearClass::default()),
            Some(name) => named(name.as_str().unwrap_or("not a string"), &place),
        },
    }
}
