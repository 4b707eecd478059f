//! Two SVG plots of a report. Text is left to the viewer's sans-serif font, so
//! drawing needs none installed.

mod roofline;
mod tokens;

use crate::contender::Path as Arithmetic;
use crate::problem::{Cell, Residency, Shape};
use crate::report::Report;
use crate::run::CellResult;
use crate::{dense, ggml, ours};
use anyhow::{Context, anyhow, ensure};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fs;
use std::path::Path;

const SIZE: (u32, u32) = (1200, 680);
const LEGEND_WIDTH: u32 = 262;
/// Room at the chart's right for the names of the peaks.
const PEAK_WIDTH: u32 = 112;
const HEAD_HEIGHT: u32 = 66;
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0x66, 0x66, 0x66);
const GRID: RGBColor = RGBColor(0xE6, 0xE6, 0xE6);
const ROOF: RGBColor = RGBColor(0x55, 0x55, 0x55);

/// Draws both plots into `dir`, from the runs on one thread.
pub fn draw(report: &Report, shape: Shape, dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let threads = report
        .cells
        .iter()
        .map(|c| c.cell.threads)
        .min()
        .context("nothing was measured that could be drawn")?;
    let subject = Subject {
        report,
        shape,
        threads,
    };
    ensure!(
        subject.cells(Residency::Hot).next().is_some(),
        "the plots show {shape} (--plot-shape), which was not measured"
    );
    type Draw = fn(&Subject<'_>, &Canvas<'_>) -> anyhow::Result<()>;
    let plots: [(&str, Draw); 2] = [
        ("roofline.svg", roofline::draw),
        ("tokens.svg", tokens::draw),
    ];
    for (name, draw) in plots {
        let path = dir.join(name);
        let root = SVGBackend::new(&path, SIZE).into_drawing_area();
        let draw = || -> anyhow::Result<()> {
            root.fill(&WHITE).map_err(drawing)?;
            draw(&subject, &root)?;
            root.present().map_err(drawing)
        };
        draw().with_context(|| format!("drawing {}", path.display()))?;
    }
    Ok(())
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// plotters' errors borrow the backend; their text is what is of use.
fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

/// What a plot shows of a report.
struct Subject<'a> {
    report: &'a Report,
    shape: Shape,
    threads: usize,
}

impl<'a> Subject<'a> {
    fn cells(&self, residency: Residency) -> impl Iterator<Item = &'a CellResult> {
        let (shape, threads) = (self.shape, self.threads);
        self.report.cells.iter().filter(move |c| {
            let Cell {
                shape: s,
                residency: r,
                threads: t,
                ..
            } = c.cell;
            (s, r, t) == (shape, residency, threads)
        })
    }

    /// A ceiling as the cells measured it, interleaved with what it is compared
    /// to: the median over the cells.
    fn peak(&self, name: &str) -> Option<f64> {
        let mut rates: Vec<f64> = self
            .cells(Residency::Hot)
            .filter_map(|c| c.gmacs(name))
            .collect();
        rates.sort_by(f64::total_cmp);
        rates
            .get(rates.len() / 2)
            .copied()
            .or_else(|| self.report.ceilings.peak(name, self.threads))
    }

    /// The multiply-accumulate peaks worth a line: the widest of each kind.
    fn peaks(&self) -> Vec<(&'static str, f64)> {
        let mut peaks = Vec::new();
        for kinds in [
            [
                ("vpdpbusd zmm", "vpdpbusd-zmm"),
                ("vpmaddubsw ymm", "vpmaddubsw-ymm"),
            ],
            [("f32 FMA zmm", "fma-zmm"), ("f32 FMA ymm", "fma-ymm")],
        ] {
            let found = kinds
                .into_iter()
                .find_map(|(label, name)| Some((label, self.peak(name)?)));
            peaks.extend(found);
        }
        peaks
    }

    /// The lines to draw, in the order of the legend.
    fn series(&self) -> Vec<Series> {
        let backends: Vec<&str> = self
            .cells(Residency::Hot)
            .flat_map(|c| &c.measurements)
            .filter_map(|m| m.info.name.strip_prefix("tritgemm-int8/"))
            .collect();
        let mut series = Vec::new();
        let mut add = |label: String, name: String, color, dashed| {
            if self.cells(Residency::Hot).any(|c| c.find(&name).is_some()) {
                series.push(Series {
                    label,
                    name,
                    color,
                    dashed,
                });
            }
        };
        // Colours that stay apart for the colour-blind (Okabe and Ito).
        let (blue, green) = (RGBColor(0, 114, 178), RGBColor(0, 158, 115));
        let (vermilion, orange) = (RGBColor(213, 94, 0), RGBColor(230, 159, 0));
        let best = backends.first().copied().unwrap_or("avx2");
        let mut shown = vec![best];
        if best != "avx2" {
            shown.push("avx2");
        }
        for (backend, dashed) in shown.into_iter().zip([false, true]) {
            for (what, path, color) in [
                ("int8", Arithmetic::Int8, blue),
                ("f32", Arithmetic::F32, green),
            ] {
                let name = ours::name(path, backend);
                add(format!("tritgemm {what}, {backend}"), name, color, dashed);
            }
        }
        // The form without quantisation: the peer at its best.
        add(
            "ggml TQ2_0, AVX2".to_owned(),
            ggml::BARE.to_owned(),
            vermilion,
            false,
        );
        add(
            "gemm crate, dense f32".to_owned(),
            dense::NAME.to_owned(),
            orange,
            false,
        );
        series
    }
}

