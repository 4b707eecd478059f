//! `tritgemm inspect` from end to end.

mod common;

use common::{Dir, f32_tensor, matrix, read, tritgemm, weights};
use half::bf16;
use predicates::prelude::*;
use safetensors::Dtype;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A packed file of known counts: 2 x 6 of +1 but for three zeros and a -1.
fn ours(dir: &Dir) -> PathBuf {
    let listed = r#"{"a.weight":{"dtype":"F32","shape":[2,6],"granularity":"row"}}"#;
    let packed = vec![0b01_00_01_01, 0b01_00_00_00, 0b10_01_01_01, 0b00_01_00_00];
    let tensors = [
        ("a.weight", (Dtype::U8, vec![2, 2], packed)),
        ("a.weight.scales", f32_tensor(&[0.5, 0.25], &[2])),
        ("norm", f32_tensor(&weights(3), &[3])),
    ];
    let metadata = [("tritgemm.version", "1"), ("tritgemm.tensors", listed)];
    dir.write("ours.safetensors", &tensors, &metadata)
}

fn json(file: &Path, args: &[&str]) -> Value {
    let done = tritgemm()
        .arg("inspect")
        .arg(file)
        .arg("--json")
        .args(args)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn weights_and_scales_are_counted() {
    let dir = Dir::new();
    let file = ours(&dir);
    let report = json(&file, &[]);
    let m = &report["matrices"][0];
    assert_eq!(
        (&m["name"], &m["format"]),
        (&"a.weight".into(), &"tritgemm".into())
    );
    assert_eq!(m["shape"], serde_json::json!([2, 6]));
    let counts = ["minus", "zero", "plus"].map(|n| m[n].as_u64().unwrap());
    assert_eq!(counts, [1, 3, 8]);
    assert_eq!(m["granularity"], "row");
    let scales = ["scale_min", "scale_median", "scale_max"].map(|n| m[n].as_f64().unwrap());
    assert_eq!(scales, [0.25, 0.25, 0.5]);
    assert_eq!(report["container"], "safetensors");
    assert_eq!(report["others"][0]["name"], "norm");
    let counts = report["scales"]["counts"].as_array().unwrap();
    let edges = report["scales"]["edges"].as_array().unwrap();
    assert_eq!(edges.len(), counts.len() + 1);
    assert_eq!(counts.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 2);

    tritgemm()
        .arg("inspect")
        .arg(&file)
        .assert()
        .success()
        .stdout(predicate::str::contains("66.7 %").and(predicate::str::contains("8.3 %")))
        .stdout(predicate::str::contains("0.2500").and(predicate::str::contains("█")))
        .stdout(predicate::str::contains("norm"))
        .stderr("");
}

#[test]
fn every_container_shows_the_same_weights() {
    let dir = Dir::new();
    let (latent, start) = (
        dir.write("latent", &[("w", matrix(8, 512))], &[]),
        dir.path("start"),
    );
    let mut command = tritgemm();
    command
        .arg("quantize")
        .args([&latent, &start])
        .args(["--granularity", "tensor"]);
    command.assert().success();
    let want = &json(&start, &[])["matrices"][0];
    for (format, container, name) in [
        ("tq1_0", "GGUF", "TQ1_0"),
        ("tq2_0", "GGUF", "TQ2_0"),
        ("hf", "safetensors", "HF BitNet"),
        ("hf-bitlinear", "safetensors", "HF BitNet"),
        ("panels", "panel file", "panels"),
    ] {
        let file = dir.path(format);
        let mut command = tritgemm();
        command.arg("convert").args([&start, &file]);
        command
            .args(["--to", format, "--round-scales"])
            .assert()
            .success();
        let report = json(&file, &[]);
        assert_eq!(report["container"], container);
        let m = &report["matrices"][0];
        assert_eq!(m["format"], name);
        for count in ["minus", "zero", "plus", "shape"] {
            assert_eq!(m[count], want[count], "{format}");
        }
        let (a, b) = (
            m["scale_max"].as_f64().unwrap(),
            want["scale_max"].as_f64().unwrap(),
        );
        assert!((a - b).abs() < b / 128.0, "{format}: {a} {b}");
    }
}

#[test]
fn the_drawing_is_well_formed_and_shows_every_matrix() {
    let dir = Dir::new();
    // Names that must be escaped, one that is cut and a control character.
    let long = format!("{}.last", "layer".repeat(20));
    let names = ["a<b>&\"c\"", "plain", long.as_str(), "bell\u{7}"];
    let tensors: Vec<_> = names.iter().map(|n| (*n, matrix(4, 9))).collect();
    let (latent, start) = (dir.write("latent", &tensors, &[]), dir.path("start"));
    tritgemm()
        .arg("quantize")
        .args([&latent, &start])
        .assert()
        .success();
    let svg = dir.path("out.svg");
    let inspect = |args: &[&str]| {
        let mut command = tritgemm();
        command
            .arg("inspect")
            .arg(&start)
            .arg("--svg")
            .arg(&svg)
            .args(args);
        command.assert()
    };
    inspect(&[])
        .success()
        .stdout(predicate::str::contains("Drawn to"));
    let text = fs::read_to_string(&svg).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let texts: Vec<&str> = root
        .descendants()
        .filter(|n| n.has_tag_name(("http://www.w3.org/2000/svg", "text")))
        .filter_map(|n| n.text())
        .map(str::trim)
        .collect();
    for name in ["a<b>&\"c\"", "plain", "bell\\u{7}"] {
        assert!(texts.contains(&name), "{name}: {texts:?}");
    }
    assert!(
        texts
            .iter()
            .any(|t| t.starts_with('…') && t.ends_with(".last")),
        "{texts:?}"
    );
    assert!(texts.contains(&"Weights of 0") && texts.iter().any(|t| t.starts_with("Scales")));
    let rects = root
        .descendants()
        .filter(|n| n.tag_name().name() == "rect")
        .count();
    assert!(rects > names.len(), "{rects}");

    inspect(&[])
        .code(1)
        .stderr(predicate::str::contains("exists already"));
    inspect(&["--force"]).success();
    tritgemm()
        .arg("inspect")
        .arg(&start)
        .arg("--svg")
        .arg(&start)
        .arg("--force")
        .assert()
        .code(1)
        .stderr(predicate::str::contains("is the input file"));
}

#[test]
fn hf_files_of_unknown_class_are_shown_with_a_note() {
    let dir = Dir::new();
    let scale = bf16::from_f32(4.0).to_le_bytes().to_vec();
    let tensors = [
        (
            "q",
            (Dtype::U8, vec![1, 2], vec![0b01_01_01_10, 0b01_01_01_00]),
        ),
        ("q_scale", (Dtype::BF16, vec![1], scale)),
    ];
    let file = dir.write("hf", &tensors, &[]);
    let report = json(&file, &[]);
    assert!(report["note"].as_str().unwrap().contains("--linear-class"));
    assert_eq!(report["matrices"][0]["scale_max"], 4.0);
    assert_eq!(report["matrices"][0]["zero"], 6);
    let report = json(&file, &["--linear-class", "bitlinear"]);
    assert!(report["note"].is_null());
    assert_eq!(report["matrices"][0]["scale_max"], 0.25);
}

#[test]
fn invalid_matrices_are_named_and_a_failure() {
    let dir = Dir::new();
    let (mut tensors, metadata) = read(&ours(&dir));
    tensors.get_mut("a.weight").unwrap().2[2] |= 0b11 << 2;
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(n, t)| (n.as_str(), t.clone()))
        .collect();
    let metadata: Vec<_> = metadata
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let file = dir.write("bad", &tensors, &metadata);
    tritgemm()
        .arg("inspect")
        .arg(&file)
        .assert()
        .code(1)
        .stdout(
            predicate::str::contains("Invalid: `a.weight`")
                .and(predicate::str::contains("row 1, column 2")),
        )
        .stderr(predicate::str::contains("1 of 1 matrix invalid"));
}

#[test]
fn files_without_matrices_and_files_that_are_none() {
    let dir = Dir::new();
    let plain = dir.write("plain", &[("a", matrix(2, 2))], &[]);
    tritgemm()
        .arg("inspect")
        .arg(&plain)
        .assert()
        .success()
        .stdout(predicate::str::contains(
            "0 ternary matrices and 1 other tensor",
        ));
    let mut draw = tritgemm();
    draw.arg("inspect")
        .arg(&plain)
        .arg("--svg")
        .arg(dir.path("out.svg"));
    draw.assert()
        .code(1)
        .stderr(predicate::str::contains("no ternary matrices"));
    for bytes in [
        &b""[..],
        b"GGUF",
        b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        b"TRITPANL",
        b"hello, world",
    ] {
        let file = dir.path("broken");
        fs::write(&file, bytes).unwrap();
        let failed = tritgemm().arg("inspect").arg(&file).output().unwrap();
        let text = String::from_utf8(failed.stderr).unwrap();
        assert_eq!(
            (failed.status.code(), text.lines().count()),
            (Some(1), 1),
            "{text}"
        );
    }
    assert_eq!(dir.names(), ["broken", "plain"]);
}
