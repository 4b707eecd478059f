//! Proves that no accumulation multiplies, by reading the machine code.
//!
//! This test binary contains every kernel of the build: the registry
//! refers to them. The test disassembles itself, starts from every function
//! pointer of every row of the registry, whether or not this CPU could run it,
//! follows calls and jumps, and fails on anything that multiplies data, that it cannot decode or that it
//! cannot follow. Data is what vector, floating-point and matrix registers hold.
//! General registers hold addresses, which any kernel may multiply; in a scalar
//! kernel they hold data as well, of at most 32 bits, which it may not.
//!
//! The calls show as well whether a vector kernel left generic code out of line,
//! where it would be compiled without the kernel's instructions.
//!
//! That the scanner sees what is there is shown twice: the epilogues, which
//! scale the sums, must be found to multiply, and so must the functions of
//! `planted`, each by name.
#![cfg(all(
    target_os = "linux",
    any(
        target_arch = "x86_64",
        all(target_arch = "aarch64", target_endian = "little")
    )
))]

mod disasm;
#[path = "disasm/planted.rs"]
mod planted;

use disasm::image::Image;
use disasm::{Fault, Multiply, scan};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::LazyLock;
use tritgemm::{Backend, diagnostics};

static IMAGE: LazyLock<Image> =
    LazyLock::new(|| Image::read(&std::env::current_exe().expect("the test binary has a path")));

/// A function whose address in memory and in the file are both known.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tritgemm_no_multiply_anchor() {
    std::hint::black_box(());
}

/// The function of the file that a pointer of this process points at.
fn in_file(pointer: *const ()) -> u64 {
    let mut anchors = IMAGE.named(|name| name == "tritgemm_no_multiply_anchor");
    let anchor = anchors.next().expect("the anchor has a symbol");
    let distance = pointer
        .addr()
        .wrapping_sub((tritgemm_no_multiply_anchor as *const ()).addr());
    let address = anchor.wrapping_add(distance as u64);
    assert!(
        IMAGE.functions.contains_key(&address),
        "{pointer:?} is not the start of a function with a symbol"
    );
    address
}

#[test]
fn accumulations_never_multiply() {
    let table = diagnostics::registry();
    let scalar_row = table.iter().find(|row| row.name == "scalar");
    let scalar_row = scalar_row.expect("every build has the scalar kernels");
    let mut failures = String::new();
    let mut seen = BTreeSet::new();
    let epilogues = scale_functions();
    for row in &table {
        for kernel in &row.kernels {
            // A row may use another's kernel; once is enough.
            if !seen.insert(kernel.name) {
                continue;
            }
            let mut wrong = Vec::new();
            let roots = kernel.entries.iter().map(|&pointer| in_file(pointer));
            let mut scan = scan(&IMAGE, roots);
            if !scalar_row.kernels.iter().any(|k| k.name == kernel.name) {
                scan.allow_scalar();
            }
            println!(
                "{:<20} {:>6} instructions in {:>2} functions",
                kernel.name,
                scan.instructions(),
                scan.functions.len(),
            );
            wrong.extend(
                scan.findings
                    .iter()
                    .map(|f| format!("`{}` at {}: {:?}", f.name, f.place, f.fault)),
            );
            let reached = epilogues.iter().filter(|e| scan.functions.contains_key(e));
            wrong.extend(reached.map(|e| format!("reaches {}", IMAGE.functions[e].name())));
            for wrong in wrong.iter().take(12) {
                writeln!(failures, "  {}: {wrong}", kernel.name).unwrap();
            }
        }
    }
    assert!(seen.len() >= 5, "the table lists only {seen:?}");
    assert!(
        failures.is_empty(),
        "accumulations must only add and subtract:\n{failures}"
    );
}

