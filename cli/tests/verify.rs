//! `tritgemm verify` from end to end.

mod common;

use common::{Dir, Tensor, f32_tensor, matrix, read, tritgemm};
use predicates::prelude::*;
use safetensors::Dtype;
use std::path::PathBuf;

fn packed(dir: &Dir) -> PathBuf {
    let input = dir.write("in", &[("a", matrix(70, 50)), ("b", matrix(3, 6))], &[]);
    let output = dir.path("packed");
    tritgemm()
        .arg("quantize")
        .args([&input, &output])
        .assert()
        .success();
    output
}

#[test]
fn what_quantize_wrote_is_right_on_every_backend() {
    let dir = Dir::new();
    let file = packed(&dir);
    let mut checks = tritgemm()
        .arg("verify")
        .arg(&file)
        .assert()
        .success()
        .stderr("");
    for backend in tritgemm::Backend::available() {
        checks = checks.stdout(predicate::str::contains(backend.name()));
    }
    checks.stdout(predicate::str::contains("2 matrices"));
    tritgemm()
        .arg("verify")
        .arg(&file)
        .args(["--tokens", "2,70", "--seed", "9", "--threads", "1"])
        .assert()
        .success()
        .stdout(predicate::str::contains("2 and 70 tokens"));
}

/// More tokens than there is memory for are refused before anything is allocated, and more
/// threads than a product is shared among before any is started.
#[cfg(target_os = "linux")]
#[test]
fn absurd_numbers_are_refused() {
    let dir = Dir::new();
    let file = packed(&dir);
    for (arguments, text) in [
        (
            ["--tokens", "1000000000000"],
            "1000000000000 tokens do not fit in memory",
        ),
        (
            ["--tokens", "18446744073709551615"],
            "more bytes than there are addresses",
        ),
        (["--threads", "10000"], "expected a number from 1 to 1024"),
        (["--threads", "0"], "expected a number from 1 to 1024"),
    ] {
        tritgemm()
            .arg("verify")
            .arg(&file)
            .args(arguments)
            .assert()
            .failure()
            .stderr(predicate::str::contains(text));
    }
}

/// A file whose tensors `spoil` changed.
fn spoiled(dir: &Dir, spoil: impl Fn(&str, &mut Tensor)) -> PathBuf {
    let (mut tensors, metadata) = read(&packed(dir));
    for (name, tensor) in &mut tensors {
        spoil(name, tensor);
    }
    let tensors: Vec<(&str, Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    let metadata: Vec<(&str, &str)> = metadata
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    dir.write("spoiled", &tensors, &metadata)
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    type Spoil = fn(&mut Tensor);
    let cases: [(&str, Spoil, &str); 6] = [
        ("b", |t| t.2[3] |= 0b11_00_00_00, "code 11"),
        ("b", |t| t.2[1] |= 1, "padding"),
        ("b", |t| t.1 = vec![2, 3], "expected U8 [3, 2]"),
        ("b", |t| t.0 = Dtype::I8, "expected U8 [3, 2]"),
        (
            "b.scales",
            |t| *t = f32_tensor(&[1.0], &[1]),
            "expected F32 [3]",
        ),
        (
            "b.scales",
            |t| *t = f32_tensor(&[1.0, f32::NAN, 1.0], &[3]),
            "scale 1 is NaN",
        ),
    ];
    for (tensor, spoil, message) in cases {
        let dir = Dir::new();
        let file = spoiled(&dir, |name, t| {
            if name == tensor {
                spoil(t);
            }
        });
        tritgemm()
            .arg("verify")
            .arg(&file)
            .assert()
            .code(1)
            .stdout(predicate::str::contains(message).and(predicate::str::contains("equal")))
            .stderr(predicate::str::contains("1 of 2 matrices failed"));
    }
}

#[test]
fn shapes_without_weights_may_claim_any_size() {
    let dir = Dir::new();
    let listed = r#"{"w":{"dtype":"F32","shape":[9223372036854775807,0],"granularity":"tensor"},
                     "v":{"dtype":"F32","shape":[0,16777215],"granularity":"row"}}"#;
    let tensors = [
        ("w", (Dtype::U8, vec![usize::MAX / 2, 0], vec![])),
        ("w.scales", f32_tensor(&[1.0], &[1])),
        ("v", (Dtype::U8, vec![0, 4194304], vec![])),
        ("v.scales", f32_tensor(&[], &[0])),
    ];
    let metadata = [("tritgemm.version", "1"), ("tritgemm.tensors", listed)];
    let file = dir.write("empty", &tensors, &metadata);
    tritgemm()
        .arg("verify")
        .arg(&file)
        .assert()
        .success()
        .stdout(predicate::str::contains("empty"));
}

#[test]
fn a_file_without_packed_matrices_is_an_error() {
    let dir = Dir::new();
    let file = dir.write("plain", &[("a", matrix(2, 2))], &[]);
    tritgemm()
        .arg("verify")
        .arg(&file)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("no packed matrices"));
}

#[test]
fn a_missing_tensor_is_named() {
    let dir = Dir::new();
    let listed = r#"{"gone":{"dtype":"F32","shape":[2,2],"granularity":"row"}}"#;
    let metadata = [("tritgemm.version", "1"), ("tritgemm.tensors", listed)];
    let file = dir.write("file", &[("a", matrix(2, 2))], &metadata);
    tritgemm()
        .arg("verify")
        .arg(&file)
        .assert()
        .code(1)
        .stdout(predicate::str::contains("no tensor `gone`"));
}
