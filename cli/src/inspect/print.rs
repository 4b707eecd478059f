//! The report for a reader.

use super::Report;
use super::fold::fold;
use super::stats::{Histogram, MatrixStats};
use crate::output::{self, Out, count, plain, short};
use crate::table::{Col, GAP, Table, elide};
use anyhow::Result;

/// Columns that the longest bar takes.
const BAR: usize = 40;

/// Columns that stand beside a bar.
const AROUND: usize = 34;

/// Columns that a metadata value takes at most.
const VALUE: usize = 60;

/// Prints everything; a line for each tensor if `all`.
pub fn print(report: &Report<'_>, all: bool, out: &mut Out) -> Result<()> {
    let of_files = match report.files.len() {
        0 => String::new(),
        n => format!(" of {n} files"),
    };
    out.text(format!(
        "{}: {}{of_files}, {}, {} and {}",
        plain(&report.file),
        report.container,
        output::bytes(report.bytes),
        count(
            report.matrices.len() + report.invalid.len(),
            "ternary matrix",
            "ternary matrices"
        ),
        count(report.others.len(), "other tensor", "other tensors"),
    ))?;
    for note in report.notes {
        out.text(plain(note))?;
    }
    if !report.metadata.is_empty() {
        out.line("\nMetadata")?;
        let mut table = Table::new(&[Col::Left("key"), Col::Left("value")]);
        // A key may have a line to itself, with the value indented below.
        let most = out.width().map_or(VALUE, |width| width.saturating_sub(GAP));
        for (key, value) in &report.metadata {
            table.add_row([plain(key), elide(&plain(value), most.min(VALUE))]);
        }
        out.table(&table)?;
    }
    if !report.matrices.is_empty() {
        out.line("\nTernary matrices")?;
        out.table(&matrices(&report.matrices, all))?;
        let totals = &report.totals;
        let zeros = match totals.zeros {
            Some(zeros) => format!("{:.1} % zeros", 100.0 * zeros),
            None => "not read: --count reads so many too".to_owned(),
        };
        out.text(format!(
            "Together {} weights, {:.3} bits each, {zeros}",
            totals.weights, totals.bits_per_weight,
        ))?;
    }
    for invalid in &report.invalid {
        let error = output::one_line(&invalid.error);
        let (red, end) = (output::RED, output::RED.render_reset());
        out.line(format!(
            "{red}Invalid:{end} `{}`: {error}",
            plain(&invalid.name)
        ))?;
    }
    if let Some(histogram) = &report.scales {
        let steps = if histogram.log { ", equal ratios" } else { "" };
        out.line(format!("\nScales of all matrices{steps}"))?;
        let room = out
            .width()
            .map_or(BAR, |width| width.saturating_sub(AROUND));
        out.table(&bars(histogram, room.clamp(4, BAR)))?;
    }
    if !report.others.is_empty() {
        out.line("\nOther tensors")?;
        out.table(&others(report, all))?;
    }
    Ok(())
}

fn others(report: &Report<'_>, all: bool) -> Table {
    let mut table = Table::new(&[
        Col::Left("tensor"),
        Col::Left("type"),
        Col::Right("shape"),
        Col::Right("bytes"),
        Col::Left("rotated"),
    ]);
    let rotated = report.others.iter().any(|o| o.rotation.is_some());
    let kind = |at: usize| {
        let o = &report.others[at];
        let shape: Vec<String> = o.shape.iter().map(usize::to_string).collect();
        let rotation = o.rotation.clone().unwrap_or_default();
        (plain(o.type_name), shape.join(" x "), rotation)
    };
    let names = report.others.iter().map(|o| o.name);
    for line in fold(names, kind, all) {
        let (type_name, shape, rotation) = line.kind.clone();
        let bytes = line.range(|at| report.others[at].bytes, |b| b.to_string());
        table.add_row([plain(&line.name()), type_name, shape, bytes, rotation]);
    }
    if !rotated {
        table.drop_last_column();
    }
    table
}

fn matrices(matrices: &[MatrixStats], all: bool) -> Table {
    let mut table = Table::new(&[
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
        Col::Left("rotated"),
    ]);
    let rotated = matrices.iter().any(|m| m.rotation.is_some());
    let kind = |at: usize| {
        let m: &MatrixStats = &matrices[at];
        let shape = match &m.stack {
            Some(stack) => stack.clone(),
            None => m.shape.to_vec(),
        };
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        let rotation = m.rotation.clone().unwrap_or_default();
        (m.format, shape.join(" x "), m.granularity, rotation)
    };
    for line in fold(matrices.iter().map(|m| m.name.as_str()), kind, all) {
        let share = |of: fn(&MatrixStats) -> Option<u64>| {
            let share = |at: usize| match (matrices[at].weights(), of(&matrices[at])) {
                (0, _) | (_, None) => f64::NAN,
                (all, Some(some)) => 100.0 * some as f64 / all as f64,
            };
            line.range(share, |share| match share.is_nan() {
                true => "-".to_owned(),
                false => format!("{share:.1} %"),
            })
        };
        let scale = |of: fn(&MatrixStats) -> Option<f32>| {
            let value = |at: usize| of(&matrices[at]).unwrap_or(f32::NAN);
            line.range(value, |value| match value.is_nan() {
                true => "-".to_owned(),
                false => short(value),
            })
        };
        let (format, shape, granularity, rotation) = line.kind.clone();
        table.add_row([
            plain(&line.name()),
            format.to_owned(),
            shape,
            share(|m| m.counts.minus),
            share(|m| m.counts.zero),
            share(|m| m.counts.plus),
            granularity.unwrap_or("-").to_owned(),
            scale(|m| m.scale_min),
            scale(|m| m.scale_median),
            scale(|m| m.scale_max),
            rotation,
        ]);
    }
    if !rotated {
        table.drop_last_column();
    }
    table
}

/// The histogram in the terminal, a bar a bin, to an eighth of a column.
fn bars(histogram: &Histogram, longest: usize) -> Table {
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
        let eighths = (n as f64 / most as f64 * (8 * longest) as f64).round() as usize;
        // What is there is seen.
        let eighths = eighths.max(usize::from(n > 0));
        let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
        table.add_row([short(edges[0]), short(edges[1]), bar, n.to_string()]);
    }
    table
}
