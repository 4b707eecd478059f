//! Writing panel files.

use super::Job;
use crate::atomic::AtomicFile;
use crate::sharded::apart;
use anyhow::{Context, Result, ensure};
use safetensors::Dtype;
use std::collections::HashMap;
use std::io::BufWriter;
use std::path::PathBuf;
use tritgemm::{ModelWriter, PanelFile, Panels};
use tritgemm_formats::model::{Matrix, Tensor, bias_name};

/// The names of biases that matrices may have, and how long they are.
pub fn biases(matrices: &[&Matrix<'_>]) -> HashMap<String, usize> {
    let bias = |m: &&Matrix<'_>| (bias_name(&m.name), m.shape[0]);
    matrices.iter().map(bias).collect()
}

/// Whether `other` is one of the biases, which a panel file can hold.
pub fn is_bias(other: &Tensor<'_>, biases: &HashMap<String, usize>) -> bool {
    let rows = biases.get(&other.name);
    other.dtype == Some(Dtype::F32) && rows.is_some_and(|&rows| other.shape == [rows])
}

/// Writes one matrix as a file of its own, several as that of a model; returns the file and
/// its length.
pub fn write(job: &Job<'_>) -> Result<(Vec<PathBuf>, u64)> {
    let output = &job.args.output;
    let in_output = || format!("`{}`", output.display());
    ensure!(
        job.args.shard_size.is_none(),
        "--shard-size: a panel file is one file"
    );
    let paths = vec![output.clone()];
    apart(job.model, &job.args.input, &paths, "convert")?;
    let biases: HashMap<&str, &Tensor<'_>> =
        job.others.iter().map(|o| (o.name.as_str(), *o)).collect();
    let mut file = AtomicFile::create(output, job.args.force).with_context(in_output)?;
    if let [matrix] = &job.matrices[..] {
        let matrix = panels(job, matrix, &biases)?;
        matrix.write_to(file.writer()).with_context(in_output)?;
    } else {
        let mut writer = ModelWriter::new(BufWriter::new(file.writer())).with_context(in_output)?;
        for matrix in &job.matrices {
            let panels = panels(job, matrix, &biases)?;
            let added = writer.add(&matrix.name, &panels);
            added.with_context(in_output)?;
        }
        writer.finish().with_context(in_output)?;
    }
    let len = file.len()?;
    file.commit().with_context(in_output)?;
    Ok((paths, len))
}

/// A matrix with its scales, its bias and its rotation.
fn panels(job: &Job<'_>, m: &Matrix<'_>, biases: &HashMap<&str, &Tensor<'_>>) -> Result<PanelFile> {
    let matrix = job.matrix(m)?;
    let bias = biases.get(bias_name(&m.name).as_str());
    let bias = bias.map(|o| o.to_f32()).transpose()?;
    let panels = Panels::pack(&matrix)?;
    let file = PanelFile::new(panels, Some(matrix.scales().clone()), bias)?;
    Ok(match &m.rotation {
        Some(rotated) => file.with_rotation(rotated.rotation.clone())?,
        None => file,
    })
}
