//! Proves that no accumulation multiplies, by reading the machine code.
//!
//! This test binary contains every kernel of the build: the kernel table
//! refers to them. The test disassembles itself, starts from every function
//! pointer of every row of the table, whether or not this CPU could run it,
//! and from every symbol that the table lists, follows calls and jumps, and
//! fails on anything that multiplies, that it cannot decode or that it cannot
//! follow. Multiplications for addresses count as well.
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
use disasm::{Fault, Scan, scan};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::LazyLock;

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
    let anchor = IMAGE
        .named(|name| name == "tritgemm_no_multiply_anchor")
        .next()
        .expect("the anchor has a symbol");
    let loaded_at = (tritgemm_no_multiply_anchor as *const ())
        .addr()
        .wrapping_sub(usize::try_from(anchor).unwrap());
    let address = pointer.addr().wrapping_sub(loaded_at) as u64;
    let start = IMAGE.function_at(address);
    assert_eq!(
        start,
        Some(address),
        "{pointer:?} is not the start of a function with a symbol"
    );
    address
}

/// Whether the demangled path `name` below `tritgemm::kernels` ends with
/// `listed`, or is an instantiation of such a path or a closure in it.
fn is_listed(name: &str, listed: &str) -> bool {
    name.contains("tritgemm::kernels::")
        && name.match_indices(listed).any(|(at, _)| {
            let rest = &name[at + listed.len()..];
            name[..at].ends_with("::")
                && (rest.is_empty() || rest.starts_with("::") || rest.starts_with('<'))
        })
}

/// The functions that a kernel means by a path: those with exactly this path
/// below `tritgemm::kernels`, or else all that end with it.
fn listed_functions(listed: &str) -> Vec<u64> {
    let whole = format!("kernels::{listed}");
    let exact = IMAGE
        .named(|name| is_listed(name, &whole))
        .collect::<Vec<_>>();
    if exact.is_empty() {
        IMAGE.named(|name| is_listed(name, listed)).collect()
    } else {
        exact
    }
}

/// One line a finding, few enough to read.
fn list(scan: &Scan) -> String {
    const MOST: usize = 12;
    let mut text = String::new();
    for finding in scan.findings.iter().take(MOST) {
        writeln!(text, "    {finding}").unwrap();
    }
    if let Some(more) = scan.findings.len().checked_sub(MOST + 1) {
        writeln!(text, "    and {} more", more + 1).unwrap();
    }
    text
}

#[test]
fn accumulations_never_multiply() {
    let mut failures = String::new();
    let mut seen = BTreeSet::new();
    let epilogues: BTreeSet<u64> = scale_functions();
    for row in tritgemm::kernel_table() {
        for kernel in row.kernels {
            // A set may use another's kernel; once is enough.
            if !seen.insert(kernel.name) {
                println!(
                    "{:<12} {:<10} = {}",
                    row.name, kernel.operation, kernel.name
                );
                continue;
            }
            let mut roots = Vec::new();
            for listed in kernel.symbols {
                let found = listed_functions(listed);
                if found.is_empty() {
                    writeln!(failures, "  {}: no symbol for {listed}", kernel.name).unwrap();
                }
                roots.extend(found);
            }
            let entries = row.entries.iter().filter(|(name, _)| *name == kernel.name);
            roots.extend(entries.map(|&(_, pointer)| in_file(pointer)));
            let scan = scan(&IMAGE, roots);
            println!(
                "{:<12} {:<10} {:>6} instructions in {:>2} functions, calls {:?}",
                row.name,
                kernel.operation,
                scan.instructions(),
                scan.functions.len(),
                scan.harmless,
            );
            for (name, count) in scan.functions.values() {
                println!("{:>30} {name}", count);
            }
            if !scan.findings.is_empty() {
                writeln!(
                    failures,
                    "  {} ({}):\n{}",
                    kernel.name,
                    row.name,
                    list(&scan)
                )
                .unwrap();
            }
            for start in epilogues
                .iter()
                .filter(|start| scan.functions.contains_key(start))
            {
                let epilogue = IMAGE.functions[start].name();
                writeln!(
                    failures,
                    "  {}: reaches the epilogue {epilogue}",
                    kernel.name
                )
                .unwrap();
            }
        }
    }
    assert!(seen.len() >= 5, "the table lists only {seen:?}");
    assert!(
        failures.is_empty(),
        "accumulations must only add and subtract:\n{failures}"
    );
}

/// The first segment of a path below `tritgemm::kernels`.
fn module(name: &str) -> Option<&str> {
    // `<tritgemm::kernels::a::Type>::method` where the compiler mangles so.
    let name = name.strip_prefix('<').unwrap_or(name);
    name.strip_prefix("tritgemm::kernels::")?.split("::").next()
}

/// What the functions that `symbols` name reach outside the modules of the kernel
/// table's rows, which hold the functions that declare a kernel's features.
fn out_of_line(symbols: &[&str], modules: &[&str]) -> Vec<String> {
    let mut strays = Vec::new();
    for symbol in symbols {
        let roots = listed_functions(symbol);
        assert!(!roots.is_empty(), "no symbol for {symbol}");
        for (name, _) in scan(&IMAGE, roots).functions.values() {
            if !module(name).is_some_and(|module| modules.contains(&module)) {
                strays.push(name.clone());
            }
        }
    }
    strays
}

