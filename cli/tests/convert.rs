//! `tritgemm convert` from end to end.

mod common;

use common::models::{convert, foreign_hf, gguf, ours, refusal};
use common::{Dir, f32_tensor, floats, matrix, read, tritgemm, weights};
use safetensors::Dtype;
use std::fs;
use std::path::Path;
use tritgemm::{MatRef, ModelFile, PanelFile, Scales, TernaryMatrix};
use tritgemm_formats::ScaleRounding;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{Gguf, Value};

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
fn panels_hold_matrices_and_their_biases() {
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
    let model = dir.path("model.panels");
    convert(&start, &model, &[]);
    let file = ModelFile::load(&model).unwrap();
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    assert_eq!(names, ["x.weight", "y"]);
    let bytes = &read(&start).0["y"].2;
    assert_eq!(&file.get("y").unwrap().panels().to_packed(), bytes);
    let again = dir.path("again.safetensors");
    convert(&model, &again, &[]);
    assert_eq!(read(&again).0, read(&start).0);

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
        let want = TernaryMatrix::from_trits(MatRef::new(&FOREIGN, 8, 2).unwrap(), scales).unwrap();
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
    assert_eq!(matrix.to_f32().unwrap(), want);
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
fn scales_that_blocks_repeat_become_one_again() {
    let dir = Dir::new();
    let trits: Vec<i8> = (0..4 * 512).map(|i| (i % 3) as i8 - 1).collect();
    let scales = Scales::per_row(vec![0.5, 0.25, 2.0, 1.0]);
    let matrix = TernaryMatrix::from_trits(MatRef::new(&trits, 4, 512).unwrap(), scales).unwrap();
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
fn two_bit_weights_of_onnx_models() {
    // Protobuf: a field is its number and kind, its length, its bytes.
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let int = |number: u8, value: u8| vec![number << 3, value];
    let attribute = |name: &str, value| {
        let fields = [field(1, name.as_bytes()), int(3, value)];
        field(5, &fields.concat())
    };
    let tensor = |name: &str, ty, raw: &[u8]| {
        let fields = [int(2, ty), field(8, name.as_bytes()), field(9, raw)];
        field(5, &fields.concat())
    };
    let model = |b: &[u8]| {
        let inputs = ["x", "w", "s", "z"].map(|name| field(1, name.as_bytes()));
        let sizes = [("N", 2), ("K", 4), ("bits", 2), ("block_size", 16)];
        let node = [
            inputs.concat(),
            field(4, b"MatMulNBits"),
            sizes.map(|(name, value)| attribute(name, value)).concat(),
            field(7, b"com.microsoft"),
        ];
        let scales = [0.5f32, 2.0].map(f32::to_le_bytes).concat();
        let graph = [
            field(1, &node.concat()),
            tensor("w", 2, b),
            tensor("s", 1, &scales),
            tensor("z", 2, &[1, 1]),
        ];
        field(7, &graph.concat())
    };
    let dir = Dir::new();
    let input = dir.path("m.onnx");
    // -1, 0, +1, 0 and then +1, +1, 0, -1, from the low bits up.
    let mut b = [0b01_10_01_00, 0, 0, 0, 0b00_01_10_10, 0, 0, 0];
    fs::write(&input, model(&b)).unwrap();
    let output = dir.path("out.safetensors");
    let text = convert(&input, &output, &[]);
    assert!(text.contains("ONNX 2-bit"), "{text}");
    let tensors = read(&output).0;
    let trits = [-1, 0, 1, 0, 1, 1, 0, -1];
    let want =
        TernaryMatrix::from_trits(MatRef::new(&trits, 2, 4).unwrap(), Scales::per_tensor(1.0))
            .unwrap();
    assert_eq!(tensors["w"].2, want.packed());
    assert_eq!(floats(&tensors["w.scales"]), [0.5, 2.0]);

    b[4] |= 0b11 << 4;
    fs::write(&input, model(&b)).unwrap();
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(text.contains("`w`, row 1, column 2"), "{text}");
    fs::write(&input, &model(&b)[..60]).unwrap();
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(text.contains("ONNX"), "{text}");
}
