//! The host's state, by a witness that knows nothing of the contenders.
//!
//! A virtual core shares its physical one with neighbours that no account inside
//! the machine shows. In phases of a second to minutes they halve what comes out of
//! L1 and the front end, and leave loops in registers, `vpdpbusd` and FMA, as they
//! are: ratios between the two kinds then say what the neighbour did. The bare
//! look-ups are of the first kind. Where they take part in a cell, the cell is
//! measured again while *they* are slower than they have been.

use crate::best_of::best_of;
use crate::timing::Sample;
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
        let enough = |rate| rate >= CALM * self.best.max(rate);
        let best = best_of(MEASUREMENTS, PAUSE, enough, || {
            let samples = measure();
            (rate(&samples), samples)
        });
        self.best = self.best.max(best.mark.unwrap_or(0.0));
        best.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of the witness in successive measurements: which of them is kept.
    fn kept(best: f64, seconds: &[f64], witness: bool) -> (f64, usize) {
        let mut asked = 0;
        let rate = |samples: &[Sample]| witness.then(|| 1.0 / samples[0].median);
        let samples = Host::new(best).calm(rate, || {
            asked += 1;
            vec![Sample::new(vec![seconds[asked - 1]], 1, 0)]
        });
        (samples[0].median, asked)
    }

    #[test]
    fn a_slow_witness_has_the_cell_measured_again() {
        assert_eq!(kept(0.0, &[2.0], true), (2.0, 1));
        assert_eq!(kept(1.0, &[1.05], true), (1.05, 1));
        assert_eq!(kept(1.0, &[2.0, 1.8, 1.0], true), (1.0, 3));
        assert_eq!(kept(1.0, &[2.0, 1.5, 3.0, 1.6, 1.7], true), (1.5, 5));
        assert_eq!(kept(1.0, &[2.0], false), (2.0, 1));
    }
}