/// Generic code has a kernel's features only where it is inlined into it. Left out
/// of line it is compiled without them and takes vectors through memory: a closure
/// did, in builds with a single codegen unit, and took 40 % of the speed. Test
/// builds inline least of all, so they are where it shows.
///
/// Generic functions in an instruction set's own folder are not told from those that
/// declare features; but what they call of `core` would stay out of line, and shows.
#[test]
fn vector_kernels_inline_what_is_generic() {
    let mut failures = String::new();
    let mut checked = BTreeSet::new();
    for row in tritgemm::kernel_table() {
        for kernel in row.kernels {
            let of_scalar = kernel.symbols.iter().any(|s| s.starts_with("scalar::"));
            if of_scalar || !checked.insert(kernel.name) {
                continue;
            }
            // The folders of instruction sets, and the codecs' scalar tails.
            let functions = kernel.symbols.iter().flat_map(|s| listed_functions(s));
            let names: Vec<&str> = functions.map(|f| IMAGE.functions[&f].name()).collect();
            let mut modules: Vec<&str> = names.iter().filter_map(|name| module(name)).collect();
            modules.push("scalar");
            for stray in out_of_line(kernel.symbols, &modules) {
                writeln!(failures, "  {}: {stray}", kernel.name).unwrap();
            }
        }
    }
    println!("{checked:?}");
    let expected = if cfg!(target_arch = "x86_64") { 17 } else { 5 };
    assert!(
        checked.len() >= expected,
        "the table lists only {checked:?}"
    );
    assert!(failures.is_empty(), "out of line:\n{failures}");
    // The rule sees what is there: this one is shared, and never inlined.
    let shared = out_of_line(
        &["many::finish::finish_i8"],
        &["scalar", "x86_64", "aarch64"],
    );
    assert!(
        shared.iter().any(|name| name.ends_with("finish_i8")),
        "found {shared:?}"
    );
}

/// The functions of `kernels/scale.rs` in the file, all their clones.
fn scale_functions() -> BTreeSet<u64> {
    let pointers = tritgemm::epilogues().map(|(_, pointer)| pointer);
    // Kept as pointers, so that the linker keeps them too.
    std::hint::black_box(pointers);
    IMAGE
        .named(|name| name.contains("tritgemm::kernels::scale::"))
        .collect()
}

#[test]
fn epilogues_multiply() {
    for (epilogue, pointer) in tritgemm::epilogues() {
        // The dispatcher chooses by pointer, so its clones are found by name.
        let mut clones = IMAGE
            .named(|name| is_listed(name, &format!("scale::{epilogue}")))
            .collect::<BTreeSet<_>>();
        clones.insert(in_file(pointer));
        let mut multiplying = 0;
        for &clone in &clones {
            let scan = scan(&IMAGE, [clone]);
            println!(
                "{epilogue:<16} {:>3} multiplications in {:>5} instructions: {}",
                scan.multiplies().count(),
                scan.instructions(),
                IMAGE.functions[&clone].name(),
            );
            multiplying += usize::from(scan.multiplies().count() > 0);
        }
        // The portable one, and on x86-64 one each for AVX2 and AVX-512.
        let expected = if cfg!(target_arch = "x86_64") { 3 } else { 1 };
        assert!(
            multiplying >= expected,
            "{epilogue}: {multiplying} of {} clones multiply, expected {expected}",
            clones.len()
        );
    }
}

#[test]
fn planted_multiplications_are_found() {
    for plant in planted::MULTIPLY {
        let scan = scan(&IMAGE, [in_file(plant.function.0)]);
        let found = scan
            .multiplies()
            .map(|f| f.name.as_str())
            .collect::<Vec<_>>();
        println!("{:<24} {found:?}", plant.name);
        assert!(
            found.iter().any(|name| plant.mnemonics.contains(name)),
            "{}: expected one of {:?} among\n{}",
            plant.name,
            plant.mnemonics,
            list(&scan)
        );
        let path = format!("::{}", plant.name);
        assert!(
            scan.functions
                .values()
                .any(|(name, _)| name.ends_with(&path)),
            "{} was scanned under another name",
            plant.name
        );
    }
}

#[test]
fn code_that_cannot_be_judged_is_found() {
    for (name, function, fault) in planted::OPAQUE {
        let scan = scan(&IMAGE, [in_file(function.0)]);
        assert!(
            scan.findings.iter().any(|finding| match fault {
                Fault::Unknown(_) => matches!(finding.fault, Fault::Unknown(_)),
                fault => finding.fault == *fault,
            }),
            "{name}: expected {fault:?} among\n{}",
            list(&scan)
        );
    }
}

#[test]
fn additions_and_permutations_pass() {
    for (name, function) in planted::INNOCENT {
        let scan = scan(&IMAGE, [in_file(function.0)]);
        assert!(scan.instructions() > 1, "{name} is empty");
        assert!(scan.findings.is_empty(), "{name}:\n{}", list(&scan));
    }
}

#[test]
fn paths_match_whole_segments() {
    let name = "tritgemm::kernels::x86_64::avx2::few_i8::tile<4, 1>";
    assert!(is_listed(name, "avx2::few_i8::tile"));
    assert!(is_listed(
        "tritgemm::kernels::scalar::few::few_i8",
        "scalar::few::few_i8"
    ));
    assert!(is_listed("tritgemm::kernels::a::f::{{closure}}", "a::f"));
    assert!(!is_listed(name, "avx2::few_i8::til"));
    assert!(is_listed(name, "x86_64::avx2::few_i8::tile"));
    assert!(!is_listed(name, "vx2::few_i8::tile"));
    assert!(is_listed(name, "few_i8::tile"));
    assert!(!is_listed(
        "no_multiply::scalar::few::few_i8",
        "scalar::few::few_i8"
    ));
}
