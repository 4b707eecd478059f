//! `prism.hadamard.*`: read, handed to layers, and refused where it is not known.

mod common;

use common::{matrix, rng, trits};
use std::fs;
use tempfile::TempDir;
use tritgemm::{MatMut, MatRef, Rotation, Scales, Workspace};
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{GgufWriter, TensorType, Value, ValueType};
use tritgemm_formats::{FormatError, Model, ScaleRounding, open};

const COLS: usize = 256;

/// What a file says of its rotation, to be changed by a test.
struct Keys {
    version: Value<'static>,
    block: Value<'static>,
    transform: &'static str,
    axis: &'static str,
    mode: &'static str,
    widths: Vec<i32>,
    signs: Vec<i32>,
    inputs: Vec<&'static str>,
    rows: Vec<&'static str>,
    more: Vec<(&'static str, Value<'static>)>,
}

fn signs() -> Vec<i32> {
    (0..COLS).map(|i| if i % 3 == 0 { -1 } else { 1 }).collect()
}

fn keys() -> Keys {
    Keys {
        version: Value::U32(1),
        block: Value::U32(64),
        transform: "normalized-sylvester-walsh-hadamard",
        axis: "input-last-dimension",
        mode: "explicit",
        widths: vec![8, COLS as i32],
        signs: [vec![1; 8], signs()].concat(),
        inputs: vec!["w"],
        rows: vec!["table"],
        more: Vec::new(),
    }
}

fn read(keys: &Keys) -> Result<Model, FormatError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.gguf");
    let mut writer = GgufWriter::new();
    let key = |name: &str| format!("prism.hadamard.{name}");
    writer.metadata(&key("version"), keys.version).unwrap();
    writer.metadata(&key("block_size"), keys.block).unwrap();
    for (name, text) in [
        ("transform", keys.transform),
        ("axis", keys.axis),
        ("sign_mode", keys.mode),
    ] {
        writer.metadata(&key(name), Value::from(text)).unwrap();
    }
    for (name, values) in [("sign_widths", &keys.widths), ("sign_values", &keys.signs)] {
        let values = values.iter().map(|&v| Value::I32(v));
        writer
            .metadata_array(&key(name), ValueType::I32, values)
            .unwrap();
    }
    for (name, values) in [
        ("weight_names", &keys.inputs),
        ("inverse_weight_names", &keys.rows),
    ] {
        let values = values.iter().map(|&v| Value::from(v));
        writer
            .metadata_array(&key(name), ValueType::String, values)
            .unwrap();
    }
    for (name, value) in &keys.more {
        writer.metadata(&key(name), *value).unwrap();
    }
    let ty = TernaryType::Tq2_0;
    writer.tensor("w", &[COLS as u64, 3], ty.into()).unwrap();
    writer
        .tensor("plain", &[COLS as u64, 3], ty.into())
        .unwrap();
    writer
        .tensor("table", &[COLS as u64, 2], TensorType::F32)
        .unwrap();
    let mut out = writer.start(Vec::new()).unwrap();
    let trits = trits(&mut rng(5), 3 * COLS);
    let weights = matrix(&trits, 3, COLS, Scales::per_tensor(0.5));
    let bytes = ty.encode(&weights, ScaleRounding::Exact, "w").unwrap();
    out.write(&bytes).unwrap();
    out.write(&bytes).unwrap();
    out.write(&vec![0; 2 * COLS * 4]).unwrap();
    fs::write(&path, out.finish().unwrap()).unwrap();
    open(&path)
}

#[test]
fn a_layer_takes_rotated_inputs() {
    let model = read(&keys()).unwrap();
    let ws = &mut Workspace::new();
    let (rotated, plain) = (
        model.linear("w", ws).unwrap(),
        model.linear("plain", ws).unwrap(),
    );
    let x: Vec<f32> = (0..COLS).map(|i| (i as f32).sin()).collect();
    let mut turned = x.clone();
    let signs: Vec<i8> = signs().iter().map(|&s| s as i8).collect();
    let rotation = Rotation::new(64, Some(&signs)).unwrap();
    rotation.apply(&mut turned).unwrap();
    let mut y = [[0.0f32; 3]; 2];
    for ((layer, x), y) in [(&rotated, &x), (&plain, &turned)].iter().zip(&mut y) {
        let (x, y) = (MatRef::new(x, 1, COLS), MatMut::new(y, 1, 3));
        layer.forward_f32(x.unwrap(), y.unwrap(), ws).unwrap();
    }
    assert_eq!(y[0].map(f32::to_bits), y[1].map(f32::to_bits));
    let of = |name: &str| model.matrix(name).unwrap().rotation.clone();
    assert_eq!(of("plain"), None);
    assert_eq!(of("w").map(|r| (r.input, r.rows)), Some((true, false)));
    let table = model.tensor("table").unwrap().rotation.clone();
    assert_eq!(table.map(|r| (r.input, r.rows)), Some((false, true)));
}

