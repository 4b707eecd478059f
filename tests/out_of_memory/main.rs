//! Running out of memory is an error: every allocation of every operation
//! whose size comes from its arguments fails in turn, and each time the
//! operation says so, changes nothing else, and works when tried again.
//!
//! Left out, and documented to abort: `Clone`, `Panels::to_packed`,
//! `PanelFile::from(&Linear)`, and the dense product of `BitLinear::backward`,
//! which another crate runs.

mod layers;
mod products;

use std::fmt::Display;
use tritgemm_testing::allocator::{Plan, Refusing, SMALLEST};

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// A shape all of whose buffers are large enough to be refused: M, K, N.
const SHAPE: [usize; 3] = [320, 512, 264];

/// Runs `operation` once with each of its allocations refused. `start` makes
/// what it works on; `witness` of that and of what it returns shows that it did
/// what it should.
fn every_allocation<S, T, W: PartialEq, E: Display>(
    name: &str,
    mut start: impl FnMut() -> S,
    mut operation: impl FnMut(&mut S) -> Result<T, E>,
    witness: impl Fn(&S, T) -> W,
) {
    let plan = Plan::here();
    let mut attempt = |state: &mut S, refused| {
        let mut result = None;
        let allocations = plan.run(refused, || result = Some(operation(state)));
        let result = result.expect("run").map_err(|e| e.to_string());
        (allocations, result.map(|done| witness(state, done)))
    };
    // What a process asks for once, with its first product, is no allocation of
    // this operation.
    let _ = attempt(&mut start(), 0);
    let (allocations, wanted) = attempt(&mut start(), 0);
    assert!(wanted.is_ok(), "{name} works with memory");
    assert!(allocations > 0, "{name} allocates");
    for refused in 1..=allocations {
        let what = format!("{name}, allocation {refused} of {allocations} refused");
        let mut state = start();
        match attempt(&mut state, refused).1 {
            Ok(_) => panic!("{what}: it worked"),
            Err(text) => assert!(text.contains("out of memory: "), "{what}: {text}"),
        }
        // The same objects, with memory.
        let again = attempt(&mut state, 0).1;
        assert!(again == wanted, "{what}: not as before when tried again");
    }
}

#[test]
fn the_allocator_refuses() {
    let plan = Plan::here();
    let reserve = || Vec::<u8>::new().try_reserve_exact(SMALLEST);
    for refused in 0..3 {
        let mut results = [Ok(()), Ok(())];
        let seen = plan.run(refused, || results = [reserve(), reserve()]);
        assert_eq!(seen, 2);
        assert_eq!(results.map(|r| r.is_err()), [refused == 1, refused == 2]);
    }
}

/// More than there is: the allocator here refuses what real ones might promise.
#[cfg(target_pointer_width = "64")]
#[test]
fn the_size_is_named() {
    use tritgemm::OutOfMemory;
    use tritgemm::nn::{BitLinear, LayerError};
    Plan::here();
    let error = BitLinear::kaiming_uniform(1 << 20, 1 << 20, 1).unwrap_err();
    let bytes = 4 << 40;
    assert_eq!(error, LayerError::Memory(OutOfMemory { bytes }));
    let message = "out of memory: 4398046511104 bytes could not be allocated";
    assert_eq!(error.to_string(), message);
}
