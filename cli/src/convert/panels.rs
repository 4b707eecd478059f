//! Writing panel files.

use super::Job;
use crate::atomic::AtomicFile;
use crate::model::{Matrix, Other, bias_name};
use anyhow::{Context, Result};
use safetensors::Dtype;
use tritgemm::{PanelFile, Panels};

/// Whether `other` is the bias of `matrix`, which a panel file can hold.
pub fn is_bias_of(other: &Other<'_>, matrix: &Matrix<'_>) -> bool {
    other.dtype == Some(Dtype::F32)
        && other.name == bias_name(&matrix.name)
        && other.shape == [matrix.shape[0]]
}

/// Writes the one matrix; returns the length of the file.
pub fn write(job: &Job<'_>, file: &mut AtomicFile) -> Result<u64> {
    let m = job.model.matrices.first().context("one matrix")?;
    let matrix = job.matrix(m)?;
    let bias = job.model.others.iter().find(|o| is_bias_of(o, m));
    let bias = bias.map(|o| {
        let values = o.bytes().chunks_exact(4);
        values
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    });
    let panels = Panels::pack(&matrix)?;
    let mut bytes = Vec::new();
    PanelFile::new(panels, Some(matrix.scales().clone()), bias)?.write_to(&mut bytes)?;
    let in_output = || format!("`{}`", job.args.output.display());
    file.write_at(0, &bytes).with_context(in_output)?;
    Ok(bytes.len() as u64)
}
