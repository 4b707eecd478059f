//! Measuring again until a measurement can be believed.

use std::thread::sleep;
use std::time::Duration;

/// The best of several measurements.
pub struct Best<T> {
    /// What it is the best by; absent where nothing says that another would be better.
    pub mark: Option<f64>,
    pub found: T,
    /// How many there were.
    pub measurements: usize,
}

/// Measures up to `most` times, `pause` before each but the first, until the mark that
/// comes with a measurement is `enough`. That with the highest mark counts, whatever
/// else it says; one without a mark counts at once.
pub fn best_of<T>(
    most: usize,
    pause: Duration,
    enough: impl Fn(f64) -> bool,
    mut measure: impl FnMut() -> (Option<f64>, T),
) -> Best<T> {
    let (mut mark, mut found) = measure();
    let mut measurements = 1;
    while measurements < most && mark.is_some_and(|mark| !enough(mark)) {
        sleep(pause);
        let next = measure();
        measurements += 1;
        if next.0 > mark {
            (mark, found) = next;
        }
    }
    Best {
        mark,
        found,
        measurements,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measurement_with_the_highest_mark_counts() {
        for (marks, counts, taken) in [
            (&[Some(0.9)][..], Some(0.9), 1),
            (&[Some(0.2), Some(0.9)], Some(0.9), 2),
            (&[Some(0.2), Some(0.5), Some(0.4)], Some(0.5), 3),
            (&[Some(0.2), None, Some(0.1)], Some(0.2), 3),
            (&[None], None, 1),
        ] {
            let mut left = marks.iter();
            let best = best_of(
                3,
                Duration::ZERO,
                |mark| mark >= 0.8,
                || {
                    let &mark = left.next().expect("asked for more than it may");
                    (mark, mark)
                },
            );
            assert_eq!((best.mark, best.found), (counts, counts));
            assert_eq!(best.measurements, taken);
        }
    }
}
