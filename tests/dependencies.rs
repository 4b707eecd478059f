//! What an engine takes on with this crate: its crates, counted, so that none
//! comes in unnoticed.

use std::collections::BTreeSet;
use std::process::Command;

/// The crates of the normal dependency tree on x86-64 Linux, this one included.
/// `edges` and `options` are `cargo tree`'s.
fn crates(edges: &str, options: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--package", "tritgemm", "--prefix", "none"])
        .args(["--edges", edges, "--format", "{p}"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--offline"])
        .args(options)
        .output()
        .expect("cargo that runs this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let crates: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    for expected in ["tritgemm", "aligned-vec", "pulp"] {
        assert!(crates.contains(expected), "no {expected} in {crates:?}");
    }
    crates
}

#[track_caller]
fn at_most(limit: usize, crates: &BTreeSet<String>) {
    let count = crates.len();
    assert!(
        count <= limit,
        "{count} crates, at most {limit}: {crates:#?}"
    );
}

/// What is linked into a program: proc macros only run in the compiler.
#[test]
fn linked_crates() {
    let linked = crates("normal,no-proc-macro", &[]);
    at_most(23, &linked);
    for used in ["multiversion", "rayon", "memmap2", "crc32fast"] {
        assert!(linked.contains(used), "no {used} in {linked:?}");
    }
}

/// Proc macros and what they are built of included. All but crc32fast, memmap2
/// and libc are rayon's 6, pulp's 11, multiversion's 7 and aligned-vec's 4.
#[test]
fn built_crates() {
    at_most(32, &crates("normal", &[]));
    at_most(24, &crates("normal", &["--no-default-features"]));
}

/// The feature that adds the most: faer's dense product for backward passes.
#[test]
fn optional_crates_stay_optional() {
    let default = crates("normal", &[]);
    for optional in ["gemm", "half", "log", "zerocopy", "serde", "thiserror"] {
        assert!(!default.contains(optional), "{optional} in {default:?}");
    }
    let all = crates("normal", &["--all-features"]);
    for optional in ["gemm", "half", "log"] {
        assert!(all.contains(optional), "no {optional} in {all:?}");
    }
}
