//! Tensors that look like packed weights and were read as none: they are named.

use super::safetensors::Shards;
use super::tensors::Tensor;
use crate::hf;
use safetensors::Dtype;
use std::collections::HashSet;

/// Tensors that are named before the rest is counted.
const NAMED: usize = 20;

/// A note of each tensor that may hold packed weights and is not `taken` by a matrix.
pub(super) fn unrecognised(shards: &Shards<'_>, taken: &HashSet<String>) -> Vec<String> {
    let free = shards.tensors.iter().filter(|t| !taken.contains(&t.name));
    let mut why = free.filter_map(|t| Some((t, reason(shards, t)?)));
    let mut notes: Vec<String> = why
        .by_ref()
        .take(NAMED)
        .map(|(t, why)| {
            format!(
                "Not recognised as a ternary matrix: `{}`, {} {:?}, {why}.",
                t.name, t.type_name, t.shape
            )
        })
        .collect();
    match why.count() {
        0 => {}
        1 => notes.push("Not recognised as a ternary matrix: 1 tensor more.".to_owned()),
        n => notes.push(format!(
            "Not recognised as a ternary matrix: {n} tensors more."
        )),
    }
    notes
}

/// Why a tensor that looks packed is not read.
fn reason(shards: &Shards<'_>, tensor: &Tensor<'_>) -> Option<String> {
    let name = &tensor.name;
    for (ending, of) in [
        (".qweight", "as GPTQ and AWQ name theirs"),
        (".weight_packed", "as compressed-tensors names its"),
    ] {
        if name.ends_with(ending) {
            return Some(format!("is packed {of}"));
        }
    }
    if tensor.dtype != Some(Dtype::U8) || tensor.shape.len() < 2 {
        return None;
    }
    let scale_name = hf::scale_name(name);
    let Some(scale) = shards.get(&scale_name) else {
        let weight = name.ends_with("weight");
        return weight.then(|| format!("has no `{scale_name}`"));
    };
    let one = scale.shape.iter().product::<usize>() == 1;
    let float = scale.dtype.and_then(hf::float_type).is_some();
    Some(match (one && float, tensor.shape.len()) {
        (false, _) => format!(
            "its `{scale_name}` is {} {:?}, expected one BF16, F16 or F32",
            scale.type_name, scale.shape
        ),
        (true, 2) => "config.json names another quant_method".to_owned(),
        (true, n) => format!("has {n} dimensions, expected [ceil(M / 4), K]"),
    })
}
