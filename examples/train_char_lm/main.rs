//! Trains a small ternary character model, freezes it and lets it write.
//!
//! ```text
//! cargo run --release --features train --example train_char_lm -- [TEXT] [--steps N] [--seed N] [--plot FILE]
//! ```
//! Without TEXT it reads the one beside it, 6 KB, which it learns by heart: the
//! loss of the held-out tenth rises again after 300 steps or so. The loss curve
//! goes to FILE, by default `target/train_char_lm.svg`.

mod model;
mod optimizer;
mod plot;
#[cfg(test)]
mod tests;
mod text;

use model::{Config, Frozen, Model, Path, Result, cross_entropy};
use optimizer::{AdamW, clip_global_norm};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::PathBuf;
use std::time::Instant;
use text::Text;
use tritgemm::nn::BitLinear;

const CONTEXT: usize = 24;
const BATCH: usize = 128;
const MAX_NORM: f64 = 0.5;
const RATE: f32 = 4e-3;
const WEIGHT_DECAY: f32 = 0.05;
const REPORT_EVERY: usize = 50;

struct Arguments {
    text: Option<PathBuf>,
    steps: usize,
    seed: u64,
    plot: PathBuf,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut arguments = Self {
            text: None,
            steps: 400,
            seed: 1,
            plot: PathBuf::from("target/train_char_lm.svg"),
        };
        let mut words = std::env::args_os().skip(1);
        while let Some(word) = words.next() {
            let mut value = || {
                let value = words.next();
                value.ok_or_else(|| format!("{} needs a value", word.display()))
            };
            match word.to_str() {
                Some("--steps") => arguments.steps = value()?.to_string_lossy().parse()?,
                Some("--seed") => arguments.seed = value()?.to_string_lossy().parse()?,
                Some("--plot") => arguments.plot = value()?.into(),
                Some(other) if other.starts_with('-') => {
                    return Err(format!("unknown option {other}").into());
                }
                _ => arguments.text = Some(word.into()),
            }
        }
        Ok(arguments)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    // The library works in the caller's pool and never starts one.
    let pool = rayon::ThreadPoolBuilder::new().build()?;
    pool.install(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let text = match &arguments.text {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|e| format!("reading {}: {e}", path.display()))?
        }
        None => include_str!("default.txt").to_owned(),
    };
    let text = Text::new(&text, CONTEXT).ok_or_else(|| {
        format!(
            "the text is too short: it needs {} characters",
            10 * (CONTEXT + 1)
        )
    })?;
    let config = Config {
        vocabulary: text.alphabet.len(),
        context: CONTEXT,
        embedding: 16,
        width: 192,
        blocks: 2,
    };
    let mut model = Model::new(config, arguments.seed)?;
    train(&mut model, &text, arguments)?;

    let mut frozen = model.freeze()?;
    check(&mut model, &mut frozen, &text)?;
    println!(
        "\n{} bytes of packed weights write:\n",
        frozen.packed_bytes()
    );
    println!(
        "{}",
        generate(&mut frozen, &text, "The ", 600, arguments.seed)?
    );
    Ok(())
}

fn train(model: &mut Model, text: &Text, arguments: &Arguments) -> Result<()> {
    let steps = arguments.steps;
    let (mut rng, mut optimizer) = (
        StdRng::seed_from_u64(arguments.seed),
        AdamW::new(WEIGHT_DECAY),
    );
    let (mut curve, mut held_out_curve) = (Vec::new(), Vec::new());
    let (held_out, held_out_targets) = text.held_out(CONTEXT, 3);
    let start = Instant::now();
    for step in 0..=steps {
        let (contexts, targets) = text.batch(BATCH, CONTEXT, &mut rng);
        let activations = model.forward(&contexts)?;
        let (loss, grad_logits) = cross_entropy(&activations.logits, &targets);
        let mut grads =
            model.backward(&contexts, &activations, &grad_logits, BitLinear::backward)?;
        let norm = clip_global_norm(&mut grads, MAX_NORM);
        if !loss.is_finite() {
            return Err(format!("the loss is {loss} at step {step}").into());
        }
        curve.push((step, loss));
        if step % REPORT_EVERY == 0 || step == steps {
            let logits = model.forward(&held_out)?.logits;
            let (held_out_loss, _) = cross_entropy(&logits, &held_out_targets);
            held_out_curve.push((step, held_out_loss));
            println!(
                "step {step:5} of {steps}: loss {loss:.3}, held out {held_out_loss:.3}, \
                 gradient norm {norm:.3}, {:.1} s",
                start.elapsed().as_secs_f64()
            );
        }
        // Warms up, then falls along a cosine to a tenth.
        let progress = step as f32 / steps.max(1) as f32;
        let falling = 0.55 + 0.45 * (std::f32::consts::PI * progress).cos();
        let rate = RATE * falling * ((step + 1) as f32 / 50.0).min(1.0);
        optimizer.step(model.parameters(), &grads, rate);
    }
    if let Some(folder) = arguments.plot.parent() {
        std::fs::create_dir_all(folder)?;
    }
    plot::save(&arguments.plot, &curve, &held_out_curve)?;
    println!("\nloss curve: {}", arguments.plot.display());
    Ok(())
}

/// The frozen model is the trained one: bit for bit on f32 activations, and
/// close to it on int8 ones.
fn check(model: &mut Model, frozen: &mut Frozen, text: &Text) -> Result<()> {
    let (contexts, targets) = text.held_out(CONTEXT, 1);
    let trained = model.forward(&contexts)?.logits;
    let packed = frozen.forward(&contexts, Path::F32)?;
    let bits = |logits: &[f32]| logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    if bits(&trained) != bits(&packed) {
        return Err("the frozen model differs from the trained one".into());
    }
    let int8 = frozen.forward(&contexts, Path::Int8)?;
    let (loss, _) = cross_entropy(&packed, &targets);
    let (int8_loss, _) = cross_entropy(&int8, &targets);
    println!(
        "frozen and trained model agree bit for bit on {} characters; \
         held-out loss {loss:.4}, with int8 activations {int8_loss:.4}",
        targets.len()
    );
    if (int8_loss - loss).abs() > 0.05 * loss.max(1.0) {
        return Err(format!("int8 activations change the loss from {loss} to {int8_loss}").into());
    }
    Ok(())
}

/// Writes on after `prompt`, one character at a time, on int8 activations.
fn generate(
    model: &mut Frozen,
    text: &Text,
    prompt: &str,
    count: usize,
    seed: u64,
) -> Result<String> {
    const TEMPERATURE: f64 = 0.6;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut written = text.encode(prompt);
    let space = text.encode(" ").first().copied().unwrap_or(0);
    for _ in 0..count {
        let mut context = vec![space; CONTEXT.saturating_sub(written.len())];
        context.extend(&written[written.len().saturating_sub(CONTEXT)..]);
        let logits = model.forward(&context, Path::Int8)?;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights = logits
            .iter()
            .map(|&l| (f64::from(l - max) / TEMPERATURE).exp());
        let weights: Vec<f64> = weights.collect();
        let mut left = rng.random_range(0.0..weights.iter().sum());
        let chosen = weights.iter().position(|w| {
            left -= w;
            left < 0.0
        });
        written.push(chosen.unwrap_or(0));
    }
    Ok(written.iter().map(|&c| text.alphabet[c]).collect())
}
