//! Against PyPI's `gguf`: a file that it wrote (`gen_gguf_vectors.py`) and one
//! for it to read.

mod common;

use common::{bits, f32s, halves, matrix, rng, trits};
use tritgemm::{Granularity, GroupSize, Scales};
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{Gguf, GgufWriter, TensorType, Value, ValueType};
use tritgemm_formats::{FormatError, ScaleRounding};

const FILE: &[u8] = include_bytes!("vectors/python.gguf");

#[test]
fn weights_are_those_of_the_package_and_encode_to_its_bytes() {
    let gguf = Gguf::parse(FILE).unwrap();
    for ty in [TernaryType::Tq1_0, TernaryType::Tq2_0] {
        for suffix in ["", ".any"] {
            let name = format!("{}{suffix}", ty.name().to_lowercase());
            let tensor = gguf.tensor(&name).unwrap();
            assert_eq!(tensor.tensor_type().ternary(), Some(ty));
            assert_eq!(tensor.shape(), [768, 3]);

            let matrix = tensor.ternary().unwrap();
            assert_eq!((matrix.rows(), matrix.cols()), (3, 768));
            let granularity = matrix.scales().granularity();
            assert_eq!(granularity, Granularity::PerGroup(GroupSize::G256));
            // With the sign of 0 that the product has there.
            let ours: Vec<f32> = (matrix.to_trits().unwrap().iter().enumerate())
                .map(|(i, &trit)| f32::from(trit) * matrix.scale(i / 768, i % 768))
                .collect();
            let theirs = gguf.tensor(&format!("{name}.f32")).unwrap();
            assert_eq!(bits(&ours), bits(&theirs.to_f32().unwrap()), "{name}");

            let bytes = ty.encode(&matrix, ScaleRounding::Exact, &name).unwrap();
            // Random bytes of TQ1_0 need not be those of an encoder.
            if name == "tq1_0.any" {
                let again = ty.decode(&bytes, 3, 768, &name).unwrap();
                common::assert_same(&again, &matrix);
            } else {
                assert_eq!(bytes, tensor.data(), "{name}");
            }
        }
    }
}

#[test]
fn metadata_of_every_type() {
    let gguf = Gguf::parse(FILE).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 32));
    let expected = [
        ("a.u8", Value::U8(200)),
        ("a.i8", Value::I8(-100)),
        ("a.u16", Value::U16(60000)),
        ("a.i16", Value::I16(-30000)),
        ("a.u32", Value::U32(4_000_000_000)),
        ("a.i32", Value::I32(-2_000_000_000)),
        ("a.f32", Value::F32(0.1)),
        ("a.bool", Value::Bool(true)),
        ("a.string", Value::from("drei größer zwei")),
        ("a.u64", Value::U64(1 << 63)),
        ("a.i64", Value::I64(-(1 << 62))),
        ("a.f64", Value::F64(0.1)),
        ("general.architecture", Value::from("test")),
    ];
    for (key, value) in expected {
        assert_eq!(gguf.value(key), Some(value), "{key}");
    }
    let Some(Value::Array(strings)) = gguf.value("a.strings") else {
        panic!("{:?}", gguf.value("a.strings"));
    };
    assert_eq!(strings.element_type(), ValueType::String);
    let strings: Vec<_> = strings.iter().filter_map(|v| v.as_str()).collect();
    assert_eq!(strings, ["", "a", "bc"]);
    let Some(Value::Array(ints)) = gguf.value("a.ints") else {
        panic!("{:?}", gguf.value("a.ints"));
    };
    let ints: Vec<_> = ints.iter().collect();
    assert_eq!(ints, [Value::I32(1), Value::I32(-2), Value::I32(3)]);
    let lens = gguf.metadata().filter(|(key, _)| key.starts_with("len."));
    assert_eq!(gguf.metadata().len(), expected.len() + 2 + lens.count());
}

/// Values of embeddings and heads, bit for bit.
#[test]
fn values_are_those_of_the_package() {
    let gguf = Gguf::parse(FILE).unwrap();
    for name in ["q4_0", "q8_0", "q4_k", "q5_k", "q6_k", "bf16"] {
        let ours = gguf.tensor(&format!("{name}.any")).unwrap();
        let theirs = gguf.tensor(&format!("{name}.any.f32")).unwrap();
        assert_eq!(ours.tensor_type().name().to_lowercase(), name);
        let (ours, theirs) = (ours.to_f32().unwrap(), theirs.to_f32().unwrap());
        assert_eq!(ours.len(), 512);
        assert_eq!(bits(&ours), bits(&theirs), "{name}");
    }
    let error = gguf.tensor("tq1_0").unwrap().to_f32().unwrap_err();
    assert!(error.to_string().contains("Q6_K"), "{error}");
}

