//! ONNX models: the 2-bit weights of their `MatMulNBits` nodes, and their other initialisers.

use super::Contents;
use super::files::Part;
use super::tensors::{Matrix, Source, Tensor};
use crate::error::Result;
use crate::onnx::{Initialiser, OnnxModel};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What an ONNX model holds.
pub(super) fn read<'a>(model: &'a Arc<OnnxModel>, parts: &[Part]) -> Result<Contents<'a>> {
    let total: usize = parts.iter().map(|part| part.bytes.len()).sum();
    let matrix = |name: &str| {
        let shape @ [rows, cols] = model.shape(name)?;
        Ok(Matrix {
            name: name.to_owned(),
            format: "ONNX 2-bit",
            shape,
            // What the node says is not believed yet.
            bytes: rows.saturating_mul(cols.div_ceil(4)).min(total),
            info: None,
            stack: None,
            rotation: None,
            stored: Vec::new(),
            source: Source::Onnx(model),
        })
    };
    let matrices = model.matrices().map(matrix).collect::<Result<_>>()?;
    let (mut others, mut left) = (Vec::new(), Vec::new());
    for tensor in model.others()? {
        match tensor {
            Initialiser::Plain(name, dtype, shape, bytes) => {
                others.push(Tensor::new(name, dtype, shape, bytes))
            }
            Initialiser::Unread(name, ty) => left.push(format!("`{name}` of type {ty}")),
        }
    }
    let mut notes =
        vec!["Of ONNX, the weights of 2-bit MatMulNBits nodes are read as matrices.".to_owned()];
    let unread: HashSet<&str> = model.unread().collect();
    for tensor in &mut others {
        if unread.contains(tensor.name.as_str()) {
            tensor.unread = Some("is packed by a method that is not read".to_owned());
        } else if model.is_table(&tensor.name) {
            let why = "belongs to packed weights that are not read";
            tensor.unread = Some(why.to_owned());
        }
    }
    let quoted: Vec<String> = model.unread().map(|name| format!("`{name}`")).collect();
    for (names, what) in [(quoted, " of other bits or operators"), (left, "")] {
        notes.extend(names.first().map(|first| {
            let more = match names.len() {
                1 => String::new(),
                n => format!(", and {} more{what}", n - 1),
            };
            format!("Not read, whatever its weights are: {first}{more}.")
        }));
    }
    match model.nested() {
        0 => {}
        1 => notes.push("1 initialiser of a branch or a loop is not read.".to_owned()),
        n => notes.push(format!(
            "{n} initialisers of branches and loops are not read."
        )),
    }
    Ok(Contents {
        unsupported: None,
        container: "ONNX",
        matrices,
        others,
        metadata: BTreeMap::new(),
        gguf: Vec::new(),
        notes,
    })
}
