//! The roofline: GMAC/s over the multiply-accumulates done for each byte of
//! weights read. Slanted roofs are read bandwidths, flat ones multiplier peaks.

use super::{
    Canvas, GRID, INK, PEAK_WIDTH, ROOF, Series, Subject, drawing, frame, power_of_two, text,
};
use crate::problem::Residency;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// (log2 MAC per byte, log2 GMAC/s) of a contender's cells.
fn points(subject: &Subject<'_>, residency: Residency, series: &Series) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = subject
        .cells(residency)
        .filter_map(|c| {
            let m = c.find(&series.name)?;
            Some(((m.gmacs / m.gigabytes_per_second).log2(), m.gmacs.log2()))
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

pub fn draw(subject: &Subject<'_>, canvas: &Canvas<'_>) -> anyhow::Result<()> {
    let title = format!(
        "Roofline, {} weights, {} thread{}",
        subject.shape,
        subject.threads,
        if subject.threads == 1 { "" } else { "s" }
    );
    let series = subject.series();
    let remarks = [
        "each line: N = 1 (left) to many tokens".to_owned(),
        "ring: N = 1, weights from memory".to_owned(),
        "dots: weights in cache where they fit".to_owned(),
        format!("medians of {} interleaved repeats", subject.report.repeats),
        "slanted: read bandwidth of a level".to_owned(),
        "flat: bare multiply-accumulate loop".to_owned(),
    ];
    let area = frame(canvas, subject, &title, &series, &remarks)?;
    let hot: Vec<_> = series
        .iter()
        .map(|s| points(subject, Residency::Hot, s))
        .collect();
    let cold: Vec<_> = series
        .iter()
        .map(|s| points(subject, Residency::Cold, s))
        .collect();
    let peaks = subject.peaks();
    let all = || hot.iter().chain(&cold).flatten();
    let bound = |select: fn(&(f64, f64)) -> f64, start, pick: fn(f64, f64) -> f64| {
        all().map(select).fold(start, pick)
    };
    let x = bound(|p| p.0, 0.0, f64::min).floor()..bound(|p| p.0, 4.0, f64::max).ceil() + 0.5;
    let highest = peaks.iter().map(|p| p.1.log2()).fold(0.0, f64::max);
    let y = bound(|p| p.1, 4.0, f64::min).floor()
        ..bound(|p| p.1, highest, f64::max).ceil().max(highest + 0.6);
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .margin_right(PEAK_WIDTH)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_labels((x.end - x.start) as usize + 1)
        .y_labels((y.end - y.start) as usize + 1)
        .x_label_formatter(&|x| power_of_two(*x))
        .y_label_formatter(&|y| power_of_two(*y))
        .x_desc("multiply-accumulates per byte of weights")
        .y_desc("GMAC/s")
        .label_style(text(14, INK))
        .axis_desc_style(text(15, INK))
        .draw()
        .map_err(drawing)?;

    for b in &subject.report.ceilings.bandwidths {
        if b.threads != subject.threads || b.level == "L1" {
            continue;
        }
        // log2(rate) = log2(bandwidth) + log2(intensity): slope 1.
        let roof = b.gigabytes_per_second.log2();
        let from = x.start.max(y.start - roof);
        let to = highest - roof;
        if from >= to {
            continue;
        }
        let ends = [(from, roof + from), (to, highest)];
        chart
            .draw_series(LineSeries::new(ends, ROOF.stroke_width(1)))
            .map_err(drawing)?;
        let name = format!("{} {:.0} GB/s", b.level, b.gigabytes_per_second);
        // L2 and L3 may be close: L2's name stands above its roof, the others'
        // below theirs.
        let (part, label) = if b.level == "L2" {
            (
                0.55,
                text(13, ROOF).pos(Pos::new(HPos::Right, VPos::Bottom)),
            )
        } else {
            (0.3, text(13, ROOF).pos(Pos::new(HPos::Left, VPos::Top)))
        };
        let at = from + part * (to - from);
        let shift = if b.level == "L2" { -6 } else { 8 };
        let place = EmptyElement::at((at, roof + at)) + Text::new(name, (shift, 0), label);
        chart.draw_series([place]).map_err(drawing)?;
    }
    for (name, rate) in &peaks {
        let height = rate.log2();
        let widest = subject
            .report
            .ceilings
            .bandwidth("L2", subject.threads)
            .map_or(x.start, |bw| (height - bw.log2()).max(x.start));
        let ends = [(widest, height), (x.end, height)];
        chart
            .draw_series(LineSeries::new(ends, ROOF.stroke_width(1)))
            .map_err(drawing)?;
        let place = EmptyElement::at((x.end, height))
            + Text::new(*name, (6, -14), text(12, ROOF))
            + Text::new(format!("peak {rate:.0}"), (6, 1), text(12, ROOF));
        chart.draw_series([place]).map_err(drawing)?;
    }
    for (s, (hot, cold)) in series.iter().zip(hot.into_iter().zip(cold)) {
        let style = s.color.stroke_width(2);
        if s.dashed {
            chart
                .draw_series(DashedLineSeries::new(hot.clone(), 6, 4, style))
                .map_err(drawing)?;
        } else {
            chart
                .draw_series(LineSeries::new(hot.clone(), style))
                .map_err(drawing)?;
        }
        chart
            .draw_series(hot.iter().map(|&p| Circle::new(p, 4, s.color.filled())))
            .map_err(drawing)?;
        chart
            .draw_series(cold.iter().map(|&p| Circle::new(p, 6, style)))
            .map_err(drawing)?;
    }
    Ok(())
}
