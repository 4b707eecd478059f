//! The GGUF container: versions, and files made to do harm.

use peak_alloc::PeakAlloc;
use std::sync::Mutex;
use tritgemm_formats::FormatError;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{Gguf, GgufWriter, TensorType, Value, ValueType};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The peak is one for all threads: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A file by hand: header, then `body` as given.
fn file(version: u32, tensors: u64, metadata: u64, body: &[&[u8]]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(version.to_le_bytes());
    file.extend(tensors.to_le_bytes());
    file.extend(metadata.to_le_bytes());
    file.extend(body.concat());
    file
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn info(name: &str, shape: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut info = string(name);
    info.extend((shape.len() as u32).to_le_bytes());
    info.extend(shape.iter().flat_map(|ne| ne.to_le_bytes()));
    info.extend(ty.to_le_bytes());
    info.extend(offset.to_le_bytes());
    info
}

/// Infos and `bytes` of tensors after them, aligned to 32.
fn with_data(infos: &[Vec<u8>], bytes: usize) -> Vec<u8> {
    let mut file = file(3, infos.len() as u64, 0, &[&infos.concat()]);
    file.resize(file.len().next_multiple_of(32) + bytes, 0);
    file
}

/// Everything a caller may ask of a file; memory that stays within a multiple of
/// its length.
fn read_all(file: &[u8]) -> Result<(), FormatError> {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let result = (|| {
        let gguf = Gguf::parse(file)?;
        for (_, value) in gguf.metadata() {
            if let Value::Array(array) = value {
                array.iter().for_each(drop);
            }
            assert!(value.to_string().len() < 4 * file.len() + 64);
        }
        for tensor in gguf.tensors() {
            assert!(tensor.data().len() <= file.len());
            let _ = (tensor.ternary(), tensor.experts(), tensor.to_f32());
        }
        Ok(())
    })();
    let peak = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(peak <= 64 * file.len() + (1 << 16), "{peak} bytes");
    result
}

#[track_caller]
fn refused(file: &[u8], with: &str) {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let error = read_all(file).unwrap_err().to_string();
    assert!(error.contains(with), "{error}, expected {with}");
}

fn small() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.metadata("name", Value::from("small")).unwrap();
    writer.metadata("flag", Value::Bool(true)).unwrap();
    let words = ["a", "bc"].map(Value::from);
    writer
        .metadata_array("words", ValueType::String, words)
        .unwrap();
    writer.tensor("norm", &[3], TensorType::F32).unwrap();
    let ternary = [TernaryType::Tq2_0, TernaryType::I2S, TernaryType::Iq2Bn];
    for ty in ternary {
        writer.tensor(ty.name(), &[256, 1, 2], ty.into()).unwrap();
    }
    let mut tensors = writer.start(Vec::new()).unwrap();
    tensors.write(&[0; 12]).unwrap();
    for ty in ternary {
        tensors
            .write(&vec![0; ty.tensor_bytes(2, 256, "").unwrap()])
            .unwrap();
    }
    let mut file = tensors.finish().unwrap();
    // Without the padding of the last tensor, so that every byte counts.
    let gguf = Gguf::parse(&file).unwrap();
    let last = gguf.tensors().last().unwrap();
    let end = last.offset() as usize + last.data().len();
    file.truncate(end);
    file
}

#[test]
fn version_2_by_hand() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let bytes = TernaryType::I2S.tensor_bytes(2, 128, "w").unwrap();
    let mut file = file(
        2,
        1,
        1,
        &[
            &string("answer"),
            &4u32.to_le_bytes(),
            &42u32.to_le_bytes(),
            &info("w", &[128, 2], 36, 0),
        ],
    );
    file.resize(file.len().next_multiple_of(32), 0);
    let start = file.len();
    file.resize(start + bytes, 0b10_01_00_01);
    file[start + 64..start + 68].copy_from_slice(&0.25f32.to_le_bytes());
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.version(), 2);
    assert_eq!(gguf.value("answer").and_then(|v| v.as_u64()), Some(42));
    let trits = gguf.ternary("w").unwrap().to_trits().unwrap();
    let row = [[1; 32], [0; 32], [-1; 32], [0; 32]].concat();
    assert_eq!(trits, [&row[..], &row].concat());
    assert_eq!(gguf.ternary("w").unwrap().scales().values(), [0.25]);
}

