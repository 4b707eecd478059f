//! GGUF files of any bytes: an error, or metadata and tensors that lie inside
//! the file, agree with each other and survive being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tritgemm_formats::FormatError;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{
    Array, Gguf, GgufWriter, Tensor, Value, ValueType, check_tensor_name,
};

/// Largest alignment with which files are written again.
const MAX_ALIGNMENT: u32 = 1 << 12;

fuzz_target!(|file: &[u8]| {
    let Ok(gguf) = Gguf::parse(file) else {
        return;
    };
    assert!(matches!(gguf.version(), 2 | 3));
    assert!(gguf.alignment().is_power_of_two());
    for (key, value) in gguf.metadata() {
        let found = gguf.value(key).expect("the key of a value");
        assert_eq!(text(&found), text(&value), "two values of {key}");
        metadata(&value, file.len());
    }
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for tensor in gguf.tensors() {
        let start = tensor.offset() as usize;
        let data = &file[start.min(file.len())..][..tensor.data().len()];
        assert_eq!(data, tensor.data(), "{}", tensor.name());
        assert!(data.is_empty() || data.as_ptr() == tensor.data().as_ptr());
        assert_eq!(gguf.tensor(tensor.name()).expect("its name"), tensor);
        if !data.is_empty() {
            ranges.push((tensor.offset(), tensor.offset() + data.len() as u64));
        }
        floats(tensor);
        ternary(tensor);
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    let short = |t: &Tensor<'_>| check_tensor_name(t.name()).is_ok();
    if gguf.alignment() <= MAX_ALIGNMENT && gguf.tensors().all(short) {
        again(&gguf);
    }
});

/// What tells values apart, NaNs included.
fn text(value: &Value<'_>) -> String {
    format!("{:?} {value:?}", value.value_type())
}

fn metadata(value: &Value<'_>, len: usize) {
    // The longest number is the smallest f64.
    assert!(value.to_string().len() <= 3 * len + 1100);
    match value {
        Value::Array(array) => elements(array, len),
        Value::String(bytes) => {
            let utf8 = std::str::from_utf8(bytes).ok();
            assert_eq!(value.as_str(), utf8);
        }
        _ => assert_eq!(value.as_str(), None),
    }
    let integer = matches!(
        value.value_type(),
        ValueType::U8 | ValueType::U16 | ValueType::U32 | ValueType::U64
    );
    assert!(!integer || value.as_u64().map(|v| v.to_string()) == Some(value.to_string()));
}

fn elements(array: &Array<'_>, len: usize) {
    assert!(array.len() <= len);
    assert_eq!(array.is_empty(), array.len() == 0);
    let mut count = 0;
    for element in array.iter() {
        assert_eq!(element.value_type(), array.element_type());
        if let Value::Array(inner) = element {
            elements(&inner, len);
        }
        count += 1;
    }
    assert_eq!(count, array.len(), "elements that were parsed are gone");
}

fn floats(tensor: &Tensor<'_>) {
    let valued = ["F32", "F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"];
    let valued = valued.contains(&tensor.tensor_type().name());
    match tensor.to_f32() {
        Ok(values) => {
            assert!(valued);
            assert_eq!(values.len(), tensor.rows() * tensor.cols());
        }
        Err(FormatError::Type { .. }) => assert!(!valued),
        Err(error) => panic!("{error}"),
    }
}

/// The experts are the rows of the stack, errors included.
fn ternary(tensor: &Tensor<'_>) {
    let Some(ty) = tensor.tensor_type().ternary() else {
        assert!(tensor.ternary().is_err() && tensor.experts().is_err());
        return;
    };
    match (tensor.ternary(), tensor.experts()) {
        (Ok(stack), Ok(experts)) => {
            assert_eq!((stack.rows(), stack.cols()), (tensor.rows(), tensor.cols()));
            assert!(stack.scales().values().iter().all(|s| s.is_finite()));
            let trits: Vec<i8> = experts
                .iter()
                .flat_map(|e| e.to_trits().expect("memory"))
                .collect();
            assert_eq!(trits, stack.to_trits().expect("memory"));
            let rows: usize = experts.iter().map(|e| e.rows()).sum();
            assert_eq!(rows, stack.rows());
            let count: u64 = tensor.shape().iter().skip(2).product();
            assert_eq!(experts.len() as u64, count);
            let scales = |m: &tritgemm::TernaryMatrix| m.scales().values().to_vec();
            let apart: Vec<f32> = experts.iter().flat_map(scales).collect();
            match ty {
                TernaryType::I2S => assert!(apart.iter().all(|&s| scales(&stack) == [s])),
                _ => assert_eq!(apart, scales(&stack)),
            }
        }
        (Err(_), Err(_)) => {}
        (Ok(_), Err(FormatError::Block { .. })) if ty == TernaryType::I2S => {}
        (stack, experts) => panic!("{stack:?}, but experts are {experts:?}"),
    }
}

/// What was read and written is what is read.
fn again(gguf: &Gguf<'_>) {
    let mut writer = GgufWriter::new();
    for (key, value) in gguf.metadata() {
        writer.metadata(key, value).expect("as it was read");
    }
    for tensor in gguf.tensors() {
        writer.tensor_like(tensor).expect("as it was read");
    }
    let mut tensors = writer.start(Vec::new()).expect("to memory");
    for tensor in gguf.tensors() {
        assert_eq!(tensors.next_name(), Some(tensor.name()));
        tensors.write(tensor.data()).expect("as announced");
    }
    let file = tensors.finish().expect("all of them");
    let read = match Gguf::parse(&file) {
        Ok(read) => read,
        Err(error) => panic!("what was written: {error}"),
    };
    assert_eq!(read.version(), 3);
    assert_eq!(read.alignment(), gguf.alignment());
    let all = |gguf: &Gguf<'_>| -> Vec<String> {
        let line = |(key, value): (&str, Value<'_>)| format!("{key} {}", text(&value));
        gguf.metadata().map(line).collect()
    };
    assert_eq!(all(&read), all(gguf));
    assert_eq!(read.tensors().len(), gguf.tensors().len());
    for (new, old) in read.tensors().zip(gguf.tensors()) {
        assert_eq!((new.name(), new.shape()), (old.name(), old.shape()));
        assert_eq!(new.tensor_type(), old.tensor_type());
        // Tensors of an unknown type reach up to the next one.
        assert!(new.data().starts_with(old.data()));
        let known = old.tensor_type().is_sized();
        assert!(!known || new.data().len() == old.data().len());
    }
}
