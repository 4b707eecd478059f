//! Whether this process is a child that somebody forked.

/// How many forks lie between this process and the first that asked: another number than any
/// parent's. To ask costs no system call: those made a tenth of a small product's time.
#[cfg(all(unix, not(miri)))]
pub fn generation() -> u32 {
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::sync::OnceLock;

    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<extern "C" fn()>,
            parent: Option<extern "C" fn()>,
            child: Option<extern "C" fn()>,
        ) -> i32;
    }

    static FORKS: AtomicU32 = AtomicU32::new(0);
    static COUNTED: OnceLock<bool> = OnceLock::new();

    extern "C" fn in_child() {
        // Relaxed: the child has one thread.
        FORKS.fetch_add(1, Ordering::Relaxed);
    }

    // SAFETY: POSIX's function, with a handler that may run between `fork` and `exec`: it takes
    // no lock and allocates nothing.
    let count = || unsafe { pthread_atfork(None, None, Some(in_child)) } == 0;
    match COUNTED.get_or_init(count) {
        true => FORKS.load(Ordering::Relaxed),
        // Without memory for a handler.
        false => std::process::id(),
    }
}

/// Processes do not fork, or cannot tell.
#[cfg(not(all(unix, not(miri))))]
pub fn generation() -> u32 {
    0
}
