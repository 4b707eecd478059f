//! What `tritgemm convert` refuses, and how it says so.

mod common;

use common::models::{convert, foreign_hf, gguf, ours, refusal};
use common::{Dir, matrix, read, tritgemm};
use predicates::prelude::*;
use safetensors::Dtype;
use std::fs;
use tritgemm::{MatRef, Scales, TernaryMatrix};
use tritgemm_formats::ScaleRounding;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::Gguf;

#[test]
fn rows_of_hf_matrices() {
    let dir = Dir::new();
    let input = foreign_hf(&dir, "in", 0);
    let class = ["--to", "safetensors", "--linear-class", "autobitlinear"];
    // Row 7 holds weights other than what pads.
    let text = refusal(&dir, &input, &[&class[..], &["--rows", "7"]].concat());
    assert!(
        text.contains("`q.weight`, row 7, column 0") && text.contains("7 rows"),
        "{text}"
    );
    let text = refusal(&dir, &input, &[&class[..], &["--rows", "9"]].concat());
    assert!(text.contains("3 packed rows"), "{text}");
    convert(
        &input,
        &dir.path("out"),
        &[&class[..], &["--rows", "8"]].concat(),
    );
    // What --rows and --linear-class are for must be there.
    let text = refusal(
        &dir,
        &ours(&dir, "tensor", &[[4, 4]]),
        &[&class[..], &["--rows", "4"]].concat(),
    );
    assert!(text.contains("no HF BitNet"), "{text}");
}

#[test]
fn codes_that_are_no_weights_are_named() {
    let dir = Dir::new();
    let input = foreign_hf(&dir, "hf", 0b11 << 4);
    let text = refusal(
        &dir,
        &input,
        &["--to", "tq2_0", "--linear-class", "bitlinear"],
    );
    assert!(
        text.contains("`q.weight`, row 5, column 1") && text.contains("code 3"),
        "{text}"
    );

    let scales = Scales::per_tensor(0.5);
    let zeros =
        TernaryMatrix::from_trits(MatRef::new(&[0; 3 * 512], 3, 512).unwrap(), scales).unwrap();
    let mut bytes = TernaryType::Tq2_0
        .encode(&zeros, ScaleRounding::Exact, "w")
        .unwrap();
    // Row 1, second block: byte 32 + 5 holds weights 128 + 5 + 32 n.
    bytes[(2 + 1) * 66 + 37] |= 0b11 << 4;
    let input = gguf(
        &dir,
        "gguf",
        &[
            ("fine", &[512, 3], TernaryType::Tq2_0, None),
            ("bad.weight", &[512, 3], TernaryType::Tq2_0, Some(bytes)),
        ],
    );
    let text = refusal(&dir, &input, &["--to", "safetensors", "--skip-others"]);
    let place = format!("`bad.weight`, row 1, column {}", 256 + 128 + 5 + 64);
    assert!(
        text.contains(&place) && text.contains("TQ2_0 code 3"),
        "{text}"
    );
    // Another tensor is nobody's business if it is not asked for.
    convert(
        &input,
        &dir.path("out"),
        &["--to", "safetensors", "--tensor", "fine"],
    );
}

#[test]
fn what_a_format_cannot_hold_is_said() {
    let dir = Dir::new();
    let start = ours(&dir, "row", &[[4, 384]]);
    let text = refusal(&dir, &start, &["--to", "tq2_0"]);
    assert!(
        text.contains("`l.0.weight`: K = 384") && text.contains("256"),
        "{text}"
    );
    let text = refusal(&dir, &start, &["--to", "hf", "--round-scales"]);
    assert!(
        text.contains("`l.0.weight`: scales per row") && text.contains("one scale a tensor"),
        "{text}"
    );

    let dir = Dir::new();
    let start = ours(&dir, "group64", &[[4, 512]]);
    let text = refusal(&dir, &start, &["--to", "tq1_0", "--round-scales"]);
    assert!(text.contains("`l.0.weight`, row 0, column 0"), "{text}");

    let dir = Dir::new();
    let start = ours(&dir, "tensor", &[[4, 256]]);
    for format in ["tq1_0", "hf", "hf-bitlinear"] {
        let text = refusal(&dir, &start, &["--to", format]);
        assert!(
            text.contains("the nearest is") && text.contains("--round-scales"),
            "{text}"
        );
    }
    let text = refusal(&dir, &start, &["--to", "panels"]);
    assert!(
        text.contains("`ids` of type I64") && text.contains("has no place"),
        "{text}"
    );

    let tensors = [
        ("w", matrix(2, 256)),
        ("mask", (Dtype::BOOL, vec![3], vec![1; 3])),
    ];
    let (latent, start) = (dir.write("bools", &tensors, &[]), dir.path("packed"));
    tritgemm()
        .arg("quantize")
        .args([&latent, &start])
        .assert()
        .success();
    let text = refusal(&dir, &start, &["--to", "tq2_0", "--round-scales"]);
    assert!(text.contains("`mask` of type BOOL"), "{text}");
    let out = dir.path("out");
    convert(
        &start,
        &out,
        &["--to", "tq2_0", "--round-scales", "--skip-others"],
    );
    assert!(
        Gguf::parse(&fs::read(&out).unwrap())
            .unwrap()
            .tensor("mask")
            .is_err()
    );
}

