//! The tokenizer of GGUF metadata.
//!
//! | `tokenizer.ggml.model` | `tokenizer.ggml.pre` | what it is |
//! |---|---|---|
//! | `gpt2` | those of [`PRE`] | byte-level BPE, made by candle |
//! | `llama` | | SentencePiece BPE: pairs are merged by their scores |

use super::config_gguf::Metadata;
use super::error::{ModelError, Result};
use candle_core::quantized::gguf_file::{Content, Value as CandleValue, VersionedMagic};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use std::collections::HashMap;
use tokenizers::decoders::{
    byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence, strip::Strip,
};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalisers};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};
use tritgemm_formats::gguf::Value;

const PREFIX: &str = "tokenizer.ggml.";

/// Ways to cut a text into words, by llama.cpp's names, and those that candle knows them by.
const PRE: [(&str, &str); 14] = [
    ("llama-bpe", "llama3"),
    ("llama-v3", "llama3"),
    ("llama3", "llama3"),
    ("falcon3", "llama3"),
    ("falcon-h1", "llama3"),
    ("smaug-bpe", "llama3"),
    ("qwen2", "qwen2"),
    ("deepseek-r1-qwen", "qwen2"),
    ("gpt-2", "gpt2"),
    ("gpt2", "gpt2"),
    ("gpt-neox", "gpt2"),
    ("olmo", "gpt2"),
    ("dbrx", "gpt2"),
    ("default", "gpt2"),
];

/// The kinds of tokens that `token_type` has.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

pub(super) struct GgufTokenizer {
    pub(super) tokenizer: Tokenizer,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
}

pub(super) fn read(metadata: &Metadata<'_>) -> Result<GgufTokenizer> {
    let key = |key: &str| format!("{PREFIX}{key}");
    let model = metadata.need(&key("model"), "gpt2 or llama", |v| v.as_str())?;
    let tokens = metadata.texts(&key("tokens"));
    let tokens = tokens.ok_or_else(|| wrong(format!("there is no array `{PREFIX}tokens`")))?;
    let text = |name: &str| -> Result<Option<String>> {
        let id = metadata.token(&key(name))?;
        let text = id.and_then(|id| tokens.get(id as usize));
        Ok(text.map(|text| (*text).to_owned()))
    };
    let mut tokenizer = match model {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => sentence_piece(metadata, &tokens)?,
        other => {
            return Err(wrong(format!(
                "`{PREFIX}model` is `{other}`, expected gpt2 or llama"
            )));
        }
    };
    add_tokens(&mut tokenizer, metadata, &tokens)?;
    Ok(GgufTokenizer {
        tokenizer,
        bos: text("bos_token_id")?,
        eos: text("eos_token_id")?,
    })
}

fn wrong(what: impl Into<String>) -> ModelError {
    ModelError::Tokenizer(what.into())
}

fn failed(error: tokenizers::Error) -> ModelError {
    wrong(error.to_string())
}

/// candle makes it of the metadata alone: it could not read the tensors.
fn byte_level(metadata: &Metadata<'_>, tokens: &[&str]) -> Result<Tokenizer> {
    let pre = match metadata.text(&format!("{PREFIX}pre")) {
        Some(pre) => pre,
        // BitNet's own file does not say that its words are Llama 3's.
        None if tokens.contains(&"<|begin_of_text|>") => "llama3",
        None => "default",
    };
    let known = PRE.iter().find(|(name, _)| *name == pre);
    let Some((_, pre)) = known else {
        let known: Vec<&str> = PRE.iter().map(|(name, _)| *name).collect();
        let known = known.join(", ");
        return Err(wrong(format!(
            "`{PREFIX}pre` is `{pre}`, expected one of {known}, or a tokenizer.json beside the file"
        )));
    };
    let kept = [
        "merges",
        "bos_token_id",
        "eos_token_id",
        "add_bos_token",
        "add_eos_token",
    ];
    let mut all: HashMap<String, CandleValue> = HashMap::new();
    for key in kept.map(|key| format!("{PREFIX}{key}")) {
        if let Some(value) = metadata.get(&key) {
            all.insert(key, to_candle(value)?);
        }
    }
    let text = |text: &str| CandleValue::String(text.to_owned());
    let mut insert = |key: &str, value| all.insert(format!("{PREFIX}{key}"), value);
    insert("model", text("gpt2"));
    insert("pre", text(pre));
    insert(
        "tokens",
        CandleValue::Array(tokens.iter().map(|t| text(t)).collect()),
    );
    if *pre == "llama3" {
        // A word that is a token is taken whole, and texts have a token before them.
        insert("ignore_merges", CandleValue::Bool(true));
    }
    let content = Content {
        magic: VersionedMagic::GgufV3,
        metadata: all,
        tensor_infos: HashMap::new(),
        tensor_data_offset: 0,
    };
    Ok(Tokenizer::from_gguf(&content)?)
}

