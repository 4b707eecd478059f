//! Models of several files of any bytes: an error, or matrices and tensors that agree with
//! what they say of themselves. The files are a split GGUF, the shards of an index or of a
//! folder, or an ONNX model and its external data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::Path;
use tritgemm_formats::ggml::I2sLayout;
use tritgemm_formats::hf::LinearClass;
use tritgemm_formats::{FormatError, Model, OpenOptions, open_with};

/// The names of the three files of a kind; the first one is opened, or of shards the folder.
const NAMES: [[&str; 3]; 4] = [
    [
        "m-00001-of-00003.gguf",
        "m-00002-of-00003.gguf",
        "m-00003-of-00003.gguf",
    ],
    ["m.safetensors.index.json", "a.safetensors", "b.safetensors"],
    [
        "m-00001-of-00002.safetensors",
        "m-00002-of-00002.safetensors",
        "config.json",
    ],
    ["m.onnx", "m.data", "m.onnx.data"],
];

/// The shards of a folder without an index.
const SHARDS: usize = 2;

// A byte of flags, the lengths of two files, the files.
fuzz_target!(|input: &[u8]| {
    let [flags, a, b, c, d, rest @ ..] = input else {
        return;
    };
    let kind = usize::from(flags & 3);
    let length = |low: &u8, high: &u8| usize::from(u16::from_le_bytes([*low, *high]));
    let (first, rest) = rest.split_at(length(a, b).min(rest.len()));
    let (second, third) = rest.split_at(length(c, d).min(rest.len()));
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    for (name, bytes) in NAMES[kind].iter().zip([first, second, third]) {
        fs::write(at(name), headed(name, bytes)).expect("a file");
    }
    let options = OpenOptions {
        linear_class: (flags & 4 != 0).then_some(LinearClass::AutoBitLinear),
        rows: None,
        i2s_layout: I2sLayout::ALL.get(usize::from(flags >> 4) % 4).copied(),
        tolerant: flags & 8 != 0,
    };
    let path = match kind {
        SHARDS => dir.path().to_owned(),
        _ => at(NAMES[kind][0]),
    };
    match open_with(&path, &options) {
        Ok(model) => check(&model, dir.path(), input.len() + 64),
        Err(error) => assert!(matches!(error, FormatError::InFile { .. }), "{error}"),
    }
});

/// The length of a safetensors header is put right, so that more than one file in 2^64 is one.
fn headed(name: &str, bytes: &[u8]) -> Vec<u8> {
    let end = bytes
        .iter()
        .rposition(|&b| b == b'}')
        .map_or(0, |at| at + 1);
    match name.ends_with(".safetensors") {
        true => [&(end as u64).to_le_bytes()[..], bytes].concat(),
        false => bytes.to_vec(),
    }
}

fn check(model: &Model, dir: &Path, total: usize) {
    let dir = fs::canonicalize(dir).expect("there");
    for (path, _) in model.files() {
        assert!(fs::canonicalize(path).expect("open").starts_with(&dir));
    }
    for matrix in model.matrices() {
        let found = model.matrix(&matrix.name).expect("its name");
        assert_eq!(found.shape, matrix.shape);
        if let Ok(read) = matrix.read() {
            assert_eq!([read.rows(), read.cols()], matrix.shape);
            // What was read is vouched for by bytes.
            assert!(read.packed().len() <= 8 * total);
            assert!(read.scales().values().iter().all(|s| s.is_finite()));
        }
    }
    for other in model.others() {
        assert!(other.bytes().len() <= total);
        assert_eq!(
            model.tensor(&other.name).expect("its name").shape,
            other.shape
        );
        let _ = other.to_f32();
    }
}
