//! The interleaved clock: all contenders of a cell take turns, so that whatever
//! the machine does meanwhile (frequency, a neighbour on the memory bus) falls
//! on all of them alike. A repeat that lost its core to another process is taken
//! again, so that a shared machine still shows what the contender can do.

use crate::best_of::best_of;
use crate::contender::Run;
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub repeats: usize,
    /// A repeat runs as many calls as fit in this time, at least one.
    pub repeat_time: Duration,
    /// GMAC/s of the bare look-ups on one thread, as measured before; 0 if not.
    pub look_ups: f64,
}

/// Seconds per call over the repeats of one contender.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub median: f64,
    pub min: f64,
    /// Upper minus lower quartile, relative to the median: the run's own
    /// statement of how much to believe it.
    pub spread: f64,
    pub calls_per_repeat: usize,
    pub repeats: usize,
    /// Repeats that other processes disturbed at every attempt.
    pub disturbed: usize,
}

impl Sample {
    pub fn new(mut seconds: Vec<f64>, calls_per_repeat: usize, disturbed: usize) -> Self {
        seconds.sort_by(f64::total_cmp);
        let repeats = seconds.len();
        let at = |q: f64| seconds[((repeats - 1) as f64 * q).round() as usize];
        let median = if repeats % 2 == 1 {
            seconds[repeats / 2]
        } else {
            (seconds[repeats / 2 - 1] + seconds[repeats / 2]) / 2.0
        };
        Self {
            median,
            min: seconds[0],
            spread: (at(0.75) - at(0.25)) / median,
            calls_per_repeat,
            repeats,
            disturbed,
        }
    }
}

/// A repeat in which this process's threads waited longer than this share of it
/// for a core that another process had is taken again.
const DISTURBED: f64 = 0.02;
/// Attempts at a repeat; of those all disturbed, the least disturbed counts.
const ATTEMPTS: usize = 4;

/// Seconds that `work` takes on `threads` threads, and whether other processes
/// left it alone; tried again while they do not. If they never do and it is a
/// matter of one thread, the time that counts is what this process ran.
pub fn undisturbed(threads: usize, mut work: impl FnMut()) -> (f64, bool) {
    let mut best = (f64::INFINITY, 0.0);
    for _ in 0..ATTEMPTS {
        let waited = seconds_waited();
        let ran = seconds_run();
        let start = Instant::now();
        work();
        let elapsed = start.elapsed().as_secs_f64();
        let ran = seconds_run() - ran;
        let share = (seconds_waited() - waited) / elapsed;
        if share < best.0 {
            let disturbed = share > DISTURBED;
            let counts = if threads == 1 && disturbed {
                elapsed.min(ran)
            } else {
                elapsed
            };
            best = (share, counts);
        }
        // Retaking long repeats would cost more than it mends.
        if share <= DISTURBED || elapsed > 0.2 {
            break;
        }
    }
    (best.1, best.0 <= DISTURBED)
}

/// Processor time of this process so far, in seconds.
fn seconds_run() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec to write to. (The clock exists on every
    // system with this constant, so the call cannot fail.)
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds that the threads of this process have so far been ready to run but
/// not running, by the kernel's own account; 0 where it keeps none.
fn seconds_waited() -> f64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return 0.0;
    };
    tasks
        .flatten()
        .filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').nth(1)?.parse::<f64>().ok()
        })
        .sum::<f64>()
        / 1e9
}

/// A call shorter than this runs once, untimed, at the start of each repeat, so
/// that a contender finds its weights in the cache where it left them and not where
/// the others pushed them. For longer calls that is lost in the call itself.
const WARM_BELOW: f64 = 0.02;

/// A spread between quartiles above this is not the contender's own: a virtual
/// machine's cores are slowed for seconds by what no account inside it shows.
const RESTLESS: f64 = 0.08;
/// Times that a cell is measured while one of its contenders is that restless.
/// The calmest measurement counts, whatever it says, for all contenders.
const MEASUREMENTS: usize = 3;
/// Seconds a cell may take to be measured again.
const MEASURED_AGAIN_BELOW: f64 = 10.0;

