//! `tritgemm soak`: compares, notices a single wrong bit, replays.

mod common;

use common::tritgemm;
use predicates::prelude::*;

#[test]
fn cases_agree_for_two_seconds() {
    let done = tritgemm()
        .args(["soak", "--time", "2", "--seed", "0x5eed"])
        .assert()
        .success();
    let text = String::from_utf8(done.get_output().stdout.clone()).expect("text");
    assert!(text.contains("Seed 0x5eed"), "{text}");
    assert!(text.contains("bit for bit"), "{text}");
    // Every path was taken, on the scalar kernels too, which are last.
    for path in [
        "int8",
        "f32",
        "w1a8",
        "prepared",
        "slices of rows",
        "panel file",
        "codec",
    ] {
        let row = text.lines().find(|line| line.starts_with(path));
        let count = row.and_then(|row| row.split_whitespace().last());
        let count: u64 = count.expect("a row").parse().expect("a count");
        assert!(count > 0, "{text}");
    }
}

#[test]
fn the_same_seed_takes_the_same_cases() {
    // Until the planted bit, which is in the first case with any result.
    let run = || {
        let done = tritgemm()
            .args(["soak", "--time", "60", "--seed", "3", "--plant"])
            .assert()
            .code(1);
        String::from_utf8(done.get_output().stderr.clone()).expect("text")
    };
    assert_eq!(run(), run());
}

#[test]
fn one_wrong_bit_is_noticed_and_can_be_replayed() {
    let found = tritgemm()
        .args([
            "soak", "--time", "60", "--seed", "1", "--isa", "scalar", "--plant",
        ])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("expected 0x").and(predicate::str::contains("scalar: ")));
    let error = String::from_utf8(found.get_output().stderr.clone()).expect("text");
    let command = error.split('`').nth(1).expect("a command");
    let replay: Vec<&str> = command.split_whitespace().skip(1).collect();
    assert_eq!(replay[..2], ["soak", "--replay"], "{error}");

    // The case itself is right, and the same bit is wrong again when planted.
    tritgemm()
        .args(&replay)
        .assert()
        .success()
        .stdout(predicate::str::contains("as it should be"));
    let again = tritgemm()
        .args(&replay)
        .args(["--isa", "scalar", "--plant"])
        .assert()
        .code(1);
    let again = String::from_utf8(again.get_output().stderr.clone()).expect("text");
    assert_eq!(again, error);
}

#[test]
fn wrong_arguments_are_named() {
    let wrong = [
        (["--time", "0"], "20m"),
        (["--time", "3d"], "unit `d`"),
        (["--seed", "x"], "0x11"),
        (["--isa", "mmx"], "unknown instruction set"),
    ];
    for (arguments, message) in wrong {
        tritgemm()
            .arg("soak")
            .args(arguments)
            .assert()
            .code(2)
            .stderr(predicate::str::contains(message));
    }
}
