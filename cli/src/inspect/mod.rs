//! `tritgemm inspect`: what a file of weights holds.

mod stats;
mod svg;

use crate::args::InspectArgs;
use crate::atomic::AtomicFile;
use crate::mapped::Mapped;
use crate::model::{Hints, Model};
use crate::output::{self, Col, Out, Table, count, plain};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use stats::{Histogram, MatrixStats};

/// Bins of the histogram of scales.
const BINS: usize = 16;

/// Columns that the longest bar takes.
const BAR: usize = 40;

/// Everything, as `--json` prints it.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    container: &'a str,
    bytes: usize,
    note: Option<&'a str>,
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
}

/// Runs the command.
pub fn run(args: &InspectArgs, out: &mut Out) -> Result<()> {
    crate::in_pool(args.threads, || inspect(args, out))?
}

fn inspect(args: &InspectArgs, out: &mut Out) -> Result<()> {
    let in_file = || format!("`{}`", args.file.display());
    let mapped = Mapped::open(&args.file).with_context(in_file)?;
    let hints = Hints {
        linear_class: args.linear_class.map(|c| c.class()),
        rows: args.rows,
        tolerant: true,
    };
    let model = Model::open(&mapped, &args.file, &hints).with_context(in_file)?;
    let report = gather(args, &model, mapped.len());
    if let Some(path) = &args.svg {
        let in_svg = || format!("`{}`", path.display());
        if same_file::is_same_file(&args.file, path).unwrap_or(false) {
            bail!("{}: is the file to inspect", in_svg());
        }
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
        print(&report, out)?;
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

fn gather<'a>(args: &InspectArgs, model: &'a Model<'_>, bytes: usize) -> Report<'a> {
    let bar = output::progress(
        model.matrices.iter().map(|m| m.bytes as u64).sum(),
        "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {eta} left  {wide_msg}",
    );
    let (mut matrices, mut invalid) = (Vec::new(), Vec::new());
    for m in &model.matrices {
        bar.set_message(plain(&m.name));
        match m.read() {
            Ok(matrix) => matrices.push(MatrixStats::new(m, &matrix)),
            Err(error) => invalid.push(Invalid {
                name: m.name.clone(),
                error: format!("{error:#}"),
            }),
        }
        bar.inc(m.bytes as u64);
    }
    bar.finish_and_clear();
    let scales: Vec<f32> = matrices.iter().flat_map(|m| m.values.clone()).collect();
    let other = |o: &'a crate::model::Other<'_>| OtherTensor {
        name: &o.name,
        type_name: &o.type_name,
        shape: &o.shape,
        bytes: o.bytes().len(),
    };
    Report {
        file: args.file.display().to_string(),
        container: model.container,
        bytes,
        note: model.note.as_deref(),
        scales: Histogram::new(&scales, BINS),
        matrices,
        invalid,
        others: model.others.iter().map(other).collect(),
    }
}

fn print(report: &Report<'_>, out: &mut Out) -> Result<()> {
    out.line(format!(
        "{}: {}, {}, {} and {}",
        plain(&report.file),
        report.container,
        output::bytes(report.bytes as u64),
        count(
            report.matrices.len() + report.invalid.len(),
            "ternary matrix",
            "ternary matrices"
        ),
        count(report.others.len(), "other tensor", "other tensors"),
    ))?;
    if let Some(note) = report.note {
        out.line(note)?;
    }
    if !report.matrices.is_empty() {
        out.line("\nTernary matrices")?;
        out.table(&matrices(&report.matrices))?;
    }
    for invalid in &report.invalid {
        let error = output::one_line(&invalid.error);
        out.line(format!("Invalid: `{}`: {error}", plain(&invalid.name)))?;
    }
    if let Some(histogram) = &report.scales {
        let steps = if histogram.log { ", equal ratios" } else { "" };
        out.line(format!("\nScales of all matrices{steps}"))?;
        out.table(&bars(histogram))?;
    }
    if !report.others.is_empty() {
        out.line("\nOther tensors")?;
        let columns = [
            Col::Left("tensor"),
            Col::Left("type"),
            Col::Right("shape"),
            Col::Right("bytes"),
        ];
        let mut table = Table::new(&columns);
        for o in &report.others {
            let shape: Vec<String> = o.shape.iter().map(usize::to_string).collect();
            table.add_row([
                plain(o.name),
                plain(o.type_name),
                shape.join(" x "),
                o.bytes.to_string(),
            ]);
        }
        out.table(&table)?;
    }
    Ok(())
}

fn matrices(matrices: &[MatrixStats]) -> Table {
    let columns = [
        Col::Left("tensor"),
        Col::Left("format"),
        Col::Right("shape"),
        Col::Right("-1"),
        Col::Right("0"),
        Col::Right("+1"),
        Col::Left("scales"),
        Col::Right("min"),
        Col::Right("median"),
        Col::Right("max"),
    ];
    let mut table = Table::new(&columns);
    for m in matrices {
        let share = |n: u64| match m.weights() {
            0 => "-".to_owned(),
            all => format!("{:.1} %", 100.0 * n as f64 / all as f64),
        };
        let scale = |v: Option<f32>| v.map_or("-".to_owned(), stats::short);
        table.add_row([
            plain(&m.name),
            m.format.to_owned(),
            format!("{} x {}", m.shape[0], m.shape[1]),
            share(m.minus),
            share(m.zero),
            share(m.plus),
            m.granularity.to_owned(),
            scale(m.scale_min),
            scale(m.scale_median),
            scale(m.scale_max),
        ]);
    }
    table
}

/// The histogram in the terminal, a bar a bin, to an eighth of a column.
fn bars(histogram: &Histogram) -> Table {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let columns = [
        Col::Right("from"),
        Col::Right("to"),
        Col::Left(""),
        Col::Right("scales"),
    ];
    let mut table = Table::new(&columns);
    let most = histogram.counts.iter().copied().max().unwrap_or(1).max(1);
    for (edges, &n) in histogram.edges.windows(2).zip(&histogram.counts) {
        let eighths = (n as f64 / most as f64 * (8 * BAR) as f64).round() as usize;
        // What is there is seen.
        let eighths = eighths.max(usize::from(n > 0));
        let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
        table.add_row([
            stats::short(edges[0]),
            stats::short(edges[1]),
            bar,
            n.to_string(),
        ]);
    }
    table
}
