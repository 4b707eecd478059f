//! Suites and benches go over [`backends`] and [`ways`]: here is that those have
//! every row of the registry, and that every row can be proven.

use tritgemm::diagnostics::{Row, registry};
use tritgemm_testing::{FAMILIES, backends, ways};

#[test]
fn suites_go_over_every_row() {
    let mut here: Vec<_> = registry()
        .iter()
        .filter(|row| row.missing.is_empty())
        .map(|row| row.name)
        .collect();
    let mut suites: Vec<_> = backends().iter().map(|backend| backend.name()).collect();
    here.sort();
    suites.sort();
    assert_eq!(suites, here, "each once");
    assert!(here.contains(&"scalar"), "the reference runs everywhere");
    assert_eq!(ways().len(), here.len() * FAMILIES.len());
}

/// What the row's name says before its tuning.
fn level(row: &Row) -> &'static str {
    row.name.split('/').next().expect("a name")
}

#[test]
fn every_row_can_be_proven() {
    let rows = registry();
    for row in &rows {
        for kernel in &row.kernels {
            // What the disassembler starts from (`tests/no_multiply.rs`).
            assert!(
                !kernel.entries.is_empty(),
                "{}: no entry points",
                kernel.name
            );
            // The level that the kernel was written for asks for no more than the row.
            let of_it = |other: &&Row| {
                let rest = kernel.name.strip_prefix(level(other));
                rest.is_some_and(|rest| rest.starts_with('-'))
            };
            let written_for = rows
                .iter()
                .filter(of_it)
                .max_by_key(|other| level(other).len());
            let written_for = written_for.unwrap_or_else(|| panic!("{} has no level", kernel.name));
            for feature in &written_for.features {
                assert!(
                    row.features.contains(feature),
                    "{}: {} needs {feature}",
                    row.name,
                    kernel.name
                );
            }
        }
    }
}

/// CI requires every instruction set of the registry on some machine or emulator.
#[test]
fn ci_requires_every_instruction_set() {
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run"));
    let script = script.expect("the repository's");
    for row in registry() {
        let isa = row.isa.name();
        let requires = ["echo", "emulated"].map(|word| format!("{word} {isa}"));
        let found = requires.iter().any(|text| script.contains(text));
        assert!(found, "no step of .ci/run requires {isa}");
    }
}

/// The example of CONTRIBUTING.md is a row of the registry, to the letter.
#[test]
fn the_example_of_a_row_is_one() {
    let page = include_str!("../CONTRIBUTING.md");
    let rows = include_str!("../kernels/x86_64/mod.rs");
    let blocks = page.split("```rust,ignore\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| Some(rest.split_once("```")?.0));
    let example = blocks
        .next()
        .expect("CONTRIBUTING.md has an example of a row");
    assert!(
        rows.contains(example),
        "no row of the registry is\n{example}"
    );
    assert_eq!(blocks.next(), None, "another block that nothing compiles");
}
