//! A small model loaded from a safetensors file, dense and ternary: what the
//! outputs have in common and what they cost.
//!
//! ```text
//! cargo run --release --example mlp -- [WIDTH] [TOKENS]
//! ```
//! The file is written first, with weights that are nearly ternary, as training
//! with quantised weights leaves them.

use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::time::Instant;
use tritgemm_candle::{ActivationMode, BitLinear, bit_linear_no_bias, forward_many};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const REPEATS: usize = 20;

/// `down(relu(gate x)^2 * up x)`, dense.
struct Dense {
    gate: candle_nn::Linear,
    up: candle_nn::Linear,
    down: candle_nn::Linear,
}

impl Dense {
    fn load(width: usize, vb: &VarBuilder) -> candle_core::Result<Self> {
        Ok(Self {
            gate: candle_nn::linear_no_bias(width, 2 * width, vb.pp("gate"))?,
            up: candle_nn::linear_no_bias(width, 2 * width, vb.pp("up"))?,
            down: candle_nn::linear_no_bias(2 * width, width, vb.pp("down"))?,
        })
    }
}

impl Module for Dense {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let gate = self.gate.forward(x)?.relu()?.sqr()?;
        self.down.forward(&gate.mul(&self.up.forward(x)?)?)
    }
}

/// The same of ternary layers.
struct Ternary {
    gate: BitLinear,
    up: BitLinear,
    down: BitLinear,
}

impl Ternary {
    fn load(width: usize, mode: ActivationMode, vb: &VarBuilder) -> candle_core::Result<Self> {
        let gate = bit_linear_no_bias(width, 2 * width, vb.pp("gate"))?;
        let up = bit_linear_no_bias(width, 2 * width, vb.pp("up"))?;
        let down = bit_linear_no_bias(2 * width, width, vb.pp("down"))?;
        Ok(Self {
            gate: gate.with_activations(mode),
            up: up.with_activations(mode),
            down: down.with_activations(mode),
        })
    }
}

impl Module for Ternary {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let [gate, up] = forward_many([&self.gate, &self.up], x)?;
        self.down.forward(&gate.relu()?.sqr()?.mul(&up)?)
    }
}

/// `[rows, cols]` weights close to -1, 0 or +1 times a scale.
fn weights(rows: usize, cols: usize) -> candle_core::Result<Tensor> {
    let normal = || Tensor::randn(0f32, 1.0, (rows, cols), &Device::Cpu);
    // A third or so of each.
    let trits = (normal()? * 1.16)?.clamp(-1.0, 1.0)?.round()?;
    let scale = 1.0 / (cols as f64).sqrt();
    (trits + (normal()? * 0.05)?)? * scale
}

fn write(width: usize, path: &std::path::Path) -> Result<()> {
    let tensors = HashMap::from([
        ("gate.weight", weights(2 * width, width)?),
        ("up.weight", weights(2 * width, width)?),
        ("down.weight", weights(width, 2 * width)?),
    ]);
    Ok(candle_core::safetensors::save(&tensors, path)?)
}

/// The mean over tokens of the cosine between two models' outputs.
fn cosine(a: &Tensor, b: &Tensor) -> candle_core::Result<f32> {
    let dot = (a * b)?.sum(D::Minus1)?;
    let norms = (a.sqr()?.sum(D::Minus1)? * b.sqr()?.sum(D::Minus1)?)?.sqrt()?;
    (dot / norms)?.mean_all()?.to_scalar()
}

/// The best time of some calls, in milliseconds.
fn milliseconds(model: &dyn Module, x: &Tensor) -> candle_core::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        model.forward(x)?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(best)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |word| word.parse());
    let (width, tokens) = (number(1024)?, number(64)?);

    let dir = tempfile::tempdir()?;
    let path = dir.path().join("mlp.safetensors");
    write(width, &path)?;
    let bytes = std::fs::read(&path)?;
    let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
    let dense = Dense::load(width, &vb)?;
    let float = Ternary::load(width, ActivationMode::F32, &vb)?;
    let int8 = Ternary::load(width, ActivationMode::Int8, &vb)?;

    let many = Tensor::randn(0f32, 1.0, (tokens, width), &Device::Cpu)?;
    let one = many.narrow(0, 0, 1)?;
    let expected = dense.forward(&many)?;
    println!("width {width}, best of {REPEATS}, threads as candle has them\n");
    println!(
        "{:<20}{:>12}{:>14}{:>18}",
        "model",
        "1 token",
        format!("{tokens} tokens"),
        "cosine to dense"
    );
    let models: [(&str, &dyn Module); 3] = [
        ("dense f32", &dense),
        ("ternary, f32", &float),
        ("ternary, int8", &int8),
    ];
    for (name, model) in models {
        let cosine = cosine(&model.forward(&many)?, &expected)?;
        let (one, many) = (milliseconds(model, &one)?, milliseconds(model, &many)?);
        println!("{name:<20}{one:>9.3} ms{many:>11.3} ms{cosine:>18.4}");
        if cosine < 0.95 {
            return Err(format!("{name}: a cosine of {cosine} is no approximation").into());
        }
    }
    Ok(())
}