/// The runs in turns; the calmest of up to [`MEASUREMENTS`].
pub fn interleaved(runs: &mut [Box<dyn Run + '_>], protocol: Protocol) -> Vec<Sample> {
    let calls: Vec<(usize, f64)> = runs
        .iter_mut()
        .map(|run| calls_per_repeat(run.as_mut(), protocol.repeat_time))
        .collect();
    let measure = || {
        let start = Instant::now();
        let samples = take_turns(runs, protocol, &calls);
        let spread = samples.iter().map(|s| s.spread).fold(0.0, f64::max);
        let short = start.elapsed().as_secs_f64() < MEASURED_AGAIN_BELOW;
        (short.then_some(-spread), samples)
    };
    best_of(
        MEASUREMENTS,
        Duration::ZERO,
        |mark| mark >= -RESTLESS,
        measure,
    )
    .found
}

/// [`Protocol::repeats`] of each run, in turns.
fn take_turns(
    runs: &mut [Box<dyn Run + '_>],
    protocol: Protocol,
    calls: &[(usize, f64)],
) -> Vec<Sample> {
    let mut seconds = vec![Vec::with_capacity(protocol.repeats); runs.len()];
    let mut disturbed = vec![0; runs.len()];
    for repeat in 0..protocol.repeats {
        for turn in 0..runs.len() {
            // The order rotates: nobody always runs behind the same neighbour.
            let i = (turn + repeat) % runs.len();
            let (calls, estimate) = calls[i];
            let run = runs[i].as_mut();
            run.enter();
            if estimate < WARM_BELOW {
                run.run(1);
            }
            let (elapsed, calm) = undisturbed(run.threads(), || run.run(calls));
            disturbed[i] += usize::from(!calm);
            seconds[i].push(elapsed / calls as f64);
            run.leave();
        }
    }
    seconds
        .into_iter()
        .zip(calls)
        .zip(disturbed)
        .map(|((seconds, &(calls, _)), disturbed)| Sample::new(seconds, calls, disturbed))
        .collect()
}

/// Times that a number of calls is tried before it is believed to fill a repeat:
/// a thread that waits for its core makes one call look like a repeat's worth, and
/// repeats of a few calls then measure how the thread was woken.
const TRIES: usize = 3;
/// Seconds from which a try is long enough for no such wait to matter.
const LONG: f64 = 0.5;

/// Calls that fill a repeat, and the estimated seconds of one.
fn calls_per_repeat(run: &mut dyn Run, repeat_time: Duration) -> (usize, f64) {
    run.enter();
    // The first call pays for page faults and lazy set-up.
    let first = time(run, 1);
    let filled = fill(first, repeat_time.as_secs_f64(), |calls| time(run, calls));
    run.leave();
    filled
}

/// [`calls_per_repeat`] where `time` says how long so many calls take. `first` is
/// what the first of all took.
fn fill(first: f64, target: f64, mut time: impl FnMut(usize) -> f64) -> (usize, f64) {
    let mut calls = 1;
    let estimate = if first >= LONG {
        first
    } else {
        loop {
            let mut fastest = f64::INFINITY;
            for _ in 0..TRIES {
                fastest = fastest.min(time(calls));
                if fastest < target / 4.0 || fastest >= LONG {
                    break;
                }
            }
            if fastest >= target / 4.0 {
                break fastest / calls as f64;
            }
            calls *= 4;
        }
    };
    (((target / estimate).ceil() as usize).max(1), estimate)
}

fn time(run: &mut dyn Run, calls: usize) -> f64 {
    let start = Instant::now();
    run.run(calls);
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call takes 0.1 ms; some of the tries wait for their core as well.
    #[test]
    fn calls_fill_a_repeat_whatever_delays_a_try() {
        let (call, target) = (1e-4, 1e-2);
        let with_delays = |delayed: &[usize]| {
            let mut turn = 0;
            fill(call, target, |calls| {
                turn += 1;
                calls as f64 * call + 4e-3 * f64::from(delayed.contains(&turn))
            })
        };
        for delayed in [&[][..], &[1], &[1, 2], &[2, 3], &[4], &[1, 2, 4, 5]] {
            let (calls, estimate) = with_delays(delayed);
            assert!((calls == 100 || calls == 101), "{delayed:?}: {calls} calls");
            assert!(
                (estimate / call - 1.0).abs() < 1e-9,
                "{delayed:?}: {estimate}"
            );
        }
        // Long calls are not repeated for the sake of it.
        let mut turn = 0;
        let long = |calls| {
            turn += 1;
            calls as f64
        };
        assert_eq!((fill(1.0, target, long), turn), ((1, 1.0), 0));
        turn = 0;
        let long = |calls| {
            turn += 1;
            0.6 * calls as f64
        };
        assert_eq!((fill(0.4, target, long), turn), ((1, 0.6), 1));
    }

    #[test]
    fn median_and_spread_of_a_known_sample() {
        let s = Sample::new(vec![5.0, 1.0, 3.0, 2.0, 4.0], 7, 0);
        assert_eq!((s.median, s.min, s.calls_per_repeat), (3.0, 1.0, 7));
        assert!((s.spread - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(Sample::new(vec![1.0, 3.0], 1, 0).median, 2.0);
    }
}
