//! `tritgemm inspect`: what a model holds.
//!
//! | module | what it does |
//! |---|---|
//! | [`stats`] | counts of weights, where scales lie |
//! | [`print`] | the report for a reader |
//! | [`fold`] | the tensors of all layers in one line |
//! | [`svg`] | the drawing |

mod fold;
mod print;
mod stats;
mod svg;

use crate::args::InspectArgs;
use crate::atomic::AtomicFile;
use crate::output::{self, Out, count, plain};
use crate::sharded::apart;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use stats::{Histogram, MatrixStats, Totals};
use std::collections::BTreeMap;
use tritgemm_formats::model::Tensor;
use tritgemm_formats::{Model, open_with};

/// Bytes of ternary matrices up to which they are read unasked: they stay in memory meanwhile.
const READ_UNASKED: u64 = 64 << 20;

/// Bins of the histogram of scales.
const BINS: usize = 16;

/// Everything, as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    /// The files of a model in several.
    files: Vec<String>,
    container: &'a str,
    bytes: u64,
    /// The notes as one text; nothing where there are none.
    note: Option<String>,
    notes: &'a [String],
    /// GGUF metadata, arrays by their type and length.
    metadata: BTreeMap<&'a str, String>,
    totals: Totals,
    matrices: Vec<MatrixStats>,
    /// Matrices that cannot be read.
    invalid: Vec<Invalid>,
    others: Vec<OtherTensor<'a>>,
    /// Scales of all matrices; nothing where there are none.
    scales: Option<Histogram>,
}

#[derive(Serialize)]
struct Invalid {
    name: String,
    error: String,
}

#[derive(Serialize)]
struct OtherTensor<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    type_name: &'a str,
    shape: &'a [usize],
    bytes: usize,
    /// What is rotated, and in blocks of how many values.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation: Option<String>,
}

/// Runs the command.
pub fn run(args: &InspectArgs, out: &mut Out) -> Result<()> {
    crate::in_pool(args.threads, || inspect(args, out))?
}

fn inspect(args: &InspectArgs, out: &mut Out) -> Result<()> {
    let in_file = || format!("`{}`", args.file.display());
    let model = open_with(&args.file, &args.read.options(true))?;
    let report = gather(args, &model);
    if let Some(path) = &args.svg {
        let in_svg = || format!("`{}`", path.display());
        apart(
            &model,
            &args.file,
            std::slice::from_ref(path),
            "inspect --svg",
        )?;
        if report.matrices.is_empty() {
            bail!("{}: there are no ternary matrices to draw", in_file());
        }
        let drawing = svg::draw(&report.matrices, report.scales.as_ref()).with_context(in_svg)?;
        let mut file = AtomicFile::create(path, args.force).with_context(in_svg)?;
        file.write_at(0, drawing.as_bytes()).with_context(in_svg)?;
        file.commit().with_context(in_svg)?;
    }
    if args.json {
        out.line(serde_json::to_string(&report)?)?;
    } else {
        print::print(&report, args.all, out)?;
        if let Some(path) = &args.svg {
            out.line(format!("Drawn to {}", plain(&path.display().to_string())))?;
        }
    }
    if !report.invalid.is_empty() {
        let total = report.invalid.len() + report.matrices.len();
        let all = count(total, "matrix", "matrices");
        bail!("{}: {} of {all} invalid", in_file(), report.invalid.len());
    }
    Ok(())
}

fn gather<'a>(args: &InspectArgs, model: &'a Model) -> Report<'a> {
    let bytes = model.matrices().iter().map(|m| m.bytes as u64).sum();
    let reads = bytes <= READ_UNASKED || args.count || args.svg.is_some();
    let bar = output::progress(
        bytes,
        "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {eta} left  {wide_msg}",
    );
    let (mut matrices, mut invalid) = (Vec::new(), Vec::new());
    for m in model.matrices() {
        bar.set_message(plain(&m.name));
        if !reads {
            matrices.push(MatrixStats::unread(m));
            continue;
        }
        match m.read() {
            Ok(matrix) => matrices.push(MatrixStats::new(m, &matrix)),
            Err(error) => invalid.push(Invalid {
                name: m.name.clone(),
                error: error.to_string(),
            }),
        }
        bar.inc(m.bytes as u64);
    }
    bar.finish_and_clear();
    let scales: Vec<f32> = matrices.iter().flat_map(|m| m.values.clone()).collect();
    let other = |o: &'a Tensor<'_>| OtherTensor {
        name: &o.name,
        type_name: &o.type_name,
        shape: &o.shape,
        bytes: o.bytes().len(),
        rotation: o.rotation.as_ref().map(stats::rotation),
    };
    let values = model.gguf_metadata().iter();
    let files: Vec<String> = model
        .files()
        .map(|(path, _)| path.display().to_string())
        .collect();
    Report {
        file: args.file.display().to_string(),
        files: if files.len() > 1 { files } else { Vec::new() },
        container: model.container(),
        bytes: model.files().map(|(_, len)| len).sum(),
        note: Some(model.notes().join(" ")).filter(|note| !note.is_empty()),
        notes: model.notes(),
        metadata: values
            .map(|(key, value)| (key.as_str(), value.to_string()))
            .collect(),
        totals: Totals::new(&matrices),
        scales: Histogram::new(&scales, BINS),
        matrices,
        invalid,
        others: model.others().iter().map(other).collect(),
    }
}
