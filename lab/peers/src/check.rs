//! Every contender must compute the product before it may be timed.

use crate::contender::{Arithmetic, Library, Output};
use crate::problem::{Activations, Job, Shape, Weights, WeightsFrom};
use anyhow::{Context, bail, ensure};
use std::fmt::Display;

/// Small, but with several panels and several blocks of K.
const SHAPE: Shape = Shape::new(200, 768);

/// Runs each contender on a small problem and compares with exact sums.
pub fn check(libraries: &[Box<dyn Library>], threads: &[usize]) -> anyhow::Result<()> {
    let weights = Weights::random(SHAPE);
    for tokens in [1, 5, 33] {
        let activations = Activations::random(tokens, SHAPE.cols);
        let reference = Reference::new(&weights, &activations);
        for library in libraries {
            let all: Vec<usize> = (0..library.contenders().len()).collect();
            let loaded = library.load(&weights, WeightsFrom::Cache, &all)?;
            for (index, info) in library.contenders().iter().enumerate() {
                for &threads in threads {
                    let job = Job {
                        weights: &weights,
                        activations: &activations,
                        threads,
                    };
                    let mut run = loaded.start(index, &job)?;
                    run.enter();
                    run.run(2);
                    run.leave();
                    reference.compare(&run.output(), info.arithmetic).with_context(|| {
                        format!(
                            "{} computes a wrong product ({SHAPE}, N={tokens}, {threads} threads)",
                            info.name
                        )
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// What is right.
struct Reference {
    /// Of the f32 activations, in f64, scale applied.
    float: Vec<f64>,
    /// Of the int8 activations.
    exact: Vec<i64>,
    absmax: f64,
    scale: f64,
    cols: usize,
}

impl Reference {
    fn new(weights: &Weights, x: &Activations) -> Self {
        let (cols, scale) = (weights.shape.cols, f64::from(weights.scale));
        let (mut float, mut exact) = (Vec::new(), Vec::new());
        for (f32s, int8) in x.f32s.chunks(cols).zip(x.int8.chunks(cols)) {
            for row in weights.trits.chunks(cols) {
                let products = row
                    .iter()
                    .zip(f32s)
                    .map(|(&w, &x)| f64::from(w) * f64::from(x));
                float.push(scale * products.sum::<f64>());
                let products = row
                    .iter()
                    .zip(int8)
                    .map(|(&w, &x)| i64::from(w) * i64::from(x));
                exact.push(products.sum());
            }
        }
        Self {
            float,
            exact,
            absmax: x.f32s.iter().fold(0.0, |m, x| f64::from(x.abs()).max(m)),
            scale,
            cols,
        }
    }

    fn compare(&self, output: &Output<'_>, arithmetic: Arithmetic) -> anyhow::Result<()> {
        match output {
            Output::None => Ok(()),
            Output::Exact(sums) => all(&self.exact, sums, |&right, &sum| right == i64::from(sum)),
            Output::Float(values) => {
                let tolerance = self.tolerance(arithmetic);
                // False for a NaN.
                let near = |right: &f64, &y: &f32| (f64::from(y) - right).abs() <= tolerance;
                all(&self.float, values, near).with_context(|| format!("+-{tolerance:.1e}"))
            }
        }
    }

    /// Rounding a value to int8 is off by up to half a step, absmax / 254, as
    /// good as uniformly; the error of a sum of K is then normal, and six of its
    /// standard deviations are allowed. f32 sums are off by far less.
    fn tolerance(&self, arithmetic: Arithmetic) -> f64 {
        let k = self.cols as f64;
        let step = match arithmetic {
            Arithmetic::F32 => self.absmax * f64::from(f32::EPSILON) * k.sqrt(),
            _ => self.absmax / 254.0 / 3f64.sqrt(),
        };
        6.0 * self.scale * step * k.sqrt()
    }
}

fn all<R: Display, Y: Display>(
    right: &[R],
    outputs: &[Y],
    matches: impl Fn(&R, &Y) -> bool,
) -> anyhow::Result<()> {
    ensure!(
        right.len() == outputs.len(),
        "{} outputs instead of {}",
        outputs.len(),
        right.len()
    );
    let mut pairs = right.iter().zip(outputs).enumerate();
    match pairs.find(|(_, (right, y))| !matches(right, y)) {
        Some((i, (right, y))) => bail!("output {i} is {y} instead of {right}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_output_is_found() {
        let weights = Weights::random(Shape::new(2, 256));
        let x = Activations::random(1, 256);
        let reference = Reference::new(&weights, &x);
        let right: Vec<f32> = reference.float.iter().map(|&f| f as f32).collect();
        assert!(
            reference
                .compare(&Output::Float(&right), Arithmetic::F32)
                .is_ok()
        );
        for bad in [right[1] + 0.05, f32::NAN] {
            let wrong = [right[0], bad];
            let error = reference.compare(&Output::Float(&wrong), Arithmetic::F32);
            assert!(format!("{:#}", error.unwrap_err()).contains("output 1"));
        }
        assert!(
            reference
                .compare(&Output::Float(&right[..1]), Arithmetic::F32)
                .is_err()
        );
    }
}
