//! ONNX models: the 2-bit weights of their `MatMulNBits` nodes, and their other initialisers.

use super::Contents;
use super::files::Part;
use super::tensors::{Matrix, Source, Tensor};
use crate::error::Result;
use crate::onnx::OnnxModel;
use std::collections::BTreeMap;
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
    let (mut others, mut left) = (Vec::new(), 0);
    for tensor in model.others()? {
        match tensor {
            Some((name, dtype, shape, bytes)) => {
                others.push(Tensor::new(name, dtype, shape, bytes))
            }
            None => left += 1,
        }
    }
    let mut notes =
        vec!["Of ONNX, the weights of 2-bit MatMulNBits nodes are read as matrices.".to_owned()];
    let unread: Vec<&str> = model.unread().collect();
    if let Some(first) = unread.first() {
        notes.push(format!(
            "Not read, whatever its weights are: `{first}`{}.",
            match unread.len() {
                1 => String::new(),
                n => format!(", and {} more of other bits or operators", n - 1),
            }
        ));
    }
    if left > 0 {
        notes.push(format!(
            "{left} initialisers are of types that are not read."
        ));
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
