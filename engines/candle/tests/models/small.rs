//! The small trained checkpoint, which `../../../python/examples/train_small.py` makes, writes
//! the text that transformers has it write.

use crate::convert::convert;
use crate::expected::Result;
use crate::{greedy, options};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tritgemm_candle::ActivationMode;
use tritgemm_candle::models::{Model, Sampler, Sampling, Tokenizer};
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::TensorType;

#[derive(Deserialize)]
struct Greedy {
    prompt: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
}

fn small() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/small-bitnet")
}

fn expected() -> Result<Greedy> {
    let file = std::fs::read(small().join("greedy.json"))?;
    Ok(serde_json::from_slice(&file)?)
}

#[test]
fn it_writes_what_transformers_writes() -> Result<()> {
    let expected = expected()?;
    let model = Model::open(small(), options(ActivationMode::Int8))?;
    let tokenizer = Tokenizer::open(small())?;
    let prompt = tokenizer.encode(&expected.prompt)?;
    assert_eq!(prompt, expected.prompt_tokens);

    let (mut sampler, mut text) = (Sampler::new(Sampling::GREEDY)?, String::new());
    let mut piece = tokenizer.stream();
    let count = expected.tokens.len();
    let mut session = model.session(prompt.len() + count);
    let ends = &model.config().eos_tokens;
    let made = session.generate(&prompt, count, &mut sampler, ends, |token| {
        text += &piece(token)?;
        Ok(())
    })?;
    assert_eq!(made.tokens, expected.tokens);
    assert_eq!(text, expected.text);
    Ok(())
}

#[test]
fn it_writes_the_same_through_gguf() -> Result<()> {
    let expected = expected()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let (ty, table) = (TernaryType::Tq2_0, TensorType::BF16);
    convert(&small(), &path, "bitnet-b1.58", ty, table)?;
    let model = Model::open(&path, options(ActivationMode::Int8))?;
    let count = expected.tokens.len();
    assert_eq!(
        greedy(&model, &expected.prompt_tokens, count)?,
        expected.tokens
    );
    Ok(())
}