#[test]
fn files_cut_short_are_one_line_and_no_file() {
    let dir = Dir::new();
    let start = ours(&dir, "tensor", &[[4, 256]]);
    let gguf = dir.path("gguf");
    convert(&start, &gguf, &["--to", "tq2_0", "--round-scales"]);
    let hf = dir.path("hf");
    convert(&start, &hf, &["--to", "hf", "--scale-type", "f32"]);
    let panels = dir.path("panels");
    convert(&start, &panels, &["--to", "panels", "--tensor", "l.*"]);
    for whole in [start, gguf, hf, panels] {
        let bytes = fs::read(&whole).unwrap();
        let cut = dir.path("cut");
        // The padding after the last tensor of a GGUF file may be missing.
        let end = bytes.len() - if bytes.starts_with(b"GGUF") { 32 } else { 0 };
        let lengths = (0..end).step_by(end / 40 + 1);
        for len in lengths.chain([end - 1]) {
            fs::write(&cut, &bytes[..len]).unwrap();
            let text = refusal(&dir, &cut, &["--to", "tq1_0", "--round-scales"]);
            assert!(text.starts_with("error: `"), "{len}: {text}");
        }
        fs::remove_file(cut).unwrap();
    }
}

#[test]
fn metadata_that_contradicts_the_weights() {
    let dir = Dir::new();
    let start = ours(&dir, "row", &[[4, 256]]);
    let there = dir.path("there");
    convert(&start, &there, &["--to", "tq2_0", "--round-scales"]);
    let bytes = fs::read(&there).unwrap();
    let at = |text: &[u8]| bytes.windows(text.len()).position(|w| w == text).unwrap();
    let mut spoiled = bytes.clone();
    let shape = at(b"[4,256]");
    spoiled[shape + 1] = b'5';
    let input = dir.path("spoiled");
    fs::write(&input, &spoiled).unwrap();
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(text.contains("`l.0.weight` is not [5, 256]"), "{text}");
    let mut spoiled = bytes.clone();
    let json = at(b"{\"l.0.weight\"");
    spoiled[json] = b'[';
    fs::write(&input, &spoiled).unwrap();
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(
        text.contains("`tritgemm.tensors` is not what it should be"),
        "{text}"
    );
}

#[test]
fn names_choose_and_outputs_may_be_in_the_way() {
    let dir = Dir::new();
    let start = ours(&dir, "tensor", &[[4, 8], [2, 6]]);
    let out = dir.path("out");
    convert(
        &start,
        &out,
        &[
            "--to",
            "safetensors",
            "--tensor",
            "*.1.*",
            "--tensor",
            "norm",
        ],
    );
    let names: Vec<String> = read(&out).0.into_keys().collect();
    assert_eq!(names, ["l.1.weight", "l.1.weight.scales", "norm"]);
    let text = refusal(&dir, &start, &["--to", "safetensors", "--tensor", "z*"]);
    assert!(
        text.contains("no tensor of") && text.contains("matches `z*`"),
        "{text}"
    );
    let text = refusal(&dir, &start, &["--to", "safetensors", "--tensor", "norm"]);
    assert!(text.contains("no ternary matrices"), "{text}");
    let text = refusal(&dir, &start, &[]);
    assert!(text.contains("--to"), "{text}");

    let before = fs::read(&start).unwrap();
    for (output, message) in [(&start, "is the input file"), (&out, "exists already")] {
        let mut command = tritgemm();
        command
            .arg("convert")
            .args([&start, output])
            .args(["--to", "safetensors"]);
        command
            .assert()
            .code(1)
            .stderr(predicate::str::contains(message));
    }
    assert_eq!(fs::read(&start).unwrap(), before);
}
