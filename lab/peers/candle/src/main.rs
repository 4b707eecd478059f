//! Tokens a second of candle's own quantised Llama, on a GGUF file, as JSON. candle takes its
//! threads from `RAYON_NUM_THREADS`.

use anyhow::Context;
use candle_core::quantized::gguf_file;
use candle_core::{D, Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use clap::Parser;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

/// Tokens a second of candle's own quantised Llama.
#[derive(Parser)]
struct Args {
    /// A GGUF file of the llama architecture.
    model: PathBuf,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 128)]
    prompt: usize,
    /// Tokens to generate after it.
    #[arg(long, default_value_t = 32)]
    generated: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let file = File::open(&args.model).with_context(|| args.model.display().to_string())?;
    let mut file = BufReader::new(file);
    let content = gguf_file::Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    // The first time is not counted.
    run(&mut model, &args)?;
    let [prefill, decode] = run(&mut model, &args)?;
    println!("{{\"prefill\": {prefill}, \"decode\": {decode}}}");
    Ok(())
}

/// Tokens a second of a prompt, and of greedy tokens after it.
fn run(model: &mut ModelWeights, args: &Args) -> anyhow::Result<[f64; 2]> {
    model.clear_kv_cache();
    let prompt: Vec<u32> = (0..args.prompt as u32).map(|i| 300 + i).collect();
    let start = Instant::now();
    let mut token = next(model, &prompt, 0)?;
    let prefill = args.prompt as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    for i in 0..args.generated {
        token = next(model, &[token], args.prompt + i)?;
    }
    Ok([
        prefill,
        args.generated as f64 / start.elapsed().as_secs_f64(),
    ])
}

/// The most likely token after `tokens`, which come after `position` others.
fn next(model: &mut ModelWeights, tokens: &[u32], position: usize) -> anyhow::Result<u32> {
    let logits = model.forward(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?, position)?;
    Ok(logits.squeeze(0)?.argmax(D::Minus1)?.to_scalar()?)
}
