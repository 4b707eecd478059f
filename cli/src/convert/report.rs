//! What `tritgemm convert` says at its end.

use super::Job;
use crate::output::{self, Out, count, plain};
use crate::table::{Col, Table};
use anyhow::Result;
use std::path::PathBuf;
use tritgemm::Granularity;
use tritgemm_formats::model::ours::granularity_name as scale;

/// What the table says about one matrix.
pub struct Report {
    pub name: String,
    pub from: &'static str,
    pub shape: [usize; 2],
    pub from_scales: Granularity,
    pub scales: Granularity,
    pub bytes: [usize; 2],
}

/// The table, what was left out, and what is still to be done.
pub fn print(
    job: &Job<'_>,
    reports: &[Report],
    [before, after]: [u64; 2],
    files: &[PathBuf],
    out: &mut Out,
) -> Result<()> {
    let columns = [
        Col::Left("tensor"),
        Col::Left("from"),
        Col::Left("to"),
        Col::Right("shape"),
        Col::Left("scales"),
        Col::Right("bytes"),
    ];
    let mut table = Table::new(&columns);
    for r in reports {
        let scales = match scale(r.from_scales) == scale(r.scales) {
            true => scale(r.scales).to_owned(),
            false => format!("{} -> {}", scale(r.from_scales), scale(r.scales)),
        };
        table.add_row([
            plain(&r.name),
            r.from.to_owned(),
            job.target.name().to_owned(),
            format!("{} x {}", r.shape[0], r.shape[1]),
            scales,
            format!("{} -> {}", r.bytes[0], r.bytes[1]),
        ]);
    }
    out.table(&table)?;
    out.line("")?;
    for note in job.model.notes() {
        out.text(plain(note))?;
    }
    for name in &job.skipped {
        out.line(format!("Left out: {}", plain(name)))?;
    }
    out.text(format!(
        "{} converted, {} copied, {} left out: {} -> {}.",
        count(reports.len(), "matrix", "matrices"),
        job.others.len(),
        job.skipped.len(),
        output::bytes(before),
        output::bytes(after),
    ))?;
    let gguf = job.model.gguf_metadata().len();
    if job.target.ggml().is_none() && gguf > 0 {
        let values = count(gguf, "metadata value", "metadata values");
        out.line(format!("{values} of the GGUF header have no place in OUT."))?;
    }
    if let Some(class) = job.target.class() {
        out.line(format!(
            "The model's config.json needs \"quantization_config\": {{\"quant_method\": \"bitnet\", \
             \"linear_class\": \"{}\", \"quantization_mode\": \"offline\"}}.",
            class.name()
        ))?;
        for r in reports.iter().filter(|r| r.shape[0] % 4 != 0) {
            out.line(format!(
                "{}: transformers cannot load {} rows, which are no multiple of 4.",
                plain(&r.name),
                r.shape[0]
            ))?;
        }
    }
    for file in files {
        out.line(format!("Written to {}", plain(&file.display().to_string())))?;
    }
    Ok(())
}
