//! Bars of a model's tokens a second, a chart for the prompt and one for what is generated.

use super::{ModelReport, Row};
use crate::svg::{BLUE, DARK, GREEN, LIGHT, Paper, Svg};
use anyhow::{Context, ensure};
use std::fs;
use std::path::Path;

const WIDTH: f64 = 1200.0;
/// Of the charts: where bars start, and how long the longest is.
const CHARTS: [(f64, f64); 2] = [(434.0, 250.0), (824.0, 250.0)];
const TOP: f64 = 150.0;
const ROW: f64 = 46.0;
const BAR: f64 = 30.0;
/// Of text; GitHub shows the picture at two thirds of its size.
const TITLE: u32 = 28;
const TEXT: u32 = 21;
const SMALL: u32 = 17;
/// Bars of others.
const GREY: &str = "#8C959F";

/// Draws the runs on the most threads into `dir`, on light paper and on dark.
pub fn draw(report: &ModelReport, dir: &Path) -> anyhow::Result<()> {
    let most = report.rows.iter().map(|row| row.threads).max();
    let mut rows: Vec<&Row> = report.rows.iter().collect();
    rows.retain(|row| row.in_picture && Some(row.threads) == most);
    ensure!(!rows.is_empty(), "nothing was measured");
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    for (theme, paper) in [("light", LIGHT), ("dark", DARK)] {
        let path = dir.join(format!("{}-{theme}.svg", report.model));
        fs::write(&path, svg(report, &rows, paper))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn svg(report: &ModelReport, rows: &[&Row], paper: Paper) -> String {
    let bottom = TOP + ROW * rows.len() as f64;
    let mut out = Svg::new((WIDTH, bottom + 102.0), paper);
    let title = format!(
        "Tokens per second, a model of {}'s size on {} of a CPU",
        name_of(&report.model),
        crate::problem::threads(rows[0].threads)
    );
    out.text((24.0, 46.0), TITLE, "start", &title);
    out.text((24.0, 80.0), SMALL, "start", &report.machine.summary());
    let headings = [
        format!("reading a prompt of {} tokens", report.prompt),
        format!("writing {} tokens", report.generated),
    ];
    let speeds: [fn(&Row) -> [f64; 3]; 2] = [|row| row.prefill, |row| row.decode];
    for (((left, length), heading), speed) in CHARTS.into_iter().zip(headings).zip(speeds) {
        out.text((left, TOP - 18.0), TEXT, "start", &heading);
        let most = rows.iter().map(|row| speed(row)[2]).fold(1e-9, f64::max);
        for (i, row) in rows.iter().enumerate() {
            let top = TOP + ROW * i as f64;
            let [low, median, high] = speed(row).map(|speed| left + speed / most * length);
            out.bar((left, top), (median - left, BAR), color_of(&row.contender));
            let middle = top + BAR / 2.0;
            let quartiles = [(low, middle), (high, middle)];
            out.line(&quartiles, (paper.ink, 3, ""));
            let label = (high.max(median) + 8.0, middle + 7.0);
            out.text(label, TEXT, "start", &digits(speed(row)[1]));
        }
    }
    for (i, row) in rows.iter().enumerate() {
        let at = (CHARTS[0].0 - 14.0, TOP + ROW * i as f64 + BAR / 2.0 + 7.0);
        out.text(at, TEXT, "end", &row.contender);
    }
    let mut remarks = vec![
        format!(
            "Medians of {} interleaved turns, lines are quartiles. Weights are random, of the model's shapes.",
            report.turns
        ),
        format!(
            "int8 and f32 are activations. The whole model runs; its head is {}.",
            head_of(&report.model)
        ),
    ];
    if report.was_busy() {
        remarks.push("The machine was busy: not to be quoted.".to_owned());
    }
    for (i, remark) in remarks.iter().enumerate() {
        let at = (24.0, bottom + 28.0 + 26.0 * i as f64);
        out.text(at, SMALL, "start", remark);
    }
    out.finish()
}

/// How people call the model.
fn name_of(model: &str) -> &str {
    match model {
        "bitnet-2b" => "BitNet 2B",
        "bonsai-8b" => "Bonsai 8B",
        "falcon-e-3b" => "Falcon-E 3B",
        other => other,
    }
}

/// What its head is multiplied as.
fn head_of(model: &str) -> &'static str {
    match model {
        "bonsai-8b" => "ternary, with Q4_0 Q6_K",
        _ => "int8 with tritgemm, Q6_K with the others",
    }
}

fn color_of(contender: &str) -> &'static str {
    match contender {
        ours if ours.starts_with("tritgemm") => BLUE,
        plugin if plugin.contains("tritgemm") => GREEN,
        _ => GREY,
    }
}

/// Three digits that count.
fn digits(speed: f64) -> String {
    match speed {
        speed if speed >= 99.95 => format!("{speed:.0}"),
        speed => format!("{speed:.1}"),
    }
}
