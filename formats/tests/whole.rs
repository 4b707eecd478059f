//! Models in several files: split GGUF, sharded safetensors, ONNX with external data, folders.

mod common;

use common::{assert_same, matrix, rng, trits, wire};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tritgemm::{Linear, ModelFile, Scales, TernaryMatrix, Workspace};
use tritgemm_formats::ggml::{I2sLayout, TernaryType};
use tritgemm_formats::gguf::{GgufWriter, TensorType, Value};
use tritgemm_formats::hf::{self, LinearClass};
use tritgemm_formats::{Model, OpenOptions, ScaleRounding, open, open_with};

fn weights(seed: u64) -> TernaryMatrix {
    let trits = trits(&mut rng(seed), 4 * 256);
    matrix(&trits, 4, 256, Scales::per_tensor(0.5))
}

#[track_caller]
fn refused(path: &Path, texts: &[&str]) {
    let error = open(path).expect_err("refused").to_string();
    for text in texts {
        assert!(error.contains(text), "{error}");
    }
}

/// A part of a split model: its matrices, and what it says of itself.
struct Part<'a> {
    matrices: &'a [(&'a str, u64)],
    split: Option<[u32; 3]>,
}

impl Part<'_> {
    fn write(&self, path: &Path) {
        let mut writer = GgufWriter::new();
        if self.split.is_none_or(|[no, ..]| no == 0) {
            let arch = Value::from("bitnet");
            writer.metadata("general.architecture", arch).unwrap();
        }
        if let Some([no, count, tensors]) = self.split {
            let [no, count] = [no, count].map(|n| Value::U16(n as u16));
            writer.metadata("split.no", no).unwrap();
            writer.metadata("split.count", count).unwrap();
            let tensors = Value::I32(tensors as i32);
            writer.metadata("split.tensors.count", tensors).unwrap();
        }
        let ty = TernaryType::Tq2_0;
        for (name, _) in self.matrices {
            writer.tensor(name, &[256, 4], ty.into()).unwrap();
        }
        let mut out = writer.start(Vec::new()).unwrap();
        for (name, seed) in self.matrices {
            let bytes = ty.encode(&weights(*seed), ScaleRounding::Exact, name);
            out.write(&bytes.unwrap()).unwrap();
        }
        fs::write(path, out.finish().unwrap()).unwrap();
    }
}

fn part(dir: &TempDir, no: usize, count: usize) -> PathBuf {
    dir.path().join(format!("m-{no:05}-of-{count:05}.gguf"))
}

/// Three parts of one model.
fn split(dir: &TempDir) -> PathBuf {
    let names: [&[(&str, u64)]; 3] = [&[("a", 1)], &[("b", 2), ("c", 3)], &[("d", 4)]];
    for (no, matrices) in names.into_iter().enumerate() {
        let split = Some([no as u32, 3, 4]);
        Part { matrices, split }.write(&part(dir, no + 1, 3));
    }
    part(dir, 1, 3)
}

#[test]
fn a_split_model_is_read_from_its_first_part_or_its_folder() {
    let dir = TempDir::new().unwrap();
    let first = split(&dir);
    for path in [first.as_path(), dir.path()] {
        let model = open(path).unwrap();
        assert_eq!(model.files().len(), 3);
        let names: Vec<&str> = model.matrices().iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        for (name, seed) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
            let read = tritgemm_formats::simplify(model.ternary(name).unwrap());
            assert_same(&read, &weights(seed));
            let layer = model.linear(name, &Workspace::new()).unwrap();
            assert_eq!(layer.out_features(), 4);
        }
        // The keys of parts are no metadata of the model.
        let keys: Vec<&str> = model.gguf_metadata().iter().map(|(k, _)| &**k).collect();
        assert_eq!(keys, ["general.architecture"]);
        assert!(model.ternary("e").is_err() && model.tensor("a").is_err());
    }
}

