//! Tensors that look like packed weights and were read as none: they and the tables of floats
//! that belong to them are marked and named.

use super::tensors::Tensor;
use crate::hf;
use safetensors::Dtype;
use std::collections::HashMap;

/// Tensors that are named before the rest is counted.
const NAMED: usize = 20;

/// How names of packed weights end, and whose they are.
const ENDINGS: [(&str, &str); 5] = [
    (".qweight", "GPTQ and AWQ name theirs"),
    (".weight_packed", "compressed-tensors names its"),
    ("_blocks", "MXFP4 models name theirs"),
    (".W_q", "HQQ names its"),
    (".codes", "AQLM names its"),
];

/// Marks packed weights among tensors that are no part of a matrix, and their tables; returns
/// a note of each of the weights.
///
/// Packed weights are integers or narrow floats that are named as weights or have a table. A
/// table is a tensor of floats in the same module as the weights, or with a name that
/// continues theirs, of fewer values than the weights have bytes.
pub(super) fn mark(tensors: &mut [Tensor<'_>]) -> Vec<String> {
    let tables = tables(tensors);
    let mut first: HashMap<usize, usize> = HashMap::new();
    for &(table, weights) in &tables {
        first.entry(weights).or_insert(table);
    }
    let index: HashMap<&str, usize> = names(tensors).collect();
    let mut found = Vec::new();
    for (i, tensor) in tensors.iter().enumerate().filter(|(_, t)| packs(t)) {
        let table = first.get(&i).map(|&table| tensors[table].name.as_str());
        let beside = |name: &str| index.get(name).map(|&i| &tensors[i]);
        found.extend(reason(tensor, table, beside).map(|why| (i, why)));
    }
    let belongs = |&(table, weights): &(usize, usize)| {
        let why = format!("belongs to `{}`", tensors[weights].name);
        (table, why)
    };
    let tables: Vec<(usize, String)> = tables.iter().map(belongs).collect();
    let note = |(i, why): &(usize, String)| {
        let Tensor {
            name,
            type_name,
            shape,
            ..
        } = &tensors[*i];
        format!("Not recognised as a ternary matrix: `{name}`, {type_name} {shape:?}, {why}.")
    };
    let mut notes: Vec<String> = found.iter().take(NAMED).map(note).collect();
    match found.len().saturating_sub(NAMED) {
        0 => {}
        1 => notes.push("Not recognised as a ternary matrix: 1 tensor more.".to_owned()),
        n => notes.push(format!(
            "Not recognised as a ternary matrix: {n} tensors more."
        )),
    }
    for (i, why) in tables.into_iter().chain(found) {
        tensors[i].unread = Some(why);
    }
    notes
}

fn names<'t>(tensors: &'t [Tensor<'_>]) -> impl Iterator<Item = (&'t str, usize)> {
    let all = tensors.iter().enumerate();
    all.map(|(i, tensor)| (tensor.name.as_str(), i))
}

/// Whether weights may be packed in such a tensor: wider integers are indexes.
fn packs(tensor: &Tensor<'_>) -> bool {
    let wide = match tensor.dtype {
        Some(Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) => true,
        Some(Dtype::I64 | Dtype::U64 | Dtype::BOOL | Dtype::C64) | None => true,
        Some(_) => false,
    };
    !wide && tensor.bytes().len() > 1
}

/// What is before the last dot of a name.
fn module(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(module, _)| module)
}

/// Each table, and the weights that it belongs to.
fn tables(tensors: &[Tensor<'_>]) -> Vec<(usize, usize)> {
    let len = |i: usize| tensors[i].bytes().len();
    let packed = || names(tensors).filter(|&(_, i)| packs(&tensors[i]));
    let by_name: HashMap<&str, usize> = packed().collect();
    let mut largest: HashMap<&str, usize> = HashMap::new();
    for (name, i) in packed() {
        let of_module = largest.entry(module(name)).or_insert(i);
        if len(i) > len(*of_module) {
            *of_module = i;
        }
    }
    let owner = |i: usize| {
        let name = tensors[i].name.as_str();
        let values = len(i) / tensors[i].dtype.and_then(hf::float_type)?.size();
        let small = |&weights: &usize| values < len(weights);
        let begins = |(at, _): (usize, &str)| by_name.get(&name[..at]).copied();
        let mut continued = name.rmatch_indices(['.', '_']).filter_map(begins);
        // One number in a module is no table of it.
        let beside = || largest.get(module(name)).copied().filter(|_| values > 1);
        let weights = continued.find(small).or_else(beside).filter(small)?;
        Some((i, weights))
    };
    (0..tensors.len()).filter_map(owner).collect()
}

/// Why a tensor that looks packed is not read.
fn reason<'t, 'a: 't>(
    tensor: &Tensor<'_>,
    table: Option<&str>,
    beside: impl Fn(&str) -> Option<&'t Tensor<'a>>,
) -> Option<String> {
    let name = &tensor.name;
    if let Some((_, whose)) = ENDINGS.iter().find(|(end, _)| name.ends_with(end)) {
        return Some(format!("is packed as {whose}"));
    }
    if tensor.dtype == Some(Dtype::U8) {
        let scales = super::ours::scales_name(name);
        if beside(&scales).is_some() {
            return Some(format!(
                "has its `{scales}` beside it, but the metadata of its own file does not list it"
            ));
        }
        let scale_name = hf::scale_name(name);
        if let Some(scale) = beside(&scale_name) {
            let one = scale.shape.iter().product::<usize>() == 1;
            let float = scale.dtype.and_then(hf::float_type).is_some();
            return Some(match (one && float, tensor.shape.len()) {
                (false, _) => format!(
                    "its `{scale_name}` is {} {:?}, expected one BF16, F16 or F32",
                    scale.type_name, scale.shape
                ),
                (true, 2) => "config.json names another quant_method".to_owned(),
                (true, n) => format!("has {n} dimensions, expected [ceil(M / 4), K]"),
            });
        }
    }
    match table {
        Some(table) => Some(format!("has its `{table}` beside it")),
        None if name.ends_with("weight") => Some(format!("has no `{}`", hf::scale_name(name))),
        None => None,
    }
}
