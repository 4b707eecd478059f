//! `tritgemm demo`: everything on a small stack of layers made for it.

use crate::args::{Cli, Command, DemoArgs};
use crate::format::{self, Planned};
use crate::output::{self, Out};
use crate::{bench, quantize, verify};
use anyhow::{Context, Result, bail};
use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Instant;
use tritgemm::Backend;

/// Transformer blocks of the stack.
const BLOCKS: usize = 2;
/// Width of the residual stream.
const WIDTH: usize = 768;
/// Width inside of the feed-forward layers.
const HIDDEN: usize = 2048;

/// Runs the command.
pub fn run(args: &DemoArgs, out: &mut Out) -> Result<()> {
    let start = Instant::now();
    let backend = Backend::active().context("no kernels to show")?;
    let dir = tempfile::tempdir().context("cannot make a temporary directory")?;
    let (latent, packed) = (
        dir.path().join("stack.safetensors"),
        dir.path().join("packed.safetensors"),
    );
    let (tensors, bytes) = write_stack(&latent, args.seed)?;

    out.text(
        "A ternary network has weights of -1, 0 and +1 only. They take 2 bits each, and a \
         product with them needs no multiplication: each activation is added, subtracted or \
         left out. This demo makes a network, packs it, checks it and times it.",
    )?;

    heading("1. Pack", out)?;
    out.text(format!(
        "The network has {BLOCKS} transformer blocks of random f32 weights: {tensors} tensors, \
         {}. `tritgemm quantize` scales each row by its mean magnitude and rounds every weight \
         to -1, 0 or +1. The relative error is what rounding does to weights that were not \
         trained for it. The weights of a ternary network lose nothing.",
        output::bytes(bytes)
    ))?;
    command(
        &["quantize".into(), latent.into(), packed.clone().into()],
        out,
    )?;

    heading("2. Check", out)?;
    out.text(
        "`tritgemm verify` multiplies every matrix by random activations, with all kernels that \
         this CPU can run, and compares the results with those of plain scalar code. All bits \
         must be equal, those of f32 sums too.",
    )?;
    command(&["verify".into(), packed.into()], out)?;

    heading("3. Time", out)?;
    out.text(format!(
        "`tritgemm bench` on one thread, with the {} kernels. N = 1 is one token at a time, as \
         in chat: each weight is read for one use. A dense f32 product would read 16 times as \
         many bytes. N = 64 is many tokens at once, as in a prompt: each weight is read for 64 \
         uses, so the additions are what takes time.",
        backend.name()
    ))?;
    let bench = [
        "bench",
        "--shape",
        "2048x2048",
        "--tokens",
        "1,64",
        "--act",
        "i8,f32",
        "--residency",
        "hot",
    ];
    command(&bench.map(OsString::from), out)?;

    heading("What it shows", out)?;
    out.text(
        "The packed file is about 16 times smaller than f32, and every kernel gives the same \
         bits. On your own files:",
    )?;
    out.line("  tritgemm quantize MODEL.safetensors PACKED.safetensors \\")?;
    out.line("      --exclude '*embed*'")?;
    out.line("  tritgemm verify PACKED.safetensors")?;
    out.line("  tritgemm bench --help")?;
    out.line(format!(
        "\nThe demo took {:.0} s and left no files behind.",
        start.elapsed().as_secs_f64()
    ))
}

fn heading(text: &str, out: &mut Out) -> Result<()> {
    out.line(format!("\n{text}\n{}", "=".repeat(text.len())))
}

/// Runs a command as a shell would, so that the demo shows what it says.
fn command(words: &[OsString], out: &mut Out) -> Result<()> {
    out.line("")?;
    let words = std::iter::once(OsString::from("tritgemm")).chain(words.iter().cloned());
    match Cli::try_parse_from(words)?.command {
        Command::Quantize(args) => quantize::run(&args, out),
        Command::Verify(args) => verify::run(&args, out),
        Command::Bench(args) => bench::run(&args, out),
        _ => bail!("the demo does not run this command"),
    }
}

/// Writes a network's weights; returns the number of tensors and of bytes.
fn write_stack(path: &Path, seed: u64) -> Result<(usize, u64)> {
    let mut planned = Vec::new();
    for block in 0..BLOCKS {
        let mut add = |name: &str, shape: &[usize]| {
            planned.push(Planned {
                name: format!("block.{block}.{name}"),
                dtype: Dtype::F32,
                shape: shape.to_vec(),
            });
        };
        for name in ["attention.q", "attention.k", "attention.v", "attention.out"] {
            add(name, &[WIDTH, WIDTH]);
        }
        add("feed_forward.up", &[HIDDEN, WIDTH]);
        add("feed_forward.down", &[WIDTH, HIDDEN]);
        add("norm", &[WIDTH]);
    }
    let layout = format::Layout::new(planned.clone(), &Default::default())?;
    let mut file = layout.header.clone();
    file.resize(layout.len.try_into()?, 0);
    let mut random = StdRng::seed_from_u64(seed);
    for tensor in &planned {
        let start: usize = layout.offsets[&tensor.name].try_into()?;
        let len: usize = tensor.shape.iter().product();
        for bytes in file[start..][..4 * len].as_chunks_mut::<4>().0 {
            // Near enough to a normal distribution, as trained weights are.
            let sum: f32 = (0..4).map(|_| random.random_range(-1.0f32..1.0)).sum();
            *bytes = (0.03 * sum).to_le_bytes();
        }
    }
    fs::write(path, &file).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok((planned.len(), layout.len))
}