#[test]
fn parts_that_are_missing_or_foreign_are_named() {
    let dir = TempDir::new().unwrap();
    let first = split(&dir);
    refused(&part(&dir, 2, 3), &["is part 2 of 3", "the first part"]);
    let second = part(&dir, 2, 3);
    type Case<'a> = (Option<[u32; 3]>, &'a [(&'a str, u64)], &'a str);
    let foreign: [Case<'_>; 6] = [
        (None, &[("b", 2), ("c", 3)], "is a part of no model"),
        (
            Some([2, 3, 4]),
            &[("b", 2), ("c", 3)],
            "says to be part 3 of 3",
        ),
        (
            Some([1, 4, 4]),
            &[("b", 2), ("c", 3)],
            "says to be part 2 of 4",
        ),
        (
            Some([1, 3, 5]),
            &[("b", 2), ("c", 3)],
            "a part of another model",
        ),
        (Some([1, 3, 4]), &[("a", 2), ("c", 3)], "tensor `a`"),
        (Some([1, 3, 4]), &[("b", 2)], "3 tensors"),
    ];
    for (split, matrices, text) in foreign {
        Part { split, matrices }.write(&second);
        refused(&first, &[text]);
    }
    fs::write(&second, b"GGUF\x03\0\0\0").unwrap();
    refused(&first, &["m-00002-of-00003.gguf"]);
    fs::remove_file(&second).unwrap();
    refused(&first, &["m-00002-of-00003.gguf", "part 2 of 3 is missing"]);
    let renamed = dir.path().join("other.gguf");
    fs::rename(&first, &renamed).unwrap();
    refused(&renamed, &["is part 1 of 3", "-00001-of-00003.gguf"]);
    refused(
        dir.path(),
        &["several models", "other.gguf"].map(|_| "other.gguf"),
    );
}

#[test]
fn numbers_of_parts_that_contradict_themselves() {
    for (split, text) in [
        ([3, 3, 1], "expected less than split.count"),
        ([0, 0, 1], "split.count is 0"),
        ([0, 1, 7], "split.tensors.count says 7"),
    ] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("m.gguf");
        let matrices = &[("a", 1)];
        let split = Some(split);
        Part { matrices, split }.write(&path);
        refused(&path, &[text]);
    }
    // A name alone makes no part.
    let dir = TempDir::new().unwrap();
    let (matrices, split) = (&[("a", 1)], None);
    Part { matrices, split }.write(&part(&dir, 1, 2));
    refused(&part(&dir, 1, 2), &["part 1 of 2", "no split.count"]);
}

type Stored<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

