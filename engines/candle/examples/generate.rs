//! Loads a published ternary checkpoint and writes text.
//!
//! ```text
//! cargo run --release --features models --example generate -- MODEL --prompt "Once upon a time"
//! cargo run --release --features models --example generate -- MODEL --chat "Who are you?"
//! cargo run --release --features models --example generate -- MODEL --bench
//! cargo run --release --features models --example generate -- 2b --random bitnet-2b --bench
//! ```
//! MODEL is a folder with a `config.json`, or a GGUF file.

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tritgemm_candle::ActivationMode;
use tritgemm_candle::models::{
    Generation, HeadPrecision, Message, Model, ModelOptions, Preset, Profile, Sampler, Sampling,
    Stage, Tokenizer,
};
use tritgemm_formats::OpenOptions;
use tritgemm_formats::ggml::I2sLayout;

/// Keeps the memory of activations. glibc gives that of long prompts back to the system after
/// every layer, and clears it anew: 5 % of a prompt's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Loads a ternary checkpoint as it was published, and writes text.
#[derive(Parser)]
struct Args {
    /// A folder with a `config.json`, or a GGUF file; with --random a folder to write.
    model: PathBuf,
    /// Write a model of these shapes and random weights into the folder first, unless there is
    /// one.
    #[arg(long, value_parser = preset)]
    random: Option<Preset>,
    /// The text to go on with.
    #[arg(long, conflicts_with = "chat")]
    prompt: Option<String>,
    /// The message to answer, in the model's chat template.
    #[arg(long)]
    chat: Option<String>,
    /// What the chat's system message says.
    #[arg(long, requires = "chat")]
    system: Option<String>,
    /// A `tokenizer.json`, if it is not beside the model.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Tokens to write at most.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Logits are divided by it; 0 takes the most likely token each time.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Of the most likely tokens as many are left as have this probability together.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// The same seed makes the same choices.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads; all cores if nothing is said.
    #[arg(long)]
    threads: Option<usize>,
    /// The instruction set of the kernels, as `tritgemm isa` lists them.
    #[arg(long)]
    isa: Option<String>,
    /// What activations of ternary layers are multiplied as.
    #[arg(long, value_enum, default_value_t = Activations::Int8)]
    activations: Activations,
    /// How the head is kept.
    #[arg(long, value_enum, default_value_t = Head::Stored)]
    head: Head,
    /// The layout of I2_S tensors, which no file says: x86, rows4 or arm.
    #[arg(long, value_parser = i2s_layout)]
    i2s_layout: Option<I2sLayout>,
    /// Print where the time of a token went.
    #[arg(long)]
    profile: bool,
    /// Measure a prompt and as many tokens as --max-tokens says, and print JSON.
    #[arg(long)]
    bench: bool,
    /// Tokens of the prompt that --bench measures.
    #[arg(long, default_value_t = 128, requires = "bench")]
    bench_prompt: usize,
    /// Times that --bench measures; it prints medians.
    #[arg(long, default_value_t = 5, requires = "bench")]
    bench_runs: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Activations {
    Int8,
    F32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Head {
    /// As it is in the file.
    Stored,
    Bf16,
    Int8,
}

fn main() -> Result<()> {
    let args = Args::parse();
    tritgemm::pin(args.isa.as_deref())?;
    if let Some(threads) = args.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global().context("--threads")?;
    }
    let options = ModelOptions {
        activations: match args.activations {
            Activations::Int8 => ActivationMode::Int8,
            Activations::F32 => ActivationMode::F32,
        },
        head: match args.head {
            Head::Stored => HeadPrecision::Stored,
            Head::Bf16 => HeadPrecision::Bf16,
            Head::Int8 => HeadPrecision::Int8,
        },
        files: OpenOptions {
            i2s_layout: args.i2s_layout,
            ..OpenOptions::default()
        },
    };
    if let Some(preset) = args.random
        && !args.model.join("config.json").is_file()
    {
        preset.write(&args.model, args.seed)?;
    }
    let start = Instant::now();
    let model = Model::open(&args.model, options)?;
    let load = start.elapsed();
    match args.bench {
        true => bench(&args, &model, load),
        false => write(&args, &model, load),
    }
}

fn preset(name: &str) -> Result<Preset, String> {
    let found = Preset::ALL.into_iter().find(|preset| preset.name() == name);
    let names = Preset::ALL.map(Preset::name).join(", ");
    found.ok_or_else(|| format!("expected one of {names}"))
}

fn i2s_layout(name: &str) -> Result<I2sLayout, &'static str> {
    I2sLayout::from_name(name).ok_or("expected x86, rows4 or arm")
}

