//! Interleaved repeats and their medians.
//!
//! A shared machine speeds up and slows down over seconds. Contenders that take
//! turns see the same weather, so their ratios hold even when the times do not.

use std::time::{Duration, Instant};

/// The least time of one repeat, long against the clock's resolution.
const REPEAT: Duration = Duration::from_millis(20);

/// Median nanoseconds of one call of each contender. Repeats go round robin,
/// and each begins with a call that does not count: it brings the contender's
/// data back into the caches.
pub fn medians<const N: usize>(mut contenders: [&mut dyn FnMut(); N], repeats: usize) -> [f64; N] {
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
    times.map(median)
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn every_contender_is_timed_by_itself() {
        let mut quick = || ();
        let mut slow = || std::thread::sleep(Duration::from_millis(1));
        let [quick, slow] = medians([&mut quick, &mut slow], 3);
        assert!(quick < slow && slow >= 1e6, "{quick} {slow}");
    }
}
