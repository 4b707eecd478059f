//! What is no model that runs here is an error that says why.

use crate::expected::{Result, vectors};
use serde_json::{Value, json};
use std::path::Path;
use tritgemm_candle::models::{Model, ModelOptions};

/// The error of a vector whose configuration has another value.
fn refused(name: &str, key: &str, value: Value) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let from = vectors(name);
    let tensors = "model.safetensors";
    std::fs::copy(from.join(tensors), folder.path().join(tensors))?;
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json"))?)?;
    match key.split_once('.') {
        Some((outer, inner)) => config[outer][inner] = value,
        None => config[key] = value,
    }
    std::fs::write(folder.path().join("config.json"), config.to_string())?;
    match open(folder.path()) {
        Ok(()) => Err(format!("{key} of a model that opens").into()),
        Err(error) => Ok(error),
    }
}

fn open(path: &Path) -> Result<(), String> {
    let model = Model::open(path, ModelOptions::default());
    model.map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn configurations_that_are_not_run() -> Result<()> {
    for (key, value, texts) in [
        (
            "model_type",
            json!("gpt2"),
            &["model_type", "`gpt2`", "expected bitnet"][..],
        ),
        (
            "hidden_act",
            json!("gelu"),
            &["hidden_act", "`gelu`", "relu2"],
        ),
        (
            "num_key_value_heads",
            json!(3),
            &["num_key_value_heads", "divisor of 4"],
        ),
        ("head_dim", json!(63), &["head_dim", "even"]),
        (
            "num_hidden_layers",
            json!(0),
            &["num_hidden_layers", "is 0"],
        ),
        ("rms_norm_eps", json!(-1.0), &["rms_norm_eps", "positive"]),
        ("use_sliding_window", json!(true), &["use_sliding_window"]),
        (
            "rope_parameters.rope_type",
            json!("longrope"),
            &["rope_type", "`longrope`"],
        ),
        (
            "rope_parameters.factor",
            json!(0.0),
            &["factor", "positive"],
        ),
        (
            "quantization_config.quantization_mode",
            json!("x"),
            &["quantization_mode", "`x`"],
        ),
        (
            "hidden_size",
            json!("wide"),
            &["config.json", "invalid type"],
        ),
    ] {
        let error = refused("llama", key, value)?;
        for text in texts {
            assert!(error.contains(text), "{key}: {error}");
        }
    }
    Ok(())
}

#[test]
fn tensors_that_do_not_fit() -> Result<()> {
    let first = "model.layers.0.self_attn.q_proj.weight";
    for (name, key, value, texts) in [
        (
            "llama",
            "head_dim",
            json!(32),
            &[first, "[256, 256]", "[128, 256]"][..],
        ),
        (
            "llama",
            "hidden_size",
            json!(128),
            &["model.embed_tokens.weight", "[_, 128]"],
        ),
        ("llama", "num_hidden_layers", json!(3), &["model.layers.2"]),
        ("bitnet", "model_type", json!("qwen3"), &["q_norm"]),
        (
            "bitnet",
            "tie_word_embeddings",
            json!(false),
            &["lm_head.weight"],
        ),
        (
            "online",
            "quantization_config.quantization_mode",
            json!("offline"),
            &[first, "ternary"],
        ),
    ] {
        let error = refused(name, key, value)?;
        for text in texts {
            assert!(error.contains(text), "{key}: {error}");
        }
    }
    Ok(())
}

#[test]
fn folders_without_a_model() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let error = open(folder.path()).unwrap_err();
    assert!(error.contains("is a folder without"), "{error}");
    let tensors = "model.safetensors";
    std::fs::copy(vectors("online").join(tensors), folder.path().join(tensors))?;
    let error = open(folder.path()).unwrap_err();
    assert!(error.contains("config.json"), "{error}");
    Ok(())
}
