//! What can go wrong with a model.

use crate::LoadError;
use std::path::PathBuf;
use tritgemm_formats::FormatError;

/// Why a model could not be loaded or run.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no JSON, or not that of a model.
    #[error("`{}`: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The configuration says what is not run here, or lacks something.
    #[error("configuration `{key}` {what}")]
    Config {
        /// The key of `config.json` or of the GGUF metadata.
        key: String,
        /// What is wrong with it, and what was expected.
        what: String,
    },
    /// A tensor does not fit the configuration.
    #[error("tensor `{tensor}` {what}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong with it, and what was expected.
        what: String,
    },
    /// A tokenizer cannot be made, or cannot do its work.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template does not compile or refuses the messages.
    #[error("chat template: {0}")]
    Template(#[from] minijinja::Error),
    /// A session has no room for more tokens, or was given none.
    #[error("{tokens} tokens for a session with room for {room} more, expected 1 to {room}")]
    Tokens {
        /// The tokens.
        tokens: usize,
        /// The room that is left.
        room: usize,
    },
    /// There is no such token.
    #[error("token {token}, expected one below {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens that the model knows.
        vocabulary: usize,
    },
    /// A setting of sampling makes no sense.
    #[error("{name} of {value}, expected {expected}")]
    Sampling {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// The model's files cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A layer cannot be made.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// candle's own error, or that of a product.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

pub(crate) type Result<T, E = ModelError> = std::result::Result<T, E>;

/// An error of a key of the configuration.
pub(crate) fn config(key: impl Into<String>, what: impl Into<String>) -> ModelError {
    ModelError::Config {
        key: key.into(),
        what: what.into(),
    }
}

/// An error of a tensor.
pub(crate) fn tensor(name: impl Into<String>, what: impl Into<String>) -> ModelError {
    ModelError::Tensor {
        tensor: name.into(),
        what: what.into(),
    }
}