/// Writes a text as it is made.
fn write(args: &Args, model: &Model, load: Duration) -> Result<()> {
    let tokenizer = match &args.tokenizer {
        Some(path) => Tokenizer::from_json(path)?,
        None => Tokenizer::open(&args.model)?,
    };
    let prompt = match (&args.chat, &args.prompt) {
        (Some(text), _) => tokenizer.encode_chat(&messages(args.system.as_deref(), text))?,
        (None, Some(text)) => tokenizer.encode(text)?,
        (None, None) => bail!("--prompt or --chat says what to write about"),
    };
    let mut sampler = Sampler::new(Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed,
    })?;
    let room = model.config().context.min(prompt.len() + args.max_tokens);
    let (mut session, mut text, mut out) =
        (model.session(room), tokenizer.stream(), std::io::stdout());
    if let Some(prompt) = &args.prompt {
        print!("{prompt}");
    }
    let ends = &model.config().eos_tokens;
    let mut printed = Ok(());
    let made = session.generate(&prompt, args.max_tokens, &mut sampler, ends, |token| {
        let text = text(token)?;
        printed = write!(out, "{text}").and_then(|()| out.flush());
        Ok(())
    })?;
    printed?;
    println!();
    eprintln!(
        "\n{} tokens in {:.2} s: {:.1} a second; a prompt of {}: {:.1} a second; loaded in {:.2} s; {} MiB",
        made.tokens.len(),
        made.decode.as_secs_f64(),
        per_second(made.decoded, made.decode),
        made.prompt_tokens,
        per_second(made.prompt_tokens, made.prefill),
        load.as_secs_f64(),
        resident().unwrap_or(0) >> 20,
    );
    if args.profile {
        print_profile(model, &made);
    }
    Ok(())
}

fn messages(system: Option<&str>, user: &str) -> Vec<Message> {
    let message = |role: &str, content: &str| Message {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    let system = system.map(|content| message("system", content));
    system.into_iter().chain([message("user", user)]).collect()
}

/// Measures a prompt, and tokens one at a time, after a run that is not counted.
fn bench(args: &Args, model: &Model, load: Duration) -> Result<()> {
    let prompt: Vec<u32> = (0..args.bench_prompt)
        .map(|i| (i * 7919 % model.vocabulary()) as u32)
        .collect();
    let (mut prefill, mut decode, mut last) = (Vec::new(), Vec::new(), None);
    for run in 0..=args.bench_runs.max(1) {
        let mut session = model.session(prompt.len() + args.max_tokens);
        let mut sampler = Sampler::new(Sampling::GREEDY)?;
        let made = session.generate(&prompt, args.max_tokens, &mut sampler, &[], |_| Ok(()))?;
        // The first run reads the mapped weights into memory.
        if run > 0 {
            prefill.push(per_second(made.prompt_tokens, made.prefill));
            decode.push(per_second(made.decoded, made.decode));
            last = Some(made);
        }
    }
    let bytes: usize = Stage::ALL.iter().map(|&stage| model.bytes(stage)).sum();
    let report = serde_json::json!({
        "model": args.model,
        "backend": tritgemm::Backend::active()?.name(),
        "threads": rayon::current_num_threads(),
        "activations": match args.activations { Activations::Int8 => "int8", Activations::F32 => "f32" },
        "head": model.head_type(),
        "load_seconds": load.as_secs_f64(),
        "resident_bytes": resident(),
        "weight_bytes_per_token": bytes,
        "prefill": { "tokens": prompt.len(), "tokens_per_second": spread(prefill) },
        "decode": { "tokens": args.max_tokens.saturating_sub(1), "tokens_per_second": spread(decode) },
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    if let Some(made) = last.filter(|_| args.profile) {
        print_profile(model, &made);
    }
    Ok(())
}

/// The median of what was measured, and its ends.
fn spread(mut values: Vec<f64>) -> serde_json::Value {
    values.sort_by(f64::total_cmp);
    serde_json::json!({
        "median": values[values.len() / 2],
        "least": values[0],
        "most": values[values.len() - 1],
    })
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    match tokens {
        0 => 0.0,
        tokens => tokens as f64 / time.as_secs_f64(),
    }
}

/// Bytes of memory that the process has in use.
fn resident() -> Option<usize> {
    memory_stats::memory_stats().map(|stats| stats.physical_mem)
}

/// Where the time of the prompt and of a token after it went.
fn print_profile(model: &Model, made: &Generation) {
    let total = |profile: &Profile| profile.total().as_secs_f64().max(f64::MIN_POSITIVE);
    let (prefill, decode) = (&made.prefill_profile, &made.decode_profile);
    let decoded = made.decoded.max(1) as f64;
    eprintln!(
        "\n{:<18}{:>12}{:>7}{:>14}{:>7}{:>10}{:>9}",
        "", "prompt, ms", "", "a token, us", "", "MB read", "GB/s"
    );
    for stage in Stage::ALL {
        let prompt = prefill.spent(stage).as_secs_f64();
        let token = decode.spent(stage).as_secs_f64() / decoded;
        let bytes = model.bytes(stage) as f64;
        eprint!(
            "{:<18}{:>12.2}{:>6.1}%{:>14.1}{:>6.1}%",
            stage.name(),
            prompt * 1e3,
            100.0 * prompt / total(prefill),
            token * 1e6,
            100.0 * token * decoded / total(decode),
        );
        match bytes > 0.0 && token > 0.0 {
            true => eprintln!("{:>10.1}{:>9.1}", bytes / 1e6, bytes / token / 1e9),
            false => eprintln!(),
        }
    }
    let (prefill, decode) = (total(prefill), total(decode) / decoded);
    eprintln!("{:<18}{:>12.2}{:>21.1}", "all", prefill * 1e3, decode * 1e6);
    let rest = made.decode.as_secs_f64() / decoded - decode;
    eprintln!("{:<18}{:>33.1}", "choice and output", rest * 1e6);
}
