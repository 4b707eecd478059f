//! `tritgemm quantize`: a safetensors file to one with packed ternary matrices.

mod plan;

use crate::args::QuantizeArgs;
use crate::atomic::checked;
use crate::format::{of_names, own_keys};
use crate::output::{self, Out, count, plain, short};
use crate::sharded::{Metadata, Shards, apart};
use crate::table::{Col, Table};
use anyhow::{Context, Result, bail};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use plan::{Plan, Source, choose, lay_out, matrix_shape, tables, tensors};
use rayon::prelude::*;
use safetensors::Dtype;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tritgemm::{Granularity, MatMut, MatRef, TernaryMatrix, quant};
use tritgemm_formats::model::Tensor;
use tritgemm_formats::model::ours::scales_name;
use tritgemm_formats::{Model, OpenOptions, open_with};

/// What the table says about one matrix.
struct Report {
    name: String,
    type_name: String,
    shape: [usize; 2],
    zeros: f64,
    scales: [f32; 2],
    /// `||w - dequantised|| / ||w||`; nothing for a matrix of zeros.
    error: Option<f64>,
}

/// Runs the command.
pub fn run(args: &QuantizeArgs, out: &mut Out) -> Result<()> {
    crate::in_pool(args.threads, || quantize(args, out))?
}

fn quantize(args: &QuantizeArgs, out: &mut Out) -> Result<()> {
    let (input, output) = (&args.input, &args.output);
    let in_input = || format!("`{}`", input.display());
    // HF BitNet matrices are copied as they are, whatever their scales mean.
    let options = OpenOptions {
        tolerant: true,
        ..OpenOptions::default()
    };
    let model = open_with(input, &options)?;
    apart(&model, input, std::slice::from_ref(output), "quantize")?;
    if args.shard_size.is_none() {
        // Before the work, not after it.
        let in_output = || format!("`{}`", output.display());
        checked(output, args.force).with_context(in_output)?;
    }
    let foreign = model.matrices().iter().find(|m| m.stored.is_empty());
    if let Some(matrix) = foreign {
        bail!(
            "{}: tensor `{}` is ternary already, as {}; `tritgemm convert` makes safetensors of it",
            in_input(),
            matrix.name,
            matrix.format
        );
    }
    if let Some(why) = model.unsupported() {
        bail!("{}: {why}", in_input());
    }
    let tensors = tensors(&model).with_context(in_input)?;
    let chosen = choose(&tensors, args)?;
    let plan = lay_out(&model, &tensors, &chosen, args).with_context(in_input)?;
    let (reports, files, len) = write(&model, &tensors, &chosen, plan, args)?;
    let read = model.files().map(|(_, len)| len).sum();
    print(tensors.len(), &reports, [read, len], &files, out)?;
    for note in model.notes() {
        out.text(plain(note))?;
    }
    let tables = tables(&tensors, &chosen);
    if let Some(first) = tables.first() {
        out.text(format!(
            "Copied, not ternarised: `{}` {}{}. --include with its whole name takes one all the \
             same.",
            plain(&first.name),
            plain(first.unread.as_deref().unwrap_or_default()),
            match tables.len() - 1 {
                0 => String::new(),
                n => format!(", and so do {}", count(n, "table more", "tables more")),
            }
        ))?;
    }
    Ok(())
}

