//! The tensors of a model's files, by the part of the model that they are.

use super::dense::{Dense, Storage};
use super::error::{Result, tensor};
use super::norm::Norm;
use super::table::Table;
use crate::{BitLinear, Parallelism};
use safetensors::Dtype;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tritgemm::{Granularity, Linear, MatRef, Options, Scales, TernaryMatrix};
use tritgemm_formats::{Model, OpenOptions};

/// What names tensors have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Naming {
    HuggingFace,
    Gguf,
}

/// Parts of a model as Hugging Face names them, and as GGUF does.
const PARTS: [(&str, &str); 18] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.attn_sub_norm", "attn_sub_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.ffn_sub_norm", "ffn_sub_norm"),
    ("rms_norm", "rms_norm"),
    ("rope_freqs", "rope_freqs"),
];

/// The files of a model.
pub(crate) struct Weights {
    /// Ternary matrices may lie in another file than the rest.
    files: Vec<Arc<Model>>,
    naming: Naming,
    quantise_online: bool,
}

/// The panel file of a folder, beside whose matrices the rest lies in [`DENSE_FILE`].
pub(crate) const PANEL_FILE: &str = "model.panels";
/// What a panel file does not hold.
pub(crate) const DENSE_FILE: &str = "dense.safetensors";

impl Weights {
    /// Opens the files at `path`.
    pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let panels = path.join(PANEL_FILE);
        let paths: Vec<PathBuf> = match panels.is_file() {
            true => vec![panels, path.join(DENSE_FILE)],
            false => vec![path.into()],
        };
        let open = |path: &PathBuf| tritgemm_formats::open_with(path, options).map(Arc::new);
        let files = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let gguf = files.iter().any(|files| files.container() == "GGUF");
        Ok(Self {
            files,
            naming: if gguf {
                Naming::Gguf
            } else {
                Naming::HuggingFace
            },
            quantise_online: false,
        })
    }

    /// Makes dense weights of projections ternary.
    pub(crate) fn quantise_online(&mut self, yes: bool) {
        self.quantise_online = yes;
    }

    pub(crate) fn naming(&self) -> Naming {
        self.naming
    }

    /// The file that has the metadata.
    pub(crate) fn first(&self) -> &Model {
        &self.files[0]
    }

    /// The name of a part of the model, or of one of its layers.
    pub(crate) fn name(&self, layer: Option<usize>, part: &str) -> String {
        let gguf = || {
            PARTS
                .iter()
                .find(|(name, _)| *name == part)
                .map_or(part, |p| p.1)
        };
        match (self.naming, layer) {
            (Naming::HuggingFace, None) => format!("{part}.weight"),
            (Naming::HuggingFace, Some(layer)) => format!("model.layers.{layer}.{part}.weight"),
            (Naming::Gguf, None) => format!("{}.weight", gguf()),
            (Naming::Gguf, Some(layer)) => format!("blk.{layer}.{}.weight", gguf()),
        }
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        let has = |f: &Arc<Model>| f.matrix(name).is_ok() || f.tensor(name).is_ok();
        self.files.iter().any(has)
    }

    fn with_tensor(&self, name: &str) -> &Arc<Model> {
        let found = self.files.iter().find(|f| f.tensor(name).is_ok());
        found.unwrap_or(&self.files[0])
    }

    /// The values of a vector of `len` floats.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let stored = self.with_tensor(name).tensor(name)?;
        match stored.shape.iter().product::<usize>() == len {
            true => Ok(stored.to_f32()?),
            false => Err(tensor(
                name,
                format!("is {:?}, expected [{len}]", stored.shape),
            )),
        }
    }

    /// A norm of `features` values.
    pub(crate) fn norm(
        &self,
        layer: Option<usize>,
        part: &str,
        features: usize,
        eps: f32,
    ) -> Result<Norm> {
        let name = self.name(layer, part);
        Norm::new(&name, self.vector(&name, features)?, eps)
    }

    /// The ternary matrix `[M, K]` of a part of a layer.
    pub(crate) fn linear(&self, layer: usize, part: &str, shape: [usize; 2]) -> Result<BitLinear> {
        let name = self.name(Some(layer), part);
        let stem = name.trim_end_matches(".weight");
        if self.has(&format!("{stem}.bias")) {
            return Err(tensor(
                format!("{stem}.bias"),
                "is not read, expected no bias",
            ));
        }
        let linear = match self.matrix(&name, shape)? {
            Some(linear) => linear,
            None if self.quantise_online => self.quantised(&name, shape)?,
            None => {
                let ty = &self.with_tensor(&name).tensor(&name)?.type_name;
                return Err(tensor(&name, format!("is {ty}, expected ternary weights")));
            }
        };
        // llama.cpp's files of BitNet may have the tensor's scale apart.
        let scale = format!("{stem}.scale");
        match self.naming == Naming::Gguf && self.has(&scale) {
            false => Ok(BitLinear::from(linear)),
            true => scaled(&name, &linear, self.vector(&scale, 1)?[0]).map(BitLinear::from),
        }
    }

    /// The ternary matrix of that name, if there is one.
    fn matrix(&self, name: &str, [rows, cols]: [usize; 2]) -> Result<Option<Linear>> {
        let found = self.files.iter().find_map(|f| f.matrix(name).ok());
        let Some(matrix) = found else { return Ok(None) };
        if matrix.shape != [rows, cols] || matrix.stack.is_some() {
            let what = format!("is {:?}, expected [{rows}, {cols}]", matrix.shape);
            return Err(tensor(name, what));
        }
        let read =
            Parallelism::Global.run(usize::MAX, Options::new(), |ws| matrix.linear_mapped(ws));
        Ok(Some(read?))
    }

    fn quantised(&self, name: &str, [rows, cols]: [usize; 2]) -> Result<Linear> {
        let stored = self.with_tensor(name).tensor(name)?;
        if stored.shape != [rows, cols] {
            let what = format!("is {:?}, expected [{rows}, {cols}]", stored.shape);
            return Err(tensor(name, what));
        }
        let values = stored.to_f32()?;
        let matrix = MatRef::new(&values, rows, cols).map_err(|e| tensor(name, e.to_string()))?;
        let matrix = TernaryMatrix::quantize(matrix, Granularity::PerTensor);
        let linear = matrix.and_then(|matrix| Linear::new(&matrix));
        linear.map_err(|e| tensor(name, e.to_string()))
    }

    /// The table of `cols` values a row, of any number of rows, that is a part of the model.
    pub(crate) fn table(&self, part: &str, cols: usize) -> Result<Table> {
        let name = self.name(None, part);
        if let Some(matrix) = self.files.iter().find_map(|f| f.matrix(&name).ok()) {
            let rotation = matrix.rotation.as_ref().filter(|rotated| rotated.rows);
            let rotated_rows = rotation.map(|rotated| rotated.rotation.clone());
            let linear = self.matrix(&name, [matrix.shape[0], cols])?;
            let linear = linear.ok_or_else(|| tensor(&name, "is missing"))?;
            return Ok(Table::Ternary {
                layer: BitLinear::from(linear),
                rotated_rows,
            });
        }
        let files = self.with_tensor(&name);
        let stored = files.tensor(&name)?;
        let [rows, stored_cols] = stored.shape[..] else {
            return Err(tensor(&name, "is no matrix"));
        };
        if stored_cols != cols {
            return Err(tensor(
                &name,
                format!("is [{rows}, {stored_cols}], expected [_, {cols}]"),
            ));
        }
        if rows == 0 {
            return Err(tensor(&name, "has no rows"));
        }
        if stored.rotation.is_some() {
            return Err(tensor(
                &name,
                "is rotated and not ternary, which is not read",
            ));
        }
        if let Some(why) = &stored.unread {
            return Err(tensor(&name, why.as_str()));
        }
        let storage = match stored.dtype {
            Some(Dtype::F32) => Storage::F32,
            Some(Dtype::F16) => Storage::F16,
            Some(Dtype::BF16) => Storage::Bf16,
            _ => {
                let values = stored.to_f32()?;
                return Ok(Table::Dense(Dense::bf16(&values, [rows, cols])));
            }
        };
        Ok(Table::Dense(Dense::mapped(files, &name, storage)?))
    }
}

/// A layer with all its scales times `factor`.
fn scaled(name: &str, linear: &Linear, factor: f32) -> Result<Linear> {
    let scaled = || -> Result<Linear, tritgemm::MatrixError> {
        let scales = linear.scales()?;
        let values = scales.values().iter().map(|s| s * factor).collect();
        let scales = match scales.granularity() {
            Granularity::PerTensor => Scales::per_tensor(scales.values()[0] * factor),
            Granularity::PerRow => Scales::per_row(values),
            Granularity::PerGroup(size) => Scales::per_group(size, values),
        };
        let scaled = Linear::from_parts(linear.panels().clone(), scales, None)?;
        match linear.rotation() {
            Some(rotation) => scaled.with_rotation(rotation.clone()),
            None => Ok(scaled),
        }
    };
    scaled().map_err(|e| tensor(name, e.to_string()))
}
