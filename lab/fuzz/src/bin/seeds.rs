//! Writes what the fuzzer starts from: `seeds DIRECTORY TARGET` writes files into
//! `DIRECTORY`. Targets that read a format get small files of it, the others get
//! random bytes of several lengths, out of which they draw their cases.

use std::io::{Cursor, Result};
use std::path::Path;
use tritgemm::{Linear, ModelWriter, PanelFile, Rotation, Scales, TernaryMatrix};
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{GgufWriter, TensorType, Value, ValueType};
use tritgemm_formats::hf;
use tritgemm_testing::{Rng, view};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, target] = &arguments[..] else {
        eprintln!("usage: seeds DIRECTORY TARGET");
        std::process::exit(2);
    };
    let mut seeds: Vec<Vec<u8>> = (0..24).map(random).collect();
    match target.as_str() {
        "panel_file" => seeds.extend((0..3).map(panel_file)),
        "model_file" => seeds.extend((0..4).map(|flags| model_file(2 * flags))),
        "gguf" => seeds = gguf(),
        "hf" => seeds.extend(hf()),
        "whole" => seeds = whole(),
        "onnx" => seeds.extend((0..3).map(onnx)),
        _ => {}
    }
    for (i, seed) in seeds.iter().enumerate() {
        std::fs::write(Path::new(directory).join(format!("seed-{i}")), seed)?;
    }
    Ok(())
}

/// From 32 bytes to 1,024; the first one, which some targets take for flags,
/// is even.
fn random(seed: u64) -> Vec<u8> {
    let len = 32 << (seed / 4);
    let mut bytes = Rng::new(seed).vec(len, |r| r.i8() as u8);
    bytes[0] = 0;
    bytes
}

fn matrix(rows: usize, cols: usize) -> TernaryMatrix {
    let trits = Rng::new(1).vec(rows * cols, Rng::trit);
    TernaryMatrix::from_trits(view(&trits, rows, cols), Scales::per_tensor(0.5)).expect("trits")
}

fn layer() -> Linear {
    let layer = Linear::new(&matrix(5, 70)).expect("memory");
    layer.with_bias(vec![0.25; 5]).expect("5 rows")
}

/// A panel file behind the flags of the target.
fn panel_file(flags: u8) -> Vec<u8> {
    let mut file = vec![flags];
    PanelFile::from(&layer())
        .write_to(&mut file)
        .expect("to memory");
    file
}

/// A model of two layers, of which one rotates, behind the flags of the target.
fn model_file(flags: u8) -> Vec<u8> {
    let rotation = Rotation::new(2, Some(&[-1; 70])).expect("a rotation");
    let rotated = layer().with_rotation(rotation).expect("whole blocks");
    let mut writer = ModelWriter::new(Cursor::new(Vec::new())).expect("to memory");
    writer.add("up", &layer()).expect("to memory");
    writer.add("down", &rotated).expect("to memory");
    let file = writer.finish().expect("to memory").into_inner();
    [&[flags], &file[..]].concat()
}

/// A file of each type whose bytes are known, and one with all of them, one of an
/// unknown type, and metadata.
fn gguf() -> Vec<Vec<u8>> {
    let ternary = TernaryType::ALL.iter().map(|&ty| TensorType::from(ty));
    let types: Vec<TensorType> = [TensorType::F32, TensorType::F16, TensorType::BF16]
        .into_iter()
        .chain(ternary)
        .collect();
    let mut files: Vec<Vec<u8>> = types.iter().map(|&ty| gguf_of(&[ty], false)).collect();
    files.push(gguf_of(&types, true));
    files
}

fn gguf_of(types: &[TensorType], more: bool) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    if more {
        let strings = [&b"a"[..], b"", b"\xff"].map(Value::String);
        writer
            .metadata("general.alignment", Value::U32(64))
            .and_then(|w| w.metadata("general.architecture", Value::String(b"bitnet")))
            .and_then(|w| w.metadata("f", Value::F64(0.1)))
            .and_then(|w| w.metadata_array("a", ValueType::String, strings))
            .expect("values");
        let unknown = TensorType(777);
        writer
            .tensor_of_len("unknown", &[3], unknown, 64)
            .expect("unknown");
    }
    for ty in types {
        let name = format!("{ty:?}");
        writer.tensor(&name, &[256, 2], *ty).expect("a known type");
    }
    let mut tensors = writer.start(Vec::new()).expect("to memory");
    if more {
        tensors.write(&[1; 64]).expect("as announced");
    }
    for ty in types {
        // Bytes of which every type makes codes 0 to 2 and a scale.
        let len = match ty.ternary() {
            Some(ternary) => ternary.tensor_bytes(2, 256, "").expect("whole blocks"),
            None if *ty == TensorType::F32 => 2048,
            None => 1024,
        };
        tensors.write(&vec![0x11; len]).expect("as announced");
    }
    tensors.finish().expect("all of them")
}

