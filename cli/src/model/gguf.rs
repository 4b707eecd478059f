//! GGUF files.

use super::{Matrix, Model, Other};
use crate::format::PackedInfo;
use anyhow::{Context, Result};
use safetensors::Dtype;
use std::collections::BTreeMap;
use tritgemm_formats::gguf::{Gguf, Tensor, TensorType};

/// The key of what we note of matrices that came from a file of ours: JSON, as
/// under the same key of a safetensors file.
pub const MATRICES_KEY: &str = "tritgemm.tensors";

/// What the metadata of a safetensors file is prefixed with in a GGUF file.
pub const METADATA_PREFIX: &str = "safetensors.";

/// The types that both containers have.
const SHARED: [(Dtype, u32); 8] = [
    (Dtype::F32, TensorType::F32.0),
    (Dtype::F16, TensorType::F16.0),
    (Dtype::BF16, TensorType::BF16.0),
    (Dtype::I8, 24),
    (Dtype::I16, 25),
    (Dtype::I32, 26),
    (Dtype::I64, 27),
    (Dtype::F64, 28),
];

/// The GGUF type of a safetensors type.
pub fn type_of(dtype: Dtype) -> Option<u32> {
    SHARED.iter().find(|t| t.0 == dtype).map(|t| t.1)
}

fn dtype_of(ty: TensorType) -> Option<Dtype> {
    SHARED.iter().find(|t| t.1 == ty.0).map(|t| t.0)
}

/// Reads the header of a GGUF file.
pub fn open<'a>(bytes: &'a [u8]) -> Result<Model<'a>> {
    let file = Gguf::parse(bytes)?;
    let mut noted: BTreeMap<String, PackedInfo> = BTreeMap::new();
    let (mut metadata, mut gguf) = (BTreeMap::new(), Vec::new());
    for (key, value) in file.metadata() {
        match (value.as_str(), key.strip_prefix(METADATA_PREFIX)) {
            (Some(json), _) if key == MATRICES_KEY => {
                noted = serde_json::from_str(json)
                    .with_context(|| format!("metadata `{key}` is not what it should be"))?;
            }
            (Some(text), Some(key)) => {
                metadata.insert(key.to_owned(), text.to_owned());
            }
            _ => gguf.push((key.to_owned(), value)),
        }
    }
    let (ternary, others): (Vec<&Tensor<'a>>, Vec<_>) = file
        .tensors()
        .partition(|t| t.tensor_type().ternary().is_some());
    let matrix = |t: &Tensor<'a>| {
        let tensor = *t;
        Matrix {
            name: t.name().to_owned(),
            format: t.tensor_type().name(),
            shape: [t.rows(), t.cols()],
            bytes: t.data().len(),
            info: noted.remove(t.name()),
            gguf_shape: Some(t.shape().to_vec()),
            read: Box::new(move || Ok(tensor.ternary()?)),
        }
    };
    Ok(Model {
        container: "GGUF",
        matrices: ternary.into_iter().map(matrix).collect(),
        others: others.into_iter().map(other).collect::<Result<_>>()?,
        metadata,
        gguf,
        note: None,
    })
}

fn other<'a>(tensor: &Tensor<'a>) -> Result<Other<'a>> {
    let ty = tensor.tensor_type();
    let size = |&n: &u64| usize::try_from(n).ok();
    let shape: Option<Vec<usize>> = tensor.shape().iter().rev().map(size).collect();
    Ok(Other {
        name: tensor.name().to_owned(),
        type_name: ty.to_string(),
        gguf_type: Some(ty.0),
        dtype: dtype_of(ty),
        shape: shape.with_context(|| format!("tensor `{}` is too large", tensor.name()))?,
        data: tensor.data(),
        owned: None,
    })
}