#[test]
fn the_identity_has_no_signs() {
    let model = read(&Keys {
        mode: "identity",
        ..keys()
    });
    let model = model.unwrap();
    let rotated = model.matrix("w").unwrap().rotation.clone().unwrap();
    assert!(rotated.rotation.signs().is_none());
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    type Change = fn(&mut Keys);
    let cases: [(Change, &str); 14] = [
        (
            |k| k.more.push(("permutation", Value::U32(1))),
            "prism.hadamard.permutation",
        ),
        (
            |k| k.more.push(("gdn_v_grouped", Value::U32(1))),
            "prism.hadamard.gdn_v_grouped",
        ),
        (|k| k.version = Value::U32(2), "prism.hadamard.version"),
        (|k| k.version = Value::from("1"), "prism.hadamard.version"),
        (|k| k.transform = "haar", "transform"),
        (|k| k.axis = "output", "axis"),
        (|k| k.mode = "random", "sign_mode"),
        (|k| k.block = Value::U32(48), "block_size"),
        (|k| k.block = Value::U32(512), "tensor `w`"),
        (|k| k.block = Value::U32(0), "block_size"),
        (|k| k.widths = vec![8, 248], "sign_"),
        (|k| k.widths = vec![8], "sign_values"),
        (|k| k.signs[9] = 0, "sign_values"),
        (|k| k.signs.truncate(100), "sign_values"),
    ];
    for (change, text) in cases {
        let mut keys = keys();
        change(&mut keys);
        let error = read(&keys).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    // No signs of a width that is rotated.
    let mut other = keys();
    (other.widths, other.signs) = (vec![8], vec![1; 8]);
    let error = read(&other).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("no signs of width 256"), "{error}");
}

#[test]
fn names_of_tensors_that_are_not_there_are_told() {
    let mut keys = keys();
    keys.inputs.push("gone");
    let model = read(&keys).unwrap();
    assert!(model.notes().iter().any(|note| note.contains("`gone`")));
}

#[test]
fn value_heads_in_groups_are_told() {
    for grouped in [false, true] {
        let mut keys = keys();
        let key = ("gdn_v_grouped", Value::Bool(grouped));
        keys.more.push(key);
        let model = read(&keys).unwrap();
        let rotated = model.matrix("w").unwrap().rotation.clone().unwrap();
        assert_eq!(rotated.gdn_v_grouped, grouped);
    }
}

/// Safetensors with a `hadamard.json` beside them: `text` is what that says.
fn beside(text: &str) -> Result<Model, FormatError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("m.safetensors");
    let header = r#"{"l.weight":{"dtype":"F32","shape":[2,8],"data_offsets":[0,64]},
        "p.weight":{"dtype":"U32","shape":[2,8],"data_offsets":[64,128]},
        "p.scales":{"dtype":"F16","shape":[2,1],"data_offsets":[128,132]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    fs::write(&path, [bytes, vec![0; 132]].concat()).unwrap();
    fs::write(dir.path().join("hadamard.json"), text).unwrap();
    open(&path)
}

#[test]
fn a_hadamard_json_beside_safetensors_holds_for_them() {
    let json = |prefix: &str, version: u32, names: &str| {
        format!(
            r#"{{"{prefix}version":{version},"{prefix}block_size":4,
            "{prefix}transform":"normalized-sylvester-walsh-hadamard",
            "{prefix}axis":"input-last-dimension","{prefix}sign_mode":"explicit",
            "{prefix}sign_widths":[8],"{prefix}sign_values":[1,-1,1,1,1,-1,1,1],
            "{prefix}weight_names":[{names}],"{prefix}inverse_weight_names":[],
            "{prefix}gdn_v_grouped":true}}"#
        )
    };
    for prefix in ["", "prism.hadamard."] {
        let model = beside(&json(prefix, 1, r#""l.weight""#)).unwrap();
        let rotated = model.tensor("l.weight").unwrap().rotation.clone().unwrap();
        assert!(rotated.input && rotated.gdn_v_grouped);
        assert_eq!(rotated.rotation.block(), 4);
        let text = beside(&json(prefix, 2, "")).unwrap_err().to_string();
        assert!(
            text.contains("hadamard.json") && text.contains("version"),
            "{text}"
        );
        // The width of packed weights is not known here.
        let text = beside(&json(prefix, 1, r#""p.weight""#))
            .unwrap_err()
            .to_string();
        assert!(text.contains("`p.weight` is rotated"), "{text}");
    }
    for wrong in ["[]", "{", "{}", r#"{"prism.hadamard.other":1}"#] {
        let text = beside(wrong).unwrap_err().to_string();
        assert!(text.contains("hadamard.json"), "{wrong}: {text}");
    }
}
