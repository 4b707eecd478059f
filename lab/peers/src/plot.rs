//! An SVG plot of a report: GMAC/s over the number of tokens, with the peaks of the
//! multipliers. Text is left to the viewer's sans-serif font.

use crate::contender::{Arithmetic, GEMM_CRATE, GGML_Q8K};
use crate::ours;
use crate::problem::{Cell, Shape, WeightsFrom, threads as count_of_threads};
use crate::report::Report;
use crate::run::CellResult;
use crate::scaling::Scaling;
use crate::svg::{BLUE, GREEN, LIGHT, ORANGE, PURPLE, Stroke, Svg, VERMILION};
use anyhow::{Context, ensure};
use std::fs;
use std::path::Path;
use tritgemm::Isa;

/// Of the picture and, within it, of the chart.
const SIZE: (f64, f64) = (1200.0, 680.0);
const LEFT: f64 = 80.0;
const RIGHT: f64 = 826.0;
const TOP: f64 = 82.0;
const BOTTOM: f64 = 616.0;
const LEGEND: f64 = 946.0;
const GRID: Stroke = ("#E6E6E6", 1, "");
const AXIS: Stroke = ("#222222", 1, "");
const PEAK: Stroke = ("#666666", 1, "3 4");

/// A contender's line: (log2 of tokens, GMAC/s).
struct Series {
    label: String,
    points: Vec<(f64, f64)>,
    color: &'static str,
    dashed: bool,
}

/// Draws the runs of `shape` on the fewest threads into `dir`.
pub fn draw(report: &Report, shape: Shape, dir: &Path) -> anyhow::Result<()> {
    let fewest = report.cells.iter().map(|c| c.cell.threads).min();
    let mut cells: Vec<&CellResult> = report.cells.iter().collect();
    cells.retain(|c| {
        c.cell.shape == shape
            && c.cell.weights_from == WeightsFrom::Cache
            && Some(c.cell.threads) == fewest
    });
    ensure!(
        !cells.is_empty(),
        "the plot shows {shape} (--plot-shape), which was not measured"
    );
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join("tokens.svg");
    fs::write(&path, svg(report, &cells)).with_context(|| format!("writing {}", path.display()))
}

