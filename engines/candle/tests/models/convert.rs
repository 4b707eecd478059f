//! The checkpoints written as GGUF files, as llama.cpp's and bitnet.cpp's converters do.

use crate::expected::Result;
use serde_json::Value as Json;
use std::f64::consts::TAU;
use std::path::Path;
use tritgemm::{MatRef, TernaryMatrix};
use tritgemm_formats::ScaleRounding;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{GgufWriter, TensorType, Value, ValueType};

/// Parts of layers as Hugging Face names them, and as GGUF does.
const NAMES: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("q_proj", "attn_q"),
    ("k_proj", "attn_k"),
    ("v_proj", "attn_v"),
    ("o_proj", "attn_output"),
    ("attn_sub_norm", "attn_sub_norm"),
    ("ffn_sub_norm", "ffn_sub_norm"),
    ("gate_proj", "ffn_gate"),
    ("up_proj", "ffn_up"),
    ("down_proj", "ffn_down"),
];

fn gguf_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["model", "embed_tokens", _] => "token_embd.weight".into(),
        ["model", "norm", _] => "output_norm.weight".into(),
        ["lm_head", _] => "output.weight".into(),
        [.., part, _] => {
            let (_, part) = NAMES.iter().find(|(hf, _)| *hf == part).unwrap();
            format!("blk.{}.{part}.weight", parts[2])
        }
        _ => unreachable!("names have parts"),
    }
}

/// What llama.cpp's converter does to queries and keys of Llama: the two halves of a head
/// become neighbours.
fn interleaved(matrix: &TernaryMatrix, head_dim: usize) -> Result<TernaryMatrix> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let trits = matrix.to_trits()?;
    let from = |row: usize| {
        let (head, at) = (row / head_dim, row % head_dim);
        head * head_dim + at % 2 * (head_dim / 2) + at / 2
    };
    let trits: Vec<i8> = (0..rows)
        .flat_map(|row| trits[from(row) * cols..][..cols].to_vec())
        .collect();
    let trits = MatRef::new(&trits, rows, cols)?;
    Ok(TernaryMatrix::from_trits(trits, matrix.scales().clone())?)
}

/// I2_S as x86 writes it: blocks of 128 weights, byte p has p, 32 + p, 64 + p and 96 + p.
fn i2s(matrix: &TernaryMatrix) -> Result<Vec<u8>> {
    let trits = matrix.to_trits()?;
    let mut bytes = Vec::new();
    for block in trits.chunks_exact(128) {
        let code = |i: usize| (block[i] + 1) as u8;
        let byte = |p: usize| code(p) << 6 | code(32 + p) << 4 | code(64 + p) << 2 | code(96 + p);
        bytes.extend((0..32).map(byte));
    }
    bytes.extend(matrix.scales().values()[0].to_le_bytes());
    bytes.extend([0; 28]);
    Ok(bytes)
}

fn encoded(matrix: &TernaryMatrix, ty: TernaryType, name: &str) -> Result<Vec<u8>> {
    match ty {
        TernaryType::I2S => i2s(matrix),
        ty => Ok(ty.encode(matrix, ScaleRounding::Nearest, name)?),
    }
}

/// Llama 3's stretching as a factor for each pair, as converters store it.
fn rope_factors(config: &Json) -> Vec<f32> {
    let rope = &config["rope_parameters"];
    let number = |key: &str| rope[key].as_f64().unwrap();
    let dim = config["head_dim"].as_f64().unwrap();
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    let factor = |i: usize| {
        let frequency = number("rope_theta").powf(-2.0 * i as f64 / dim);
        let turns = number("original_max_position_embeddings") * frequency / TAU;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - kept) / number("factor") + kept)) as f32
    };
    (0..dim as usize / 2).map(factor).collect()
}

