//! What is asked of the process from outside: Ctrl-C, termination, hang-up.

use std::io;

/// Calls `heed` for each Ctrl-C (SIGINT), SIGTERM and SIGHUP, on a thread of its own.
/// Signals that the process was told to ignore, as `nohup` does, stay ignored.
#[cfg(unix)]
pub fn on_end(mut heed: impl FnMut() + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = ignored();
    let heeded = [SIGINT, SIGTERM, SIGHUP].into_iter();
    let heeded = heeded.filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = signal_hook::iterator::Signals::new(heeded)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(|_| heed()))?;
    Ok(())
}

/// Calls `heed` for each Ctrl-C, on a thread of its own.
#[cfg(not(unix))]
pub fn on_end(heed: impl FnMut() + Send + 'static) -> io::Result<()> {
    ctrlc::try_set_handler(heed).map_err(io::Error::other)
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
