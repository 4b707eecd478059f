//! Tiny checkpoints of every architecture against what transformers says of them: see
//! `../vectors/make.py`.

mod convert;
mod expected;
mod gguf;
mod refused;
mod small;
mod text;

use candle_core::{D, Tensor};
use expected::{Expected, Result, vectors};
use std::path::Path;
use tritgemm_candle::ActivationMode;
use tritgemm_candle::models::{HeadPrecision, Model, ModelError, ModelOptions};

fn options(activations: ActivationMode) -> ModelOptions {
    ModelOptions {
        activations,
        ..ModelOptions::default()
    }
}

/// The tokens that are most likely after `tokens`, one after the other.
fn greedy(model: &Model, tokens: &[u32], count: usize) -> Result<Vec<u32>> {
    let mut session = model.session(tokens.len() + count);
    let mut logits = session.forward(tokens)?;
    let mut made = Vec::new();
    for _ in 0..count {
        let token = logits.argmax(D::Minus1)?.to_scalar::<u32>()?;
        made.push(token);
        logits = session.forward(&[token])?;
    }
    Ok(made)
}

/// How far the logits of each token are off, sorted.
fn differences(a: &Tensor, b: &Tensor) -> Result<Vec<f32>> {
    let mut all = (a - b)?
        .abs()?
        .max(D::Minus1)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    all.sort_by(f32::total_cmp);
    Ok(all)
}

/// What summing in another order makes of logits of about 15.
const CLOSE: f32 = 1e-4;
/// What it makes if the rounding of an int8 activation falls the other way for it: a matter of
/// luck, which few tokens have.
const ROUNDED: f32 = 0.3;

#[track_caller]
fn assert_close(name: &str, a: &Tensor, b: &Tensor, mode: ActivationMode) -> Result<()> {
    let all = differences(a, b)?;
    let (median, worst) = (all[all.len() / 2], all[all.len() - 1]);
    assert!(
        median < CLOSE,
        "{name}: half of the tokens are {median} off: {all:?}"
    );
    let bound = if mode == ActivationMode::Int8 {
        ROUNDED
    } else {
        CLOSE
    };
    assert!(worst < bound, "{name}: a token is {worst} off: {all:?}");
    Ok(())
}

/// Logits and greedy tokens are those of transformers; in one prompt or token by token.
#[track_caller]
fn check(name: &str, file: &str, mode: ActivationMode) -> Result<()> {
    check_at(name, &vectors(name).join(file), mode)
}

#[track_caller]
fn check_at(name: &str, path: &Path, mode: ActivationMode) -> Result<()> {
    let expected = Expected::read(name)?;
    let model = Model::open(path, options(mode))?;
    let mut session = model.session(expected.tokens.len());
    let logits = session.forward_all(&expected.tokens)?;
    assert_close(name, &logits, &expected.logits, mode)?;
    assert_eq!(
        greedy(&model, &expected.tokens, expected.greedy.len())?,
        expected.greedy
    );

    let mut session = model.session(expected.tokens.len());
    let one = expected
        .tokens
        .iter()
        .map(|&token| session.forward(&[token]));
    let one = one.collect::<std::result::Result<Vec<_>, _>>()?;
    assert_close(name, &Tensor::stack(&one, 0)?, &expected.logits, mode)
}

#[test]
fn bitnet_is_that_of_transformers() -> Result<()> {
    check("bitnet", "", ActivationMode::Int8)
}

#[test]
fn llama_is_that_of_transformers() -> Result<()> {
    check("llama", "", ActivationMode::Int8)
}

#[test]
fn weights_quantised_online_are_those_of_transformers() -> Result<()> {
    check("online", "", ActivationMode::Int8)
}

#[test]
fn qwen3_is_that_of_transformers() -> Result<()> {
    check("qwen3", "model.gguf", ActivationMode::F32)
}

#[test]
fn heads_of_less_precision_are_near() -> Result<()> {
    let expected = Expected::read("llama")?;
    for (head, bound, name) in [
        (HeadPrecision::Stored, CLOSE, "bf16"),
        (HeadPrecision::Bf16, CLOSE, "bf16"),
        (HeadPrecision::Int8, 0.2, "int8"),
    ] {
        let options = ModelOptions {
            head,
            ..ModelOptions::default()
        };
        let model = Model::open(vectors("llama"), options)?;
        assert_eq!(model.head_type(), name);
        let logits = model.session(64).forward_all(&expected.tokens)?;
        let all = differences(&logits, &expected.logits)?;
        let median = all[all.len() / 2];
        assert!(
            median < bound,
            "{head:?}: half of the tokens are {median} off"
        );
    }
    Ok(())
}

/// A prompt longer than the layers take at a time, in one piece, in two and token by token.
#[test]
fn pieces_of_a_prompt_are_the_prompt() -> Result<()> {
    let model = Model::open(
        vectors("qwen3").join("model.gguf"),
        options(ActivationMode::F32),
    )?;
    let tokens: Vec<u32> = (0..300).map(|i| i * 37 % 128).collect();
    let whole = model.session(300).forward(&tokens)?;
    for piece in [1, 170] {
        let mut session = model.session(300);
        let mut last = None;
        for piece in tokens.chunks(piece) {
            last = Some(session.forward(piece)?);
        }
        let off = differences(&whole.unsqueeze(0)?, &last.unwrap().unsqueeze(0)?)?;
        assert!(off[0] < CLOSE, "pieces of {piece}: {off:?}");
    }
    Ok(())
}

#[test]
fn sessions_refuse_what_they_cannot_hold() -> Result<()> {
    let model = Model::open(vectors("llama"), ModelOptions::default())?;
    let mut session = model.session(4);
    let refused = session.forward(&[1, 2, 3, 4, 5]).unwrap_err();
    assert!(
        matches!(refused, ModelError::Tokens { tokens: 5, room: 4 }),
        "{refused}"
    );
    let refused = session.forward(&[]).unwrap_err();
    assert!(
        matches!(refused, ModelError::Tokens { tokens: 0, room: 4 }),
        "{refused}"
    );
    let refused = session.forward(&[1, 128]).unwrap_err();
    assert!(
        matches!(
            refused,
            ModelError::Token {
                token: 128,
                vocabulary: 128
            }
        ),
        "{refused}"
    );
    assert_eq!(session.position(), 0);
    session.forward(&[1, 2, 3, 4])?;
    let refused = session.forward(&[1]).unwrap_err();
    assert!(
        matches!(refused, ModelError::Tokens { tokens: 1, room: 0 }),
        "{refused}"
    );
    Ok(())
}
