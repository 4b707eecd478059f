//! Writing safetensors: our own matrices or those of HF BitNet.

use super::Job;
use super::report::Report;
use crate::atomic::AtomicFile;
use crate::format::{Layout, PackedInfo, Planned, scales_name};
use crate::model::{HF_KEY, HfInfo, Matrix};
use anyhow::{Context, Result};
use safetensors::Dtype;
use std::collections::BTreeMap;
use tritgemm::TernaryMatrix;
use tritgemm_formats::FloatType;
use tritgemm_formats::hf::{self, LinearClass};

/// The bytes of `weight_scale`.
pub fn hf_scale(
    job: &Job<'_>,
    m: &Matrix<'_>,
    matrix: &TernaryMatrix,
    class: LinearClass,
) -> Result<Vec<u8>> {
    let stored = job.args.scale_type.float_type();
    let scale = hf::encode_scale(&m.name, matrix, class, stored, job.rounding)?;
    Ok(scale)
}

/// Writes all of it; returns the length of the file.
pub fn write(job: &Job<'_>, reports: &[Report], file: &mut AtomicFile) -> Result<u64> {
    let model = &job.model;
    let infos: BTreeMap<String, PackedInfo> = model
        .matrices
        .iter()
        .zip(reports)
        .map(|(m, r)| (m.name.clone(), job.info(m, r.shape, r.scales)))
        .collect();
    let class = job.target.class();
    let mut planned = Vec::new();
    let mut plan = |name, dtype, shape| planned.push(Planned { name, dtype, shape });
    for r in reports {
        let [rows, cols] = r.shape;
        match class {
            None => {
                plan(r.name.clone(), Dtype::U8, vec![rows, cols.div_ceil(4)]);
                let shape = crate::format::Grain::from_granularity(r.scales).scales_shape(r.shape);
                plan(scales_name(&r.name), Dtype::F32, shape);
            }
            Some(_) => {
                plan(r.name.clone(), Dtype::U8, vec![rows.div_ceil(4), cols]);
                let dtype = match job.args.scale_type.float_type() {
                    FloatType::F32 => Dtype::F32,
                    FloatType::F16 => Dtype::F16,
                    FloatType::Bf16 => Dtype::BF16,
                };
                plan(hf::scale_name(&r.name), dtype, vec![1]);
            }
        }
    }
    for other in &model.others {
        let dtype = other.dtype.context("a type that safetensors has")?;
        plan(other.name.clone(), dtype, other.shape.clone());
    }
    let mut metadata = model.metadata.clone();
    let layout = match class {
        None => Layout::new(planned, &metadata, Some(&infos))?,
        Some(class) => {
            let note = HfInfo {
                linear_class: class.name().to_owned(),
                tensors: infos,
            };
            metadata.insert(HF_KEY.to_owned(), serde_json::to_string(&note)?);
            Layout::new(planned, &metadata, None)?
        }
    };

    let mut put = |name: &str, bytes: &[u8]| {
        let at = layout.offsets.get(name).context("a tensor not laid out")?;
        let in_output = || format!("`{}`", job.args.output.display());
        file.write_at(*at, bytes).with_context(in_output)
    };
    for m in &model.matrices {
        let matrix = job.matrix(m)?;
        match class {
            None => {
                put(&m.name, matrix.packed())?;
                let scales = matrix.scales().values().iter();
                let scales: Vec<u8> = scales.flat_map(|s| s.to_le_bytes()).collect();
                put(&scales_name(&m.name), &scales)?;
            }
            Some(class) => {
                put(&m.name, &hf::encode(&matrix))?;
                let scale = hf_scale(job, m, &matrix, class)?;
                put(&hf::scale_name(&m.name), &scale)?;
            }
        }
    }
    for other in &model.others {
        job.bar.set_message(crate::output::plain(&other.name));
        put(&other.name, other.bytes())?;
        job.bar.inc(other.bytes().len() as u64);
    }
    let in_output = || format!("`{}`", job.args.output.display());
    file.write_at(0, &layout.header).with_context(in_output)?;
    Ok(layout.len)
}