#[test]
fn experts_are_the_rows_of_the_stack() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let file = small();
    let gguf = Gguf::parse(&file).unwrap();
    for name in ["TQ2_0", "I2_S", "IQ2_BN"] {
        let stack = gguf.ternary(name).unwrap();
        let experts = gguf.tensor(name).unwrap().experts().unwrap();
        assert_eq!((stack.rows(), experts.len()), (2, 2));
        let rows: Vec<i8> = experts.iter().flat_map(|e| e.to_trits().unwrap()).collect();
        assert_eq!(rows, stack.to_trits().unwrap());
    }
}

#[test]
fn every_truncation_is_refused() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let file = small();
    read_all(&file).unwrap();
    for len in 0..file.len() {
        assert!(read_all(&file[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn every_changed_byte_is_read_or_refused() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let mut file = small();
    let head = Gguf::parse(&file)
        .unwrap()
        .tensors()
        .next()
        .unwrap()
        .offset();
    for at in 0..file.len() {
        let byte = file[at];
        // Every value where lengths and counts are.
        let values = if at < head as usize {
            0..=255
        } else {
            254..=255
        };
        for value in values {
            file[at] = value;
            let _ = read_all(&file);
        }
        file[at] = byte;
    }
}

#[test]
fn headers_of_other_kinds() {
    refused(b"GGML\x03\0\0\0", "`GGML` at the start, expected `GGUF`");
    refused(&file(1, 0, 0, &[]), "version 1, expected 2 or 3");
    refused(&file(4, 0, 0, &[]), "version 4");
    refused(&file(3u32.swap_bytes(), 0, 0, &[]), "big-endian");
}

#[test]
fn counts_and_lengths_beyond_the_file() {
    refused(&file(3, u64::MAX, 0, &[&[0; 100]]), "tensors, but");
    refused(&file(3, 0, u64::MAX, &[&[0; 100]]), "metadata values, but");
    let long = u64::MAX.to_le_bytes();
    refused(&file(3, 0, 1, &[&long, &[0; 20]]), "the file ends after");
    let key = string("k");
    let value = |ty: u32| ty.to_le_bytes();
    refused(
        &file(3, 0, 1, &[&key, &value(8), &long]),
        "the file ends after",
    );
    for element in [0, 8, 9, 12] {
        let array = [&value(9)[..], &value(element), &long].concat();
        refused(&file(3, 0, 1, &[&key, &array, &[0; 50]]), "array elements");
    }
    refused(&file(3, 0, 1, &[&key, &value(13)]), "value type 13");
    refused(&file(3, 0, 1, &[&key, &value(7), &[2]]), "boolean of 2");
}

#[test]
fn nested_arrays() {
    let nested = |depth: usize| {
        let level = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        let mut body = [string("k"), 9u32.to_le_bytes().to_vec()].concat();
        body.extend(level.repeat(depth - 1));
        body.extend([&0u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[7]].concat());
        file(3, 0, 1, &[&body])
    };
    {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        read_all(&nested(8)).unwrap();
    }
    refused(&nested(9), "nested more than 8 deep");
    refused(&nested(1000), "nested more than 8 deep");
}

#[test]
fn duplicates() {
    let value = [&string("k")[..], &0u32.to_le_bytes(), &[1]].concat();
    refused(&file(3, 0, 2, &[&value, &value]), "a second metadata");
    let tensors = [info("w", &[8], 0, 0), info("w", &[8], 0, 32)];
    refused(&with_data(&tensors, 64), "a second tensor `w`");
}

#[test]
fn alignments() {
    let align = |value: &[u8], ty: u32| {
        let key = string("general.alignment");
        file(3, 0, 1, &[&key, &ty.to_le_bytes(), value])
    };
    refused(&align(&0u32.to_le_bytes(), 4), "an alignment of 0");
    refused(&align(&48u32.to_le_bytes(), 4), "an alignment of 48");
    refused(&align(&32u64.to_le_bytes(), 10), "type U64, expected U32");
}

#[test]
fn tensors_in_impossible_places_and_shapes() {
    let one = |shape: &[u64], ty, offset| with_data(&[info("w", shape, ty, offset)], 96);
    refused(&one(&[8], 0, 8), "expected a multiple of 32");
    refused(&one(&[8], 0, 128), "but there are 96 bytes");
    refused(&one(&[8], 0, u64::MAX - 31), "but there are 96 bytes");
    refused(&one(&[8, 4], 0, 0), "takes 128 bytes, but there are 96");
    refused(&one(&[1; 5], 0, 0), "5 dimensions, expected 4");
    for shape in [&[1 << 32, 1 << 32][..], &[256, u64::MAX], &[u64::MAX, 256]] {
        refused(&one(shape, 0, 0), "overflows");
        refused(&one(shape, 35, 0), "overflows");
    }
    // Fewer weights than overflow, more bytes.
    refused(&one(&[1 << 62], 0, 0), "overflows");
    refused(&one(&[255], 35, 0), "K = 255 is not a multiple of the 256");
    refused(&one(&[100], 2, 0), "K = 100 is not a multiple of the 32");
    refused(&one(&[64, 6], 42, 0), "takes 108 bytes, but there are 96");
    let overlap = [info("a", &[16], 0, 0), info("b", &[8], 0, 32)];
    refused(
        &with_data(&overlap, 64),
        "64 bytes, but there are 32 up to b",
    );
    let same = [info("a", &[8], 0, 0), info("b", &[8], 0, 0)];
    refused(&with_data(&same, 64), "up to ");
    let unknown = [info("a", &[8], 999, 0), info("b", &[8], 0, 0)];
    refused(&with_data(&unknown, 64), "takes some bytes");
}

#[test]
fn unknown_types_reach_to_the_next_tensor() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let tensors = [info("b", &[8], 0, 64), info("a", &[7], 999, 0)];
    let file = with_data(&tensors, 96);
    let gguf = Gguf::parse(&file).unwrap();
    let a = gguf.tensor("a").unwrap();
    assert_eq!((a.data().len(), a.tensor_type().name()), (64, "unknown"));
    assert_eq!(gguf.tensor("b").unwrap().data().len(), 32);
    let error = a.ternary().unwrap_err().to_string();
    assert!(error.contains("unknown (999)"), "{error}");
}

#[test]
fn empty_tensors_take_nothing_from_unknown_ones() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    for empty_type in [0, 998] {
        let mut tensors = [
            info("empty", &[0], empty_type, 0),
            info("odd", &[7], 999, 0),
        ];
        for _ in 0..2 {
            let file = with_data(&tensors, 32);
            let gguf = Gguf::parse(&file).unwrap();
            assert_eq!(gguf.tensor("odd").unwrap().data().len(), 32);
            assert!(gguf.tensor("empty").unwrap().data().is_empty());
            tensors.reverse();
        }
    }
    // Nor has one of an unknown type data if it has no weights.
    let file = with_data(&[info("odd", &[7, 0], 999, 0)], 32);
    let gguf = Gguf::parse(&file).unwrap();
    assert!(gguf.tensor("odd").unwrap().data().is_empty());
}

#[test]
fn the_writer_refuses_what_no_reader_would_take() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let mut writer = GgufWriter::new();
    writer.metadata("k", Value::U8(1)).unwrap();
    assert!(writer.metadata("k", Value::U8(1)).is_err());
    let alignment = writer.metadata("general.alignment", Value::U32(3));
    assert!(alignment.is_err());
    let mixed = [Value::U8(1), Value::I8(1)];
    assert!(writer.metadata_array("m", ValueType::U8, mixed).is_err());
    writer.tensor("w", &[8], TensorType::F32).unwrap();
    assert!(writer.tensor("w", &[8], TensorType::F32).is_err());
    assert!(writer.tensor("v", &[8], TensorType(999)).is_err());
    assert!(writer.tensor("v", &[1; 5], TensorType::F32).is_err());
    let wrong = writer.tensor_of_len("v", &[8], TensorType::F32, 31);
    assert!(wrong.is_err());
    let mut tensors = writer.clone().start(Vec::new()).unwrap();
    assert!(tensors.write(&[0; 31]).is_err());
    tensors.write(&[0; 32]).unwrap();
    assert!(tensors.write(&[]).is_err());
    // What was refused has left no trace.
    let file = tensors.finish().unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!((gguf.metadata().len(), gguf.tensors().len()), (1, 1));
    assert!(writer.start(Vec::new()).unwrap().finish().is_err());
}