fn safetensors(path: &Path, tensors: &[Stored<'_>], metadata: &[(&str, &str)]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.to_string(), view)
    });
    let metadata: HashMap<String, String> = metadata
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    fs::write(path, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

/// A matrix of HF BitNet: its weights, and its scale.
fn hf(name: &'static str, scale_name: &'static str, seed: u64) -> [Stored<'static>; 2] {
    let matrix = weights(seed);
    let scale = 0.5f32.to_le_bytes().to_vec();
    [
        (name, Dtype::U8, vec![1, 256], hf::encode(&matrix)),
        (scale_name, Dtype::F32, vec![1], scale),
    ]
}

fn auto() -> OpenOptions {
    OpenOptions {
        linear_class: Some(LinearClass::AutoBitLinear),
        ..OpenOptions::default()
    }
}

const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

/// Two matrices in two shards, the scale of each in the other one's, and a stale shard.
fn sharded(dir: &TempDir) -> PathBuf {
    let [w, w_scale] = hf("w", "w_scale", 1);
    let [v, v_scale] = hf("v", "v_scale", 2);
    let norm = ("norm", Dtype::F32, vec![1], vec![0; 4]);
    // The index says that `norm` is in the second shard: this one is stale.
    let stale = ("norm", Dtype::F32, vec![2], vec![0; 8]);
    let path = |name: &str| dir.path().join(name);
    safetensors(&path(SHARDS[0]), &[w, v_scale, stale], &[("format", "pt")]);
    safetensors(&path(SHARDS[1]), &[v, w_scale, norm], &[("format", "pt")]);
    let [u, _] = hf("u", "u_scale", 3);
    safetensors(&path("model-00003-of-00003.safetensors"), &[u], &[]);
    let map = [
        ("w", 0),
        ("v_scale", 0),
        ("v", 1),
        ("w_scale", 1),
        ("norm", 1),
    ];
    write_index(dir, &map.map(|(name, shard)| (name, SHARDS[shard])), "")
}

fn write_index(dir: &TempDir, map: &[(&str, &str)], before: &str) -> PathBuf {
    let entries: Vec<String> = map
        .iter()
        .map(|(name, file)| format!("{name:?}: {file:?}"))
        .collect();
    let json = format!(
        "{before}{{\"metadata\": {{}}, \"weight_map\": {{{}}}}}",
        entries.join(", ")
    );
    let path = dir.path().join("model.safetensors.index.json");
    fs::write(&path, json).unwrap();
    path
}

fn check_sharded(model: &Model) {
    assert_same(&model.ternary("w").unwrap(), &weights(1));
    assert_same(&model.ternary("v").unwrap(), &weights(2));
    assert_eq!(model.tensor("norm").unwrap().shape, [1]);
    assert_eq!(model.others().len(), 1);
    assert!(model.ternary("u").is_err());
    assert_eq!(model.metadata()["format"], "pt");
    assert_eq!(model.files().len(), 2);
}

#[test]
fn shards_are_those_of_the_index() {
    let dir = TempDir::new().unwrap();
    let index = sharded(&dir);
    check_sharded(&open_with(&index, &auto()).unwrap());
    check_sharded(&open_with(dir.path(), &auto()).unwrap());
    // What config.json says, behind a byte order mark.
    let config = "\u{feff}{\"quantization_config\": {\"quant_method\": \"bitnet\", \
                  \"linear_class\": \"autobitlinear\"}}";
    fs::write(dir.path().join("config.json"), config).unwrap();
    check_sharded(&open(&index).unwrap());
    check_sharded(&open(dir.path()).unwrap());
    let with_mark = fs::read_to_string(&index).unwrap();
    fs::write(&index, format!("\u{feff}{with_mark}")).unwrap();
    check_sharded(&open(&index).unwrap());
    // A shard by itself has weights without their scales, and says so.
    let one = open(dir.path().join(SHARDS[0])).unwrap();
    let notes = one.notes().join(" ");
    assert!(notes.contains("shard 1 of 2"), "{notes}");
}

#[test]
fn faults_of_shards_are_named() {
    let dir = TempDir::new().unwrap();
    let index = sharded(&dir);
    let good = fs::read(&index).unwrap();
    write_index(&dir, &[("w", SHARDS[0]), ("gone", SHARDS[1])], "");
    refused(&index, &[SHARDS[1], "no tensor `gone`"]);
    write_index(&dir, &[("w", SHARDS[0]), ("w", SHARDS[1])], "");
    refused(&index, &["`w` is listed twice"]);
    for name in ["../x.safetensors", "/etc/passwd", "a/../../x", ""] {
        write_index(&dir, &[("w", name)], "");
        refused(&index, &["not in the model's folder"]);
    }
    write_index(&dir, &[("w", "none.safetensors")], "");
    refused(&index, &["none.safetensors", "missing"]);
    write_index(&dir, &[], "");
    refused(&index, &["index of no tensors"]);
    for json in [
        "",
        "[]",
        "{}",
        "{\"weight_map\": 1}",
        "{\"weight_map\": {\"a\": 1}}",
        "nonsense",
    ] {
        fs::write(&index, json).unwrap();
        refused(&index, &["model.safetensors.index.json"]);
    }
    fs::write(&index, good).unwrap();
    let whole = fs::read(dir.path().join(SHARDS[1])).unwrap();
    fs::write(dir.path().join(SHARDS[1]), &whole[..whole.len() - 1]).unwrap();
    refused(&index, &[SHARDS[1], "not a valid safetensors file"]);
    fs::remove_file(dir.path().join(SHARDS[1])).unwrap();
    refused(&index, &[SHARDS[1], "missing"]);
}

#[test]
fn a_folder_of_shards_needs_no_index() {
    let dir = TempDir::new().unwrap();
    let [w, scale] = hf("w", "w_scale", 1);
    let path = |name: &str| dir.path().join(name);
    safetensors(&path(SHARDS[0]), std::slice::from_ref(&w), &[]);
    refused(dir.path(), &["shard 2 of 2 is missing"]);
    safetensors(&path(SHARDS[1]), std::slice::from_ref(&scale), &[]);
    let model = open_with(dir.path(), &auto()).unwrap();
    assert_same(&model.ternary("w").unwrap(), &weights(1));
    safetensors(&path(SHARDS[1]), &[w, scale], &[]);
    refused(dir.path(), &["tensor `w`", "another shard"]);
    fs::write(path("other.gguf"), b"GGUF").unwrap();
    refused(dir.path(), &["several models", "other.gguf", "shards"]);
    let empty = TempDir::new().unwrap();
    refused(empty.path(), &["is a folder without"]);
}

/// Matrices of our own in shards: each has the keys of its own.
#[test]
fn shards_of_ours() {
    let dir = TempDir::new().unwrap();
    let stored = |name: &'static str, scales: &'static str, seed| -> [Stored<'static>; 2] {
        let scale = 0.5f32.to_le_bytes().to_vec();
        [
            (
                name,
                Dtype::U8,
                vec![4, 64],
                weights(seed).packed().to_vec(),
            ),
            (scales, Dtype::F32, vec![1], scale),
        ]
    };
    let listed = |name: &str| {
        format!(r#"{{"{name}":{{"dtype":"F32","shape":[4,256],"granularity":"tensor"}}}}"#)
    };
    let version = ("tritgemm.version", "1");
    let [a, a_scales] = stored("a", "a.scales", 1);
    let [b, b_scales] = stored("b", "b.scales", 2);
    let path = |name: &str| dir.path().join(name);
    let of_a = listed("a");
    safetensors(
        &path(SHARDS[0]),
        &[a, b_scales],
        &[version, ("tritgemm.tensors", &of_a)],
    );
    let of_b = listed("b");
    safetensors(
        &path(SHARDS[1]),
        &[b, a_scales],
        &[version, ("tritgemm.tensors", &of_b)],
    );
    let model = open(dir.path()).unwrap();
    assert_same(&model.ternary("a").unwrap(), &weights(1));
    assert_same(&model.ternary("b").unwrap(), &weights(2));
    assert!(model.others().is_empty() && model.notes().is_empty());
}

/// The weights and the scales of a node, of which the weights lie in a file.
fn onnx(external: &[(&str, &str)]) -> Vec<u8> {
    let attributes = [("K", 64), ("N", 1), ("bits", 2), ("block_size", 64)];
    let entries = external.iter().flat_map(|(key, value)| {
        let entry = [
            wire::bytes(1, key.as_bytes()),
            wire::bytes(2, value.as_bytes()),
        ];
        wire::bytes(13, &entry.concat())
    });
    let entries: Vec<u8> = entries.chain(wire::int(14, 1)).collect();
    let zeros = 1f32.to_le_bytes();
    let tensors = [
        wire::tensor("w", 2, &[], &entries),
        wire::tensor("s", 1, &0.5f32.to_le_bytes(), &[]),
        wire::tensor("z", 1, &zeros, &[]),
    ];
    wire::onnx(&["x", "w", "s", "z"], &attributes, &tensors)
}

#[test]
fn external_data_is_read_beside_the_model() {
    let dir = TempDir::new().unwrap();
    let (path, data) = (dir.path().join("m.onnx"), dir.path().join("m.onnx.data"));
    let codes = [0b10_01_00_01u8; 16];
    fs::write(&data, [&[0xff; 3][..], &codes, &[0xff; 5]].concat()).unwrap();
    let place = [
        ("location", "m.onnx.data"),
        ("offset", "3"),
        ("length", "16"),
    ];
    fs::write(&path, onnx(&place)).unwrap();
    for path in [path.as_path(), dir.path()] {
        let model = open(path).unwrap();
        let trits = model.ternary("w").unwrap().to_trits().unwrap();
        assert_eq!(trits[..4], [0, -1, 0, 1]);
        assert_eq!(model.files().len(), 2);
    }
    for (place, text) in [
        (
            vec![("location", "../m.onnx.data")],
            "not in the model's folder",
        ),
        (
            vec![("location", "/etc/passwd")],
            "not in the model's folder",
        ),
        (vec![("location", "gone")], "missing"),
        (vec![("offset", "0")], "location"),
    ] {
        fs::write(&path, onnx(&place)).unwrap();
        let text_of = |e: tritgemm_formats::FormatError| e.to_string();
        let read = open(&path).map_err(text_of);
        let error = read.and_then(|model| model.ternary("w").map_err(text_of));
        let error = error.unwrap_err();
        assert!(error.contains(text), "{error}");
    }
    for (offset, length) in [
        ("25", "16"),
        ("9", "16"),
        ("3", "17"),
        ("-1", "16"),
        ("3", "x"),
    ] {
        let place = [
            ("location", "m.onnx.data"),
            ("offset", offset),
            ("length", length),
        ];
        fs::write(&path, onnx(&place)).unwrap();
        assert!(
            open(&path).unwrap().ternary("w").is_err(),
            "{offset} {length}"
        );
    }
    // Links must not lead out of the folder, unless the model itself is one beside its data.
    #[cfg(unix)]
    {
        let outside = TempDir::new().unwrap();
        fs::rename(&data, outside.path().join("blob")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("blob"), &data).unwrap();
        fs::write(&path, onnx(&place)).unwrap();
        refused(&path, &["m.onnx.data", "leaves the model's folder"]);
        fs::rename(&path, outside.path().join("model")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("model"), &path).unwrap();
        open(&path).unwrap().ternary("w").unwrap();
    }
}

/// A byte-order mark before the JSON of a header; what is checked of others is checked then.
#[test]
fn headers_may_begin_with_a_mark() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.safetensors");
    let write = |json: &str, data: usize| {
        let json = format!("\u{feff}{json}");
        let len = (json.len() as u64).to_le_bytes();
        fs::write(&path, [&len, json.as_bytes(), &vec![7; data]].concat()).unwrap();
    };
    let entry = |name: &str, start: usize, end: usize| {
        format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":[{start},{end}]}}"#)
    };
    let two = |ends: [usize; 4]| {
        format!(
            "{{{},{}}}",
            entry("a", ends[0], ends[1]),
            entry("b", ends[2], ends[3])
        )
    };
    write(&two([0, 4, 4, 8]), 8);
    let model = open(&path).unwrap();
    assert_eq!(model.tensor("b").unwrap().bytes(), [7; 4]);
    for (ends, data) in [
        ([0, 4, 4, 8], 7),
        ([0, 4, 4, 8], 9),
        ([0, 4, 5, 9], 9),
        ([0, 4, 0, 4], 4),
        ([0, 4, 4, 7], 7),
        ([0, 4, 8, 4], 8),
    ] {
        write(&two(ends), data);
        refused(&path, &["not a valid safetensors file"]);
    }
    write("{", 0);
    refused(&path, &["not a valid safetensors file"]);
    fs::write(&path, b"\xff\0\0\0\0\0\0\0\xef\xbb\xbf{}").unwrap();
    refused(&path, &["not a valid safetensors file"]);
}

/// A layout is for I2_S alone: elsewhere it would be a wish that nothing heeds.
#[test]
fn options_that_mean_nothing_are_refused() {
    let dir = TempDir::new().unwrap();
    let first = split(&dir);
    let options = OpenOptions {
        i2s_layout: Some(I2sLayout::Arm),
        ..OpenOptions::default()
    };
    let error = open_with(&first, &options).unwrap_err().to_string();
    assert!(error.contains("no I2_S matrices"), "{error}");
}

#[test]
fn unknown_files_are_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.gguf");
    let lfs: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (bytes, text) in [
        (lfs, "a Git LFS pointer"),
        (&[b"\xef\xbb\xbf", lfs].concat()[..], "a Git LFS pointer"),
        (b"PK\x03\x04zip", "a zip file"),
        (b"\x80\x02}q\0", "pickle"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"  <HTML>", "a web page"),
        (b"tjgg\x01\0\0\0", "before GGUF"),
        (b"hello, world", "text"),
        (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0", "pickle"),
        (b"\x80\x05\x95\x0b\0\0\0\0\0\0\0", "pickle"),
        (b"PK\x07\x08PK\x03\x04", "a zip file"),
        (b"\x7fELF\x02\x01\x01\0\0", "ELF"),
        (&[&[b'a'; 257][..], b"ustar\x0000"].concat(), "a tar file"),
        (
            b"version https://hawser.github.com/spec/v1\n",
            "a Git LFS pointer",
        ),
        (
            &[b"\xef\xbb\xbfhello ", "\u{e9}".repeat(400).as_bytes()].concat(),
            "text",
        ),
    ] {
        // Whatever its name says.
        for name in [
            "m.gguf",
            "m.safetensors",
            "m.onnx",
            "m.panels",
            "m.json",
            "m",
        ] {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            refused(&path, &[text, "none of the formats"]);
            fs::remove_file(path).unwrap();
        }
    }
    fs::write(&path, b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7").unwrap();
    refused(&path, &["data that begins", "none of the formats"]);
    fs::write(&path, b"").unwrap();
    refused(&path, &["is empty"]);
    // A safetensors header of 640 bytes begins like a pickle.
    let long = "x".repeat(640 - 60);
    let mut header =
        format!("{{\"{long}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}}}");
    header += &" ".repeat(640 - header.len());
    let bytes = [&640u64.to_le_bytes(), header.as_bytes()].concat();
    assert_eq!(bytes[..2], *b"\x80\x02");
    fs::write(&path, bytes).unwrap();
    assert_eq!(open(&path).unwrap().others().len(), 1);
    // Files of ours by what is in them, whatever their names.
    for (name, bytes) in [("m.bin", onnx(&[])), ("m.json", onnx(&[]))] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        assert_eq!(open(&path).unwrap().container(), "ONNX");
        fs::remove_file(path).unwrap();
    }
    // A pointer in the place of a part or a shard.
    let first = split(&dir);
    fs::write(part(&dir, 2, 3), lfs).unwrap();
    refused(&first, &["m-00002-of-00003.gguf", "a Git LFS pointer"]);
    let index = sharded(&dir);
    fs::write(dir.path().join(SHARDS[1]), lfs).unwrap();
    refused(&index, &[SHARDS[1], "a Git LFS pointer"]);
    let tensor = TensorType(142);
    assert_eq!((tensor.name(), TensorType(137).name()), ("PQ2_0", "IQ2_K"));
}

#[test]
fn mapped_panels_are_read_when_products_need_them() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.panels");
    let layer = Linear::new(&weights(1)).unwrap();
    ModelFile::save(&path, [("w", &layer)]).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let panels = layer.panels().as_bytes();
    let at = bytes
        .windows(panels.len())
        .position(|w| w == panels)
        .unwrap();
    let ws = Workspace::new();
    {
        let model = open(&path).unwrap();
        let mapped = model.matrix("w").unwrap().linear_mapped(&ws).unwrap();
        assert_eq!(mapped.panels().as_bytes(), panels);
    }
    // Row 1 and row 2 change places.
    bytes.swap(at + 1, at + 2);
    assert_ne!(bytes[at..][..panels.len()], *panels);
    fs::write(&path, &bytes).unwrap();
    let model = open(&path).unwrap();
    let matrix = model.matrix("w").unwrap();
    let damaged = matrix.linear(&ws).unwrap_err().to_string();
    assert!(damaged.contains("checksum"), "{damaged}");
    let mapped = matrix.linear_mapped(&ws).unwrap();
    assert_eq!(mapped.panels().as_bytes(), &bytes[at..][..panels.len()]);
    // Scales are read with the matrix, and headers at once.
    bytes[at + panels.len()] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let refused = open(&path).unwrap().matrix("w").unwrap().linear_mapped(&ws);
    assert!(refused.unwrap_err().to_string().contains("checksum"));
    bytes[at - 1] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(open(&path).unwrap_err().to_string().contains("header"));
}
