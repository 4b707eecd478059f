//! Whole models: published ternary checkpoints, loaded as they are, that generate text.
//!
//! | to | use |
//! |---|---|
//! | load a checkpoint | [`Model::open`] |
//! | compute logits, with keys and values kept | [`Model::session`], [`Session`] |
//! | turn text and chats into tokens, and back | [`Tokenizer`] |
//! | choose tokens and write | [`Sampler`], [`Session::generate`] |
//! | make a model of published shapes, without the model | [`Preset::write`] |
//! | see where a token's time goes | [`Session::profile`] |
//!
//! ```no_run
//! use tritgemm_candle::models::{Model, ModelOptions, Sampler, Sampling, Tokenizer};
//!
//! let path = "model.gguf";
//! let (model, tokenizer) = (Model::open(path, ModelOptions::default())?, Tokenizer::open(path)?);
//! let prompt = tokenizer.encode("Once upon a time")?;
//! let (mut session, mut sampler) = (model.session(512), Sampler::new(Sampling::GREEDY)?);
//! let ends = &model.config().eos_tokens;
//! let made = session.generate(&prompt, 100, &mut sampler, ends, |_| Ok(()))?;
//! println!("{}", tokenizer.decode(&made.tokens)?);
//! # Ok::<(), tritgemm_candle::models::ModelError>(())
//! ```
//!
//! | architecture | models | read from |
//! |---|---|---|
//! | BitNet b1.58 | BitNet b1.58 2B4T | packed safetensors, GGUF (I2_S, TQ1_0, TQ2_0) |
//! | Llama | Falcon3-1.58bit, Falcon-E, TriLM | packed safetensors, GGUF (TQ1_0, TQ2_0, I2_S) |
//! | Qwen3 | Ternary-Bonsai | GGUF (Q2_0, PQ2_0) |
//!
//! Any ternary type that [`tritgemm_formats`] reads will do for any of them. The layers are
//! [`BitLinear`](crate::BitLinear)s, attention is candle's products and softmax, and the head
//! is streamed from memory: see [`HeadPrecision`]. All of it runs on rayon's global pool, or
//! the pool that the caller is in.

mod attention;
mod block;
mod chat;
mod config;
mod config_gguf;
mod config_json;
mod decoder;
mod dense;
mod error;
mod gate;
mod generation;
mod norm;
mod profile;
mod random;
mod rope;
mod sampling;
mod streaming;
mod sums;
mod table;
mod tokenizer;
mod tokenizer_gguf;
mod weights;

pub use config::{Architecture, Config, GateActivation, RopeConfig, RopeScaling};
pub use decoder::{Model, ModelOptions, Session};
pub use error::ModelError;
pub use generation::Generation;
pub use profile::{Profile, Stage};
pub use random::Preset;
pub use sampling::{Sampler, Sampling};
pub use table::HeadPrecision;
pub use tokenizer::{Message, Tokenizer};

use std::path::Path;

/// The folder that a model lies in.
fn folder_of(path: &Path) -> &Path {
    match path.is_dir() {
        true => path,
        false => path.parent().unwrap_or(path),
    }
}
