//! GMAC/s over the number of tokens, with the peaks of the multipliers.

use super::{Canvas, GRID, INK, PEAK_WIDTH, ROOF, Subject, drawing, frame, power_of_two, text};
use crate::problem::Residency;
use plotters::prelude::*;

pub fn draw(subject: &Subject<'_>, canvas: &Canvas<'_>) -> anyhow::Result<()> {
    let title = format!(
        "Ternary matrix products, {} weights, {} thread{}",
        subject.shape,
        subject.threads,
        if subject.threads == 1 { "" } else { "s" }
    );
    let series = subject.series();
    let remarks = [
        "1 MAC = one weight times one activation".to_owned(),
        format!("medians of {} interleaved repeats", subject.report.repeats),
        "grey: the bare multiply-accumulate".to_owned(),
        "loop, nothing loaded or stored".to_owned(),
    ];
    let area = frame(canvas, subject, &title, &series, &remarks)?;
    let lines: Vec<Vec<(f64, f64)>> = series
        .iter()
        .map(|s| {
            let mut points: Vec<(f64, f64)> = subject
                .cells(Residency::Hot)
                .filter_map(|c| Some(((c.cell.tokens as f64).log2(), c.gmacs(&s.name)?)))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        })
        .collect();
    let peaks = subject.peaks();
    let points = || lines.iter().flatten();
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let top = points()
        .map(|p| p.1)
        .chain(peaks.iter().map(|p| p.1))
        .fold(1.0, f64::max)
        * 1.08;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .margin_right(PEAK_WIDTH)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.15..last + 0.15, 0.0..top)
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_labels(last as usize + 1)
        .y_labels(10)
        .x_label_formatter(&|x| power_of_two(*x))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .x_desc("tokens at once (N)")
        .y_desc("GMAC/s")
        .label_style(text(14, INK))
        .axis_desc_style(text(15, INK))
        .draw()
        .map_err(drawing)?;
    for (label, rate) in peaks {
        let ends = [(-0.15, rate), (last + 0.15, rate)];
        chart
            .draw_series(DashedLineSeries::new(ends, 3, 4, ROOF.stroke_width(1)))
            .map_err(drawing)?;
        let place = EmptyElement::at((last + 0.15, rate))
            + Text::new(label, (6, -14), text(12, ROOF))
            + Text::new(format!("peak {rate:.0}"), (6, 1), text(12, ROOF));
        chart.draw_series([place]).map_err(drawing)?;
    }
    for (s, points) in series.iter().zip(lines) {
        let style = s.color.stroke_width(2);
        if s.dashed {
            chart
                .draw_series(DashedLineSeries::new(points.clone(), 6, 4, style))
                .map_err(drawing)?;
        } else {
            chart
                .draw_series(LineSeries::new(points.clone(), style))
                .map_err(drawing)?;
        }
        chart
            .draw_series(points.iter().map(|&p| Circle::new(p, 4, s.color.filled())))
            .map_err(drawing)?;
    }
    Ok(())
}
