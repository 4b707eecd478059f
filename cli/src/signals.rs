//! What is asked of the process from outside: Ctrl-C, termination, hang-up and all else that
//! ends a process and can be caught.

use std::io;

/// Takes signals that tell of faults when another process sends them, and calls `heed` with
/// the number. Before other threads start: they inherit that such signals wait. A fault of this
/// process ends it as ever.
#[cfg(unix)]
pub fn on_sent_faults(heed: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let ignored = ignored();
    let mut faults = SigSet::empty();
    for signal in [Signal::SIGILL, Signal::SIGFPE, Signal::SIGSEGV] {
        if ignored & (1 << (signal as i32 - 1)) == 0 {
            faults.add(signal);
        }
    }
    faults.thread_block().map_err(io::Error::from)?;
    std::thread::Builder::new()
        .name("faults".to_owned())
        .spawn(move || {
            while let Ok(signal) = faults.wait() {
                heed(signal as i32);
            }
        })?;
    Ok(())
}

/// There are none elsewhere.
#[cfg(not(unix))]
pub fn on_sent_faults(_: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    Ok(())
}

/// Calls `heed` with the number of each signal that would end the process and can be caught,
/// on a thread of its own. Signals that the process was told to ignore, as `nohup` does, stay
/// ignored.
#[cfg(unix)]
pub fn on_end(heed: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::*;
    let ignored = ignored();
    let mut heeded = vec![
        SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2, SIGBUS, SIGXCPU,
        SIGXFSZ, SIGVTALRM, SIGPROF, SIGTRAP, SIGSYS,
    ];
    #[cfg(target_os = "linux")]
    {
        // SIGSTKFLT, SIGIO and SIGPWR; then the real-time signals that the C library leaves.
        heeded.extend([16, 29, 30]);
        heeded.extend(34..=64);
    }
    let heeded = heeded.into_iter();
    let heeded = heeded.filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = signal_hook::iterator::Signals::new([0; 0])?;
    let handle = signals.handle();
    for signal in heeded {
        // One that a platform lacks is none that could end the process.
        let _ = handle.add_signal(signal);
    }
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            // A file that grew too large is an error of the write, which is told.
            let ends = signals.forever().filter(|&signal| signal != SIGXFSZ);
            ends.for_each(heed);
        })?;
    Ok(())
}

/// Calls `heed` for each Ctrl-C, on a thread of its own.
#[cfg(not(unix))]
pub fn on_end(mut heed: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
    ctrlc::try_set_handler(move || heed(2)).map_err(io::Error::other)
}

/// The signals that are ignored, a bit each. Only Linux says without `unsafe`.
#[cfg(unix)]
fn ignored() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| mask(&status))
        .unwrap_or(0)
}

#[cfg(unix)]
fn mask(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::mask;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(mask(status), Some(0x1001));
        assert_eq!(mask("Name:\tx\n"), None);
        assert_eq!(mask("SigIgn:\tnone\n"), None);
    }
}
