//! Which kernels miri sees, and which it cannot interpret.

use tritgemm::Backend;
use tritgemm_testing::backends;

/// Kernels with an instruction that miri does not know (it ends the run with
/// "can't call foreign function `llvm.x86.avx512...`"). They run beside guard
/// pages (`tests/guard_pages/`) and under AddressSanitizer (`.ci/sanitize
/// asan`) on a CPU that has the instructions.
///
/// | kernel | intrinsic | interpreted elsewhere |
/// |---|---|---|
/// | `avx512-few_f32` | `_mm512_permutexvar_ps` | the scalar and AVX2 f32 rows |
/// | `avx512-codec`, `decode_f32` alone | `_mm512_permutevar_ps` | scalar and AVX2 |
///
/// The build for miri has no VBMI, so the kernels of `avx512-vbmi` that are not those of
/// `avx512` (`_mm512_permutexvar_epi8`, `_mm512_multishift_epi64_epi8`) do not run there
/// at all, but for the f32 kernel for many tokens of Zen 5, which needs none and has a
/// test in its file. Nor does training, whose
/// dense product asks the CPU for its caches (`cpuid`).
///
/// All NEON kernels are interpreted, with two stand-ins in `kernels/aarch64/`:
/// `vsliq_n_u8` is a shift, an `and` and an `or` there (`codec.rs`, `insert`), and
/// the `asm!` without instructions that guides the compiler (`step`, `pin`) is
/// left out. The emulators run what they stand for.
const UNSUPPORTED: &[&str] = &["avx512-few_f32", "avx512-codec: decode_f32"];

/// Whether the kernel of `operation` (`few_i8`, `codec` and so on) can be run
/// here: every one can, but some under miri.
pub fn runs(backend: Backend, operation: &str) -> bool {
    let name = format!("{}-{operation}", backend.isa());
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
    let rows = tritgemm::diagnostics::registry();
    let names: Vec<&str> = rows
        .iter()
        .flat_map(|row| &row.kernels)
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