fn to_candle(value: Value<'_>) -> Result<CandleValue> {
    Ok(match value {
        Value::Bool(value) => CandleValue::Bool(value),
        Value::Array(array) => {
            let items = array.iter().map(to_candle).collect::<Result<_>>()?;
            CandleValue::Array(items)
        }
        value => match (value.as_str(), value.as_u64()) {
            (Some(text), _) => CandleValue::String(text.to_owned()),
            (None, Some(number)) => CandleValue::U64(number),
            (None, None) => {
                return Err(wrong(format!(
                    "metadata has `{value}`, expected a text or a number"
                )));
            }
        },
    })
}

/// SentencePiece's BPE: of all neighbours that are a token together, those of the highest
/// score are merged first.
fn sentence_piece(metadata: &Metadata<'_>, tokens: &[&str]) -> Result<Tokenizer> {
    let scores = match metadata.get(&format!("{PREFIX}scores")) {
        Some(Value::Array(scores)) if scores.len() == tokens.len() => scores,
        _ => return Err(wrong(format!("`{PREFIX}scores` are not a number a token"))),
    };
    let scores: Vec<f32> = (scores.iter())
        .map(|score| {
            if let Value::F32(score) = score {
                score
            } else {
                f32::MIN
            }
        })
        .collect();
    let ids: HashMap<&str, u32> = tokens.iter().zip(0..).map(|(t, i)| (*t, i)).collect();
    let mut merges: Vec<(u32, u32, u32)> = Vec::new();
    for (token, id) in tokens.iter().zip(0..) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                merges.push((left, right, id));
            }
        }
    }
    let score = |id: u32| scores[id as usize];
    merges.sort_by(|a, b| score(b.2).total_cmp(&score(a.2)).then(a.cmp(b)));
    let text = |id: u32| tokens[id as usize].to_owned();
    let merges = merges
        .iter()
        .map(|&(left, right, _)| (text(left), text(right)))
        .collect();
    let vocabulary: Vocab = tokens
        .iter()
        .zip(0..)
        .map(|(t, i)| ((*t).to_owned(), i))
        .collect();
    let unknown = metadata
        .token(&format!("{PREFIX}unknown_token_id"))?
        .unwrap_or(0);
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .byte_fallback(true)
        .fuse_unk(true)
        .unk_token(
            tokens
                .get(unknown as usize)
                .map_or_else(String::new, |t| (*t).to_owned()),
        )
        .build()
        .map_err(failed)?;
    let mut tokenizer = Tokenizer::new(bpe);
    let yes = |key: &str, otherwise| match metadata.get(&format!("{PREFIX}{key}")) {
        Some(Value::Bool(yes)) => yes,
        _ => otherwise,
    };
    let spaces = Replace::new(" ", "\u{2581}").map_err(failed)?;
    let mut normalisers = vec![spaces.into()];
    let prefixed = yes("add_space_prefix", true);
    if prefixed {
        normalisers.insert(0, Prepend::new("\u{2581}".to_owned()).into());
    }
    let normalised = tokenizer.with_normalizer(Some(Normalisers::new(normalisers)));
    normalised.map_err(failed)?;
    let back = Replace::new("\u{2581}", " ").map_err(failed)?;
    let mut decoders = vec![back.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefixed {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Sequence::new(decoders)));
    let bos = metadata.token(&format!("{PREFIX}bos_token_id"))?;
    if let Some((id, bos)) = bos.and_then(|id| Some((id, *tokens.get(id as usize)?)))
        && yes("add_bos_token", true)
    {
        let before = TemplateProcessing::builder()
            .try_single(format!("{bos} $A"))
            .map_err(|e| wrong(e.to_string()))?
            .special_tokens(vec![(bos.to_owned(), id)])
            .build();
        tokenizer.with_post_processor(Some(before.map_err(|e| wrong(e.to_string()))?));
    }
    Ok(tokenizer)
}

/// Tokens that are found in a text as they are: control tokens, which are no text, and those
/// that the model's makers added.
fn add_tokens(tokenizer: &mut Tokenizer, metadata: &Metadata<'_>, tokens: &[&str]) -> Result<()> {
    let Some(Value::Array(kinds)) = metadata.get(&format!("{PREFIX}token_type")) else {
        return Ok(());
    };
    let (mut special, mut added) = (Vec::new(), Vec::new());
    for (kind, token) in kinds.iter().zip(tokens) {
        match kind.as_u64() {
            Some(CONTROL) => special.push(AddedToken::from(*token, true)),
            Some(USER_DEFINED) => added.push(AddedToken::from(*token, false).normalized(false)),
            _ => {}
        }
    }
    tokenizer.add_special_tokens(special).map_err(failed)?;
    tokenizer.add_tokens(added).map_err(failed)?;
    Ok(())
}
