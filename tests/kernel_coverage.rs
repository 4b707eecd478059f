//! Every row of the kernel table has its tests and its benches.
//!
//! Suites and benches go over lists of backends instead of naming instruction
//! sets, so a new row is in all of them by itself. Here those lists are held
//! against the table, row by row and operation by operation: a list that
//! leaves one out fails, and names it. The kernels' own suite beside guard
//! pages is part of the crate's unit tests and does the same there.

mod common;

#[path = "../benches/common/mod.rs"]
mod benches;
#[path = "common/coverage.rs"]
mod coverage;

use coverage::{OPERATIONS, Suite, uncovered};
use std::collections::BTreeSet;
use tritgemm::{Backend, Lanes, Options, TableRow, Threads, kernel_table};

/// What a suite or bench is, the operations it runs, its source, and the text
/// that shows it goes over the list of all backends.
type Source = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
);

const PRODUCTS: &[&str] = &[
    "i8-row",
    "i8-column",
    "i8-narrow",
    "f32-row",
    "f32-column",
    "f32-narrow",
];

/// Those that go over `tests/common`'s list.
const TESTS: &[Source] = &[
    (
        "bit-exact test",
        PRODUCTS,
        include_str!("bit_exact/grid.rs"),
        "let ways = ways();",
    ),
    (
        "bit-exact test",
        &["codec"],
        include_str!("properties/encoding.rs"),
        "in backends()",
    ),
    (
        "bit-exact test",
        &["i8-streamed"],
        include_str!("bit_exact/residency.rs"),
        "in backends()",
    ),
    (
        "guard-page test",
        &["i8-streamed"],
        include_str!("guard_pages/kernels.rs"),
        "[Source::Cache, Source::Memory]",
    ),
    (
        "guard-page test",
        PRODUCTS,
        include_str!("guard_pages/products.rs"),
        "let ways = backends()",
    ),
    (
        "guard-page test",
        &["codec"],
        include_str!("guard_pages/codec.rs"),
        "in backends()",
    ),
];

/// Those that go over `benches/common`'s list.
const BENCHES: &[Source] = &[
    (
        "bench",
        &["codec"],
        include_str!("../benches/codec.rs"),
        "in common::backends()",
    ),
    (
        "bench",
        &["i8-streamed"],
        include_str!("../benches/gemm.rs"),
        "in common::backends()",
    ),
    (
        "bench",
        PRODUCTS,
        include_str!("../benches/crossover.rs"),
        "let backends = common::backends();",
    ),
];

const KINDS: [&str; 3] = ["bit-exact test", "guard-page test", "bench"];

/// The suites of `sources`, each going over `rows` if its source still does.
fn suites<'a>(sources: &'static [Source], rows: &[&'a str]) -> Vec<Suite<'a>> {
    let going = |&(kind, operations, source, loops): &'static Source| Suite {
        kind,
        operations,
        rows: match source.contains(loops) {
            true => rows.to_vec(),
            false => Vec::new(),
        },
    };
    sources.iter().map(going).collect()
}

fn names(backends: &[Backend]) -> Vec<&'static str> {
    backends.iter().map(|b| b.name()).collect()
}

fn all_suites() -> Vec<Suite<'static>> {
    // `ways()` must have every backend with either kind of lanes.
    let ways = common::ways();
    for backend in common::backends() {
        for lanes in [Lanes::Row, Lanes::Column] {
            let way = Options::new().backend(backend).lanes(lanes);
            let way = way.threads(Threads::Serial);
            assert!(ways.contains(&way), "ways() lacks {way:?}");
        }
    }
    let mut all = suites(TESTS, &names(&common::backends()));
    let measured = benches::measured(benches::Profile::Full, Backend::available().collect());
    all.extend(suites(BENCHES, &names(&measured)));
    all
}

