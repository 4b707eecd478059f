//! The goals of a second thread. What the machine itself gains from a second core
//! is measured along, by the bare loop that the case is made of: two cores of a
//! shared host are not always two.

use super::{Context, Sense, Verdict};
use crate::ceilings::{LOOK_UPS, READ};
use crate::contender::{Family, Loaded, Path, Run};
use crate::ours;
use crate::problem::{Activations, Job, Residency, Shape, Weights};
use crate::timing::{Protocol, Sample, interleaved};
use std::thread::sleep;
use std::time::Duration;

const SHAPE: Shape = Shape::new(4096, 4096);
const BAR: f64 = 1.9;

/// Times that a case is measured while the bare loop itself gains less than the bar.
/// The measurement in which *it* gains most counts, whatever the product does.
const MEASUREMENTS: usize = 6;
/// Before the next one: the host's states last from one second to minutes.
const PAUSE: Duration = Duration::from_secs(2);

/// A contender by name, loaded.
pub struct Found {
    pub loaded: Box<dyn Loaded>,
    pub index: usize,
}

pub fn find(
    families: &[Box<dyn Family>],
    name: &str,
    weights: &Weights,
    residency: Residency,
) -> anyhow::Result<Option<Found>> {
    for family in families {
        if let Some(index) = family.contenders().iter().position(|i| i.name == name) {
            let loaded = family.load(weights, residency, &[index])?;
            return Ok(Some(Found { loaded, index }));
        }
    }
    Ok(None)
}

pub fn check(context: &Context<'_>) -> anyhow::Result<Vec<Verdict>> {
    [
        ("int8 N=1 from memory, 4096x4096", Residency::Cold, 1, READ),
        ("int8 N=128, 4096x4096", Residency::Hot, 128, LOOK_UPS),
    ]
    .into_iter()
    .map(|(case, residency, tokens, ceiling)| {
        let gains = gains(context, residency, tokens, ceiling)?;
        Ok(Verdict {
            case: case.to_owned(),
            over: "2 threads over 1".to_owned(),
            sense: Sense::AtLeast,
            bar: BAR,
            aim: Some(2.0),
            ratio: gains.product,
            note: gains.note(ceiling),
        })
    })
    .collect()
}

/// Speed of two threads over that of one.
#[derive(Clone, Copy)]
struct Gains {
    product: Option<f64>,
    ceiling: Option<f64>,
    measurements: usize,
}

impl Gains {
    fn note(&self, ceiling: &str) -> String {
        self.ceiling.map_or_else(String::new, |gain| {
            let which = match self.measurements {
                1 => String::new(),
                n => format!(", its most of {n} measurements"),
            };
            format!("the bare {ceiling} gains {gain:.2}{which}")
        })
    }
}

fn gains(
    context: &Context<'_>,
    residency: Residency,
    tokens: usize,
    ceiling: &str,
) -> anyhow::Result<Gains> {
    let int8 = ours::name(
        Path::Int8,
        ours::backends().first().map_or("none", |b| b.name()),
    );
    let weights = Weights::random(SHAPE);
    let activations = Activations::random(tokens, SHAPE.cols);
    let product = find(context.families, &int8, &weights, residency)?;
    let ceiling = find(context.families, ceiling, &weights, residency)?;
    let mut runs = Vec::new();
    for found in [&product, &ceiling].into_iter().flatten() {
        for threads in [1, 2] {
            let job = Job {
                weights: &weights,
                activations: &activations,
                threads,
            };
            runs.push(found.loaded.start(found.index, &job)?);
        }
    }
    // Only four short runs take turns here, so more repeats cost little; gains by medians
    // of 7 differ by 5 % in the same state of the host.
    let protocol = Protocol {
        repeats: 4 * context.protocol.repeats + 1,
        ..context.protocol
    };
    let mut measure = || {
        let samples = interleaved(&mut runs, protocol);
        let mut gains = runs
            .chunks(2)
            .zip(samples.chunks(2))
            .map(|(runs, samples)| {
                rate(runs[1].as_ref(), &samples[1]) / rate(runs[0].as_ref(), &samples[0])
            });
        // In the order in which they were set up.
        let product = product.is_some().then(|| gains.next()).flatten();
        (product, gains.next())
    };
    Ok(most_of_the_ceiling(|measurement| {
        if measurement > 0 {
            sleep(PAUSE);
        }
        measure()
    }))
}

fn rate(run: &dyn Run, sample: &Sample) -> f64 {
    let work = run.work();
    (work.macs + work.bytes) / sample.median
}

/// Of the gains of product and ceiling in up to [`MEASUREMENTS`], those of the first
/// that shows two cores, or of the one that shows most of them.
fn most_of_the_ceiling(mut measure: impl FnMut(usize) -> (Option<f64>, Option<f64>)) -> Gains {
    let mut best = Gains {
        product: None,
        ceiling: None,
        measurements: 0,
    };
    for i in 0..MEASUREMENTS {
        let (product, ceiling) = measure(i);
        if i == 0 || ceiling > best.ceiling {
            (best.product, best.ceiling) = (product, ceiling);
        }
        best.measurements += 1;
        // Without a ceiling nothing says that another measurement is a better one.
        if best.ceiling.is_none_or(|gain| gain >= BAR) {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(series: &[(Option<f64>, Option<f64>)]) -> (Option<f64>, Option<f64>, usize) {
        let gains = most_of_the_ceiling(|i| series[i]);
        (gains.product, gains.ceiling, gains.measurements)
    }

    #[test]
    fn the_ceiling_alone_chooses() {
        let slow = |ceiling| (Some(1.99), Some(ceiling));
        let series = [slow(1.2), (Some(1.3), Some(1.5)), slow(1.1)].repeat(2);
        assert_eq!(chosen(&series), (Some(1.3), Some(1.5), MEASUREMENTS));
        let series = [slow(1.2), (Some(1.7), Some(1.95)), slow(2.0)];
        assert_eq!(chosen(&series), (Some(1.7), Some(1.95), 2));
        assert_eq!(chosen(&[(Some(1.5), None)]), (Some(1.5), None, 1));
        assert_eq!(chosen(&[(None, Some(2.0))]), (None, Some(2.0), 1));
    }
}