/// Models of several files, as the target takes them apart: split GGUF, an index and two
/// shards, two shards alone, ONNX and its external data.
fn whole() -> Vec<Vec<u8>> {
    let join = |flags: u8, files: [&[u8]; 3]| {
        let length = |file: &[u8]| (file.len() as u16).to_le_bytes();
        let lengths = [length(files[0]), length(files[1])].concat();
        [&[flags], &lengths[..], files[0], files[1], files[2]].concat()
    };
    let part = |no: u16| {
        let mut writer = GgufWriter::new();
        writer
            .metadata("split.no", Value::U16(no))
            .and_then(|w| w.metadata("split.count", Value::U16(3)))
            .and_then(|w| w.metadata("split.tensors.count", Value::I32(3)))
            .and_then(|w| w.tensor(&format!("t{no}"), &[64, 2], TernaryType::Q2_0.into()))
            .expect("a part");
        let mut tensors = writer.start(Vec::new()).expect("to memory");
        tensors.write(&[0x11; 36]).expect("as announced");
        tensors.finish().expect("all of them")
    };
    // Without the lengths of the headers, which the target puts in front.
    let weight = [
        &b"{\"w\":{\"dtype\":\"U8\",\"shape\":[1,4],\"data_offsets\":[0,4]}}"[..],
        &[0x15; 4],
    ];
    let scale = [
        &b"{\"w_scale\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"[..],
        &[0, 0, 128, 63],
    ];
    let (weight, scale) = (weight.concat(), scale.concat());
    let index = b"{\"weight_map\":{\"w\":\"a.safetensors\",\"w_scale\":\"b.safetensors\"}}";
    let config = b"{\"quantization_config\":{\"linear_class\":\"autobitlinear\"}}";
    let entry = |key: &[u8], value: &[u8]| bytes(13, &[bytes(1, key), bytes(2, value)].concat());
    let external = [entry(b"location", b"m.data"), int(14, 1)].concat();
    let model = onnx(0)[1..].to_vec();
    let tensor = bytes(5, &[int(2, 2), bytes(8, b"e"), external].concat());
    let model = [model, bytes(7, &tensor)].concat();
    vec![
        join(0, [&part(0), &part(1), &part(2)]),
        join(1 | 4, [index, &weight, &scale]),
        join(2, [&weight, &scale, config]),
        join(3, [&model, &[7; 32], b""]),
    ]
}

/// Safetensors files, behind the flag of the target that says so.
fn hf() -> Vec<Vec<u8>> {
    let packed = hf::encode(&matrix(8, 3));
    let file = |dtype: &str, scale: &[u8]| {
        let end = packed.len() + scale.len();
        let header = format!(
            "{{\"w\":{{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[0,6]}},\
             \"w_scale\":{{\"dtype\":\"{dtype}\",\"shape\":[1],\"data_offsets\":[6,{end}]}}}}"
        );
        let len = (header.len() as u64).to_le_bytes();
        [&[1], &len[..], header.as_bytes(), &packed, scale].concat()
    };
    let one = 1f32.to_le_bytes();
    vec![
        file("F32", &one),
        file("BF16", &one[2..]),
        file("F16", &[0, 0x38]),
    ]
}

/// A field of a protobuf message, of a small number or field number 20.
fn int(number: u8, value: u8) -> Vec<u8> {
    match number {
        0..16 => vec![number << 3, value],
        _ => vec![number << 3 | 0x80, number >> 4, value],
    }
}

/// A field of bytes.
fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    let len = [value.len() as u8 & 0x7f | 0x80, (value.len() >> 7) as u8];
    [&[number << 3 | 2], &len[..], value].concat()
}

/// ONNX models of a node with two rows of 20 weights in blocks of 16, behind the
/// flag of the target that says so: without zero points, with packed ones, with
/// ones of floats.
fn onnx(zeros: u64) -> Vec<u8> {
    let inputs: &[&[u8]] = if zeros == 0 {
        &[b"x", b"w", b"s"]
    } else {
        &[b"x", b"w", b"s", b"z"]
    };
    let mut node: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
    node.extend(bytes(4, b"MatMulNBits"));
    for (name, value) in [("K", 20), ("N", 2), ("bits", 2), ("block_size", 16)] {
        let attribute = [bytes(1, name.as_bytes()), int(3, value), int(20, 2)];
        node.extend(bytes(5, &attribute.concat()));
    }
    node.extend(bytes(7, b"com.microsoft"));
    let tensor = |name: &[u8], ty, raw: &[u8]| {
        bytes(5, &[int(2, ty), bytes(8, name), bytes(9, raw)].concat())
    };
    let mut graph = bytes(1, &node);
    // Codes of the zero point or next to it.
    let codes = if zeros == 1 { 0x24 } else { 0x79 };
    graph.extend(tensor(b"w", 2, &[codes; 16]));
    graph.extend(tensor(b"s", 1, &1f32.to_le_bytes().repeat(4)));
    match zeros {
        1 => graph.extend(tensor(b"z", 2, &[0x05, 0x05])),
        2 => graph.extend(tensor(b"z", 1, &2f32.to_le_bytes().repeat(4))),
        _ => {}
    }
    [vec![1], int(1, 8), bytes(7, &graph)].concat()
}

#[test]
fn seeds_are_what_their_targets_read() {
    for file in gguf() {
        assert!(tritgemm_formats::gguf::Gguf::parse(&file).is_ok());
    }
    for file in hf() {
        let file = safetensors::SafeTensors::deserialize(&file[1..]).expect("a file");
        assert_eq!(hf::matrices(&file), ["w"]);
        let class = hf::LinearClass::AutoBitLinear;
        assert!(hf::read(&file, "w", class, None).is_ok());
    }
    for file in (0..3).map(onnx) {
        let model = tritgemm_formats::onnx::OnnxModel::parse(&file[1..]).expect("a model");
        let names: Vec<&str> = model.matrices().collect();
        assert!(model.decode(names[0]).is_ok());
    }
    let file = &panel_file(0)[1..];
    assert!(PanelFile::from_bytes(file.to_vec(), tritgemm::Verify::Full).is_ok());
    let model = model_file(0)[1..].to_vec();
    let model = tritgemm::ModelFile::from_bytes(model, tritgemm::Verify::Full).expect("a model");
    assert!(model.names().all(|name| model.linear(name).is_ok()));
}
