//! The host's state, by a witness that knows nothing of the contenders.
//!
//! A virtual core shares its physical one with neighbours that no account inside
//! the machine shows. In phases of a second to minutes they halve what comes out of
//! L1 and the front end, and leave loops in registers, `vpdpbusd` and FMA, as they
//! are: ratios between the two kinds then say what the neighbour did. The bare
//! look-ups are of the first kind. Where they take part in a cell, the cell is
//! measured again while *they* are slower than they have been.

use crate::timing::Sample;
use std::thread::sleep;
use std::time::Duration;

/// Share of the witness's best rate from which on the host counts as calm.
const CALM: f64 = 0.9;
/// Times that a cell is measured while it does not.
const MEASUREMENTS: usize = 5;
/// Before the next one.
const PAUSE: Duration = Duration::from_secs(1);

/// The best rate of the witness so far.
pub struct Host {
    best: f64,
}

impl Host {
    /// With a rate that the witness has had before, or zero.
    pub fn new(best: f64) -> Self {
        Self { best }
    }

    /// The first of the measurements in which `rate` of the witness is near its
    /// best, or the one in which it is highest. Without a witness the first.
    pub fn calm(
        &mut self,
        rate: impl Fn(&[Sample]) -> Option<f64>,
        mut measure: impl FnMut() -> Vec<Sample>,
    ) -> Vec<Sample> {
        let mut kept = measure();
        let Some(mut highest) = rate(&kept) else {
            return kept;
        };
        for _ in 1..MEASUREMENTS {
            self.best = self.best.max(highest);
            if highest >= CALM * self.best {
                break;
            }
            sleep(PAUSE);
            let samples = measure();
            if let Some(rate) = rate(&samples).filter(|&rate| rate > highest) {
                (kept, highest) = (samples, rate);
            }
        }
        self.best = self.best.max(highest);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(median: f64) -> Vec<Sample> {
        vec![Sample {
            median,
            min: median,
            spread: 0.0,
            calls_per_repeat: 1,
            repeats: 1,
            disturbed: 0,
        }]
    }

    /// Seconds of the witness in successive measurements: which one is kept, and
    /// how many there are.
    fn kept(best: f64, seconds: &[f64]) -> (f64, usize) {
        let mut asked = 0;
        let rate = |samples: &[Sample]| Some(1.0 / samples[0].median);
        let samples = Host::new(best).calm(rate, || {
            asked += 1;
            sample(seconds[asked - 1])
        });
        (samples[0].median, asked)
    }

    #[test]
    fn the_measurement_with_the_fastest_witness_counts() {
        assert_eq!(kept(0.0, &[2.0]), (2.0, 1));
        assert_eq!(kept(1.0, &[1.05]), (1.05, 1));
        assert_eq!(kept(1.0, &[2.0, 1.8, 1.0]), (1.0, 3));
        assert_eq!(kept(1.0, &[2.0, 1.5, 3.0, 1.6, 1.7]), (1.5, 5));
    }

    #[test]
    fn without_a_witness_nothing_is_measured_again() {
        let mut asked = 0;
        Host::new(1.0).calm(
            |_| None,
            || {
                asked += 1;
                sample(1.0)
            },
        );
        assert_eq!(asked, 1);
    }
}
