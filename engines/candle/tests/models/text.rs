//! Tokenizers and chat templates against those of transformers.

use crate::expected::{Expected, Result, vectors};
use tritgemm_candle::models::{Message, Tokenizer};

/// Texts and chats become the tokens that transformers makes of them, and text again.
pub fn check(name: &str, tokenizer: &Tokenizer) -> Result<()> {
    let expected = Expected::read(name)?;
    let text = &expected.texts["text"];
    let tokens = tokenizer.encode(text)?;
    assert_eq!(tokens, expected.tokens);
    assert_eq!(tokenizer.decode(&tokens)?, *text);
    let mut piece = tokenizer.stream();
    let pieces = tokens.iter().map(|&token| piece(token));
    let pieces = pieces.collect::<std::result::Result<Vec<_>, _>>()?;
    assert_eq!(pieces.concat(), *text);

    let messages: Vec<Message> = serde_json::from_str(&expected.texts["messages"])?;
    assert_eq!(tokenizer.render_chat(&messages)?, expected.texts["chat"]);
    let chat: Vec<u32> = serde_json::from_str(&expected.texts["chat_tokens"])?;
    assert_eq!(tokenizer.encode_chat(&messages)?, chat);
    Ok(())
}

#[test]
fn a_tokenizer_json_is_that_of_transformers() -> Result<()> {
    check("bitnet", &Tokenizer::open(vectors("bitnet"))?)
}

#[test]
fn the_tokenizer_of_a_gguf_file_is_that_of_transformers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let alone = folder.path().join("model.gguf");
    std::fs::copy(vectors("qwen3").join("model.gguf"), &alone)?;
    check("qwen3", &Tokenizer::open(&alone)?)
}

#[test]
fn models_without_a_tokenizer_say_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::copy(
        vectors("bitnet").join("model.safetensors"),
        folder.path().join("model.safetensors"),
    )?;
    std::fs::copy(
        vectors("bitnet").join("config.json"),
        folder.path().join("config.json"),
    )?;
    let refused = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(
        refused.contains("there is no `") && refused.contains("tokenizer.json"),
        "{refused}"
    );
    Ok(())
}
