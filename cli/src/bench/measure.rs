//! Interleaved repeats, their medians and how far they lie apart.
//!
//! A shared machine speeds up and slows down over seconds. Contenders that take
//! turns see the same weather, so their ratios hold even when the times do not.

use std::time::{Duration, Instant};

/// The least time of one repeat, long against the clock's resolution.
const REPEAT: Duration = Duration::from_millis(20);

/// What repeats of one contender took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// The median, in nanoseconds of one call.
    pub median: f64,
    /// How far the middle half of the repeats lies apart, as a share of the median.
    pub spread: f64,
}

/// The times of each contender. Repeats go round robin, and each begins with a
/// call that does not count: it brings the contender's data back into the caches.
pub fn times<const N: usize>(mut contenders: [&mut dyn FnMut(); N], repeats: usize) -> [Times; N] {
    let mut calls = [1; N];
    for (calls, contender) in calls.iter_mut().zip(&mut contenders) {
        *calls = calibrate(contender);
    }
    let mut times = [const { Vec::new() }; N];
    for _ in 0..repeats {
        for i in 0..N {
            contenders[i]();
            times[i].push(time(&mut contenders[i], calls[i]) / calls[i] as f64);
        }
    }
    times.map(summary)
}

/// Calls that fill [`REPEAT`].
fn calibrate(contender: &mut dyn FnMut()) -> u64 {
    contender();
    let target = REPEAT.as_nanos() as f64;
    let mut calls = 1;
    loop {
        let ns = time(contender, calls).max(1.0);
        if ns >= target / 8.0 {
            return ((calls as f64 * target / ns) as u64).max(1);
        }
        calls *= 8;
    }
}

fn time(contender: &mut dyn FnMut(), calls: u64) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        contender();
    }
    start.elapsed().as_nanos() as f64
}

fn summary(mut values: Vec<f64>) -> Times {
    values.sort_by(f64::total_cmp);
    let median = match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    };
    let quartile = |part: usize| values.get(part * values.len().saturating_sub(1) / 4);
    let spread = match (quartile(1), quartile(3)) {
        (Some(low), Some(high)) => (high - low) / median,
        _ => 0.0,
    };
    Times { median, spread }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads_of_odd_and_even_counts() {
        let odd = summary(vec![4.0, 1.0, 2.0, 5.0, 3.0]);
        assert_eq!((odd.median, odd.spread), (3.0, 2.0 / 3.0));
        assert_eq!(summary(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
        let one = summary(vec![7.0]);
        assert_eq!((one.median, one.spread), (7.0, 0.0));
    }

    #[test]
    fn every_contender_is_timed_by_itself() {
        let mut quick = || ();
        let mut slow = || std::thread::sleep(Duration::from_millis(1));
        let [quick, slow] = times([&mut quick, &mut slow], 3).map(|t| t.median);
        assert!(quick < slow && slow >= 1e6, "{quick} {slow}");
    }
}