fn svg(report: &Report, cells: &[&CellResult]) -> String {
    let (series, peaks) = (series(cells), peaks(cells));
    let points = || series.iter().flat_map(|s| &s.points);
    let rates = points().map(|p| p.1).chain(peaks.iter().map(|p| p.1));
    let (last, top) = (
        points().map(|p| p.0).fold(1.0, f64::max),
        rates.fold(1.0, f64::max) * 1.08,
    );
    let x = |log2: f64| LEFT + (log2 + 0.15) / (last + 0.3) * (RIGHT - LEFT);
    let y = |rate: f64| BOTTOM - rate / top * (BOTTOM - TOP);

    let mut out = Svg::new(SIZE, LIGHT);
    let Cell { shape, threads, .. } = cells[0].cell;
    let threads = count_of_threads(threads);
    let title = format!("Ternary matrix products, {shape} weights, {threads}");
    out.text((24.0, 30.0), 18, "start", &title);
    out.text((24.0, 54.0), 11, "start", &report.machine.summary());

    for i in 0..=last as u32 {
        let at = x(f64::from(i));
        out.line(&[(at, TOP), (at, BOTTOM)], GRID);
        out.text((at, BOTTOM + 20.0), 12, "middle", &format!("{}", 1u64 << i));
    }
    let step = step(top);
    for rate in (0..=(top / step) as u32).map(|i| f64::from(i) * step) {
        out.line(&[(LEFT, y(rate)), (RIGHT, y(rate))], GRID);
        out.text((LEFT - 10.0, y(rate) + 4.0), 12, "end", &format!("{rate}"));
    }
    out.line(&[(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], AXIS);
    let middle = ((LEFT + RIGHT) / 2.0, BOTTOM + 46.0);
    out.text(middle, 13, "middle", "tokens at once (N)");
    out.text((24.0, TOP - 8.0), 13, "start", "GMAC/s");

    for (label, rate) in peaks {
        let (at, label_at) = (y(rate), RIGHT + 6.0);
        out.line(&[(LEFT, at), (RIGHT, at)], PEAK);
        out.text((label_at, at - 5.0), 11, "start", label);
        let rate = format!("peak {rate:.0}");
        out.text((label_at, at + 10.0), 11, "start", &rate);
    }
    let mut at = 94.0;
    for s in &series {
        let stroke = (s.color, 2, if s.dashed { "6 4" } else { "" });
        let points: Vec<_> = s.points.iter().map(|p| (x(p.0), y(p.1))).collect();
        out.line(&points, stroke);
        out.line(&[(LEGEND, at), (LEGEND + 32.0, at)], stroke);
        for point in points.into_iter().chain([(LEGEND + 16.0, at)]) {
            out.dot(point, s.color);
        }
        out.text((LEGEND + 42.0, at + 4.0), 12, "start", &s.label);
        at += 26.0;
    }
    for remark in [
        "1 MAC = one weight times one activation",
        &format!("medians of {} interleaved repeats", report.repeats),
        "grey: the bare multiply-accumulate",
        "loop, nothing loaded or stored",
    ] {
        at += 18.0;
        out.text((LEGEND, at), 11, "start", remark);
    }
    out.finish()
}

/// Draws the efficiencies over the number of workers into `dir`: a colour for each number of
/// tokens, the first shape solid and others dashed.
pub fn draw_scaling(found: &[Scaling], machine: &str, dir: &Path) -> anyhow::Result<()> {
    const COLORS: [&str; 5] = [BLUE, GREEN, VERMILION, ORANGE, PURPLE];
    let first = found.first().context("nothing was measured")?;
    let last = first.efficiency.iter().map(|&(w, _)| w).max().unwrap_or(2);
    let x = |workers: usize| {
        let part = ((workers as f64).log2() - 0.85) / ((last as f64).log2() - 0.7);
        LEFT + part * (RIGHT - LEFT)
    };
    let y = |efficiency: f64| BOTTOM - efficiency.min(1.1) / 1.1 * (BOTTOM - TOP);
    let mut out = Svg::new(SIZE, LIGHT);
    let title = "Efficiency of int8 products: time on one worker over (workers x their time)";
    out.text((24.0, 30.0), 18, "start", title);
    out.text((24.0, 54.0), 11, "start", machine);
    for &(workers, _) in &first.efficiency {
        let at = x(workers);
        out.line(&[(at, TOP), (at, BOTTOM)], GRID);
        out.text((at, BOTTOM + 20.0), 12, "middle", &workers.to_string());
    }
    for tenths in 0..=5 {
        let efficiency = f64::from(tenths) / 5.0;
        let at = y(efficiency);
        out.line(&[(LEFT, at), (RIGHT, at)], GRID);
        out.text(
            (LEFT - 10.0, at + 4.0),
            12,
            "end",
            &format!("{efficiency:.1}"),
        );
    }
    out.line(&[(LEFT, TOP), (LEFT, BOTTOM), (RIGHT, BOTTOM)], AXIS);
    let middle = ((LEFT + RIGHT) / 2.0, BOTTOM + 46.0);
    out.text(middle, 13, "middle", "workers, scheduled item by item");
    let mut tokens: Vec<usize> = found.iter().map(|s| s.tokens).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let mut legend = 94.0;
    for s in found {
        let color = tokens.iter().position(|&n| n == s.tokens).unwrap_or(0);
        let color = COLORS[color % COLORS.len()];
        let dashes = if s.shape == first.shape { "" } else { "6 4" };
        let points: Vec<_> = s.efficiency.iter().map(|&(w, e)| (x(w), y(e))).collect();
        let sample = [(LEGEND, legend), (LEGEND + 32.0, legend)];
        for points in [&points[..], &sample] {
            out.line(points, (color, 2, dashes));
            points.iter().for_each(|&point| out.dot(point, color));
        }
        let label = format!("{}, N = {}", s.shape, s.tokens);
        out.text((LEGEND + 42.0, legend + 4.0), 12, "start", &label);
        legend += 26.0;
    }
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join("workers.svg");
    fs::write(&path, out.finish()).with_context(|| format!("writing {}", path.display()))
}

/// Between two ticks: a round number that makes some five to ten of them.
fn step(top: f64) -> f64 {
    let magnitude = 10f64.powf((top / 10.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * magnitude);
    steps
        .into_iter()
        .find(|step| top / step <= 10.0)
        .unwrap_or(top)
}

/// The multiply-accumulate peaks worth a line, the widest of each kind: the median over
/// the cells, interleaved with what they are compared to.
fn peaks(cells: &[&CellResult]) -> Vec<(&'static str, f64)> {
    let peak = |(label, name)| {
        let mut rates: Vec<f64> = cells.iter().filter_map(|c| c.gmacs(name)).collect();
        rates.sort_by(f64::total_cmp);
        Some((label, *rates.get(rates.len() / 2)?))
    };
    [
        [
            ("vpdpbusd zmm", "vpdpbusd-zmm"),
            ("vpmaddubsw ymm", "vpmaddubsw-ymm"),
        ],
        [("f32 FMA zmm", "fma-zmm"), ("f32 FMA ymm", "fma-ymm")],
    ]
    .into_iter()
    .filter_map(|kinds| kinds.into_iter().find_map(peak))
    .collect()
}

/// The lines to draw, in the order of the legend: the best backend, the best of AVX2,
/// the peers.
fn series(cells: &[&CellResult]) -> Vec<Series> {
    let backends: Vec<&str> = cells[0]
        .measurements
        .iter()
        .filter_map(|m| m.info.name.strip_prefix("tritgemm-int8/"))
        .collect();
    let avx2 = |backend: &&&str| backend.split('/').next() == Some(Isa::Avx2.name());
    let mut shown: Vec<&str> = backends.first().copied().into_iter().collect();
    shown.extend(backends.iter().find(avx2));
    shown.dedup();
    let mut lines = Vec::new();
    for (backend, dashed) in shown.into_iter().zip([false, true]) {
        for (what, arithmetic, color) in [
            ("int8", Arithmetic::Int8, BLUE),
            ("f32", Arithmetic::F32, GREEN),
        ] {
            let label = format!("tritgemm {what}, {backend}");
            lines.push((label, ours::name(arithmetic, None, backend), color, dashed));
        }
    }
    // Without quantisation: the peer at its best.
    let ggml = "ggml TQ2_0, AVX2".to_owned();
    lines.push((ggml, GGML_Q8K.to_owned(), VERMILION, false));
    let dense = "gemm crate, dense f32".to_owned();
    lines.push((dense, GEMM_CRATE.to_owned(), ORANGE, false));
    let series = |(label, name, color, dashed): (String, String, _, _)| {
        let point = |c: &&CellResult| Some(((c.cell.tokens as f64).log2(), c.gmacs(&name)?));
        let mut points: Vec<_> = cells.iter().filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series {
            label,
            points,
            color,
            dashed,
        }
    };
    let mut series: Vec<Series> = lines.into_iter().map(series).collect();
    series.retain(|s| !s.points.is_empty());
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (top, expected) in [(683.0, 100.0), (120.0, 20.0), (9.0, 1.0), (41.0, 5.0)] {
            assert_eq!(step(top), expected);
        }
    }
}
