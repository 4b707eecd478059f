//! The same checkpoints through GGUF: the same tokens.

use crate::convert::{convert, write};
use crate::expected::{Expected, Result, vectors};
use crate::{check_at, greedy, options, text};
use tritgemm::{GroupSize, Scales, TernaryMatrix};
use tritgemm_candle::ActivationMode;
use tritgemm_candle::models::{Architecture, GateActivation, Model, RopeScaling, Tokenizer};
use tritgemm_formats::ScaleRounding;
use tritgemm_formats::ggml::{I2sLayout, TernaryType};
use tritgemm_formats::gguf::{Gguf, GgufWriter, TensorType, Value, ValueType};

#[test]
fn bitnet_through_i2s_and_tq2_0() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    for (ty, table) in [
        (TernaryType::I2S, TensorType::F16),
        (TernaryType::Tq2_0, TensorType::BF16),
    ] {
        convert(&vectors("bitnet"), &path, "bitnet-b1.58", ty, table)?;
        let model = Model::open(&path, options(ActivationMode::Int8))?;
        assert_eq!(model.config().architecture, Architecture::BitNet);
        assert_eq!(model.config().activation, GateActivation::SquaredRelu);
        assert_eq!(model.config().eos_tokens, [127]);
        check_at("bitnet", &path, ActivationMode::Int8)?;
    }
    Ok(())
}

/// llama.cpp's converter may leave a tensor's scale in a tensor of its own.
#[test]
fn scales_apart_are_read() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (path, apart) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    let ty = TernaryType::Tq2_0;
    convert(
        &vectors("bitnet"),
        &path,
        "bitnet-b1.58",
        ty,
        TensorType::BF16,
    )?;
    let from = std::fs::read(&path)?;
    let from = Gguf::parse(&from)?;
    let mut writer = GgufWriter::new();
    for (key, value) in from.metadata() {
        writer.metadata(key, value)?;
    }
    let mut all = Vec::new();
    for tensor in from.tensors() {
        let (name, shape) = (tensor.name().to_owned(), tensor.shape().to_vec());
        if tensor.tensor_type() != ty.into() {
            all.push((name, shape, tensor.tensor_type(), tensor.data().to_vec()));
            continue;
        }
        let matrix = tensor.ternary()?;
        let scale = matrix.scales().values()[0];
        let (rows, cols, one) = (matrix.rows(), matrix.cols(), Scales::per_tensor(1.0));
        let matrix = TernaryMatrix::from_packed(matrix.packed().to_vec(), rows, cols, one)?;
        let bytes = ty.encode(&matrix, ScaleRounding::Exact, &name)?;
        let stem = name.trim_end_matches(".weight").to_owned();
        all.push((name, shape, ty.into(), bytes));
        let bytes = scale.to_le_bytes().to_vec();
        all.push((format!("{stem}.scale"), vec![1], TensorType::F32, bytes));
    }
    write(writer, &all, &apart)?;
    check_at("bitnet", &apart, ActivationMode::Int8)
}

#[test]
fn i2s_in_another_layout_is_read_if_that_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    convert(
        &vectors("bitnet"),
        &path,
        "bitnet-b1.58",
        TernaryType::I2S,
        TensorType::BF16,
    )?;
    let mut other = options(ActivationMode::Int8);
    other.files.i2s_layout = Some(I2sLayout::Arm);
    let expected = Expected::read("bitnet")?;
    let model = Model::open(&path, other)?;
    assert_ne!(greedy(&model, &expected.tokens, 24)?, expected.greedy);
    Ok(())
}

#[test]
fn llama_through_tq1_0_and_tq2_0() -> Result<()> {
    let (folder, expected) = (tempfile::tempdir()?, Expected::read("llama")?);
    let path = folder.path().join("model.gguf");
    for ty in [TernaryType::Tq1_0, TernaryType::Tq2_0] {
        convert(&vectors("llama"), &path, "llama", ty, TensorType::BF16)?;
        let model = Model::open(&path, options(ActivationMode::Int8))?;
        assert!(model.config().rope.interleaved);
        assert!(matches!(
            model.config().rope.scaling,
            RopeScaling::Factors(_)
        ));
        // One over a scale is no f16: logits differ, the tokens do not.
        assert_eq!(greedy(&model, &expected.tokens, 24)?, expected.greedy);
    }
    Ok(())
}

