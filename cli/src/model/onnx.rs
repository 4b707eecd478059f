//! ONNX models: the 2-bit weights of their `MatMulNBits` nodes.

use super::{Matrix, Model};
use anyhow::Result;
use std::collections::BTreeMap;
use std::rc::Rc;
use tritgemm_formats::onnx::OnnxModel;

/// Reads an ONNX model.
pub fn open<'a>(bytes: &'a [u8]) -> Result<Model<'a>> {
    let file = Rc::new(OnnxModel::parse(bytes)?);
    let matrix = |name: &str| {
        let (file, owned) = (Rc::clone(&file), name.to_owned());
        let shape @ [rows, cols] = file.shape(name)?;
        Ok(Matrix {
            name: name.to_owned(),
            format: "ONNX 2-bit",
            shape,
            // What the node says is not believed yet.
            bytes: rows.saturating_mul(cols.div_ceil(4)).min(bytes.len()),
            info: None,
            gguf_shape: None,
            read: Box::new(move || Ok(file.decode(&owned)?)),
        })
    };
    let matrices = file.matrices().map(matrix).collect::<Result<_>>()?;
    Ok(Model {
        container: "ONNX",
        matrices,
        others: Vec::new(),
        metadata: BTreeMap::new(),
        gguf: Vec::new(),
        note: Some("Of ONNX, only the weights of 2-bit MatMulNBits nodes are read.".to_owned()),
    })
}