/// Writes all of it; returns the files and how many bytes they are together.
fn write(
    model: &Model,
    sources: &[Source<'_>],
    chosen: &BTreeSet<&str>,
    plan: Plan,
    args: &QuantizeArgs,
) -> Result<(Vec<Report>, Vec<PathBuf>, u64)> {
    let total = sources.iter().map(|s| s.tensor.bytes().len() as u64).sum();
    let bar = output::progress(
        total,
        "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {eta} left  {wide_msg}",
    );
    let Plan { tensors, packed } = plan;
    // Of each file what concerns its own tensors.
    let own = |names: &[&str]| own_keys(&of_names(&packed, names));
    let metadata = Metadata {
        all: model.metadata(),
        own: &own,
    };
    let what = (model, args.input.as_path(), args.force, "quantize");
    let mut out = Shards::create(&args.output, tensors, args.shard_size, &metadata, what)?;
    let mut reports = Vec::new();
    for Source { tensor, .. } in sources {
        let name = &tensor.name;
        bar.set_message(plain(name));
        if chosen.contains(name.as_str()) {
            let (matrix, report) = ternarise(tensor, args)
                .with_context(|| format!("`{}`: tensor `{name}`", args.input.display()))?;
            out.put(name, matrix.packed())?;
            let scales = matrix.scales().values().iter();
            let scales: Vec<u8> = scales.flat_map(|s| s.to_le_bytes()).collect();
            out.put(&scales_name(name), &scales)?;
            reports.push(report);
        } else {
            out.put(name, tensor.bytes())?;
        }
        bar.inc(tensor.bytes().len() as u64);
    }
    bar.finish_and_clear();
    let (files, len) = out.commit()?;
    Ok((reports, files, len))
}

fn ternarise(tensor: &Tensor<'_>, args: &QuantizeArgs) -> Result<(TernaryMatrix, Report)> {
    let [rows, cols] = matrix_shape(tensor)?;
    let latent = widen(tensor);
    let granularity = args.granularity.granularity();
    let matrix = if args.sparsity_2_4 {
        let mut sparse = latent.clone();
        quant::sparsify_2_4(MatMut::new(&mut sparse, rows, cols)?)?;
        TernaryMatrix::quantize(MatRef::new(&sparse, rows, cols)?, granularity)?
    } else {
        TernaryMatrix::quantize(MatRef::new(&latent, rows, cols)?, granularity)?
    };
    let report = report(tensor, [rows, cols], &latent, &matrix)?;
    Ok((matrix, report))
}

/// The values as f32. The bytes of a file may lie at any address.
fn widen(tensor: &Tensor<'_>) -> Vec<f32> {
    let halves = || -> Vec<u16> {
        let pairs = tensor.bytes().par_chunks_exact(2);
        pairs.map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    };
    match tensor.dtype {
        Some(Dtype::F16) => halves().reinterpret_cast::<f16>().to_f32_vec(),
        Some(Dtype::BF16) => halves().reinterpret_cast::<bf16>().to_f32_vec(),
        _ => {
            let quads = tensor.bytes().par_chunks_exact(4);
            quads
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        }
    }
}

fn report(
    tensor: &Tensor<'_>,
    shape: [usize; 2],
    latent: &[f32],
    matrix: &TernaryMatrix,
) -> Result<Report> {
    let cols = shape[1].max(1);
    let scales = matrix.scales();
    let group = match scales.granularity() {
        Granularity::PerGroup(group) => group.len(),
        _ => cols,
    };
    let trits = matrix.to_trits()?;
    // Row by row, then added in order: the same report on any number of threads.
    let rows: Vec<[f64; 3]> = latent
        .par_chunks(cols)
        .zip(trits.par_chunks(cols))
        .enumerate()
        .map(|(row, (latent, trits))| {
            let mut sums = [0.0; 3];
            let groups = latent.chunks(group).zip(trits.chunks(group));
            for (g, (latent, trits)) in groups.enumerate() {
                let scale = f64::from(matrix.scale(row, g * group));
                for (&w, &trit) in latent.iter().zip(trits) {
                    let w = f64::from(w);
                    let missed = w - f64::from(trit) * scale;
                    sums[0] += missed * missed;
                    sums[1] += w * w;
                    sums[2] += f64::from(u8::from(trit == 0));
                }
            }
            sums
        })
        .collect();
    let sum = |i: usize| rows.iter().map(|sums| sums[i]).sum::<f64>();
    let (missed, norm, zeros) = (sum(0), sum(1), sum(2));
    let range = |r: [f32; 2], &s: &f32| [r[0].min(s), r[1].max(s)];
    Ok(Report {
        name: tensor.name.clone(),
        type_name: tensor.type_name.clone(),
        shape,
        zeros: zeros / (latent.len().max(1) as f64),
        scales: scales
            .values()
            .iter()
            .fold([f32::INFINITY, f32::NEG_INFINITY], range),
        error: (norm > 0.0).then(|| (missed / norm).sqrt()),
    })
}

fn print(
    tensors: usize,
    reports: &[Report],
    [before, after]: [u64; 2],
    files: &[PathBuf],
    out: &mut Out,
) -> Result<()> {
    if reports.is_empty() {
        out.line("No tensor to ternarise: all were copied.")?;
    } else {
        let columns = [
            Col::Left("tensor"),
            Col::Left("type"),
            Col::Right("shape"),
            Col::Right("zeros"),
            Col::Right("scales"),
            Col::Right("rel. error"),
        ];
        let mut table = Table::new(&columns);
        for r in reports {
            let [low, high] = r.scales;
            let scales = match (low > high, low == high) {
                (true, _) => "none".to_owned(),
                (_, true) => short(low),
                _ => format!("{} to {}", short(low), short(high)),
            };
            table.add_row([
                plain(&r.name),
                r.type_name.clone(),
                format!("{} x {}", r.shape[0], r.shape[1]),
                format!("{:.1} %", 100.0 * r.zeros),
                scales,
                r.error.map_or("-".to_owned(), |e| format!("{e:.3}")),
            ]);
        }
        out.table(&table)?;
        out.line("")?;
    }
    let copied = tensors - reports.len();
    out.text(format!(
        "{} ternarised, {} copied: {} -> {}, {:.2} times smaller.",
        count(reports.len(), "tensor", "tensors"),
        copied,
        output::bytes(before),
        output::bytes(after),
        before as f64 / after.max(1) as f64,
    ))?;
    for file in files {
        out.line(format!("Written to {}", plain(&file.display().to_string())))?;
    }
    Ok(())
}
