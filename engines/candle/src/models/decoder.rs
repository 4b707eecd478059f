//! A whole model, and texts that it is at.

use super::block::Block;
use super::config::{Config, RopeScaling};
use super::error::{ModelError, Result, config, tensor};
use super::norm::Norm;
use super::profile::{Profile, Stage};
use super::rope::Rope;
use super::table::{HeadPrecision, Table};
use super::weights::{Naming, Weights};
use super::{config_gguf, config_json};
use crate::ActivationMode;
use candle_core::Tensor;
use candle_nn::kv_cache::KvCache;
use rayon::prelude::*;
use std::path::Path;
use tritgemm_formats::OpenOptions;

/// Tokens that go through the layers at a time: scores of a longer prompt would not fit the
/// cache.
const CHUNK: usize = 256;

/// How a model is loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ModelOptions {
    /// What activations of ternary layers are multiplied as.
    pub activations: ActivationMode,
    /// How the head is kept.
    pub head: HeadPrecision,
    /// What the files do not say of themselves.
    pub files: OpenOptions,
}

/// A ternary decoder: a language model whose projections are ternary.
#[derive(Debug)]
pub struct Model {
    config: Config,
    embedding: Table,
    /// None if the embedding is the head, too.
    head: Option<Table>,
    blocks: Vec<Block>,
    norm: Norm,
    rope: Rope,
}

impl Model {
    /// Opens a published checkpoint: a folder with a `config.json`, a GGUF file, or a folder
    /// that [`Preset::write`](super::Preset::write) made.
    ///
    /// ```no_run
    /// use tritgemm_candle::models::{Model, ModelOptions};
    ///
    /// let model = Model::open("bitnet-b1.58-2B-4T", ModelOptions::default())?;
    /// let mut session = model.session(64);
    /// let logits = session.forward(&[128_000, 791])?;
    /// assert_eq!(logits.dims(), [model.vocabulary()]);
    /// # Ok::<(), tritgemm_candle::models::ModelError>(())
    /// ```
    ///
    /// # Errors
    /// If a file is missing or damaged, the architecture or a setting of it is not run here,
    /// a tensor has another shape than the configuration says, or a projection is not ternary.
    pub fn open(path: impl AsRef<Path>, options: ModelOptions) -> Result<Self> {
        let path = path.as_ref();
        let mut weights = Weights::open(path, &options.files)?;
        let config = match weights.naming() {
            Naming::Gguf => gguf_config(&weights)?,
            Naming::HuggingFace => config_json::read(super::folder_of(path))?,
        };
        weights.quantise_online(config.quantise_online);
        let hidden = config.hidden_size;
        let mode = options.activations;
        let embedding = weights
            .table("model.embed_tokens", hidden)?
            .with_activations(mode);
        let [vocabulary, _] = embedding.shape();
        let head_name = weights.name(None, "lm_head");
        let tied = config.tied_head.unwrap_or(!weights.has(&head_name));
        let head = match tied {
            true => embedding.at_precision(options.head, &head_name)?,
            false => {
                let stored = weights.table("lm_head", hidden)?.with_activations(mode);
                if stored.shape()[0] != vocabulary {
                    let what = format!("has {} rows, expected {vocabulary}", stored.shape()[0]);
                    return Err(tensor(head_name, what));
                }
                Some(
                    stored
                        .at_precision(options.head, &head_name)?
                        .unwrap_or(stored),
                )
            }
        };
        let layers = (0..config.layers).into_par_iter();
        let blocks = layers.map(|layer| Block::load(&weights, &config, mode, layer));
        Ok(Self {
            blocks: blocks.collect::<Result<_>>()?,
            norm: weights.norm(None, "model.norm", hidden, config.rms_norm_eps)?,
            rope: Rope::new(&config),
            config,
            embedding,
            head,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tokens that it knows.
    pub fn vocabulary(&self) -> usize {
        self.embedding.shape()[0]
    }

    /// The type of the values of the head.
    pub fn head_type(&self) -> &'static str {
        self.head().type_name()
    }

    /// Bytes of weights that one token reads in a stage.
    pub fn bytes(&self, stage: Stage) -> usize {
        match stage {
            Stage::Head => self.head().bytes(),
            stage => self.blocks.iter().map(|block| block.bytes(stage)).sum(),
        }
    }

    /// A text of at most `room` tokens. Its keys and values take memory as they come.
    pub fn session(&self, room: usize) -> Session<'_> {
        let cache = || KvCache::new(1, room.max(1));
        Session {
            model: self,
            caches: self.blocks.iter().map(|_| cache()).collect(),
            position: 0,
            room,
            profile: Profile::default(),
        }
    }

    fn head(&self) -> &Table {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// The configuration of GGUF metadata, and of the tensor that may have rope's factors.
fn gguf_config(weights: &Weights) -> Result<Config> {
    let mut all = config_gguf::read(weights.first().gguf_metadata())?;
    let factors = weights.name(None, "rope_freqs");
    if weights.has(&factors) {
        if all.rope.scaling != RopeScaling::None {
            return Err(config(
                "rope.scaling.type",
                format!("is set, and so is `{factors}`"),
            ));
        }
        let factors = weights.vector(&factors, all.head_dim / 2)?;
        all.rope.scaling = RopeScaling::Factors(factors);
    }
    Ok(all)
}

/// A text that a model is at, with its keys and values.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model,
    caches: Vec<KvCache>,
    position: usize,
    room: usize,
    profile: Profile,
}

impl Session<'_> {
    /// Tokens so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Tokens that there is room for.
    pub fn room(&self) -> usize {
        self.room - self.position
    }

    /// Where the time went.
    pub fn profile(&mut self) -> &mut Profile {
        &mut self.profile
    }

    /// Goes on with `tokens`: the logits `[vocabulary]`, f32, of what follows the last one.
    ///
    /// # Errors
    /// If there are no tokens or more than there is room for, or one that the model does not
    /// know. The session is where it was then; after an error of a product it is not.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Tensor> {
        in_pool(|| {
            let last = self.layers(tokens)?.pop();
            let last = last.ok_or_else(|| self.no_room(0))?;
            let last = last.narrow(0, last.dim(0)? - 1, 1)?;
            Ok(self.logits(&last)?.squeeze(0)?)
        })
    }