/// Every type that the package knows: its name, its number and the size of its tensors.
#[test]
fn types_are_those_of_the_package() {
    let gguf = Gguf::parse(FILE).unwrap();
    let mut types = 0;
    for tensor in gguf.tensors() {
        let Some(name) = tensor.name().strip_prefix("kind.") else {
            continue;
        };
        let ty = tensor.tensor_type();
        let mut names = ty.name().split(" or ");
        assert!(names.any(|ours| ours == name), "{name}: {ty}");
        let len = gguf.value(&format!("len.{name}")).and_then(|v| v.as_u64());
        let (len, found) = (len.unwrap() as usize, tensor.data().len());
        // With the padding where the size is not known here.
        let padding = if ty.is_sized() { 0 } else { 31 };
        assert!(
            (len..=len + padding).contains(&found),
            "{name}: {len} {found}"
        );
        types += 1;
    }
    assert!(types >= 34, "{types} types");
}

#[test]
fn floats_and_other_types() {
    let gguf = Gguf::parse(FILE).unwrap();
    let norm = gguf.tensor("norm").unwrap();
    assert_eq!((norm.rows(), norm.cols()), (1, 5));
    assert_eq!(norm.to_f32().unwrap().len(), 5);
    let half = gguf.tensor("half").unwrap();
    assert_eq!(half.shape(), [3, 2]);
    assert_eq!(half.tensor_type(), TensorType::F16);
    assert_eq!(half.to_f32().unwrap().len(), 6);
    let error = half.ternary().unwrap_err();
    assert!(
        matches!(error, FormatError::Type { type_id: 1, .. }),
        "{error}"
    );
    let error = gguf.ternary("absent").unwrap_err();
    assert!(matches!(error, FormatError::NoTensor { .. }), "{error}");
}

/// The whole file copied by our writer says the same; with more of our own it
/// is left in `target/tmp/ours.gguf` for `gen_gguf_vectors.py --check`.
#[test]
fn ours_says_the_same() {
    let theirs = Gguf::parse(FILE).unwrap();
    let mut rng = rng(1);
    let trits = trits(&mut rng, 4 * 512);
    let scales = Scales::per_row(f32s(&halves(&mut rng, 4)));
    let ours = matrix(&trits, 4, 512, scales);
    let floats = ours.to_f32().unwrap();
    let floats: Vec<u8> = floats.iter().flat_map(|v| v.to_le_bytes()).collect();

    let mut writer = GgufWriter::new();
    for (key, value) in theirs.metadata() {
        writer.metadata(key, value).unwrap();
    }
    writer
        .metadata("general.alignment", Value::U32(64))
        .unwrap();
    let words = ["x", "yz"].map(Value::from);
    let array = writer.metadata_array("b.words", ValueType::String, words);
    array.unwrap();
    for tensor in theirs.tensors() {
        writer.tensor_like(tensor).unwrap();
    }
    for ty in [TernaryType::Tq1_0, TernaryType::Tq2_0] {
        let name = format!("ours.{ty}");
        writer.tensor(&name, &[512, 4], ty.into()).unwrap();
        let name = format!("{name}.f32");
        writer.tensor(&name, &[512, 4], TensorType::F32).unwrap();
    }
    let mut tensors = writer.start(Vec::new()).unwrap();
    for tensor in theirs.tensors() {
        assert_eq!(tensors.next_name(), Some(tensor.name()));
        tensors.write(tensor.data()).unwrap();
    }
    for ty in [TernaryType::Tq1_0, TernaryType::Tq2_0] {
        let bytes = ty.encode(&ours, ScaleRounding::Exact, "ours").unwrap();
        tensors.write(&bytes).unwrap();
        tensors.write(&floats).unwrap();
    }
    let file = tensors.finish().unwrap();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("ours.gguf");
    std::fs::write(path, &file).unwrap();

    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!((gguf.version(), gguf.alignment()), (3, 64));
    for (key, value) in theirs.metadata() {
        assert_eq!(gguf.value(key), Some(value));
    }
    assert_eq!(gguf.tensors().len(), theirs.tensors().len() + 4);
    for (copy, tensor) in gguf.tensors().zip(theirs.tensors()) {
        assert_eq!(copy.name(), tensor.name());
        assert_eq!(copy.shape(), tensor.shape());
        assert_eq!(copy.tensor_type(), tensor.tensor_type());
        match tensor.tensor_type().is_sized() {
            true => assert_eq!(copy.data(), tensor.data()),
            // More padding, to the other alignment.
            false => assert!(copy.data().starts_with(tensor.data())),
        }
        assert_eq!(copy.offset() % 64, 0);
    }
    for ty in [TernaryType::Tq1_0, TernaryType::Tq2_0] {
        let back = gguf.ternary(&format!("ours.{ty}")).unwrap();
        common::assert_same(&tritgemm_formats::simplify(back), &ours);
    }
}
