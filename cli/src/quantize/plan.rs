//! Which tensors are ternarised, and what is written of each.

use crate::args::QuantizeArgs;
use crate::format::Planned;
use crate::names;
use anyhow::{Context, Result, bail, ensure};
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use tritgemm_formats::Model;
use tritgemm_formats::model::ours::{PackedInfo, scales_name, scales_shape};
use tritgemm_formats::model::{Matrix, Tensor};

/// A tensor of the input, and whether it is a part of a matrix that is packed already.
pub(super) struct Source<'a> {
    pub(super) tensor: &'a Tensor<'a>,
    packed: bool,
}

/// Everything that the input holds.
pub(super) fn tensors(model: &Model) -> Result<Vec<Source<'_>>> {
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
    // What is stored with ours says how it is rotated.
    let rotated = |m: &&Matrix<'_>| m.rotation.is_some() && m.is_hf();
    if let Some(matrix) = model.matrices().iter().find(rotated) {
        bail!(
            "tensor `{}` is rotated, which is not quantised",
            matrix.name
        );
    }
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
pub(super) fn choose<'a>(
    sources: &'a [Source<'_>],
    args: &QuantizeArgs,
) -> Result<BTreeSet<&'a str>> {
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
            && (t.unread.is_none() || spelled_out(t, args))
    };
    let chosen = sources.iter().filter(chosen);
    Ok(chosen.map(|s| s.tensor.name.as_str()).collect())
}

/// Whether a tensor is asked for by its whole name.
fn spelled_out(tensor: &Tensor<'_>, args: &QuantizeArgs) -> bool {
    args.include.iter().any(|glob| glob.glob() == tensor.name)
}

/// Matrices of floats that are copied since they seem to belong to packed weights.
pub(super) fn tables<'a>(
    sources: &'a [Source<'_>],
    chosen: &BTreeSet<&str>,
) -> Vec<&'a Tensor<'a>> {
    let table = |s: &&Source<'_>| {
        let floats = matches!(s.tensor.dtype, Some(Dtype::F32 | Dtype::F16 | Dtype::BF16));
        let left = !chosen.contains(s.tensor.name.as_str());
        s.tensor.unread.is_some() && floats && s.tensor.shape.len() == 2 && left
    };
    let tables = sources.iter().filter(table);
    tables.map(|s| s.tensor).collect()
}

/// What is written, and what our metadata says of it.
pub(super) struct Plan {
    pub(super) tensors: Vec<Planned>,
    pub(super) packed: BTreeMap<String, PackedInfo>,
}

pub(super) fn lay_out(
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

/// `[M, K]`.
pub(super) fn matrix_shape(tensor: &Tensor<'_>) -> Result<[usize; 2]> {
    match tensor.shape[..] {
        [rows, cols] => Ok([rows, cols]),
        _ => bail!("tensor `{}` is not a matrix", tensor.name),
    }
}