/// The metadata that converters write, from a `config.json` and a `tokenizer.json`.
fn metadata(writer: &mut GgufWriter, name: &str, config: &Json, tokenizer: &Json) -> Result<()> {
    let size = |key: &str| Value::U32(config[key].as_u64().unwrap() as u32);
    let number = |value: &Json| Value::F32(value.as_f64().unwrap() as f32);
    let theta = &config["rope_parameters"]["rope_theta"];
    writer.metadata("general.architecture", Value::from(name))?;
    for (key, value) in [
        ("block_count", size("num_hidden_layers")),
        ("context_length", size("max_position_embeddings")),
        ("embedding_length", size("hidden_size")),
        ("feed_forward_length", size("intermediate_size")),
        ("attention.head_count", size("num_attention_heads")),
        ("attention.head_count_kv", size("num_key_value_heads")),
        (
            "attention.layer_norm_rms_epsilon",
            number(&config["rms_norm_eps"]),
        ),
        ("rope.freq_base", number(theta)),
    ] {
        writer.metadata(&format!("{name}.{key}"), value)?;
    }
    let mut tokens: Vec<(u64, &str, i32)> = Vec::new();
    for (text, id) in tokenizer["model"]["vocab"].as_object().unwrap() {
        tokens.push((id.as_u64().unwrap(), text, 1));
    }
    for token in tokenizer["added_tokens"].as_array().unwrap() {
        let kind = if token["special"].as_bool().unwrap() {
            3
        } else {
            4
        };
        let id = token["id"].as_u64().unwrap();
        tokens.retain(|&(other, ..)| other != id);
        tokens.push((id, token["content"].as_str().unwrap(), kind));
    }
    tokens.sort_unstable();
    let merges: Vec<String> = (tokenizer["model"]["merges"].as_array().unwrap().iter())
        .map(|pair| {
            format!(
                "{} {}",
                pair[0].as_str().unwrap(),
                pair[1].as_str().unwrap()
            )
        })
        .collect();
    let key = |key: &str| format!("tokenizer.ggml.{key}");
    let texts = tokens.iter().map(|&(_, text, _)| Value::from(text));
    let kinds = tokens.iter().map(|&(.., kind)| Value::I32(kind));
    let merges = merges.iter().map(|m| Value::from(m.as_str()));
    writer.metadata(&key("model"), Value::from("gpt2"))?;
    writer.metadata(&key("pre"), Value::from("qwen2"))?;
    writer.metadata_array(&key("tokens"), ValueType::String, texts)?;
    writer.metadata_array(&key("token_type"), ValueType::I32, kinds)?;
    writer.metadata_array(&key("merges"), ValueType::String, merges)?;
    writer.metadata(&key("bos_token_id"), size("bos_token_id"))?;
    writer.metadata(&key("eos_token_id"), size("eos_token_id"))?;
    Ok(())
}

/// Writes a vector as a GGUF file of the architecture `name`, with a float type for tables.
pub fn convert(
    folder: &Path,
    to: &Path,
    name: &str,
    ty: TernaryType,
    table: TensorType,
) -> Result<()> {
    let json = |name: &str| -> Result<Json> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join(name))?)?)
    };
    let config = json("config.json")?;
    let model = tritgemm_formats::open(folder)?;
    let mut writer = GgufWriter::new();
    metadata(&mut writer, name, &config, &json("tokenizer.json")?)?;
    let mut all: Vec<(String, Vec<u64>, TensorType, Vec<u8>)> = Vec::new();
    for matrix in model.matrices() {
        let mut weights = matrix.read()?;
        let turned = ["q_proj", "k_proj"]
            .iter()
            .any(|part| matrix.name.contains(part));
        if name == "llama" && turned {
            weights = interleaved(&weights, config["head_dim"].as_u64().unwrap() as usize)?;
        }
        let shape = vec![weights.cols() as u64, weights.rows() as u64];
        let bytes = encoded(&weights, ty, &matrix.name)?;
        all.push((gguf_name(&matrix.name), shape, ty.into(), bytes));
    }
    for tensor in model.others() {
        let shape: Vec<u64> = tensor.shape.iter().rev().map(|&n| n as u64).collect();
        let values = tensor.to_f32()?.into_iter();
        let (ty, bytes) = match (shape.len(), table) {
            (2, TensorType::F16) => {
                let bytes = values.flat_map(|v| half::f16::from_f32(v).to_le_bytes());
                (table, bytes.collect())
            }
            (2, TensorType::BF16) => (table, tensor.bytes().to_vec()),
            _ => (TensorType::F32, values.flat_map(f32::to_le_bytes).collect()),
        };
        all.push((gguf_name(&tensor.name), shape, ty, bytes));
    }
    if config["rope_parameters"]["rope_type"] == "llama3" {
        let factors = rope_factors(&config);
        let shape = vec![factors.len() as u64];
        let bytes = factors.into_iter().flat_map(f32::to_le_bytes).collect();
        all.push(("rope_freqs.weight".into(), shape, TensorType::F32, bytes));
    }
    write(writer, &all, to)
}

pub fn write(
    mut writer: GgufWriter,
    tensors: &[(String, Vec<u64>, TensorType, Vec<u8>)],
    to: &Path,
) -> Result<()> {
    for (name, shape, ty, bytes) in tensors {
        writer.tensor_of_len(name, shape, *ty, bytes.len() as u64)?;
    }
    let mut file = writer.start(Vec::new())?;
    for (.., bytes) in tensors {
        file.write(bytes)?;
    }
    Ok(std::fs::write(to, file.finish()?)?)
}
