//! Writing GGUF, in one file or split.

use super::Job;
use super::rotation;
use super::target::tensor_type;
use crate::atomic::{AtomicFile, checked};
use crate::output::plain;
use crate::sharded::{apart, commit_as, part_paths, runs};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::BufWriter;
use std::path::PathBuf;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgufWriter, TensorType, Value};
use tritgemm_formats::model::ours::{PackedInfo, TENSORS_KEY};
use tritgemm_formats::model::{Matrix, SAFETENSORS_PREFIX, Tensor};

/// What most of a model's tensors are, by llama.cpp's numbers.
const FILE_TYPE: &str = "general.file_type";

/// The version of ggml's block types.
const QUANTIZATION: &str = "general.quantization_version";
const QUANTIZATION_VERSION: u32 = 2;

/// A tensor to be written.
enum Item<'a> {
    Matrix(&'a Matrix<'a>),
    Other(&'a Tensor<'a>),
}

/// llama.cpp's number for files of a type; the forks' types have none that is published.
fn file_type(ty: TernaryType) -> Option<u32> {
    match ty {
        TernaryType::Tq1_0 => Some(36),
        TernaryType::Tq2_0 => Some(37),
        TernaryType::Q2_0 => Some(41),
        _ => None,
    }
}

/// Writes all of it; returns the files and how many bytes they are together.
pub fn write(job: &Job<'_>) -> Result<(Vec<PathBuf>, u64)> {
    let ty = job.target.ggml().context("a GGUF type")?;
    let items: Vec<Item<'_>> = (job.matrices.iter().map(|m| Item::Matrix(m)))
        .chain(job.others.iter().map(|o| Item::Other(o)))
        .collect();
    let alignment = alignment(job);
    let len = |item: &Item<'_>| {
        let (name, len) = match item {
            Item::Other(other) => (&other.name, other.bytes().len() as u64),
            Item::Matrix(m) => {
                let len = ty.tensor_bytes(m.shape[0], m.shape[1], &m.name)?;
                (&m.name, len as u64)
            }
        };
        // The name's length, dimensions, type and offset; padding.
        let entry = (8 + name.len() + 4 + 4 * 8 + 4 + 8) as u64;
        Ok(len.saturating_add(alignment).saturating_add(entry))
    };
    let lens: Vec<u64> = items.iter().map(len).collect::<Result<_>>()?;
    let mut first = GgufWriter::new();
    metadata(job, ty, &mut first)?;
    let split = |writer: &mut GgufWriter, [no, count]: [usize; 2]| {
        let part = |n: usize| u16::try_from(n).context("more than 65535 files");
        writer.metadata("split.no", Value::U16(part(no)?))?;
        writer.metadata("split.count", Value::U16(part(count)?))?;
        let count = i32::try_from(items.len()).context("too many tensors")?;
        writer.metadata("split.tensors.count", Value::I32(count))?;
        anyhow::Ok(())
    };
    let head = |mut writer: GgufWriter| {
        split(&mut writer, [0, 1])?;
        anyhow::Ok(writer.start(Vec::new())?.finish()?.len() as u64)
    };
    let heads = match job.args.shard_size {
        Some(_) => [head(first.clone())?, head(GgufWriter::new())?],
        None => [0; 2],
    };
    let runs = runs(&lens, heads, job.args.shard_size);
    let output = &job.args.output;
    let in_output = || format!("`{}`", output.display());
    let paths = part_paths(output, runs.len()).with_context(in_output)?;
    apart(job.model, &job.args.input, &paths, "convert")?;
    for path in &paths {
        // Before the work, not after it.
        checked(path, job.args.force).with_context(|| format!("`{}`", path.display()))?;
    }
    let (mut total, mut written) = (0, Vec::new());
    let mut left = &items[..];
    for (no, (path, &run)) in paths.iter().zip(&runs).enumerate() {
        let in_path = || format!("`{}`", path.display());
        let mut writer = std::mem::take(&mut first);
        if runs.len() > 1 {
            split(&mut writer, [no, runs.len()])?;
        }
        let (now, later) = left.split_at(run);
        left = later;
        let mut file = AtomicFile::create(path, job.args.force).with_context(in_path)?;
        one(job, ty, writer, now, &mut file).with_context(in_path)?;
        total += file.len().with_context(in_path)?;
        // No more than one is open.
        written.push(file.close().with_context(in_path)?);
    }
    commit_as(&paths, written)?;
    Ok((paths, total))
}

