//! `tritgemm quantize`: a safetensors file to one with packed ternary matrices.

use crate::args::QuantizeArgs;
use crate::atomic::AtomicFile;
use crate::format::{Layout, PackedInfo, Planned, Source, Tensor, scales_name};
use crate::mapped::Mapped;
use crate::names;
use crate::output::{self, Col, Out, Table, count, plain};
use anyhow::{Context, Result, bail, ensure};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::collections::BTreeSet;
use tritgemm::{Granularity, MatMut, MatRef, TernaryMatrix, quant};

/// What the table says about one matrix.
struct Report {
    name: String,
    dtype: Dtype,
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
    let in_output = || format!("`{}`", output.display());
    let mapped = Mapped::open(input).with_context(in_input)?;
    let source = Source::parse(&mapped).with_context(in_input)?;
    if same_file::is_same_file(input, output).unwrap_or(false) {
        bail!(
            "{}: is the input file; quantize needs another name to write to",
            in_output()
        );
    }
    let chosen = choose(&source, args)?;
    let layout = lay_out(&source, &chosen, args).with_context(in_input)?;
    let mut file = AtomicFile::create(output, args.force).with_context(in_output)?;
    let reports = write(&source, &chosen, &layout, &mut file, args)?;
    file.commit().with_context(in_output)?;
    print(
        &source,
        &reports,
        [mapped.len() as u64, layout.len],
        args,
        out,
    )
}

/// The tensors to ternarise.
fn choose<'a>(source: &'a Source<'_>, args: &QuantizeArgs) -> Result<BTreeSet<&'a str>> {
    let names = || source.tensors.iter().map(|t| t.name.as_str());
    let include = names::matcher(&args.include, names(), &args.input)?;
    let exclude = names::matcher(&args.exclude, names(), &args.input)?;
    // What is packed already stays: its scales may look like weights.
    let done: BTreeSet<String> = source
        .packed
        .keys()
        .flat_map(|name| [name.clone(), scales_name(name)])
        .collect();
    let chosen = |t: &&Tensor<'_>| {
        t.shape.len() == 2
            && matches!(t.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
            && (args.include.is_empty() || include.is_match(&t.name))
            && !exclude.is_match(&t.name)
            && !done.contains(&t.name)
    };
    Ok(source
        .tensors
        .iter()
        .filter(chosen)
        .map(|t| t.name.as_str())
        .collect())
}

fn lay_out(source: &Source<'_>, chosen: &BTreeSet<&str>, args: &QuantizeArgs) -> Result<Layout> {
    let mut planned = Vec::new();
    let mut packed = source.packed.clone();
    for tensor in &source.tensors {
        let name = tensor.name.clone();
        if !chosen.contains(name.as_str()) {
            let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
            planned.push(Planned { name, dtype, shape });
            continue;
        }
        let shape @ [rows, cols] = matrix_shape(tensor)?;
        let scales = scales_name(&name);
        ensure!(
            !source.tensors.iter().any(|t| t.name == scales),
            "tensor `{scales}` is in the way of the scales of `{name}`"
        );
        planned.push(Planned {
            name: scales,
            dtype: Dtype::F32,
            shape: args.granularity.scales_shape(shape),
        });
        let info = PackedInfo {
            dtype: tensor.dtype.to_string(),
            shape,
            granularity: args.granularity,
            sparsity: args.sparsity_2_4.then(|| "2:4".to_owned()),
        };
        packed.insert(name.clone(), info);
        planned.push(Planned {
            name,
            dtype: Dtype::U8,
            shape: vec![rows, cols.div_ceil(4)],
        });
    }
    Layout::new(planned, &source.metadata, Some(&packed))
}

fn matrix_shape(tensor: &Tensor<'_>) -> Result<[usize; 2]> {
    match tensor.shape[..] {
        [rows, cols] => Ok([rows, cols]),
        _ => bail!("tensor `{}` is not a matrix", tensor.name),
    }
}

fn write(
    source: &Source<'_>,
    chosen: &BTreeSet<&str>,
    layout: &Layout,
    file: &mut AtomicFile,
    args: &QuantizeArgs,
) -> Result<Vec<Report>> {
    let in_output = || format!("`{}`", args.output.display());
    let start = |name: &str| {
        layout
            .offsets
            .get(name)
            .copied()
            .context("a tensor not laid out")
    };
    let total = source.tensors.iter().map(|t| t.data.len() as u64).sum();
    let bar = output::progress(
        total,
        "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {eta} left  {wide_msg}",
    );
    file.write_at(0, &layout.header).with_context(in_output)?;
    let mut reports = Vec::new();
    for tensor in &source.tensors {
        let name = &tensor.name;
        bar.set_message(plain(name));
        if chosen.contains(name.as_str()) {
            let (matrix, report) = ternarise(tensor, args)
                .with_context(|| format!("`{}`: tensor `{name}`", args.input.display()))?;
            file.write_at(start(name)?, matrix.packed())
                .with_context(in_output)?;
            let scales: Vec<u8> = matrix
                .scales()
                .values()
                .iter()
                .flat_map(|s| s.to_le_bytes())
                .collect();
            file.write_at(start(&scales_name(name))?, &scales)
                .with_context(in_output)?;
            reports.push(report);
        } else {
            file.write_at(start(name)?, tensor.data)
                .with_context(in_output)?;
        }
        bar.inc(tensor.data.len() as u64);
    }
    bar.finish_and_clear();
    Ok(reports)
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
        let pairs = tensor.data.par_chunks_exact(2);
        pairs.map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    };
    match tensor.dtype {
        Dtype::F16 => halves().reinterpret_cast::<f16>().to_f32_vec(),
        Dtype::BF16 => halves().reinterpret_cast::<bf16>().to_f32_vec(),
        _ => {
            let quads = tensor.data.par_chunks_exact(4);
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
        dtype: tensor.dtype,
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
    source: &Source<'_>,
    reports: &[Report],
    [before, after]: [u64; 2],
    args: &QuantizeArgs,
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
                (_, true) => format!("{low:.4}"),
                _ => format!("{low:.4} to {high:.4}"),
            };
            table.add_row([
                plain(&r.name),
                r.dtype.to_string(),
                format!("{} x {}", r.shape[0], r.shape[1]),
                format!("{:.1} %", 100.0 * r.zeros),
                scales,
                r.error.map_or("-".to_owned(), |e| format!("{e:.3}")),
            ]);
        }
        out.table(&table)?;
        out.line("")?;
    }
    let copied = source.tensors.len() - reports.len();
    out.text(format!(
        "{} ternarised, {} copied: {} -> {}, {:.2} times smaller.",
        count(reports.len(), "tensor", "tensors"),
        copied,
        output::bytes(before),
        output::bytes(after),
        before as f64 / after.max(1) as f64,
    ))?;
    out.line(format!(
        "Written to {}",
        plain(&args.output.display().to_string())
    ))
}
