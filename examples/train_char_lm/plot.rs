//! The loss curve.

use plotters::prelude::*;
use std::path::Path;

/// Saves the losses by step as an SVG.
pub fn save(path: &Path, train: &[(usize, f64)], held_out: &[(usize, f64)]) -> super::Result<()> {
    let steps = train.last().map_or(1, |&(step, _)| step.max(1));
    let highest = train
        .iter()
        .chain(held_out)
        .map(|&(_, l)| l)
        .fold(0.0, f64::max);
    let root = SVGBackend::new(path, (800, 500)).into_drawing_area();
    let fail = |e: String| -> Box<dyn std::error::Error + Send + Sync> {
        format!("drawing {}: {e}", path.display()).into()
    };
    root.fill(&WHITE).map_err(|e| fail(e.to_string()))?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .caption("Character model on ternary weights", ("sans-serif", 20))
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0..steps, 0.0..highest * 1.05)
        .map_err(|e| fail(e.to_string()))?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("cross entropy (nats a character)")
        .draw()
        .map_err(|e| fail(e.to_string()))?;
    for (name, points, color) in [("training", train, BLUE), ("held out", held_out, RED)] {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color))
            .map_err(|e| fail(e.to_string()))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()
        .map_err(|e| fail(e.to_string()))?;
    root.present().map_err(|e| fail(e.to_string()))?;
    Ok(())
}