struct Series {
    label: String,
    /// The contender.
    name: String,
    color: RGBColor,
    dashed: bool,
}

fn text(size: u32, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color)
}

/// Writes the heading and the legend; returns what is left for the chart.
fn frame<'a>(
    canvas: &Canvas<'a>,
    subject: &Subject<'_>,
    title: &str,
    series: &[Series],
    remarks: &[String],
) -> anyhow::Result<Canvas<'a>> {
    let (head, body) = canvas.split_vertically(HEAD_HEIGHT);
    head.draw_text(title, &text(22, INK), (24, 16))
        .map_err(drawing)?;
    let machine = subject.report.machine.summary();
    head.draw_text(&machine, &text(13, FAINT), (24, 46))
        .map_err(drawing)?;
    let (chart, legend) = body.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    let label = text(14, INK).pos(Pos::new(HPos::Left, VPos::Center));
    let mut y = 28;
    for s in series {
        line(&legend, [(8, y), (40, y)], s.color, s.dashed)?;
        legend
            .draw(&Circle::new((24, y), 4, s.color.filled()))
            .map_err(drawing)?;
        legend
            .draw_text(&s.label, &label, (50, y))
            .map_err(drawing)?;
        y += 26;
    }
    let small = text(12, FAINT).pos(Pos::new(HPos::Left, VPos::Center));
    y += 8;
    for remark in remarks {
        legend.draw_text(remark, &small, (8, y)).map_err(drawing)?;
        y += 18;
    }
    Ok(chart)
}

/// A straight line in pixels.
fn line(
    canvas: &Canvas<'_>,
    [from, to]: [(i32, i32); 2],
    color: RGBColor,
    dashed: bool,
) -> anyhow::Result<()> {
    let style = color.stroke_width(2);
    if dashed {
        let path = DashedPathElement::new([from, to], 6, 4, style);
        canvas.draw(&path).map_err(drawing)
    } else {
        canvas
            .draw(&PathElement::new([from, to], style))
            .map_err(drawing)
    }
}

/// A power of two as a tick label; axes are linear in the logarithm.
fn power_of_two(exponent: f64) -> String {
    let exponent = exponent.round() as i32;
    if exponent < 0 {
        format!("1/{}", 1u32 << -exponent)
    } else {
        format!("{}", 1u64 << exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_named() {
        assert_eq!([-2.0, 0.0, 9.0].map(power_of_two), ["1/4", "1", "512"]);
    }
}
