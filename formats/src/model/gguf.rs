//! GGUF models, in one file or split.

use super::files::{Part, in_file, refused};
use super::ours::{self, PackedInfo, TENSORS_KEY};
use super::rotation::Hadamard;
use super::tensors::{Matrix, Source, Tensor};
use super::{Contents, OpenOptions, SAFETENSORS_PREFIX};
use crate::error::{FormatError, Result};
use crate::ggml::{I2sLayout, TernaryType};
use crate::gguf::{self, Gguf, SPLIT_KEYS, TensorType};
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};

/// The types that GGUF and safetensors both have.
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

/// Types of ternary weights that are named and not read.
const UNREAD: [u32; 3] = [38, 39, 335];

impl TensorType {
    /// The type of the same name and meaning as that of a safetensors file.
    pub fn from_safetensors(dtype: Dtype) -> Option<Self> {
        let shared = SHARED.iter().find(|t| t.0 == dtype);
        shared.map(|t| TensorType(t.1))
    }

    /// The safetensors type of the same name and meaning.
    pub fn to_safetensors(self) -> Option<Dtype> {
        SHARED.iter().find(|t| t.1 == self.0).map(|t| t.0)
    }
}

/// Reads the headers of all parts.
pub(super) fn read<'a>(parts: &'a [Part], options: &OpenOptions) -> Result<Contents<'a>> {
    let mut noted: BTreeMap<String, PackedInfo> = BTreeMap::new();
    let mut contents = Contents {
        unsupported: None,
        container: "GGUF",
        matrices: Vec::new(),
        others: Vec::new(),
        metadata: BTreeMap::new(),
        gguf: Vec::new(),
        notes: Vec::new(),
    };
    let mut tensors: Vec<gguf::Tensor<'a>> = Vec::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (i, part) in parts.iter().enumerate() {
        let within = |e| match i {
            0 => e,
            _ => in_file(&part.path, e),
        };
        let file = Gguf::parse(&part.bytes).map_err(within)?;
        if i == 0 {
            metadata(&file, &mut contents, &mut noted)?;
            let told = file.split()?.and_then(|split| split.tensors);
            check_count(parts, told)?;
        }
        for tensor in file.tensors() {
            if let Some(first) = names.insert(tensor.name(), i) {
                return Err(FormatError::Part {
                    path: part.path.clone(),
                    what: format!(
                        "has a tensor `{}`, and so has part {}",
                        tensor.name(),
                        first + 1
                    ),
                });
            }
            tensors.push(*tensor);
        }
    }
    let hadamard = Hadamard::read(&contents.gguf)?;
    if let Some(hadamard) = &hadamard {
        let absent = hadamard.absent(|name| names.contains_key(name));
        if let Some(first) = absent.first() {
            contents.notes.push(format!(
                "The rotation names {} that the model does not have, the first is `{first}`.",
                count(absent.len(), "tensor", "tensors")
            ));
        }
    }
    notes(&tensors, options.i2s_layout, &mut contents.notes);
    for tensor in tensors {
        let rotation = match &hadamard {
            Some(hadamard) => hadamard.of(tensor.name(), tensor.cols())?,
            None => None,
        };
        let empty = tensor.rows() == 0 || tensor.cols() == 0;
        if tensor.tensor_type().ternary().is_none() || empty {
            let mut tensor = other(&tensor)?;
            tensor.rotation = rotation;
            contents.others.push(tensor);
            continue;
        }
        let info = noted.remove(tensor.name());
        contents.matrices.push(Matrix {
            name: tensor.name().to_owned(),
            format: tensor.tensor_type().name(),
            shape: [tensor.rows(), tensor.cols()],
            bytes: tensor.data().len(),
            info,
            stack: (tensor.shape().len() != 2)
                .then(|| shape(&tensor))
                .transpose()?,
            rotation,
            stored: Vec::new(),
            source: Source::Gguf(tensor.with_i2s_layout(options.i2s_layout)),
        });
    }
    Ok(contents)
}

