//! Safetensors files: our own matrices and those of HF BitNet, side by side if
//! need be.

use super::{Hints, Matrix, Model, Other};
use crate::format::{PackedInfo, Source, scales_name};
use anyhow::{Context, Result, bail, ensure};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::rc::Rc;
use tritgemm_formats::hf::{self, LinearClass, Packed};

/// The name of the HF BitNet format in reports.
pub const HF: &str = "HF BitNet";

/// The key of what we note in the header of HF files that we write: an
/// [`HfInfo`] as JSON. Others need not know it.
pub const HF_KEY: &str = "tritgemm.hf";

/// What an HF file of ours says of itself beyond its tensors.
#[derive(Serialize, Deserialize)]
pub struct HfInfo {
    /// As in a `config.json`.
    pub linear_class: String,
    /// The HF matrices.
    pub tensors: BTreeMap<String, PackedInfo>,
}

/// Reads the header of a safetensors file.
pub fn open<'a>(bytes: &'a [u8], path: &Path, hints: &Hints) -> Result<Model<'a>> {
    let mut source = Source::parse(bytes)?;
    let noted: Option<HfInfo> = match source.metadata.remove(HF_KEY) {
        None => None,
        Some(json) => serde_json::from_str(&json)
            .with_context(|| format!("metadata `{HF_KEY}` is not what it should be"))?,
    };
    let hf = hf_matrices(&source);
    let mut taken: HashSet<String> = hf
        .iter()
        .flat_map(|m| [m.name.clone(), hf::scale_name(&m.name)])
        .collect();
    let (class, note) = match linear_class(path, hints, noted.as_ref()) {
        _ if hf.is_empty() => (LinearClass::default(), None),
        Ok(class) => (class, None),
        Err(error) if hints.tolerant => {
            let note = format!("Scales of HF BitNet are shown as stored: the file {error:#}.");
            (LinearClass::AutoBitLinear, Some(note))
        }
        Err(error) => return Err(error),
    };
    if let Some(rows) = hints.rows {
        ensure!(
            hf.is_empty() || hf.iter().any(|m| m.packed_rows == rows.div_ceil(4)),
            "no HF BitNet matrix has the {} packed rows of {rows} rows",
            rows.div_ceil(4)
        );
    }
    let mut matrices = Vec::new();
    for m in hf {
        let info = noted.as_ref().and_then(|n| n.tensors.get(&m.name)).cloned();
        let fits = |rows: &usize| rows.div_ceil(4) == m.packed_rows;
        let rows = hints
            .rows
            .filter(fits)
            .or(info.as_ref().map(|i| i.shape[0]));
        let all = m.packed_rows.checked_mul(4);
        let all = all.with_context(|| format!("tensor `{}` is too large", m.name))?;
        matrices.push(Matrix {
            name: m.name.clone(),
            format: HF,
            shape: [rows.unwrap_or(all), m.cols],
            bytes: m.bytes.len() + m.scale_bytes,
            info,
            gguf_shape: None,
            read: Box::new(move || {
                let packed = Packed {
                    tensor: &m.name,
                    bytes: m.bytes,
                    packed_rows: m.packed_rows,
                    cols: m.cols,
                    weight_scale: m.weight_scale,
                };
                Ok(hf::decode(&packed, class, rows)?)
            }),
        });
    }

    let source = Rc::new(source);
    for (name, info) in &source.packed {
        let parts = [name.clone(), scales_name(name)];
        let sizes = source.tensors.iter().filter(|t| parts.contains(&t.name));
        let bytes = sizes.map(|t| t.data.len()).sum();
        taken.extend(parts);
        let (source, name, info) = (Rc::clone(&source), name.clone(), info.clone());
        matrices.push(Matrix {
            name: name.clone(),
            format: "tritgemm",
            shape: info.shape,
            bytes,
            info: Some(info.clone()),
            gguf_shape: None,
            read: Box::new(move || {
                let matrix = source.matrix(&name, &info);
                matrix.with_context(|| format!("tensor `{name}`"))
            }),
        });
    }
    let others = source.tensors.iter().filter(|t| !taken.contains(&t.name));
    let others = others.map(|t| Other {
        name: t.name.clone(),
        type_name: t.dtype.to_string(),
        gguf_type: None,
        dtype: Some(t.dtype),
        shape: t.shape.clone(),
        data: t.data,
        owned: None,
    });
    Ok(Model {
        container: "safetensors",
        others: others.collect(),
        metadata: source.metadata.clone(),
        gguf: Vec::new(),
        note,
        matrices,
    })
}

/// A matrix of HF BitNet in a file.
struct HfMatrix<'a> {
    name: String,
    packed_rows: usize,
    cols: usize,
    bytes: &'a [u8],
    scale_bytes: usize,
    weight_scale: f32,
}

/// What has a `_scale` beside it and is not one of ours.
fn hf_matrices<'a>(source: &Source<'a>) -> Vec<HfMatrix<'a>> {
    let scale = |name: &str| {
        let name = hf::scale_name(name);
        let tensor = source.tensors.iter().find(|t| t.name == name)?;
        let values = hf::float_type(tensor.dtype)?.decode(tensor.data);
        match values[..] {
            [value] => Some((tensor.data.len(), value)),
            _ => None,
        }
    };
    let matrix = |t: &crate::format::Tensor<'a>| {
        let (Dtype::U8, &[packed_rows, cols]) = (t.dtype, &t.shape[..]) else {
            return None;
        };
        if source.packed.contains_key(&t.name) {
            return None;
        }
        let (scale_bytes, weight_scale) = scale(&t.name)?;
        Some(HfMatrix {
            name: t.name.clone(),
            packed_rows,
            cols,
            bytes: t.data,
            scale_bytes,
            weight_scale,
        })
    };
    source.tensors.iter().filter_map(matrix).collect()
}

/// What `weight_scale` means: from the command line, our own note, or the
/// `config.json` beside the file. It is never guessed.
fn linear_class(path: &Path, hints: &Hints, noted: Option<&HfInfo>) -> Result<LinearClass> {
    if let Some(class) = hints.linear_class {
        return Ok(class);
    }
    let named = |name: &str, place: &str| {
        LinearClass::from_name(name).with_context(|| {
            format!("linear_class in {place} is {name:?}, expected bitlinear or autobitlinear")
        })
    };
    if let Some(noted) = noted {
        return named(&noted.linear_class, &format!("metadata `{HF_KEY}`"));
    }
    let config = path.with_file_name("config.json");
    let Ok(json) = std::fs::read(&config) else {
        bail!(
            "holds HF BitNet matrices, and there is no config.json beside it that says whether \
             outputs are divided by weight_scale or multiplied: --linear-class bitlinear or \
             autobitlinear does"
        );
    };
    let place = format!("`{}`", config.display());
    let json: serde_json::Value =
        serde_json::from_slice(&json).with_context(|| format!("{place} is no JSON"))?;
    match json.get("quantization_config") {
        None => bail!("{place} has no quantization_config; --linear-class says what it lacks"),
        Some(config) => match config.get("linear_class") {
            // As transformers has it.
            None | Some(serde_json::Value::Null) => Ok(LinearClass::default()),
            Some(name) => named(name.as_str().unwrap_or("not a string"), &place),
        },
    }
}