/// What scales the sums of a group does so at its end: by plain multiplications of f32, which no
/// sum of int8 can be made of, and which are few beside the additions. Of f32 sums the other
/// instance of the same source, which scales nothing, has none.
#[test]
fn group_scales_are_the_only_multiplications() {
    let mut failures = String::new();
    let mut seen = BTreeSet::new();
    for kernel in diagnostics::registry().iter().flat_map(|row| &row.kernels) {
        if kernel.scales.is_empty() || !seen.insert(kernel.name) {
            continue;
        }
        let roots = kernel.scales.iter().map(|&pointer| in_file(pointer));
        let mut scan = scan(&IMAGE, roots);
        if !kernel.name.starts_with("scalar-") {
            scan.allow_scalar();
        }
        let plain = |name: &str| {
            ["mulps", "mulss", "fmul"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        for finding in &scan.findings {
            if finding.fault != Fault::Multiply(Multiply::Data) || !plain(&finding.name) {
                writeln!(failures, "  {}: {finding:?}", kernel.name).unwrap();
            }
        }
        let (scales, all) = (scan.findings.len(), scan.instructions());
        if scales == 0 || scales * 8 > all {
            writeln!(failures, "  {}: {scales} of {all} multiply", kernel.name).unwrap();
        }
    }
    assert!(seen.len() >= 2, "the table lists only {seen:?}");
    assert!(
        failures.is_empty(),
        "scales must be all that multiplies:\n{failures}"
    );
}

/// The first segment of a path below `tritgemm::kernels`.
fn module(name: &str) -> Option<&str> {
    // `<tritgemm::kernels::a::Type>::method` where the compiler mangles so.
    let name = name.strip_prefix('<').unwrap_or(name);
    name.strip_prefix("tritgemm::kernels::")?.split("::").next()
}

/// What the functions at `roots` reach outside of `modules`, which hold the functions
/// that declare a kernel's features.
fn out_of_line(roots: Vec<u64>, modules: &[Option<&str>]) -> Vec<String> {
    assert!(!roots.is_empty());
    let reached = scan(&IMAGE, roots).functions;
    let names = reached.into_values().map(|(name, _)| name);
    names
        .filter(|name| !modules.contains(&module(name)))
        .collect()
}

/// Generic code has a kernel's features only where it is inlined into it. Left out
/// of line it is compiled without them and takes vectors through memory: a closure
/// did, in builds with a single codegen unit, and took 40 % of the speed. Test
/// builds inline least of all, so they are where it shows.
/// Kernels walk arrays by reference for its sake: by value, Rust 1.89 leaves the code
/// that drops what a loop did not reach out of line.
///
/// Generic functions in an instruction set's own folder are not told from those that
/// declare features; but what they call of `core` would stay out of line, and shows.
#[test]
fn vector_kernels_inline_what_is_generic() {
    let mut failures = String::new();
    let mut checked = BTreeSet::new();
    for kernel in diagnostics::registry().iter().flat_map(|row| &row.kernels) {
        if kernel.name.starts_with("scalar-") || !checked.insert(kernel.name) {
            continue;
        }
        let roots = kernel.entries.iter().chain(&kernel.scales);
        let roots: Vec<u64> = roots.map(|&pointer| in_file(pointer)).collect();
        // The folders of instruction sets, and the codecs' scalar tails.
        let names = roots.iter().map(|f| IMAGE.functions[f].name());
        let mut modules: Vec<_> = names.map(module).collect();
        modules.push(Some("scalar"));
        for stray in out_of_line(roots, &modules) {
            writeln!(failures, "  {}: {stray}", kernel.name).unwrap();
        }
    }
    let expected = if cfg!(target_arch = "x86_64") { 17 } else { 5 };
    assert!(
        checked.len() >= expected,
        "the table lists only {checked:?}"
    );
    assert!(failures.is_empty(), "out of line:\n{failures}");
    // The rule sees what is there: this one is shared, and never inlined.
    let modules = ["scalar", "x86_64", "aarch64"].map(Some);
    let scalar = diagnostics::kernels(Backend::scalar());
    let many = scalar.iter().find(|kernel| kernel.name == "scalar-many_i8");
    let entries = &many.expect("the scalar row has it").entries;
    let shared = out_of_line(entries.iter().map(|&e| in_file(e)).collect(), &modules);
    let found = shared.iter().any(|name| name.ends_with("finish_i8"));
    assert!(found, "found {shared:?}");
}

/// The functions of `kernels/auto/scale.rs` in the file, all their clones.
fn scale_functions() -> BTreeSet<u64> {
    // Kept as pointers, so that the linker keeps them too.
    std::hint::black_box(diagnostics::epilogues());
    let scale = "tritgemm::kernels::auto::scale::";
    IMAGE.named(|name| name.contains(scale)).collect()
}

#[test]
fn epilogues_multiply() {
    for (epilogue, pointer) in diagnostics::epilogues() {
        // The dispatcher chooses by pointer, so its clones are found by name.
        let path = format!("tritgemm::kernels::auto::scale::{epilogue}");
        let clones = IMAGE.named(|name| name.contains(&path));
        let clones: BTreeSet<u64> = clones.chain([in_file(pointer)]).collect();
        let multiply = |clone: &&u64| scan(&IMAGE, [**clone]).multiplies_data();
        let multiplying = clones.iter().filter(multiply).count();
        // The portable one, and on x86-64 one each for AVX2 and AVX-512.
        let expected = if cfg!(target_arch = "x86_64") { 3 } else { 1 };
        let all = clones.len();
        assert!(
            multiplying >= expected,
            "{epilogue}: only {multiplying} of {all} clones"
        );
    }
}

#[test]
fn planted_multiplications_are_found() {
    let plants = planted::COMPILED.iter().chain(planted::INSTRUCTIONS);
    for &(plant, function, multiply, mnemonics) in plants {
        let mut scan = scan(&IMAGE, [in_file(function.0)]);
        let path = format!("::{plant}");
        let scanned = scan
            .functions
            .values()
            .any(|(name, _)| name.ends_with(&path));
        assert!(scanned, "{plant} was scanned under another name");
        let found = scan
            .findings
            .iter()
            .any(|f| f.fault == Fault::Multiply(multiply) && mnemonics.contains(&f.name.as_str()));
        assert!(found, "{plant}: {mnemonics:?} not in {:#x?}", scan.findings);
        // A vector kernel may multiply in general registers.
        scan.allow_scalar();
        assert_eq!(
            !scan.findings.is_empty(),
            multiply == Multiply::Data,
            "{plant}"
        );
    }
}

#[test]
fn code_that_cannot_be_judged_is_found() {
    for (name, function, fault) in planted::OPAQUE {
        let scan = scan(&IMAGE, [in_file(function.0)]);
        let found = scan.findings.iter().any(|finding| match fault {
            Fault::Unknown(_) => matches!(finding.fault, Fault::Unknown(_)),
            fault => finding.fault == *fault,
        });
        assert!(found, "{name}: {fault:?} not in {:#x?}", scan.findings);
    }
}

#[test]
fn additions_and_permutations_pass() {
    for (name, function) in planted::INNOCENT {
        let scan = scan(&IMAGE, [in_file(function.0)]);
        assert!(scan.instructions() > 1, "{name} is empty");
        assert!(scan.findings.is_empty(), "{name}: {:#x?}", scan.findings);
    }
}