/// The metadata of the model, and what our own keys say.
fn metadata<'a>(
    file: &Gguf<'a>,
    contents: &mut Contents<'a>,
    noted: &mut BTreeMap<String, PackedInfo>,
) -> Result<()> {
    for (key, value) in file.metadata() {
        match (value.as_str(), key.strip_prefix(SAFETENSORS_PREFIX)) {
            _ if SPLIT_KEYS.contains(&key) => {}
            (Some(json), _) if key == TENSORS_KEY => *noted = ours::json_value(key, json)?,
            (Some(text), Some(key)) => {
                contents.metadata.insert(key.to_owned(), text.to_owned());
            }
            _ => contents.gguf.push((key.to_owned(), value)),
        }
    }
    Ok(())
}

/// That all parts have as many tensors together as the first one says.
fn check_count(parts: &[Part], told: Option<u64>) -> Result<()> {
    let Some(told) = told else { return Ok(()) };
    let mut found = 0u64;
    for part in parts {
        let file = Gguf::parse(&part.bytes).map_err(|e| in_file(&part.path, e))?;
        found += file.tensors().len() as u64;
    }
    match found == told {
        true => Ok(()),
        false => Err(refused(format!(
            "has {found} tensors in all of its {} parts, split.tensors.count says {told}",
            parts.len()
        ))),
    }
}

/// What is assumed, and what is not read.
fn notes(tensors: &[gguf::Tensor<'_>], layout: I2sLayout, notes: &mut Vec<String>) {
    let is = |ty| {
        tensors
            .iter()
            .filter(move |t: &&gguf::Tensor<'_>| t.tensor_type().ternary() == Some(ty))
    };
    let i2s = is(TernaryType::I2S).count();
    if i2s > 0 {
        notes.push(format!(
            "{} read in the layout {}: three layouts share the type, and no file says which it \
             has (--i2s-layout).",
            match i2s {
                1 => "1 I2_S matrix is".to_owned(),
                n => format!("{n} I2_S matrices are"),
            },
            layout.name(),
        ));
    }
    let grouped = is(TernaryType::Pq2_0).filter(|t| t.said_type() != t.tensor_type());
    let grouped = grouped.count();
    if grouped > 0 {
        notes.push(format!(
            "{} of type 42 (Q2_0) in groups of 128 weights, as older files of PrismML's are: \
             read as PQ2_0.",
            count(grouped, "matrix is", "matrices are"),
        ));
    }
    let unread = |t: &&gguf::Tensor<'_>| {
        let ty = t.tensor_type();
        UNREAD.contains(&ty.0) || ty.name() == "unknown"
    };
    let mut unread = tensors.iter().filter(unread);
    if let Some(first) = unread.next() {
        let more = match unread.count() {
            0 => String::new(),
            n => format!(", and {} more", count(n, "tensor", "tensors")),
        };
        notes.push(format!(
            "Not read, whatever its weights are: `{}` of type {}{more}.",
            first.name(),
            first.tensor_type()
        ));
    }
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Slowest dimension first.
fn shape(tensor: &gguf::Tensor<'_>) -> Result<Vec<usize>> {
    let size = |&n: &u64| usize::try_from(n).ok();
    let shape: Option<Vec<usize>> = tensor.shape().iter().rev().map(size).collect();
    shape.ok_or_else(|| FormatError::ShapeOverflow {
        tensor: tensor.name().into(),
        shape: tensor.shape().into(),
    })
}

fn other<'a>(tensor: &gguf::Tensor<'a>) -> Result<Tensor<'a>> {
    let ty = tensor.tensor_type();
    Ok(Tensor {
        name: tensor.name().to_owned(),
        type_name: ty.to_string(),
        gguf_type: Some(ty.0),
        dtype: ty.to_safetensors(),
        shape: shape(tensor)?,
        rotation: None,
        unread: None,
        data: tensor.data().into(),
    })
}
