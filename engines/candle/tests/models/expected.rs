//! What transformers made of the checkpoints.

use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

pub fn vectors(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    tests.join("vectors").join(name)
}

pub struct Expected {
    pub tokens: Vec<u32>,
    pub logits: Tensor,
    pub greedy: Vec<u32>,
    /// `text`, `chat`, `chat_tokens` and `messages`.
    pub texts: HashMap<String, String>,
}

impl Expected {
    pub fn read(name: &str) -> Result<Self> {
        let file = std::fs::read(vectors(name).with_extension("safetensors"))?;
        let tensors = candle_core::safetensors::load_buffer(&file, &Device::Cpu)?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&file)?;
        let tokens = |name: &str| -> Result<Vec<u32>> {
            let tokens = tensors[name].to_vec1::<i64>()?.into_iter();
            Ok(tokens
                .map(u32::try_from)
                .collect::<std::result::Result<_, _>>()?)
        };
        Ok(Self {
            tokens: tokens("tokens")?,
            logits: tensors["logits"].clone(),
            greedy: tokens("greedy")?,
            texts: header.metadata().clone().unwrap_or_default(),
        })
    }
}
