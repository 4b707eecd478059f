//! What the `config.json` beside a model, and the files like it, say of its weights.

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
    /// Every `quantization_config`, that of the model first, then those of its parts.
    quantization: Vec<Value>,
    /// What else is said to pack the weights: the file and the name.
    others: Option<(PathBuf, String)>,
    /// Whether there is a file at all.
    found: bool,
}

/// Files that quantisers leave beside a model, and what they are when they do not say.
const SIDE_FILES: [(&str, &str); 3] = [
    ("quantize_config.json", "GPTQ or AWQ"),
    ("quant_config.json", "AWQ"),
    ("hf_quant_config.json", "ModelOpt"),
];

/// The file `name` beside the model at `path`, or in it.
pub(super) fn beside(path: &Path, name: &str) -> PathBuf {
    match path.is_dir() {
        true => path.join(name),
        false => path.with_file_name(name),
    }
}

/// The JSON of a file; nothing if there is none.
pub(super) fn json(path: &Path) -> Result<Option<Value>> {
    if !std::fs::metadata(path).is_ok_and(|kind| kind.is_file()) {
        return Ok(None);
    }
    let place = format!("`{}`", path.display());
    let json = std::fs::read(path).map_err(|e| refused(format!("{place}: {e}")))?;
    let json = json.strip_prefix(BOM).unwrap_or(&json);
    let value = serde_json::from_slice(json);
    value
        .map(Some)
        .map_err(|e| refused(format!("{place} is no JSON: {e}")))
}

impl Config {
    /// Reads the files beside the model at `path`.
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let config = beside(path, "config.json");
        let value = json(&config)?;
        let mut all = Self {
            found: value.is_some(),
            ..Self::default()
        };
        gather(value.as_ref(), "quantization_config", &mut all.quantization);
        let [mut compressed, mut mlx] = [Vec::new(), Vec::new()];
        gather(value.as_ref(), "compression_config", &mut compressed);
        gather(value.as_ref(), "quantization", &mut mlx);
        mlx.retain(|value| value.get("bits").is_some());
        let method = |value: &Value, otherwise: &str| {
            let method = value.get("quant_method").and_then(Value::as_str);
            method.unwrap_or(otherwise).to_owned()
        };
        if let Some(value) = compressed.first() {
            all.others = Some((config.clone(), method(value, "compressed-tensors")));
        }
        if all.quantization.is_empty() && all.others.is_none() {
            all.others = mlx
                .first()
                .map(|value| (config.clone(), method(value, "MLX")));
            for (name, what) in SIDE_FILES {
                let side = beside(path, name);
                if let Some(value) = json(&side)? {
                    all.others
                        .get_or_insert_with(|| (side, method(&value, what)));
                }
            }
        }
        all.path = config;
        Ok(all)
    }

    /// What to say if the weights, or those of a part of the model, are packed by another
    /// method.
    pub(super) fn other_method(&self) -> Option<String> {
        let says = |method: &str| {
            format!(
                "`{}` says quant_method {method}, whose packed weights are not read: expected \
                 bitnet",
                self.path.display()
            )
        };
        let other = |config: &Value| match config.get("quant_method")? {
            Value::Null => None,
            Value::String(name) if name == "bitnet" => None,
            Value::String(name) => Some(says(name)),
            other => Some(says(&other.to_string())),
        };
        let packed = |(path, name): &(PathBuf, String)| {
            format!(
                "`{}` says that weights are packed by {name}, which are not read: expected bitnet",
                path.display()
            )
        };
        let other = self.quantization.iter().find_map(other);
        other.or_else(|| self.others.as_ref().map(packed))
    }
}

/// The values of `key` that are set, in `value` and below it, the outer ones first.
fn gather(value: Option<&Value>, key: &str, found: &mut Vec<Value>) {
    let Some(Value::Object(object)) = value else {
        return;
    };
    found.extend(object.get(key).filter(|value| !value.is_null()).cloned());
    for (name, value) in object {
        if name != key {
            gather(Some(value), key, found);
        }
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
    let class = |config: &Value| match config.get("linear_class") {
        // As transformers has it.
        None | Some(Value::Null) => Ok(LinearClass::default()),
        Some(name) => named(name.as_str().unwrap_or("not a string"), &place),
    };
    let mut classes = config.quantization.iter().map(class);
    let Some(first) = classes.next() else {
        return Err(refused(format!(
            "{place} has no quantization_config; --linear-class says what it lacks"
        )));
    };
    let first = first?;
    for other in classes {
        if other? != first {
            return Err(refused(format!(
                "{place} has several quantization_config, which differ in linear_class; \
                 --linear-class says which one holds"
            )));
        }
    }
    Ok(first)
}
