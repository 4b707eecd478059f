//! Which kernels miri sees, and which it cannot interpret.

use crate::common::backends;
use tritgemm::Backend;

/// Kernels with an instruction that miri does not know. All of them run beside
/// guard pages (`tests/guard_pages/`) and under AddressSanitizer
/// (`.ci/sanitize asan`) on a CPU that has the instructions; what they share
/// with other kernels is interpreted there.
///
/// | kernel | instruction | intrinsic |
/// |---|---|---|
const UNSUPPORTED: &[&str] = &["avx512-f32-row", "avx512-codec: decode_f32"];

/// Whether the kernel of `operation` (`i8-row`, `codec` and so on) can be run
/// here: every one can, but some under miri.
pub fn runs(backend: Backend, operation: &str) -> bool {
    let name = format!("{}-{operation}", backend.name());
    !cfg!(miri) || !UNSUPPORTED.contains(&name.as_str())
}

/// `TRITGEMM_TEST_REQUIRE` names what this run is for.
#[test]
fn the_build_has_what_was_asked_for() {
    let names: Vec<&str> = backends().iter().map(|b| b.name()).collect();
    println!("kernels: {}", names.join(", "));
    assert_eq!(names.last(), Some(&"scalar"));
}

/// A kernel that is renamed or gone must not stay on the list.
#[test]
fn the_list_names_kernels() {
    let table = tritgemm::kernel_table();
    let names: Vec<&str> = table
        .iter()
        .flat_map(|row| row.kernels)
        .map(|k| k.name)
        .collect();
    for name in UNSUPPORTED {
        let exists = names.iter().any(|kernel| name.starts_with(kernel));
        assert!(
            exists || !cfg!(target_arch = "x86_64"),
            "{name} is no kernel"
        );
    }
}
