//! Writing safetensors: our own matrices or those of HF BitNet.

use super::Job;
use super::report::Report;
use crate::format::{Planned, of_names, own_keys};
use crate::sharded::{Metadata, Shards};
use anyhow::{Context, Result};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tritgemm::TernaryMatrix;
use tritgemm_formats::FloatType;
use tritgemm_formats::hf::{self, LinearClass};
use tritgemm_formats::model::Matrix;
use tritgemm_formats::model::ours::{HF_KEY, HfInfo, PackedInfo, scales_name, scales_shape};

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

/// What is written of a matrix.
fn plan(job: &Job<'_>, r: &Report) -> [Planned; 2] {
    let planned = |name, dtype, shape| Planned { name, dtype, shape };
    let [rows, cols] = r.shape;
    let name = r.name.clone();
    match job.target.class() {
        None => {
            let shape = scales_shape(r.scales, r.shape);
            let scales = planned(scales_name(&name), Dtype::F32, shape);
            [
                planned(name, Dtype::U8, vec![rows, cols.div_ceil(4)]),
                scales,
            ]
        }
        Some(_) => {
            let dtype = match job.args.scale_type.float_type() {
                FloatType::F32 => Dtype::F32,
                FloatType::F16 => Dtype::F16,
                FloatType::Bf16 => Dtype::BF16,
            };
            let scale = planned(hf::scale_name(&name), dtype, vec![1]);
            [
                planned(name, Dtype::U8, vec![rows.div_ceil(4), cols]),
                scale,
            ]
        }
    }
}

/// Writes all of it; returns the files and how many bytes they are together.
pub fn write(job: &Job<'_>, reports: &[Report]) -> Result<(Vec<PathBuf>, u64)> {
    let infos: BTreeMap<String, PackedInfo> = (job.matrices.iter())
        .zip(reports)
        .map(|(m, r)| (m.name.clone(), job.info(m, r.shape, r.scales)))
        .collect();
    let class = job.target.class();
    let mut planned: Vec<Planned> = reports.iter().flat_map(|r| plan(job, r)).collect();
    for other in &job.others {
        planned.push(Planned {
            name: other.name.clone(),
            dtype: (other.dtype.or_else(|| job.dequantized(other)))
                .context("a type that safetensors has")?,
            shape: other.shape.clone(),
        });
    }
    // Of each file what concerns its own tensors.
    let own = |names: &[&str]| {
        let tensors = of_names(&infos, names);
        let Some(class) = class else {
            return own_keys(&tensors);
        };
        let note = HfInfo {
            linear_class: class.name().to_owned(),
            tensors,
        };
        let json = serde_json::to_string(&note)?;
        Ok(BTreeMap::from([(HF_KEY.to_owned(), json)]))
    };
    let metadata = Metadata {
        all: job.model.metadata(),
        own: &own,
    };
    let args = job.args;
    let what = (job.model, args.input.as_path(), args.force, "convert");
    let mut out = Shards::create(&args.output, planned, args.shard_size, &metadata, what)?;
    for m in &job.matrices {
        let matrix = job.matrix(m)?;
        match class {
            None => {
                out.put(&m.name, matrix.packed())?;
                let scales = matrix.scales().values().iter();
                let scales: Vec<u8> = scales.flat_map(|s| s.to_le_bytes()).collect();
                out.put(&scales_name(&m.name), &scales)?;
            }
            Some(class) => {
                out.put(&m.name, &hf::encode(&matrix))?;
                let scale = hf_scale(job, m, &matrix, class)?;
                out.put(&hf::scale_name(&m.name), &scale)?;
            }
        }
    }
    for other in &job.others {
        job.bar.set_message(crate::output::plain(&other.name));
        match other.dtype {
            Some(_) => out.put(&other.name, other.bytes())?,
            None => {
                let values = other.to_f32()?;
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                out.put(&other.name, &bytes)?;
            }
        }
        job.bar.inc(other.bytes().len() as u64);
    }
    out.commit()
}
