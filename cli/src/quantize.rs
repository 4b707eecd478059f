//! `tritgemm quantize`: a safetensors file to one with packed ternary matrices.

use crate::args::QuantizeArgs;
use crate::atomic::checked;
use crate::format::{Planned, own_keys};
use crate::names;
use crate::output::{self, Out, count, plain, short};
use crate::sharded::{Shards, apart};
use crate::table::{Col, Table};
use anyhow::{Context, Result, bail, ensure};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use tritgemm::{Granularity, MatMut, MatRef, TernaryMatrix, quant};
use tritgemm_formats::model::ours::{PackedInfo, scales_name, scales_shape};
use tritgemm_formats::model::{Matrix, Tensor};
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
    let tensors = tensors(&model).with_context(in_input)?;
    let chosen = choose(&tensors, args)?;
    let plan = lay_out(&model, &tensors, &chosen, args).with_context(in_input)?;
    let (reports, files, len) = write(&model, &tensors, &chosen, plan, args)?;
    let read = model.files().map(|(_, len)| len).sum();
    print(tensors.len(), &reports, [read, len], &files, out)?;
    for note in model
        .notes()
        .iter()
        .filter(|_| model.container() != "safetensors")
    {
        out.text(plain(note))?;
    }
    Ok(())
}

/// A tensor of the input, and whether it is a part of a matrix that is packed already.
struct Source<'a> {
    tensor: &'a Tensor<'a>,
    packed: bool,
}

/// Everything that the input holds.
fn tensors(model: &Model) -> Result<Vec<Source<'_>>> {
    let stored = |m: &&Matrix<'_>| m.info.is_some() && !m.is_hf();
    let parts = model.matrices().iter().flat_map(|m| {
        let packed = stored(&m);
        m.stored.iter().map(move |tensor| Source { tensor, packed })
    });
    let others = model.others().iter();
    let all = parts.chain(others.map(|tensor| Source {
        tensor,
        packed: false,
    }));
    let all: Vec<Source<'_>> = all.collect();
    for source in &all {
        let t = source.tensor;
        ensure!(
            t.dtype.is_some(),
            "tensor `{}` of type {} has no place in a safetensors file",
            t.name,
            t.type_name
        );
        ensure!(
            t.rotation.is_none(),
            "tensor `{}` is rotated, which is not quantised",
            t.name
        );
    }
    Ok(all)
}

/// The tensors to ternarise.
fn choose<'a>(sources: &'a [Source<'_>], args: &QuantizeArgs) -> Result<BTreeSet<&'a str>> {
    let names = || sources.iter().map(|s| s.tensor.name.as_str());
    let include = names::matcher(&args.include, names(), &args.input)?;
    let exclude = names::matcher(&args.exclude, names(), &args.input)?;
    // What is packed already stays: its scales may look like weights.
    let chosen = |s: &&Source<'_>| {
        let t = s.tensor;
        t.shape.len() == 2
            && matches!(t.dtype, Some(Dtype::F32 | Dtype::F16 | Dtype::BF16))
            && (args.include.is_empty() || include.is_match(&t.name))
            && !exclude.is_match(&t.name)
            && !s.packed
    };
    let chosen = sources.iter().filter(chosen);
    Ok(chosen.map(|s| s.tensor.name.as_str()).collect())
}

/// What is written, and what our metadata says of it.
struct Plan {
    tensors: Vec<Planned>,
    packed: BTreeMap<String, PackedInfo>,
}

fn lay_out(
    model: &Model,
    sources: &[Source<'_>],
    chosen: &BTreeSet<&str>,
    args: &QuantizeArgs,
) -> Result<Plan> {
    let mut tensors = Vec::new();
    let kept = model.matrices().iter().filter(|m| !m.is_hf());
    let mut packed: BTreeMap<String, PackedInfo> = kept
        .filter_map(|m| Some((m.name.clone(), m.info.clone()?)))
        .collect();
    let names: HashSet<&str> = sources.iter().map(|s| s.tensor.name.as_str()).collect();
    for source in sources {
        let tensor = source.tensor;
        let dtype = tensor.dtype.context("a type that safetensors has")?;
        let name = tensor.name.clone();
        if !chosen.contains(name.as_str()) {
            let shape = tensor.shape.clone();
            tensors.push(Planned { name, dtype, shape });
            continue;
        }
        let shape @ [rows, cols] = matrix_shape(tensor)?;
        let scales = scales_name(&name);
        ensure!(
            !names.contains(scales.as_str()),
            "tensor `{scales}` is in the way of the scales of `{name}`"
        );
        let granularity = args.granularity.granularity();
        let info = PackedInfo {
            dtype: dtype.to_string(),
            shape,
            granularity,
            sparsity: args.sparsity_2_4.then(|| "2:4".to_owned()),
            stack: None,
            rotation: None,
        };
        packed.insert(name.clone(), info);
        tensors.push(Planned {
            name,
            dtype: Dtype::U8,
            shape: vec![rows, cols.div_ceil(4)],
        });
        tensors.push(Planned {
            name: scales,
            dtype: Dtype::F32,
            shape: scales_shape(granularity, shape),
        });
    }
    Ok(Plan { tensors, packed })
}

fn matrix_shape(tensor: &Tensor<'_>) -> Result<[usize; 2]> {
    match tensor.shape[..] {
        [rows, cols] => Ok([rows, cols]),
        _ => bail!("tensor `{}` is not a matrix", tensor.name),
    }
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
    let metadata = |names: &HashSet<&str>| {
        let packed: BTreeMap<String, PackedInfo> = (packed.iter())
            .filter(|(name, _)| names.contains(name.as_str()))
            .map(|(name, info)| (name.clone(), info.clone()))
            .collect();
        let mut metadata = model.metadata().clone();
        metadata.extend(own_keys(&packed)?);
        Ok(metadata)
    };
    let what = (model, args.input.as_path(), args.force, "quantize");
    let mut out = Shards::create(&args.output, tensors, args.shard_size, metadata, what)?;
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
