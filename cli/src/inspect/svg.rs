//! The drawing: a histogram of the scales, and the zeros of each matrix.

use super::stats::{Histogram, MatrixStats};
use crate::output::{plain, short};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

const WIDTH: u32 = 900;
/// Height of the histogram.
const SCALES: u32 = 320;
/// Height of a matrix's bar, and of what stands around the bars.
const BAR: u32 = 16;
const AROUND: u32 = 90;
/// Room for names, and how much of one fits.
const NAMES: u32 = 280;
const NAME_CHARS: usize = 46;

const FILL: RGBColor = RGBColor(0x33, 0x66, 0xaa);

/// The drawing as SVG.
pub fn draw(matrices: &[MatrixStats], scales: Option<&Histogram>) -> Result<String> {
    let count = u32::try_from(matrices.len()).unwrap_or(u32::MAX);
    let bars = count.saturating_mul(BAR).saturating_add(AROUND);
    let upper = scales.map_or(0, |_| SCALES);
    let mut drawing = String::new();
    {
        let size = (WIDTH, upper.saturating_add(bars));
        let root = SVGBackend::with_string(&mut drawing, size).into_drawing_area();
        let fail = |e: String| anyhow!("cannot draw: {e}");
        root.fill(&WHITE).map_err(|e| fail(e.to_string()))?;
        let (top, bottom) = root.split_vertically(upper);
        if let Some(scales) = scales {
            histogram(&top, scales).map_err(fail)?;
        }
        zeros(&bottom, matrices).map_err(fail)?;
        root.present().map_err(|e| fail(e.to_string()))?;
    }
    Ok(drawing)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn histogram(area: &Area<'_>, scales: &Histogram) -> Result<(), String> {
    let most = scales.counts.iter().copied().max().unwrap_or(1).max(1);
    let bins = scales.counts.len();
    let steps = if scales.log { ", in equal ratios" } else { "" };
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .margin_right(36)
        .caption(format!("Scales{steps}"), ("sans-serif", 18))
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..bins as f64, 0.0..most as f64 * 1.05)
        .map_err(|e| e.to_string())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(bins.min(8) + 1)
        .x_label_formatter(&|at| match scales.edges.get(at.round() as usize) {
            Some(&edge) => short(edge),
            None => String::new(),
        })
        .y_label_formatter(&|n| format!("{n:.0}"))
        .x_desc("scale")
        .y_desc("how many")
        .draw()
        .map_err(|e| e.to_string())?;
    let bar = |(i, &n): (usize, &u64)| {
        let at = i as f64;
        Rectangle::new([(at + 0.05, 0.0), (at + 0.95, n as f64)], FILL.filled())
    };
    chart
        .draw_series(scales.counts.iter().enumerate().map(bar))
        .map_err(|e| e.to_string())?;
    Ok(())
}

fn zeros(area: &Area<'_>, matrices: &[MatrixStats]) -> Result<(), String> {
    let count = matrices.len();
    if count == 0 {
        return Ok(());
    }
    // The first matrix on top.
    let matrix = |slot: usize| matrices.get((count - 1).checked_sub(slot)?);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .margin_right(36)
        .caption("Weights of 0", ("sans-serif", 18))
        .x_label_area_size(30)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(0.0..1.0, (0..count - 1).into_segmented())
        .map_err(|e| e.to_string())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(6)
        .x_label_formatter(&|share| format!("{:.0} %", 100.0 * share))
        .y_labels(count)
        .y_label_formatter(&|slot| match slot {
            SegmentValue::Exact(slot) | SegmentValue::CenterOf(slot) => {
                matrix(*slot).map_or(String::new(), |m| shorten(&plain(&m.name)))
            }
            SegmentValue::Last => String::new(),
        })
        .draw()
        .map_err(|e| e.to_string())?;
    let bars = (0..count).filter_map(|slot| {
        let end = (matrix(slot)?.zeros()?, SegmentValue::Exact(slot + 1));
        let corners = [(0.0, SegmentValue::Exact(slot)), end];
        let mut bar = Rectangle::new(corners, FILL.filled());
        bar.set_margin(2, 2, 0, 0);
        Some(bar)
    });
    chart.draw_series(bars).map_err(|e| e.to_string())?;
    Ok(())
}

/// The end of a name tells tensors apart.
fn shorten(name: &str) -> String {
    let chars = name.chars().count();
    match chars <= NAME_CHARS {
        true => name.to_owned(),
        false => format!(
            "…{}",
            name.chars()
                .skip(chars - NAME_CHARS + 1)
                .collect::<String>()
        ),
    }
}
