//! Parts of a split GGUF model that say more than a part should, or are of another model.

use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use tritgemm_formats::gguf::{GgufWriter, TensorType, Value, ValueType};
use tritgemm_formats::{Model, open};

/// Metadata, and name, shape, type and bytes of each tensor.
type Written<'a> = (
    &'a [(&'a str, Value<'a>)],
    &'a [(&'a str, &'a [u64], u32, Vec<u8>)],
);

/// Writes the parts, as many tensors as there are; the path of the first.
fn write(dir: &TempDir, parts: &[Written<'_>]) -> PathBuf {
    let tensors: usize = parts.iter().map(|(_, tensors)| tensors.len()).sum();
    let path = |no: usize| {
        let name = format!("m-{:05}-of-{:05}.gguf", no + 1, parts.len());
        dir.path().join(name)
    };
    for (no, (metadata, tensors_here)) in parts.iter().enumerate() {
        let mut writer = GgufWriter::new();
        for (key, value) in *metadata {
            writer.metadata(key, *value).unwrap();
        }
        writer.metadata("split.no", Value::U16(no as u16)).unwrap();
        let count = Value::U16(parts.len() as u16);
        writer.metadata("split.count", count).unwrap();
        let tensors = Value::I32(tensors as i32);
        writer.metadata("split.tensors.count", tensors).unwrap();
        for (name, shape, ty, bytes) in *tensors_here {
            let len = bytes.len() as u64;
            // Older files of PrismML's have fewer bytes under a number than it takes.
            let ty = match (ty, len % 34) {
                (42, 0) => TensorType(142),
                _ => TensorType(*ty),
            };
            writer.tensor_of_len(name, shape, ty, len).unwrap();
        }
        let mut out = writer.start(Vec::new()).unwrap();
        for (_, _, _, bytes) in *tensors_here {
            out.write(bytes).unwrap();
        }
        let mut file = out.finish().unwrap();
        for (name, shape, ty, bytes) in *tensors_here {
            if *ty == 42 && bytes.len() % 34 == 0 {
                let at = file.windows(name.len()).position(|w| w == name.as_bytes());
                let at = at.unwrap() + name.len() + 4 + 8 * shape.len();
                assert_eq!(file[at..at + 4], 142u32.to_le_bytes());
                file[at..at + 4].copy_from_slice(&42u32.to_le_bytes());
            }
        }
        fs::write(path(no), file).unwrap();
    }
    path(0)
}

fn formats(model: &Model) -> Vec<&str> {
    model.matrices().iter().map(|m| m.format).collect()
}

/// `n` groups of 128 in 34 bytes, or twice as many of 64 in 18.
fn groups(n: usize, of_128: bool) -> Vec<u8> {
    let [count, len] = if of_128 { [n, 34] } else { [2 * n, 18] };
    let group = [&[0x00u8, 0x3c][..], &vec![0b01_10_00_01; len - 2]].concat();
    group.repeat(count)
}

/// What tells in one part holds for all of them.
#[test]
fn groups_of_34_bytes_are_told_over_all_parts() {
    let dir = TempDir::new().unwrap();
    let (small, large): (&[u64], &[u64]) = (&[128, 1], &[128, 64]);
    for swapped in [false, true] {
        let mut parts: [Written<'_>; 2] = [
            (&[], &[("small", small, 42, groups(1, true))]),
            (&[], &[("large", large, 42, groups(64, true))]),
        ];
        if swapped {
            parts.swap(0, 1);
        }
        let model = open(write(&dir, &parts)).unwrap();
        assert_eq!(formats(&model), ["PQ2_0", "PQ2_0"]);
        assert!(model.notes().iter().any(|note| note.contains("2 matrices")));
        assert!(model.matrices().iter().all(|m| m.read().is_ok()));
    }
    // Both kinds in one model.
    let parts: [Written<'_>; 2] = [
        (&[], &[("a", large, 42, groups(64, false))]),
        (&[], &[("b", large, 42, groups(64, true))]),
    ];
    let error = open(write(&dir, &parts)).unwrap_err().to_string();
    assert!(
        error.contains("00002-of-00002") && error.contains("groups of 128"),
        "{error}"
    );
    // One that is certain makes the small one certain.
    let parts: [Written<'_>; 2] = [
        (&[], &[("small", small, 42, groups(1, true))]),
        (&[], &[("large", large, 42, groups(64, false))]),
    ];
    let model = open(write(&dir, &parts)).unwrap();
    assert_eq!(formats(&model), ["Q2_0", "Q2_0"]);
    assert!(model.notes().is_empty(), "{:?}", model.notes());
}

/// A model of which every tensor has room for either kind is said to be one.
#[test]
fn groups_that_nothing_tells_are_told_of() {
    let dir = TempDir::new().unwrap();
    let parts: [Written<'_>; 1] = [(&[], &[("w", &[128, 1], 42, groups(1, true))])];
    let model = open(write(&dir, &parts)).unwrap();
    assert_eq!(formats(&model), ["Q2_0"]);
    let says = |model: &Model| model.notes().iter().any(|n| n.contains("nothing tells"));
    assert!(says(&model), "{:?}", model.notes());
    // Two more bytes of weights where padding would be are told from it.
    let parts: [Written<'_>; 1] = [(&[], &[("w", &[128, 1], 42, groups(1, false))])];
    assert!(!says(&open(write(&dir, &parts)).unwrap()));
}

#[test]
fn parts_of_another_model_are_named_though_their_counts_agree() {
    let dir = TempDir::new().unwrap();
    let about = [
        ("general.architecture", Value::from("llama")),
        ("llama.block_count", Value::U32(2)),
        ("llama.embedding_length", Value::U32(8)),
    ];
    let norm = |len: usize| vec![0u8; 4 * len];
    let first = [("blk.0.attn_norm.weight", &[8u64][..], 0, norm(8))];
    let cases: [(&str, &[u64], bool); 4] = [
        ("blk.1.attn_norm.weight", &[8], true),
        ("blk.1.attn_norm.weight", &[16], false),
        ("blk.2.ffn_norm.weight", &[8], false),
        ("blk.0.attn_norm.weight", &[8], false),
    ];
    for (name, shape, fits) in cases {
        let second = [(name, shape, 0, norm(shape[0] as usize))];
        let opened = open(write(&dir, &[(&about, &first), (&[], &second)]));
        match opened {
            Ok(_) => assert!(fits, "{name} {shape:?}"),
            Err(error) => {
                let text = error.to_string();
                assert!(!fits && text.contains("m-00002-of-00002.gguf"), "{text}");
                assert!(text.contains(name), "{text}");
            }
        }
    }
}

/// Rotations stand in the first part: one that says of another is not read past.
#[test]
fn metadata_of_later_parts_is_refused_or_named() {
    let dir = TempDir::new().unwrap();
    let first = [("a", &[8u64][..], 0, vec![0; 32])];
    let second = [("b", &[8u64][..], 0, vec![0; 32])];
    let with = |key: &'static str| [(key, Value::U32(1))];
    let version = with("prism.hadamard.version");
    let error = open(write(&dir, &[(&[], &first), (&version, &second)]));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("00002") && error.contains("prism.hadamard.version"),
        "{error}"
    );
    let key = with("general.quantization_version");
    let model = open(write(&dir, &[(&[], &first), (&key, &second)])).unwrap();
    let notes = model.notes().join(" ");
    assert!(notes.contains("`general.quantization_version`"), "{notes}");
    let model = open(write(&dir, &[(&key, &first), (&key, &second)])).unwrap();
    assert!(model.notes().is_empty(), "{:?}", model.notes());
}

/// The number of a type that has no name here stands once in a message.
#[test]
fn types_without_a_name_are_numbers() {
    assert_eq!(TensorType(9999).to_string(), "9999");
    let dir = TempDir::new().unwrap();
    let mut writer = GgufWriter::new();
    let key = "list";
    let list = writer.metadata_array(key, ValueType::U8, [Value::U8(1)]);
    list.unwrap();
    let ty = TensorType(9999);
    writer.tensor_of_len("w", &[32, 2], ty, 32).unwrap();
    let mut out = writer.start(Vec::new()).unwrap();
    out.write(&[0; 32]).unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, out.finish().unwrap()).unwrap();
    let model = open(&path).unwrap();
    let note = "`w` of type 9999.";
    assert!(
        model.notes().iter().any(|n| n.contains(note)),
        "{:?}",
        model.notes()
    );
    assert!(model.tensor("w").unwrap().unread.is_some());
}
