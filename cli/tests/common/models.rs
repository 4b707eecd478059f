//! Files in the formats that `tritgemm convert` reads.

use super::{Dir, Tensor, f32_tensor, matrix, tritgemm, weights};
use half::bf16;
use safetensors::Dtype;
use std::fs;
use std::path::{Path, PathBuf};
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{GgufWriter, TensorType, Value};

/// Converts, which must succeed.
pub fn convert(input: &Path, output: &Path, args: &[&str]) -> String {
    let mut command = tritgemm();
    command.arg("convert").args([input, output]).args(args);
    let done = command.assert().success().stderr("");
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

/// What `convert` says when it fails: one line, and no file is left.
pub fn refusal(dir: &Dir, input: &Path, args: &[&str]) -> String {
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
pub fn ours(dir: &Dir, granularity: &str, shapes: &[[usize; 2]]) -> PathBuf {
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

/// An HF file as others write it, M = 8, K = 2, and its weights.
pub fn foreign_hf(dir: &Dir, name: &str, spoil: u8) -> PathBuf {
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

/// Name, `ne`, type and bytes of a GGUF tensor.
pub type GgufTensor<'a> = (&'a str, &'a [u64], TernaryType, Option<Vec<u8>>);

/// A GGUF file of ternary tensors, by default of zeros.
pub fn gguf(dir: &Dir, name: &str, tensors: &[GgufTensor<'_>]) -> PathBuf {
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