/// PrismML's older files: groups of 128 in 34 bytes under the number of Q2_0.
#[test]
fn groups_of_34_bytes_are_told_by_their_room() {
    let types = |tensors: &[Vec<u8>], len: usize| -> Vec<(&str, &str)> {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let file = with_data(tensors, len);
        let gguf = Gguf::parse(&file).unwrap();
        let name =
            |t: &tritgemm_formats::gguf::Tensor<'_>| (t.tensor_type().name(), t.said_type().name());
        gguf.tensors().map(name).collect()
    };
    // 64 x 128 weights are 2176 bytes; as Q2_0 they would be 2304.
    let large = |offset| info("large", &[128, 64], 42, offset);
    let small = |offset| info("small", &[128, 1], 42, offset);
    assert_eq!(types(&[large(0)], 2176), [("PQ2_0", "Q2_0")]);
    // In front of another tensor, and a small one with room for either.
    let three = [large(0), small(2176), info("n", &[8], 0, 2240)];
    let told = types(&three, 2272);
    assert_eq!(told[..2], [("PQ2_0", "Q2_0"); 2]);
    assert_eq!(types(&[large(0)], 2304), [("Q2_0", "Q2_0")]);
    assert_eq!(types(&[small(0)], 64), [("Q2_0", "Q2_0")]);
    // A file of Q2_0 that was cut short is refused, but where it has just that length.
    for len in 1..2304 {
        let told = len == 2176;
        let file = with_data(&[large(0)], len);
        assert_eq!(Gguf::parse(&file).is_ok(), told, "{len}");
    }
    // K that has no groups of 128, or a tensor that is Q2_0: nothing is guessed.
    let odd = [info("odd", &[64, 2], 42, 0), large(64)];
    refused(&with_data(&odd, 64 + 2176), "large");
    let mixed = [info("q", &[128, 64], 42, 0), large(2304)];
    refused(&with_data(&mixed, 2304 + 2176), "large");
}

