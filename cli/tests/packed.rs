//! Weights that other projects packed: never ternarised, never converted, always named.

mod common;

use common::models::{convert, refusal};
use common::{Dir, Tensor, f32_tensor, matrix, read, tritgemm};
use predicates::prelude::*;
use safetensors::Dtype;
use std::fs;
use std::path::{Path, PathBuf};
use tritgemm_formats::open;

fn run(command: &str, input: &Path, more: &[&str]) -> String {
    let done = tritgemm().arg(command).arg(input).args(more).assert();
    String::from_utf8(done.success().get_output().stdout.clone()).unwrap()
}

/// Text without its line ends.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn zeros(dtype: Dtype, shape: &[usize]) -> Tensor {
    let bits = shape.iter().product::<usize>() * dtype.bitsize();
    (dtype, shape.to_vec(), vec![0x15; bits / 8])
}

/// Name, tensors, and which of them are the packed weights and the tables of two dimensions.
type Pack = (&'static str, Vec<(&'static str, Tensor)>, [&'static str; 2]);

/// Layers of 64 outputs and 128 inputs as quantisers store them.
fn packs() -> Vec<Pack> {
    use Dtype::{BF16, F8_E4M3, F16, F32, I8, I32, U8, U32};
    vec![
        (
            "gptq",
            vec![
                ("l.qweight", zeros(I32, &[8, 64])),
                ("l.qzeros", zeros(I32, &[4, 4])),
                ("l.g_idx", zeros(I32, &[128])),
                ("l.scales", zeros(F16, &[4, 64])),
            ],
            ["l.qweight", "l.scales"],
        ),
        (
            "mlx",
            vec![
                ("l.weight", zeros(U32, &[64, 8])),
                ("l.scales", zeros(F16, &[64, 2])),
                ("l.biases", zeros(F16, &[64, 2])),
            ],
            ["l.weight", "l.biases"],
        ),
        (
            "compressed-tensors",
            vec![
                ("l.weight_packed", zeros(I32, &[64, 16])),
                ("l.weight_scale", zeros(BF16, &[64, 4])),
            ],
            ["l.weight_packed", "l.weight_scale"],
        ),
        (
            "rows of HF BitNet",
            vec![
                ("l.weight", zeros(U8, &[16, 128])),
                ("l.weight_scale", zeros(F32, &[64, 1])),
            ],
            ["l.weight", "l.weight_scale"],
        ),
        (
            "fp8",
            vec![
                ("l.weight", zeros(F8_E4M3, &[64, 128])),
                ("l.weight_scale_inv", zeros(F32, &[2, 2])),
            ],
            ["l.weight", "l.weight_scale_inv"],
        ),
        (
            "flat",
            vec![
                ("l.weight", zeros(U8, &[2048])),
                ("l.weight.absmax", zeros(F32, &[16, 2])),
            ],
            ["l.weight", "l.weight.absmax"],
        ),
        (
            "int8",
            vec![
                ("w", zeros(I8, &[64, 128])),
                ("w_scale", zeros(F32, &[64, 1])),
            ],
            ["w", "w_scale"],
        ),
        (
            "ours without metadata",
            vec![
                ("w", zeros(U8, &[64, 32])),
                ("w.scales", zeros(F32, &[64, 2])),
            ],
            ["w", "w.scales"],
        ),
        (
            "mxfp4",
            vec![
                ("m.up_blocks", zeros(U8, &[2, 64, 4, 16])),
                ("m.up_scales", zeros(U8, &[2, 64, 4])),
                ("m.up_bias", zeros(BF16, &[2, 64])),
            ],
            ["m.up_blocks", "m.up_bias"],
        ),
    ]
}

fn write(dir: &Dir, name: &str, tensors: &[(&str, Tensor)]) -> PathBuf {
    let head = [("head.weight", matrix(4, 64))];
    dir.write(name, &[tensors, &head].concat(), &[])
}

#[test]
fn quantize_leaves_tables_of_packed_weights_alone_and_says_so() {
    for (name, tensors, [weights, table]) in packs() {
        let dir = Dir::new();
        let input = write(&dir, "in.safetensors", &tensors);
        let out = dir.path("out.safetensors");
        let text = flat(&run("quantize", &input, &[out.to_str().unwrap()]));
        for word in [
            &format!("`{weights}`"),
            &format!("`{table}`"),
            "Copied, not ternarised",
        ] {
            assert!(text.contains(word), "{name}: no {word}: {text}");
        }
        assert!(text.contains("1 tensor ternarised"), "{name}: {text}");
        let (written, _) = read(&out);
        for (tensor, bytes) in &tensors {
            assert_eq!(&written[*tensor], bytes, "{name}: {tensor}");
        }
        // What is asked for by its whole name is taken; a pattern is not that.
        for (include, taken) in [(table, true), ("*", false)] {
            let more = [out.to_str().unwrap(), "--force", "--include", include];
            run("quantize", &input, &more);
            let packed = read(&out).0[table].0 == Dtype::U8;
            assert_eq!(packed, taken, "{name}: {include}");
        }
    }
}

#[test]
fn every_kind_of_packed_weights_is_named_and_kept_from_hf() {
    for (name, tensors, [weights, table]) in packs() {
        let dir = Dir::new();
        let input = write(&dir, "in.safetensors", &tensors);
        let text = flat(&run("inspect", &input, &[]));
        let note = format!("Not recognised as a ternary matrix: `{weights}`");
        assert_eq!(text.matches(&note).count(), 1, "{name}: {text}");
        let failed = tritgemm().arg("verify").arg(&input).assert().code(1);
        failed.stderr(predicate::str::contains(format!("`{weights}`")));
        let model = open(&input).unwrap();
        for tensor in [weights, table] {
            assert!(model.tensor(tensor).unwrap().unread.is_some(), "{tensor}");
        }
        assert!(model.tensor("head.weight").unwrap().unread.is_none());
        // Beside a matrix that is converted: what a class of its own would read otherwise.
        let scale = f32_tensor(&[4.0], &[1]);
        let hf = [
            ("hf.weight", zeros(Dtype::U8, &[2, 16])),
            ("hf.weight_scale", scale),
        ];
        let both = write(&dir, "both.safetensors", &[&tensors[..], &hf].concat());
        let class = ["--linear-class", "bitlinear"];
        let text = refusal(&dir, &both, &[&["--to", "hf"][..], &class].concat());
        assert!(text.contains("has no place"), "{name}: {text}");
        let (out, to) = (dir.path("out.safetensors"), ["--to", "hf", "--skip-others"]);
        convert(&both, &out, &[&to[..], &class].concat());
        assert!(!read(&out).0.contains_key(weights), "{name}");
    }
}

/// Integers beside floats that are no tables: masks, indexes, buffers.
#[test]
fn weights_beside_other_integers_are_ternarised() {
    let dir = Dir::new();
    let tensors = [
        ("a.weight", matrix(8, 64)),
        ("a.mask", zeros(Dtype::U8, &[8, 64])),
        ("b.weight", matrix(8, 64)),
        ("b.index", zeros(Dtype::I64, &[64, 64])),
        ("ids", zeros(Dtype::I32, &[4])),
        ("ids_embed", matrix(8, 64)),
        ("c.weight", matrix(8, 64)),
        ("c.flag", zeros(Dtype::U8, &[1])),
    ];
    let input = dir.write("in.safetensors", &tensors, &[]);
    let out = dir.path("out.safetensors");
    let text = flat(&run("quantize", &input, &[out.to_str().unwrap()]));
    assert!(text.contains("4 tensors ternarised"), "{text}");
    assert!(!text.contains("Not recognised"), "{text}");
}

/// The metadata of a shard says nothing of tensors in another: they are named.
#[test]
fn an_entry_in_the_metadata_of_another_shard_is_none() {
    let dir = Dir::new();
    let info = r#"{"w":{"dtype":"F32","shape":[64,128],"granularity":"row"}}"#;
    let metadata = [("tritgemm.version", "1"), ("tritgemm.tensors", info)];
    dir.write("a.safetensors", &[("n", matrix(1, 4))], &metadata);
    let tensors = [
        ("w", zeros(Dtype::U8, &[64, 32])),
        ("w.scales", f32_tensor(&[1.0; 64], &[64])),
    ];
    dir.write("b.safetensors", &tensors, &[]);
    let index = dir.path("m.safetensors.index.json");
    let json =
        r#"{"weight_map":{"n":"a.safetensors","w":"b.safetensors","w.scales":"b.safetensors"}}"#;
    fs::write(&index, json).unwrap();
    let text = flat(&run("inspect", &index, &[]));
    assert!(
        text.contains("`w`") && text.contains("its own file"),
        "{text}"
    );
}

#[test]
fn another_quant_method_is_found_wherever_it_is_said() {
    let says = [
        (
            "config.json",
            r#"{"text_config":{"quantization_config":{"quant_method":"gptq"}}}"#,
            "gptq",
        ),
        (
            "config.json",
            r#"{"a":{"b":{"quantization_config":{"quant_method":"awq"}}}}"#,
            "awq",
        ),
        (
            "config.json",
            r#"{"compression_config":{"format":"pack-quantized"}}"#,
            "compressed-tensors",
        ),
        (
            "config.json",
            r#"{"quantization":{"bits":2,"group_size":128}}"#,
            "MLX",
        ),
        (
            "config.json",
            r#"{"quantization_config":{"quant_method":"bitnet"},"text_config":{"quantization_config":{"quant_method":"hqq"}}}"#,
            "hqq",
        ),
        (
            "quantize_config.json",
            r#"{"bits":4,"group_size":128}"#,
            "GPTQ",
        ),
        ("quant_config.json", r#"{"w_bit":4}"#, "AWQ"),
        (
            "hf_quant_config.json",
            r#"{"quantization":{"quant_algo":"NVFP4"}}"#,
            "ModelOpt",
        ),
    ];
    for (file, json, method) in says {
        let dir = Dir::new();
        let scale = f32_tensor(&[4.0], &[1]);
        let tensors = [
            ("l.weight", zeros(Dtype::U8, &[2, 16])),
            ("l.weight_scale", scale),
            ("head.weight", matrix(4, 64)),
        ];
        let input = dir.write("m.safetensors", &tensors, &[]);
        fs::write(dir.path(file), json).unwrap();
        let to = ["--to", "safetensors", "--linear-class", "bitlinear"];
        let text = refusal(&dir, &input, &to);
        assert!(
            text.contains(method) && text.contains(file),
            "{json}: {text}"
        );
        let text = flat(&run("inspect", &input, &[]));
        assert!(
            text.contains(method) && text.contains("`l.weight`"),
            "{json}: {text}"
        );
        // Nor are the floats of such a model weights to be ternarised.
        let failed = tritgemm()
            .arg("quantize")
            .args([&input, &dir.path("q")])
            .assert();
        failed.code(1).stderr(predicate::str::contains(method));
    }
}

#[test]
fn linear_classes_that_differ_are_not_chosen_from() {
    let dir = Dir::new();
    let tensors = [
        ("l.weight", zeros(Dtype::U8, &[2, 16])),
        ("l.weight_scale", f32_tensor(&[4.0], &[1])),
    ];
    let input = dir.write("m.safetensors", &tensors, &[]);
    let config = |inner: &str| {
        let json = format!(
            r#"{{"quantization_config":{{"linear_class":"bitlinear"}},
            "text_config":{{"quantization_config":{{"linear_class":"{inner}"}}}}}}"#
        );
        fs::write(dir.path("config.json"), json).unwrap();
    };
    config("autobitlinear");
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(text.contains("differ in linear_class"), "{text}");
    config("bitlinear");
    convert(&input, &dir.path("out.safetensors"), &[]);
}