#[test]
fn qwen3_through_pq2_0() -> Result<()> {
    let from = std::fs::read(vectors("qwen3").join("model.gguf"))?;
    let from = Gguf::parse(&from)?;
    let mut writer = GgufWriter::new();
    for (key, value) in from.metadata() {
        writer.metadata(key, value)?;
    }
    let mut all = Vec::new();
    for tensor in from.tensors() {
        let (name, shape) = (tensor.name().to_owned(), tensor.shape().to_vec());
        let (ty, bytes) = match tensor.tensor_type().ternary() {
            Some(TernaryType::Q2_0) => {
                // Scales are the same in pairs of groups of 64.
                let matrix = tensor.ternary()?;
                let scales = matrix
                    .scales()
                    .values()
                    .iter()
                    .step_by(2)
                    .copied()
                    .collect();
                let scales = Scales::per_group(GroupSize::G128, scales);
                let packed = matrix.packed().to_vec();
                let (rows, cols) = (matrix.rows(), matrix.cols());
                let matrix = TernaryMatrix::from_packed(packed, rows, cols, scales)?;
                let ty = TernaryType::Pq2_0;
                (ty.into(), ty.encode(&matrix, ScaleRounding::Exact, &name)?)
            }
            _ => (tensor.tensor_type(), tensor.data().to_vec()),
        };
        all.push((name, shape, ty, bytes));
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    write(writer, &all, &path)?;
    let model = Model::open(&path, options(ActivationMode::F32))?;
    assert_eq!(model.head_type(), "ternary");
    check_at("qwen3", &path, ActivationMode::F32)?;

    // On int8 activations the layers of both files are the same.
    let expected = Expected::read("qwen3")?;
    let both = [vectors("qwen3").join("model.gguf"), path].map(|path| -> Result<Vec<u32>> {
        let model = Model::open(path, options(ActivationMode::Int8))?;
        greedy(&model, &expected.tokens, 24)
    });
    let [a, b] = both;
    assert_eq!(a?, b?);
    Ok(())
}

#[test]
fn tokenizers_come_through() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    convert(
        &vectors("llama"),
        &path,
        "llama",
        TernaryType::Tq2_0,
        TensorType::BF16,
    )?;
    let tokenizer = Tokenizer::open(&path)?;
    let expected = Expected::read("llama")?;
    assert_eq!(tokenizer.encode(&expected.texts["text"])?, expected.tokens);
    assert!(!tokenizer.has_chat_template());
    // A tokenizer.json beside the file, the template in it.
    text::check(
        "qwen3",
        &Tokenizer::open(vectors("qwen3").join("model.gguf"))?,
    )
}

#[test]
fn sentence_piece_merges_by_scores() -> Result<()> {
    let mut tokens: Vec<(String, f32, i32)> = vec![
        ("<unk>".into(), 0.0, 2),
        ("<s>".into(), 0.0, 3),
        ("</s>".into(), 0.0, 3),
    ];
    tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    // "ab" before "bc" before "abc", so that "abc" is a token of "ab" and "c" alone.
    for (score, text) in ["ab", "bc", "abc", "\u{2581}a", "\u{2581}", "a", "b", "c"]
        .iter()
        .enumerate()
    {
        tokens.push(((*text).into(), -(score as f32), 1));
    }
    let mut writer = GgufWriter::new();
    let key = |key: &str| format!("tokenizer.ggml.{key}");
    writer.metadata(&key("model"), Value::from("llama"))?;
    let texts = tokens.iter().map(|(text, ..)| Value::from(text.as_str()));
    writer.metadata_array(&key("tokens"), ValueType::String, texts)?;
    let scores = tokens.iter().map(|&(_, score, _)| Value::F32(score));
    writer.metadata_array(&key("scores"), ValueType::F32, scores)?;
    let kinds = tokens.iter().map(|&(.., kind)| Value::I32(kind));
    writer.metadata_array(&key("token_type"), ValueType::I32, kinds)?;
    writer.metadata(&key("bos_token_id"), Value::U32(1))?;
    writer.metadata(&key("eos_token_id"), Value::U32(2))?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    write(writer, &[], &path)?;
    let tokenizer = Tokenizer::open(&path)?;
    let id = |text: &str| tokens.iter().position(|(t, ..)| t == text).unwrap() as u32;
    let spelt = |texts: &[&str]| -> Vec<u32> { texts.iter().map(|text| id(text)).collect() };
    for (text, expected) in [
        ("abc", &["<s>", "\u{2581}", "abc"][..]),
        ("bcab", &["<s>", "\u{2581}", "bc", "ab"]),
        ("a c", &["<s>", "\u{2581}a", "\u{2581}", "c"]),
        (
            "c\u{e9}</s>",
            &["<s>", "\u{2581}", "c", "<0xC3>", "<0xA9>", "</s>"],
        ),
    ] {
        let tokens = tokenizer.encode(text)?;
        assert_eq!(tokens, spelt(expected), "{text}");
        assert_eq!(tokenizer.decode(&tokens)?, text.trim_end_matches("</s>"));
    }
    Ok(())
}