#[test]
fn tensors_without_weights_are_listed_whatever_their_type() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    for id in [34, 35, 36, 42, 134, 135, 142, 143, 12, 999] {
        let tensors = [info("empty", &[256, 0], id, 0), info("b", &[8], 0, 0)];
        let file = with_data(&tensors, 32);
        let gguf = Gguf::parse(&file).unwrap();
        assert!(gguf.tensor("empty").unwrap().data().is_empty());
        assert_eq!(gguf.tensor("b").unwrap().to_f32().unwrap().len(), 8);
    }
}

#[test]
fn names_that_ggml_would_cut_are_refused() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let mut writer = GgufWriter::new();
    writer
        .tensor(&"x".repeat(63), &[8], TensorType::F32)
        .unwrap();
    for name in ["x".repeat(64), "\u{fc}".repeat(32), "a\0b".to_owned()] {
        let error = writer.tensor(&name, &[8], TensorType::F32).unwrap_err();
        assert!(matches!(error, FormatError::Name { .. }), "{error}");
    }
}

/// A header of a real size: 150,000 tokens and their scores.
#[test]
fn large_headers() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let tokens: Vec<String> = (0..150_000).map(|i| format!("token {i}")).collect();
    let mut writer = GgufWriter::new();
    let values = tokens.iter().map(|t| Value::from(t.as_str()));
    let array = writer.metadata_array("tokenizer.ggml.tokens", ValueType::String, values);
    array.unwrap();
    let scores = (0..150_000).map(|i| Value::F32(-(i as f32)));
    let array = writer.metadata_array("tokenizer.ggml.scores", ValueType::F32, scores);
    array.unwrap();
    let file = writer.start(Vec::new()).unwrap().finish().unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let Some(Value::Array(read)) = gguf.value("tokenizer.ggml.tokens") else {
        panic!("no tokens");
    };
    assert_eq!(read.len(), 150_000);
    assert!(read.iter().zip(&tokens).all(|(a, b)| a.as_str() == Some(b)));
}