/// Tensors start at multiples of it, in the first part as the metadata says.
fn alignment(job: &Job<'_>) -> u64 {
    let kept = job.model.gguf_metadata().iter();
    let mut said = kept.filter(|(key, _)| key == ALIGNMENT_KEY);
    let said = said.find_map(|(_, value)| value.as_u64());
    said.unwrap_or_default().max(DEFAULT_ALIGNMENT.into())
}

/// Writes one file.
fn one(
    job: &Job<'_>,
    ty: TernaryType,
    mut writer: GgufWriter,
    items: &[Item<'_>],
    file: &mut AtomicFile,
) -> Result<()> {
    for item in items {
        match item {
            Item::Matrix(m) => {
                // A stack of matrices stays one.
                writer.tensor(
                    &m.name,
                    &shape(m.stack.as_ref().unwrap_or(&m.shape.to_vec())),
                    ty.into(),
                )?;
            }
            Item::Other(other) => {
                let ty: TensorType = tensor_type(other).context("a type that GGUF has")?;
                let len = other.bytes().len() as u64;
                writer.tensor_of_len(&other.name, &shape(&other.shape), ty, len)?;
            }
        }
    }
    let out = BufWriter::with_capacity(1 << 20, file);
    let mut tensors = writer.start(out)?;
    for item in items {
        match item {
            Item::Matrix(m) => {
                let bytes = ty.encode(&job.matrix(m)?, job.rounding, &m.name)?;
                tensors.write(&bytes)?;
            }
            Item::Other(other) => {
                job.bar.set_message(plain(&other.name));
                tensors.write(other.bytes())?;
                job.bar.inc(other.bytes().len() as u64);
            }
        }
    }
    // Dropped when flushed, so that the file can be asked for its length.
    drop(tensors.finish()?);
    Ok(())
}

/// GGUF has the fastest dimension first.
fn shape(slowest_first: &[usize]) -> Vec<u64> {
    slowest_first.iter().rev().map(|&n| n as u64).collect()
}

/// What was in a GGUF file stays; what was in ours is noted.
fn metadata(job: &Job<'_>, ty: TernaryType, writer: &mut GgufWriter) -> Result<()> {
    let gguf = job.model.gguf_metadata();
    let file_type = file_type(ty).map(Value::U32);
    for (key, value) in gguf {
        let value = match key.as_str() {
            // The number that the file had is not that of its type now.
            FILE_TYPE => match file_type {
                Some(file_type) => file_type,
                None => continue,
            },
            _ => *value,
        };
        writer.metadata(key, value)?;
    }
    let has = |key: &str| gguf.iter().any(|(k, _)| k == key);
    if let Some(file_type) = file_type.filter(|_| !has(FILE_TYPE)) {
        writer.metadata(FILE_TYPE, file_type)?;
    }
    // A GGUF file that lacks the version stays so.
    if job.model.container() != "GGUF" {
        writer.metadata(QUANTIZATION, Value::U32(QUANTIZATION_VERSION))?;
    }
    rotation::write(job, writer)?;
    for (key, value) in job.model.metadata() {
        let key = format!("{SAFETENSORS_PREFIX}{key}");
        writer.metadata(&key, Value::from(value.as_str()))?;
    }
    let noted: BTreeMap<&str, &PackedInfo> = (job.matrices.iter())
        .filter_map(|m| Some((m.name.as_str(), m.info.as_ref()?)))
        .collect();
    if !noted.is_empty() {
        let json = serde_json::to_string(&noted)?;
        writer.metadata(TENSORS_KEY, Value::from(json.as_str()))?;
    }
    Ok(())
}
