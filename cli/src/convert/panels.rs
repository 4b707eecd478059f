//! Writing panel files.

use super::Job;
use crate::atomic::AtomicFile;
use crate::model::{Matrix, Other, bias_name};
use anyhow::{Context, Result};
use safetensors::Dtype;
use std::io::BufWriter;
use tritgemm::{ModelWriter, PanelFile, Panels};

/// Whether `other` is the bias of `matrix`, which a panel file can hold.
pub fn is_bias_of(other: &Other<'_>, matrix: &Matrix<'_>) -> bool {
    other.dtype == Some(Dtype::F32)
        && other.name == bias_name(&matrix.name)
        && other.shape == [matrix.shape[0]]
}

/// Writes one matrix as a file of its own, several as that of a model; returns the length of
/// the file.
pub fn write(job: &Job<'_>, file: &mut AtomicFile) -> Result<u64> {
    let in_output = || format!("`{}`", job.args.output.display());
    if let [matrix] = &job.model.matrices[..] {
        let matrix = panels(job, matrix)?;
        matrix.write_to(file.writer()).with_context(in_output)?;
        return file.len();
    }
    let mut writer = ModelWriter::new(BufWriter::new(file.writer())).with_context(in_output)?;
    for matrix in &job.model.matrices {
        writer
            .add(&matrix.name, &panels(job, matrix)?)
            .with_context(in_output)?;
    }
    writer.finish().with_context(in_output)?;
    file.len()
}

/// A matrix with its scales and its bias.
fn panels(job: &Job<'_>, m: &Matrix<'_>) -> Result<PanelFile> {
    let matrix = job.matrix(m)?;
    let bias = job.model.others.iter().find(|o| is_bias_of(o, m));
    let bias = bias.map(|o| {
        let values = o.bytes().chunks_exact(4);
        values
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    });
    let panels = Panels::pack(&matrix)?;
    Ok(PanelFile::new(panels, Some(matrix.scales().clone()), bias)?)
}