/// Scales of packed weights in ONNX, which stand beside them in a node.
#[test]
fn tables_of_onnx_are_left_alone() {
    // Fields of protobuf: a varint, and bytes with their length.
    let int = |field: u8, value: u8| vec![field << 3, value];
    let bytes = |field: u8, value: &[u8]| {
        let mut out = vec![field << 3 | 2];
        // Lengths of two bytes, which need not be the shortest.
        out.extend([value.len() as u8 & 0x7f | 0x80, (value.len() >> 7) as u8]);
        out.extend(value);
        out
    };
    let tensor = |name: &[u8], ty: u8, dims: [u8; 2], size: usize| {
        let raw = vec![0; usize::from(dims[0]) * usize::from(dims[1]) * size];
        let dims = [int(1, dims[0]), int(1, dims[1])].concat();
        bytes(
            5,
            &[dims, int(2, ty), bytes(8, name), bytes(9, &raw)].concat(),
        )
    };
    let node = |op: &[u8], inputs: &[&[u8]]| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|i| bytes(1, i)).collect();
        bytes(
            1,
            &[inputs, bytes(4, op), bytes(7, b"com.microsoft")].concat(),
        )
    };
    let graph = [
        node(b"MatMulNBits", &[b"x", b"four_bits", b"scales"]),
        node(b"DequantizeLinear", &[b"int8", b"steps"]),
        tensor(b"four_bits", 2, [8, 16], 1),
        tensor(b"scales", 1, [8, 2], 4),
        tensor(b"int8", 3, [8, 16], 1),
        tensor(b"steps", 1, [8, 2], 4),
        tensor(b"dense", 1, [8, 4], 4),
    ];
    let dir = Dir::new();
    let input = dir.path("m.onnx");
    fs::write(&input, bytes(7, &graph.concat())).unwrap();
    let out = dir.path("out.safetensors");
    let text = flat(&run("quantize", &input, &[out.to_str().unwrap()]));
    assert!(text.contains("1 tensor ternarised"), "{text}");
    assert!(text.contains("`four_bits`"), "{text}");
    assert!(
        text.contains("`scales` belongs to packed weights"),
        "{text}"
    );
    let (tensors, _) = read(&out);
    assert_eq!(
        (tensors["scales"].0, tensors["steps"].0),
        (Dtype::F32, Dtype::F32)
    );
    assert_eq!(tensors["dense"].0, Dtype::U8);
}
