//! Writing GGUF.

use super::Job;
use crate::atomic::AtomicFile;
use crate::format::PackedInfo;
use crate::model::{self, Other};
use crate::output::plain;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::BufWriter;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{GgufWriter, TensorType, Value};

/// What most of a model's tensors are, by llama.cpp's numbers.
const FILE_TYPE: &str = "general.file_type";
const TQ1_0_FILE: u32 = 36;
const TQ2_0_FILE: u32 = 37;

/// The version of ggml's block types.
const QUANTIZATION: &str = "general.quantization_version";
const QUANTIZATION_VERSION: u32 = 2;

/// The type that a tensor keeps in a GGUF file.
pub fn tensor_type(other: &Other<'_>) -> Option<u32> {
    let dims = other.shape.len() <= 4;
    let ty = other
        .gguf_type
        .or(other.dtype.and_then(model::gguf_type_of));
    ty.filter(|_| dims)
}

/// Writes all of it; returns the length of the file.
pub fn write(job: &Job<'_>, file: &mut AtomicFile) -> Result<u64> {
    let ty = job.target.ggml().context("a GGUF type")?;
    let model = &job.model;
    let mut writer = GgufWriter::new();
    metadata(job, ty, &mut writer)?;
    for m in &model.matrices {
        let [rows, cols] = m.shape.map(|n| n as u64);
        // A stack of matrices stays one.
        let shape = m.gguf_shape.clone().unwrap_or_else(|| vec![cols, rows]);
        writer.tensor(&m.name, &shape, ty.into())?;
    }
    for other in &model.others {
        let ty = TensorType(tensor_type(other).context("a type that GGUF has")?);
        let shape: Vec<u64> = other.shape.iter().rev().map(|&n| n as u64).collect();
        writer.tensor_of_len(&other.name, &shape, ty, other.bytes().len() as u64)?;
    }

    let in_output = || format!("`{}`", job.args.output.display());
    let out = BufWriter::with_capacity(1 << 20, &mut *file);
    let mut tensors = writer.start(out).with_context(in_output)?;
    for m in &model.matrices {
        let bytes = ty.encode(&job.matrix(m)?, job.rounding, &m.name)?;
        tensors.write(&bytes).with_context(in_output)?;
    }
    for other in &model.others {
        job.bar.set_message(plain(&other.name));
        tensors.write(other.bytes()).with_context(in_output)?;
        job.bar.inc(other.bytes().len() as u64);
    }
    // Dropped when flushed, so that the file can be asked for its length.
    drop(tensors.finish().with_context(in_output)?);
    file.len().with_context(in_output)
}

/// What was in a GGUF file stays; what was in ours is noted.
fn metadata(job: &Job<'_>, ty: TernaryType, writer: &mut GgufWriter) -> Result<()> {
    let model = &job.model;
    let file_type = Value::U32(match ty {
        TernaryType::Tq1_0 => TQ1_0_FILE,
        _ => TQ2_0_FILE,
    });
    for (key, value) in &model.gguf {
        let value = if key == FILE_TYPE { file_type } else { *value };
        writer.metadata(key, value)?;
    }
    for (key, value) in [
        (FILE_TYPE, file_type),
        (QUANTIZATION, Value::U32(QUANTIZATION_VERSION)),
    ] {
        if !model.gguf.iter().any(|(k, _)| k == key) {
            writer.metadata(key, value)?;
        }
    }
    for (key, value) in &model.metadata {
        let key = format!("{}{key}", model::METADATA_PREFIX);
        writer.metadata(&key, Value::from(value.as_str()))?;
    }
    let noted: BTreeMap<&str, &PackedInfo> = model
        .matrices
        .iter()
        .filter_map(|m| Some((m.name.as_str(), m.info.as_ref()?)))
        .collect();
    if !noted.is_empty() {
        let json = serde_json::to_string(&noted)?;
        writer.metadata(model::MATRICES_KEY, Value::from(json.as_str()))?;
    }
    Ok(())
}
