//! Which kernels miri sees, and which instructions it cannot run.

use crate::common::backends;

/// `TRITGEMM_TEST_REQUIRE` names what this run is for.
#[test]
fn the_build_has_what_was_asked_for() {
    let names: Vec<&str> = backends().iter().map(|b| b.name()).collect();
    println!("kernels: {}", names.join(", "));
    assert_eq!(names.last(), Some(&"scalar"));
}
