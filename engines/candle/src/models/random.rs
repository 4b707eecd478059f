//! Models of the shapes of published ones, of random weights: what tokens a second, memory and
//! loading are can be measured anywhere, without the models.

use super::dense::Storage;
use super::error::{ModelError, Result, tensor};
use super::weights::{DENSE_FILE, PANEL_FILE};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use tritgemm::{Granularity, GroupSize, Linear, ModelWriter, Scales, TernaryMatrix};

/// A published model whose shapes a random one has.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// BitNet b1.58 2B4T: a scale a tensor, a tied head in bf16.
    Bitnet2b,
    /// Ternary-Bonsai-8B: scales of groups of 128, a ternary embedding and head.
    Bonsai8b,
    /// Falcon-E-3B: a scale a tensor, an embedding and a head in bf16.
    FalconE3b,
}

/// Sizes of a model.
struct Sizes {
    vocabulary: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ternary_tables: bool,
    tied: bool,
    granularity: Granularity,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 3] = [Preset::Bitnet2b, Preset::Bonsai8b, Preset::FalconE3b];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Bitnet2b => "bitnet-2b",
            Preset::Bonsai8b => "bonsai-8b",
            Preset::FalconE3b => "falcon-e-3b",
        }
    }

    fn sizes(self) -> Sizes {
        match self {
            Preset::Bitnet2b => Sizes {
                vocabulary: 128_256,
                hidden: 2560,
                inner: 6912,
                layers: 30,
                heads: 20,
                kv_heads: 5,
                head_dim: 128,
                ternary_tables: false,
                tied: true,
                granularity: Granularity::PerTensor,
            },
            Preset::Bonsai8b => Sizes {
                vocabulary: 151_936,
                hidden: 4096,
                inner: 12_288,
                layers: 36,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                ternary_tables: true,
                tied: false,
                granularity: Granularity::PerGroup(GroupSize::G128),
            },
            Preset::FalconE3b => Sizes {
                vocabulary: 32_768,
                hidden: 2048,
                inner: 13_312,
                layers: 32,
                heads: 16,
                kv_heads: 2,
                head_dim: 128,
                ternary_tables: false,
                tied: false,
                granularity: Granularity::PerTensor,
            },
        }
    }

    fn config(self, sizes: &Sizes) -> Value {
        let (model_type, hidden_act, eps, theta, context) = match self {
            Preset::Bitnet2b => ("bitnet", "relu2", 1e-5, 500_000.0, 4096),
            Preset::Bonsai8b => ("qwen3", "silu", 1e-6, 1_000_000.0, 65_536),
            Preset::FalconE3b => ("llama", "silu", 1e-6, 1_000_042.0, 32_768),
        };
        json!({
            "model_type": model_type,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim,
            "vocab_size": sizes.vocabulary,
            "max_position_embeddings": context,
            "rms_norm_eps": eps,
            "hidden_act": hidden_act,
            "rope_theta": theta,
            "tie_word_embeddings": sizes.tied,
        })
    }

    /// Writes a model of these shapes into `folder`, which is made if it is missing: its
    /// ternary matrices as a panel file, which is mapped as it is when the model is opened, the
    /// rest beside it. The same seed writes the same model. It has no tokenizer.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(self, folder: impl AsRef<Path>, seed: u64) -> Result<()> {
        let sizes = self.sizes();
        write(folder.as_ref(), self, &sizes, seed)
    }
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> ModelError + '_ {
    |source| ModelError::File {
        path: path.into(),
        source,
    }
}

fn write(folder: &Path, preset: Preset, sizes: &Sizes, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    std::fs::create_dir_all(folder).map_err(file_error(folder))?;
    let (q, kv) = (
        sizes.heads * sizes.head_dim,
        sizes.kv_heads * sizes.head_dim,
    );
    let (hidden, inner) = (sizes.hidden, sizes.inner);

    let path = folder.join(PANEL_FILE);
    let file = File::create(&path).map_err(file_error(&path))?;
    let mut panels = ModelWriter::new(BufWriter::new(file)).map_err(file_error(&path))?;
    let mut add = |name: String, shape, random: &mut StdRng| -> Result<()> {
        let linear = matrix(&name, shape, sizes.granularity, random)?;
        panels
            .add(&name, &linear)
            .map_err(|e| tensor(&name, e.to_string()))
    };
    let mut dense: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    let ones = |len: usize| [0x80, 0x3f].repeat(len);
    let mut norm = |name: String, len: usize| dense.push((name, Dtype::BF16, vec![len], ones(len)));
    for layer in 0..sizes.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for (part, shape) in [
            ("self_attn.q_proj", [q, hidden]),
            ("self_attn.k_proj", [kv, hidden]),
            ("self_attn.v_proj", [kv, hidden]),
            ("self_attn.o_proj", [hidden, q]),
            ("mlp.gate_proj", [inner, hidden]),
            ("mlp.up_proj", [inner, hidden]),
            ("mlp.down_proj", [hidden, inner]),
        ] {
            add(name(part), shape, &mut random)?;
        }
        norm(name("input_layernorm"), hidden);
        norm(name("post_attention_layernorm"), hidden);
        if preset == Preset::Bitnet2b {
            norm(name("self_attn.attn_sub_norm"), q);
            norm(name("mlp.ffn_sub_norm"), inner);
        }
        if preset == Preset::Bonsai8b {
            norm(name("self_attn.q_norm"), sizes.head_dim);
            norm(name("self_attn.k_norm"), sizes.head_dim);
        }
    }
    norm("model.norm.weight".into(), hidden);
    let tables = ["model.embed_tokens.weight", "lm_head.weight"];
    let shape = [sizes.vocabulary, hidden];
    for table in &tables[..if sizes.tied { 1 } else { 2 }] {
        match sizes.ternary_tables {
            true => add((*table).into(), shape, &mut random)?,
            false => {
                let values = floats(shape, &mut random);
                dense.push(((*table).into(), Dtype::BF16, shape.to_vec(), values));
            }
        }
    }
    let file = panels.finish().map_err(file_error(&path))?;
    let flushed = file
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error);
    flushed.map_err(file_error(&path))?;

    let path = folder.join(DENSE_FILE);
    let views = dense.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        view.map(|view| (name, view)).map_err(|e| e.to_string())
    });
    let views: Result<Vec<_>, String> = views.collect();
    let written = views.and_then(|views| {
        safetensors::serialize_to_file(views, None, &path).map_err(|e| e.to_string())
    });
    written.map_err(|e| file_error(&path)(std::io::Error::other(e)))?;

    let path = folder.join("config.json");
    std::fs::write(&path, preset.config(sizes).to_string()).map_err(file_error(&path))
}

