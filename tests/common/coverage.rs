//! Whether every kernel of the table is reached by every kind of suite; what
//! `tests/kernel_coverage.rs` and the crate's own tests compare.
#![allow(dead_code)]

/// What [`Backend::kernels`](tritgemm::Backend::kernels) calls the kernels of a
/// row.
pub const OPERATIONS: [&str; 8] = [
    "codec",
    "i8-row",
    "i8-streamed",
    "i8-column",
    "i8-narrow",
    "f32-row",
    "f32-column",
    "f32-narrow",
];

/// Suites of one kind: what they are, which operations they run, and on which
/// rows of the table.
pub struct Suite<'a> {
    pub kind: &'a str,
    pub operations: &'a [&'a str],
    pub rows: Vec<&'a str>,
}

/// A line for every operation of every row that lacks a suite of some kind;
/// `kinds` are those that it must have.
pub fn uncovered(rows: &[&str], operations: &[&str], kinds: &[&str], all: &[Suite]) -> Vec<String> {
    let mut missing = Vec::new();
    for row in rows {
        for operation in operations {
            for kind in kinds {
                let covers = |suite: &&Suite| {
                    suite.kind == *kind
                        && suite.operations.contains(operation)
                        && suite.rows.contains(row)
                };
                if all.iter().find(covers).is_none() {
                    missing.push(format!("{row}: no {kind} of {operation}"));
                }
            }
        }
    }
    missing
}