#[test]
fn every_row_has_tests_and_benches() {
    let table = kernel_table();
    let (here, elsewhere): (Vec<_>, Vec<_>) = table.iter().partition(|row| row.runs_here);
    for row in &elsewhere {
        println!("not run on this CPU: {}", row.name);
    }
    let rows: Vec<_> = here.iter().map(|row| row.name).collect();
    assert!(rows.contains(&"scalar"), "the reference runs everywhere");
    let missing = uncovered(&rows, &OPERATIONS, &KINDS, &all_suites());
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A row that the lists do not have, and a suite that stopped using its list.
#[test]
fn what_is_missing_is_found() {
    let all = all_suites();
    let missing = uncovered(&["scalar", "sve2"], &OPERATIONS, &KINDS, &all);
    assert_eq!(missing.len(), OPERATIONS.len() * KINDS.len(), "{missing:?}");
    for (operation, kind) in OPERATIONS.iter().flat_map(|o| KINDS.map(|k| (o, k))) {
        let line = format!("sve2: no {kind} of {operation}");
        assert!(missing.contains(&line), "{line} is not in {missing:?}");
    }

    let without_bench: Vec<_> = all.into_iter().filter(|s| s.kind != "bench").collect();
    let missing = uncovered(&["scalar"], &OPERATIONS, &KINDS, &without_bench);
    assert_eq!(missing.len(), OPERATIONS.len(), "{missing:?}");

    const NAMED: &[Source] = &[("bench", PRODUCTS, "for isa in [Isa::Avx2]", "in backends()")];
    let named = suites(NAMED, &["scalar"]);
    let missing = uncovered(&["scalar"], PRODUCTS, &["bench"], &named);
    assert_eq!(missing.len(), PRODUCTS.len(), "{missing:?}");
}

/// What is wrong with a row, by the table alone.
fn faults(row: &TableRow, table: &[TableRow]) -> Vec<String> {
    let mut faults = Vec::new();
    let operations: Vec<_> = row.kernels.iter().map(|k| k.operation).collect();
    if operations != OPERATIONS {
        faults.push(format!("{}: operations {operations:?}", row.name));
    }
    // What the disassembler starts from (`tests/no_multiply.rs`).
    for kernel in &row.kernels {
        if kernel.symbols.is_empty() {
            faults.push(format!("{}: no symbols", kernel.name));
        }
        if !row.entries.iter().any(|(name, _)| *name == kernel.name) {
            faults.push(format!("{}: no entry points", kernel.name));
        }
    }
    // A kernel of another row, as its name begins, must run wherever this one's do.
    for kernel in &row.kernels {
        let of = |other: &&TableRow| {
            let rest = kernel.name.strip_prefix(other.name);
            rest.is_some_and(|rest| rest.starts_with('-'))
        };
        let Some(owner) = table.iter().filter(of).max_by_key(|other| other.name.len()) else {
            faults.push(format!("{}: {} is of no row", row.name, kernel.name));
            continue;
        };
        if !owner.features.iter().all(|f| row.features.contains(f)) {
            faults.push(format!(
                "{}: {} needs more than {:?}",
                row.name, kernel.name, row.features
            ));
        }
    }
    faults
}

#[test]
fn every_row_can_be_proven() {
    let table = kernel_table();
    let faults: Vec<_> = table.iter().flat_map(|row| faults(row, &table)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let rows: BTreeSet<_> = table.iter().map(|row| row.name).collect();
    assert_eq!(rows.len(), table.len(), "two rows have one name");
}

#[test]
fn what_cannot_be_proven_is_found() {
    let table = kernel_table();
    let broken = |change: fn(&mut TableRow)| {
        let mut row = kernel_table().pop().expect("the scalar row");
        change(&mut row);
        faults(&row, &table)
    };
    assert!(broken(|_| ()).is_empty());
    let without_symbols = broken(|row| row.kernels[5].symbols = &[]);
    assert_eq!(without_symbols, ["scalar-few_f32: no symbols"]);
    let without_entries = broken(|row| row.entries.retain(|(name, _)| *name != "scalar-codec"));
    assert_eq!(without_entries, ["scalar-codec: no entry points"]);
    // Its entry points still have the old name.
    let unknown = broken(|row| row.kernels[2].name = "made-up-i8-row");
    assert!(unknown.contains(&"scalar: made-up-i8-row is of no row".to_owned()));

    // A kernel that needs more than the row that uses it.
    if let Some(more) = table.iter().find(|row| !row.features.is_empty()) {
        let mut row = kernel_table().pop().expect("the scalar row");
        row.kernels[2].name = more.kernels[1].name;
        row.entries.push((more.kernels[1].name, std::ptr::null()));
        let found = faults(&row, &table);
        assert!(
            matches!(&found[..], [fault] if fault.contains("needs more than")),
            "{found:?}"
        );
    }
}

/// CI requires every instruction set of the table on some machine or emulator.
#[test]
fn ci_requires_every_instruction_set() {
    // A published package has no CI.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/run");
    let Ok(script) = std::fs::read_to_string(path) else {
        println!("no {path}");
        return;
    };
    for row in kernel_table() {
        let isa = row.isa.name();
        let requires = ["echo", "emulated"].map(|word| format!("{word} {isa}"));
        let found = requires.iter().any(|text| script.contains(text));
        assert!(found, "no step of .ci/run requires {isa}");
    }
}
