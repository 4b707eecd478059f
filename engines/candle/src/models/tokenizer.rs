//! Text to tokens and back, and the template of a chat.

use super::config_gguf::Metadata;
use super::error::{ModelError, Result};
use super::{chat, config_json, folder_of, tokenizer_gguf};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A message of a chat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Whose it is: `system`, `user` or `assistant`.
    pub role: String,
    /// What it says.
    pub content: String,
}

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pub(super) template: Option<String>,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
}

/// A token that a `tokenizer_config.json` names, or says more of.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Token { content: String },
}

impl Named {
    fn text(self) -> String {
        match self {
            Named::Text(text) | Named::Token { content: text } => text,
        }
    }
}

/// One template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Many(Vec<Template>),
}

#[derive(Deserialize)]
struct Template {
    name: String,
    template: String,
}

#[derive(Deserialize, Default)]
struct Settings {
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    chat_template: Option<Templates>,
}

impl Tokenizer {
    /// Reads the `tokenizer.json` in the folder of the model at `path`, or beside it; else the
    /// tokenizer of a GGUF file. The template is that of `chat_template.jinja`, of
    /// `tokenizer_config.json` or of the GGUF file.
    ///
    /// # Errors
    /// If there is none, or it is one that is not read here.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let folder = folder_of(path);
        let json = folder.join("tokenizer.json");
        let own = json.is_file().then(|| Self::from_json(&json)).transpose()?;
        let own = match own {
            Some(own) if own.has_chat_template() => return Ok(own),
            own => own,
        };
        let model = tritgemm_formats::open(path)?;
        let metadata = Metadata::new(model.gguf_metadata());
        let template = metadata.text("tokenizer.chat_template").map(str::to_owned);
        if let Some(own) = own {
            return Ok(Self { template, ..own });
        }
        if model.gguf_metadata().is_empty() {
            let what = format!("there is no `{}`", json.display());
            return Err(ModelError::Tokenizer(what));
        }
        let gguf = tokenizer_gguf::read(&metadata)?;
        Ok(Self {
            inner: gguf.tokenizer,
            template,
            bos: gguf.bos,
            eos: gguf.eos,
        })
    }

    /// Reads a `tokenizer.json`, and the template that lies beside it.
    ///
    /// # Errors
    /// If it cannot be read, or what lies beside it.
    pub fn from_json(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let inner = tokenizers::Tokenizer::from_file(path)
            .map_err(|e| ModelError::Tokenizer(format!("`{}`: {e}", path.display())))?;
        let beside = |name: &str| Some(path.with_file_name(name)).filter(|path| path.is_file());
        let settings: Settings = match beside("tokenizer_config.json") {
            Some(path) => config_json::parse(&path)?,
            None => Settings::default(),
        };
        let template = match beside("chat_template.jinja") {
            Some(path) => Some(
                std::fs::read_to_string(&path)
                    .map_err(|source| ModelError::File { path, source })?,
            ),
            None => match settings.chat_template {
                None => None,
                Some(Templates::One(template)) => Some(template),
                Some(Templates::Many(all)) => {
                    let default = all.into_iter().find(|t| t.name == "default");
                    default.map(|t| t.template)
                }
            },
        };
        Ok(Self {
            inner,
            template,
            bos: settings.bos_token.map(Named::text),
            eos: settings.eos_token.map(Named::text),
        })
    }

    /// The tokens of a text, with those that the model wants before it.
    ///
    /// # Errors
    /// If the tokenizer cannot.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_as(text, true)
    }

    /// The tokens of a chat that the model is to answer.
    ///
    /// # Errors
    /// If there is no template, or it refuses the messages.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        // The template has the tokens before a text.
        self.encode_as(&self.render_chat(messages)?, false)
    }

    /// The text of a chat that the model is to answer.
    ///
    /// # Errors
    /// As [`encode_chat`](Self::encode_chat).
    pub fn render_chat(&self, messages: &[Message]) -> Result<String> {
        let Some(template) = &self.template else {
            let what = "the model has no chat template";
            return Err(ModelError::Tokenizer(what.into()));
        };
        chat::render(template, messages, self.bos.as_deref(), self.eos.as_deref())
    }

    /// Whether there is a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    /// If the tokenizer cannot.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner.decode(tokens, true).map_err(wrong)
    }

    /// Takes tokens one by one, and gives their text as soon as it is whole characters.
    pub fn stream(&self) -> impl FnMut(u32) -> Result<String> + '_ {
        let mut stream = self.inner.decode_stream(true);
        move |token| Ok(stream.step(token).map_err(wrong)?.unwrap_or_default())
    }

    fn encode_as(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, special).map_err(wrong)?;
        Ok(encoding.get_ids().to_vec())
    }
}

fn wrong(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}
