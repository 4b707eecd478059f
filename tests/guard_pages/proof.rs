//! A guard that did not guard would let every other test here pass.

#[cfg(unix)]
use tritgemm_testing::child::child;
use tritgemm_testing::guarded::{Guarded, Place};

/// Variable that tells the child where to touch: a byte's distance from the
/// first value.
const AT: &str = "TRITGEMM_GUARD_TOUCH";
const LEN: usize = 100;

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn touch() {
    let at: isize = std::env::var(AT).expect("set").parse().expect("a number");
    let place = if at < 0 {
        Place::start(0)
    } else {
        Place::end(0)
    };
    let values = Guarded::new(&[7u8; LEN], place);
    let pointer = values.get().as_ptr().wrapping_offset(at);
    // SAFETY: none, one byte outside of the values: the process is to die of it.
    let byte = unsafe { pointer.read_volatile() };
    println!("read {byte}");
}

/// What becomes of a process that reads the byte `at` the first value: the
/// signal it dies of, or none.
#[cfg(unix)]
fn signal(at: isize) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let output = child("proof::touch")
        .env(AT, at.to_string())
        // A sanitizer would report the fault and exit.
        .env("ASAN_OPTIONS", "handle_segv=0:handle_sigbus=0")
        .env("TSAN_OPTIONS", "handle_segv=0:handle_sigbus=0")
        .output()
        .expect("the child ran");
    let text = String::from_utf8_lossy(&output.stdout);
    let signal = output.status.signal();
    let read = text.contains("read 7");
    assert_eq!(read, output.status.success(), "{text}: {output:?}");
    assert_eq!(read, signal.is_none(), "{text}: {output:?}");
    signal
}

#[test]
#[cfg(unix)]
fn one_byte_outside_is_fatal() {
    // SIGSEGV; some systems send SIGBUS.
    let fatal = |at| matches!(signal(at), Some(11 | 10 | 7));
    assert!(fatal(LEN as isize), "one byte past the end");
    assert!(fatal(-1), "one byte before the start");
    assert_eq!(signal(LEN as isize - 1), None, "the last byte");
    assert_eq!(signal(0), None, "the first byte");
}

#[test]
fn places_are_where_they_say() {
    let addresses = |place| {
        let values = Guarded::new(&[1.5f32; 5], place);
        let range = values.get().as_ptr_range();
        assert_eq!(values.get(), [1.5; 5]);
        assert_eq!(values.take(&place), [1.5; 5]);
        (range.start.addr() % 4096, range.end.addr() % 4096)
    };
    assert_eq!(addresses(Place::start(0)).0, 0);
    assert_eq!(addresses(Place::end(0)).1, 0);
    assert_eq!(addresses(Place::start(7)).0, 4);
    assert_eq!(addresses(Place::end(63)).1, 4096 - 60);
}

#[test]
#[should_panic(expected = "wrote before the output")]
fn writes_into_the_gap_are_found() {
    let mut values = Guarded::<u8>::filled(3, Place::start(1));
    values.get_mut().fill(0);
    let first = values.get_mut().as_mut_ptr();
    // SAFETY: the byte before is the gap, a part of the same writable pages.
    unsafe { first.wrapping_sub(1).write(0) };
    values.take(&"the gap");
}