    /// [`forward`](Self::forward) with the logits of all tokens, `[tokens, vocabulary]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_all(&mut self, tokens: &[u32]) -> Result<Tensor> {
        in_pool(|| {
            let hidden = self.layers(tokens)?;
            self.logits(&Tensor::cat(&hidden, 0)?)
        })
    }

    fn no_room(&self, tokens: usize) -> ModelError {
        ModelError::Tokens {
            tokens,
            room: self.room(),
        }
    }

    /// The tokens after all layers, in chunks.
    fn layers(&mut self, tokens: &[u32]) -> Result<Vec<Tensor>> {
        if tokens.is_empty() || tokens.len() > self.room() {
            return Err(self.no_room(tokens.len()));
        }
        let vocabulary = self.model.vocabulary();
        let unknown = tokens.iter().find(|&&token| token as usize >= vocabulary);
        if let Some(&token) = unknown {
            return Err(ModelError::Token { token, vocabulary });
        }
        tokens
            .chunks(CHUNK)
            .map(|chunk| self.chunk(chunk))
            .collect()
    }

    fn chunk(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let (model, profile) = (self.model, &mut self.profile);
        let mut x = profile.time(Stage::Embedding, || model.embedding.look_up(tokens))?;
        let turns = model.rope.turns(self.position, tokens.len())?;
        for (block, cache) in model.blocks.iter().zip(&mut self.caches) {
            x = block.forward(&x, &turns, cache, profile)?;
        }
        self.position += tokens.len();
        Ok(x)
    }

    fn logits(&mut self, x: &Tensor) -> Result<Tensor> {
        let (model, profile) = (self.model, &mut self.profile);
        let x = profile.time(Stage::Norms, || model.norm.forward(x))?;
        profile.time(Stage::Head, || model.head().logits(&x))
    }
}

/// Does `work` in the rayon pool that the caller is in, else in the global one: entering it
/// once a token takes less time than once an operation.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
