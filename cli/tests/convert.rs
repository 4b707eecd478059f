//! `tritgemm convert` from end to end.

mod common;

use common::{Dir, Tensor, f32_tensor, floats, matrix, read, tritgemm, weights};
use half::bf16;
use predicates::prelude::*;
use safetensors::Dtype;
use std::fs;
use std::path::{Path, PathBuf};
use tritgemm::{PanelFile, Scales, TernaryMatrix};
use tritgemm_formats::ScaleRounding;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{Gguf, GgufWriter, TensorType, Value};

/// Converts, which must succeed.
fn convert(input: &Path, output: &Path, args: &[&str]) -> String {
    let mut command = tritgemm();
    command.arg("convert").args([input, output]).args(args);
    let done = command.assert().success().stderr("");
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

/// What `convert` says when it fails: one line, and no file is left.
fn refusal(dir: &Dir, input: &Path, args: &[&str]) -> String {
    let before = dir.names();
    let output = dir.path("refused");
    let mut command = tritgemm();
    command.arg("convert").args([input, &output]).args(args);
    let failed = command.assert().code(1).stdout("");
    let text = String::from_utf8(failed.get_output().stderr.clone()).unwrap();
    assert!(text.starts_with("error: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(dir.names(), before, "{text}");
    text
}

/// A quantised file with other tensors of several types and metadata.
fn ours(dir: &Dir, granularity: &str, shapes: &[[usize; 2]]) -> PathBuf {
    let names: Vec<String> = (0..shapes.len()).map(|i| format!("l.{i}.weight")).collect();
    let mut tensors: Vec<(&str, Tensor)> = vec![
        ("norm", f32_tensor(&weights(7), &[7])),
        ("scalar", f32_tensor(&[1.5], &[])),
        ("half", (Dtype::BF16, vec![1, 3, 2], vec![7; 12])),
        ("ids", (Dtype::I64, vec![2], vec![9; 16])),
    ];
    for (name, [rows, cols]) in names.iter().zip(shapes) {
        tensors.push((name, matrix(*rows, *cols)));
    }
    let metadata = [("format", "pt"), ("who", "me")];
    let (input, output) = (dir.write("latent", &tensors, &metadata), dir.path("ours"));
    let mut command = tritgemm();
    command.arg("quantize").args([&input, &output]);
    command.args(["--granularity", granularity, "--sparsity-2-4"]);
    command.assert().success();
    output
}

/// Ours to `format` and back, with scales that the format has: the same bytes.
fn identity(dir: &Dir, start: &Path, format: &str) {
    let [there, exact, again, back] = ["there", "exact", "again", "back"].map(|n| dir.path(n));
    let force = ["--to", format, "--force"];
    let ours = ["--to", "safetensors", "--force"];
    convert(start, &there, &[&force[..], &["--round-scales"]].concat());
    convert(&there, &exact, &ours);
    convert(&exact, &again, &force);
    convert(&again, &back, &ours);
    assert_eq!(
        fs::read(&exact).unwrap(),
        fs::read(&back).unwrap(),
        "{format}"
    );
    assert_eq!(
        fs::read(&there).unwrap(),
        fs::read(&again).unwrap(),
        "{format}"
    );
    // Nothing but scales was rounded on the first way.
    let (before, after) = (read(start), read(&exact));
    assert_eq!(before.1, after.1, "{format}");
    for (name, tensor) in &before.0 {
        if name.ends_with(".scales") {
            let near = |(a, b): (f32, f32)| (a - b).abs() <= a.abs() / 128.0;
            let (a, b) = (floats(tensor), floats(&after.0[name]));
            assert!(a.into_iter().zip(b).all(near), "{format} {name}");
        } else {
            assert_eq!(tensor, &after.0[name], "{format} {name}");
        }
    }
    tritgemm().arg("verify").arg(&back).assert().success();
}

#[test]
fn through_gguf_and_back_no_byte_changes() {
    for granularity in ["tensor", "row", "group256"] {
        let dir = Dir::new();
        let start = ours(&dir, granularity, &[[5, 256], [64, 768]]);
        for format in ["tq1_0", "tq2_0"] {
            identity(&dir, &start, format);
        }
    }
}

#[test]
fn through_hf_and_back_no_byte_changes() {
    let dir = Dir::new();
    let start = ours(&dir, "tensor", &[[8, 6], [5, 7], [1, 1], [64, 100]]);
    for format in ["hf", "hf-bitlinear"] {
        identity(&dir, &start, format);
    }
    // With f32 scales nothing needs rounding.
    let (hf, back) = (dir.path("hf"), dir.path("f32"));
    convert(&start, &hf, &["--to", "hf", "--scale-type", "f32"]);
    convert(&hf, &back, &["--to", "safetensors"]);
    assert_eq!(fs::read(&start).unwrap(), fs::read(&back).unwrap());
}

#[test]
fn panels_hold_one_matrix_and_its_bias() {
    let dir = Dir::new();
    let bias = f32_tensor(&weights(9), &[9]);
    let tensors = [
        ("x.weight", matrix(9, 130)),
        ("x.bias", bias.clone()),
        ("y", matrix(3, 3)),
    ];
    let (latent, start) = (dir.write("latent", &tensors, &[]), dir.path("start"));
    let mut command = tritgemm();
    command
        .arg("quantize")
        .args([&latent, &start])
        .args(["--granularity", "group64"]);
    command.assert().success();
    let text = refusal(&dir, &start, &["--to", "panels"]);
    assert!(text.contains("2 matrices"), "{text}");

    let panels = dir.path("x.weight.panels");
    convert(&start, &panels, &["--tensor", "x.*"]);
    let want = &read(&start).0;
    let file = PanelFile::load(&panels).unwrap();
    assert_eq!(file.panels().to_packed(), want["x.weight"].2);
    assert_eq!(
        file.scales().unwrap().values(),
        floats(&want["x.weight.scales"])
    );
    assert_eq!(file.bias().unwrap(), floats(&bias));

    let back = dir.path("back.safetensors");
    convert(&panels, &back, &[]);
    let got = read(&back).0;
    assert_eq!(got.len(), 3);
    for name in ["x.weight", "x.weight.scales", "x.bias"] {
        assert_eq!(got[name], want[name], "{name}");
    }
}

/// An HF file as others write it, M = 8, K = 2, and its weights.
fn foreign_hf(dir: &Dir, name: &str, spoil: u8) -> PathBuf {
    // Packed rows 0 and 1; codes of rows r, r + 2, r + 4, r + 6 from the low bits.
    let bytes = vec![
        0b10_01_00_10,
        0b00_00_01_01,
        0b01_10_10_00,
        0b10_10_10_10 | spoil,
    ];
    let scale = bf16::from_f32(4.0).to_le_bytes().to_vec();
    let tensors = [
        ("q.weight", (Dtype::U8, vec![2, 2], bytes)),
        ("q.weight_scale", (Dtype::BF16, vec![1], scale)),
        ("norm", (Dtype::BF16, vec![2], vec![1; 4])),
    ];
    dir.write(name, &tensors, &[("format", "pt")])
}

const FOREIGN: [i8; 16] = [1, 0, -1, 1, -1, 0, 1, 1, 0, -1, 1, 1, 1, -1, 0, 1];

#[test]
fn what_weight_scale_means_is_asked_and_never_guessed() {
    let dir = Dir::new();
    let input = foreign_hf(&dir, "model.safetensors", 0);
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(
        text.contains("--linear-class") && text.contains("config.json"),
        "{text}"
    );

    let output = dir.path("out");
    let ours = |args: &[&str]| {
        convert(
            &input,
            &output,
            &[&["--to", "safetensors", "--force"], args].concat(),
        );
        let (tensors, metadata) = read(&output);
        assert_eq!(metadata["format"], "pt");
        let scales = Scales::per_tensor(1.0);
        let want = TernaryMatrix::from_trits(&FOREIGN, 8, 2, scales).unwrap();
        assert_eq!(
            tensors["q.weight"],
            (Dtype::U8, vec![8, 1], want.packed().to_vec())
        );
        assert_eq!(tensors["norm"], (Dtype::BF16, vec![2], vec![1; 4]));
        floats(&tensors["q.weight.scales"])
    };
    assert_eq!(ours(&["--linear-class", "bitlinear"]), [0.25]);
    assert_eq!(ours(&["--linear-class", "autobitlinear"]), [4.0]);
    for (config, want) in [
        (
            r#"{"quantization_config":{"linear_class":"autobitlinear"}}"#,
            4.0,
        ),
        (
            r#"{"quantization_config":{"linear_class":"bitlinear"}}"#,
            0.25,
        ),
        (r#"{"quantization_config":{"quant_method":"bitnet"}}"#, 0.25),
    ] {
        fs::write(dir.path("config.json"), config).unwrap();
        assert_eq!(ours(&[]), [want], "{config}");
        // The command line has the last word.
        assert_eq!(ours(&["--linear-class", "autobitlinear"]), [4.0]);
    }
    for config in [
        r#"{"quantization_config":{"linear_class":"other"}}"#,
        "{}",
        "[",
        "",
    ] {
        fs::write(dir.path("config.json"), config).unwrap();
        let text = refusal(&dir, &input, &["--to", "safetensors"]);
        assert!(text.contains("config.json"), "{config}: {text}");
    }
}

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
    let zeros = TernaryMatrix::from_trits(&[0; 3 * 512], 3, 512, scales).unwrap();
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

type GgufTensor<'a> = (&'a str, &'a [u64], TernaryType, Option<Vec<u8>>);

/// A GGUF file of ternary tensors, by default of zeros.
fn gguf(dir: &Dir, name: &str, tensors: &[GgufTensor<'_>]) -> PathBuf {
    let mut writer = GgufWriter::new();
    writer
        .metadata("general.architecture", Value::from("bitnet"))
        .unwrap();
    writer
        .metadata("general.file_type", Value::U32(40))
        .unwrap();
    let mut data = Vec::new();
    for (name, shape, ty, bytes) in tensors {
        writer.tensor(name, shape, (*ty).into()).unwrap();
        let rows: u64 = shape[1..].iter().product();
        let len = ty
            .tensor_bytes(rows as usize, shape[0] as usize, name)
            .unwrap();
        data.push(bytes.clone().unwrap_or_else(|| vec![0; len]));
    }
    writer.tensor("k_quant", &[256], TensorType(14)).unwrap();
    data.push(vec![3; 210]);
    let mut out = writer.start(Vec::new()).unwrap();
    for bytes in data {
        out.write(&bytes).unwrap();
    }
    let path = dir.path(name);
    fs::write(&path, out.finish().unwrap()).unwrap();
    path
}

#[test]
fn gguf_to_gguf_keeps_metadata_shapes_and_other_types() {
    let dir = Dir::new();
    // I2_S: code 10 in the top bits of the first byte, so weight 0 is +1.
    let mut i2_s = vec![0b01_01_01_01; 2 * 2 * 512 / 4];
    i2_s[0] = 0b10_01_01_01;
    i2_s.extend(0.625f32.to_le_bytes());
    i2_s.resize(2 * 2 * 512 / 4 + 32, 0);
    let input = gguf(
        &dir,
        "in",
        &[("experts", &[512, 2, 2], TernaryType::I2S, Some(i2_s))],
    );
    let output = dir.path("out.gguf");
    let text = convert(&input, &output, &[]);
    assert!(
        text.contains("I2_S") && text.contains("TQ2_0") && text.contains("1 copied"),
        "{text}"
    );
    let bytes = fs::read(&output).unwrap();
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(
        file.value("general.architecture").unwrap().as_str(),
        Some("bitnet")
    );
    assert_eq!(file.value("general.file_type"), Some(Value::U32(37)));
    let experts = file.tensor("experts").unwrap();
    assert_eq!(experts.shape(), [512, 2, 2]);
    let matrix = tritgemm_formats::simplify(experts.ternary().unwrap());
    assert_eq!(matrix.scales(), &Scales::per_tensor(0.625));
    let mut want = vec![0.0; 4 * 512];
    want[0] = 0.625;
    assert_eq!(matrix.to_f32(), want);
    assert_eq!(file.tensor("k_quant").unwrap().data(), [3; 210]);

    // Safetensors has no such type.
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(
        text.contains("`k_quant` of type Q6_K") && text.contains("--skip-others"),
        "{text}"
    );
    let ours = dir.path("ours");
    let text = convert(&input, &ours, &["--to", "safetensors", "--skip-others"]);
    assert!(
        text.contains("Left out: k_quant") && text.contains("metadata values"),
        "{text}"
    );
    let (tensors, metadata) = read(&ours);
    assert_eq!(floats(&tensors["experts.scales"]), [0.625]);
    assert!(metadata["tritgemm.tensors"].contains("I2_S"));
    tritgemm().arg("verify").arg(&ours).assert().success();
}

#[test]
fn every_ternary_gguf_type_is_read() {
    for ty in TernaryType::ALL {
        let dir = Dir::new();
        let input = gguf(&dir, "in", &[("w", &[256, 2], *ty, None)]);
        let output = dir.path("out");
        let text = convert(&input, &output, &["--to", "safetensors", "--skip-others"]);
        assert!(text.contains(ty.name()), "{text}");
        assert_eq!(read(&output).0["w"].1, [2, 64]);
    }
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
fn scales_that_blocks_repeat_become_one_again() {
    let dir = Dir::new();
    let trits: Vec<i8> = (0..4 * 512).map(|i| (i % 3) as i8 - 1).collect();
    let scales = Scales::per_row(vec![0.5, 0.25, 2.0, 1.0]);
    let matrix = TernaryMatrix::from_trits(&trits, 4, 512, scales).unwrap();
    let bytes = TernaryType::Tq1_0
        .encode(&matrix, ScaleRounding::Exact, "w")
        .unwrap();
    let input = gguf(
        &dir,
        "in",
        &[("w", &[512, 4], TernaryType::Tq1_0, Some(bytes))],
    );
    let output = dir.path("out");
    let text = convert(&input, &output, &["--to", "safetensors", "--skip-others"]);
    assert!(text.contains("group256 -> row"), "{text}");
    let tensors = read(&output).0;
    assert_eq!(tensors["w"].2, matrix.packed());
    assert_eq!(floats(&tensors["w.scales"]), matrix.scales().values());
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