/// Random trits, each of -1, 0 and 1 as likely, and scales that keep the size of values.
fn matrix(
    name: &str,
    [rows, cols]: [usize; 2],
    granularity: Granularity,
    random: &mut StdRng,
) -> Result<Linear> {
    const TRITS: [u8; 3] = [0b00, 0b01, 0b10];
    let codes: [u8; 81] = std::array::from_fn(|i| {
        let trit = |power: usize| TRITS[i / power % 3];
        trit(1) << 6 | trit(3) << 4 | trit(9) << 2 | trit(27)
    });
    let mut packed = vec![0; rows * cols.div_ceil(4)];
    random.fill_bytes(&mut packed);
    for byte in &mut packed {
        *byte = codes[(usize::from(*byte) * codes.len()) >> 8];
    }
    let mut scale = || {
        let size = (cols as f32 * 2.0 / 3.0).powf(-0.5) * random.random_range(0.5..1.5f32);
        half::f16::from_f32(size).to_f32()
    };
    let scales = match granularity {
        Granularity::PerTensor => Scales::per_tensor(scale()),
        Granularity::PerRow => Scales::per_row((0..rows).map(|_| scale()).collect()),
        Granularity::PerGroup(size) => {
            let count = rows * size.groups(cols);
            Scales::per_group(size, (0..count).map(|_| scale()).collect())
        }
    };
    let matrix = TernaryMatrix::from_packed(packed, rows, cols, scales);
    let linear = matrix.and_then(|matrix| Linear::new(&matrix));
    linear.map_err(|e| tensor(name, e.to_string()))
}

/// Random bf16 values of magnitudes from 1/32 to 1/16.
fn floats([rows, cols]: [usize; 2], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; rows * cols * Storage::Bf16.bytes()];
    random.fill_bytes(&mut bytes);
    for value in bytes.as_chunks_mut::<2>().0 {
        // The sign and the seven bits of the mantissa stay.
        let bits = u16::from_le_bytes(*value) & 0x807f | (127 - 5) << 7;
        *value = bits.to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ActivationMode;
    use crate::models::{Model, ModelOptions};
    use candle_core::D;

    /// A model of another size, written and opened as the presets are.
    fn small(preset: Preset, folder: &Path, seed: u64) {
        let sizes = Sizes {
            vocabulary: 300,
            hidden: 256,
            inner: 384,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            ..preset.sizes()
        };
        write(folder, preset, &sizes, seed).unwrap();
    }

    fn logits(folder: &Path, mode: ActivationMode) -> Vec<f32> {
        let options = ModelOptions {
            activations: mode,
            ..ModelOptions::default()
        };
        let model = Model::open(folder, options).unwrap();
        let logits = model.session(3).forward(&[1, 299, 7]).unwrap();
        assert!(
            logits
                .argmax(D::Minus1)
                .unwrap()
                .to_scalar::<u32>()
                .unwrap()
                < 300
        );
        logits.to_vec1().unwrap()
    }

    #[test]
    fn all_presets_are_models_that_run() {
        for preset in Preset::ALL {
            let folder = tempfile::tempdir().unwrap();
            small(preset, folder.path(), 5);
            let first = logits(folder.path(), ActivationMode::F32);
            let spread = first.iter().fold(0f32, |max, v| max.max(v.abs()));
            assert!(spread > 0.1 && spread.is_finite(), "{preset:?}: {spread}");
            let other = tempfile::tempdir().unwrap();
            small(preset, other.path(), 5);
            assert_eq!(
                logits(other.path(), ActivationMode::F32),
                first,
                "{preset:?}"
            );
            small(preset, other.path(), 6);
            assert_ne!(
                logits(other.path(), ActivationMode::F32),
                first,
                "{preset:?}"
            );
        }
    }
}
