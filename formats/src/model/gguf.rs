//! GGUF models, in one file or split.

use super::files::{Part, in_file, refused};
use super::ours::{self, PackedInfo, TENSORS_KEY};
use super::rotation::{Hadamard, PREFIX};
use super::tensors::{Matrix, Source, Tensor};
use super::{Contents, OpenOptions, SAFETENSORS_PREFIX};
use crate::error::{FormatError, Result};
use crate::ggml::{I2sLayout, TernaryType};
use crate::gguf::{self, Gguf, Groups, SPLIT_KEYS, TensorType};
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
    let (files, groups) = parse(parts)?;
    metadata(&files[0], &mut contents, &mut noted)?;
    check_count(&files)?;
    let mut tensors: Vec<gguf::Tensor<'a>> = Vec::new();
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (i, (file, part)) in files.iter().zip(parts).enumerate() {
        if i > 0 {
            same_model(&files[0], file, part)?;
            later_metadata(&files[0], file, part, &mut contents.notes)?;
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
    let layout = options.i2s_layout.unwrap_or_default();
    notes(&tensors, layout, groups, &mut contents.notes);
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
            source: Source::Gguf(tensor.with_i2s_layout(layout)),
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

/// Parses all parts. What the number of Q2_0 means is one for all of them: the second value
/// is in how many tensors nothing tells.
fn parse(parts: &[Part]) -> Result<(Vec<Gguf<'_>>, usize)> {
    let mut files = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        files.push(parse_part(i, part, false)?);
    }
    let find = |groups| files.iter().position(|file| file.groups() == groups);
    let (of_64, of_128) = (find(Groups::Of64), find(Groups::Of128));
    if let (Some(_), Some(part)) = (of_64, of_128) {
        return Err(FormatError::Part {
            path: parts[part].path.clone(),
            what: "has groups of 128 weights under type 42, and another part has groups of 64"
                .to_owned(),
        });
    }
    let mut untold = 0;
    for (i, part) in parts.iter().enumerate() {
        match files[i].groups() {
            Groups::Either(_) if of_128.is_some() => files[i] = parse_part(i, part, true)?,
            Groups::Either(n) if of_64.is_none() => untold += n,
            _ => {}
        }
    }
    Ok((files, untold))
}

/// Parses part `i`. Errors in the first one are those of the model.
fn parse_part(i: usize, part: &Part, of_128: bool) -> Result<Gguf<'_>> {
    let file = Gguf::parse_part(&part.bytes, of_128);
    file.map_err(|e| match i {
        0 => e,
        _ => in_file(&part.path, e),
    })
}

/// That all parts have as many tensors together as the first one says.
fn check_count(files: &[Gguf<'_>]) -> Result<()> {
    let told = files[0].split()?.and_then(|split| split.tensors);
    let counts: Vec<u64> = files
        .iter()
        .map(|file| file.tensors().len() as u64)
        .collect();
    let found: u64 = counts.iter().sum();
    match told {
        Some(told) if told != found => Err(refused(format!(
            "has {found} tensors in all of its {} parts ({}), split.tensors.count says {told}: \
             a part is of another model",
            files.len(),
            counts
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        ))),
        _ => Ok(()),
    }
}

/// That the tensors of a later part may be of the model that the first one describes.
fn same_model(first: &Gguf<'_>, file: &Gguf<'_>, part: &Part) -> Result<()> {
    let architecture = first.value("general.architecture");
    let architecture = architecture.and_then(|v| v.as_str()).unwrap_or("");
    let number = |key: &str| first.value(&format!("{architecture}.{key}"))?.as_u64();
    let (blocks, width) = (number("block_count"), number("embedding_length"));
    for tensor in file.tensors() {
        let block = tensor.name().strip_prefix("blk.").and_then(|rest| {
            let (number, rest) = rest.split_once('.')?;
            Some((number.parse::<u64>().ok()?, rest))
        });
        let Some((block, rest)) = block else { continue };
        let what = match (blocks, width) {
            (Some(blocks), _) if block >= blocks => format!("the model has {blocks} blocks"),
            (_, Some(width)) if rest == "attn_norm.weight" && tensor.shape() != [width] => {
                format!("the model has embeddings of {width} values")
            }
            _ => continue,
        };
        return Err(FormatError::Part {
            path: part.path.clone(),
            what: format!(
                "is a part of another model: it has a tensor `{}` {:?}, and {what}",
                tensor.name(),
                tensor.shape()
            ),
        });
    }
    Ok(())
}

/// Metadata of the model stands in the first part. What a later one says of its own is
/// refused if it changes what the weights mean, and named otherwise.
fn later_metadata(
    first: &Gguf<'_>,
    file: &Gguf<'_>,
    part: &Part,
    notes: &mut Vec<String>,
) -> Result<()> {
    for (key, value) in file.metadata() {
        let of_parts = SPLIT_KEYS.contains(&key) || key == gguf::ALIGNMENT_KEY;
        // Arrays are equal as texts if they are of one type and length, and not read here.
        let same = first
            .value(key)
            .is_some_and(|v| v.to_string() == value.to_string());
        if of_parts || same && !key.starts_with(PREFIX) {
            continue;
        }
        let path = &part.path;
        if key.starts_with(PREFIX) {
            let what =
                format!("has metadata `{key}`, which stands in the first part of a model alone");
            return Err(FormatError::Part {
                path: path.clone(),
                what,
            });
        }
        notes.push(format!(
            "Metadata `{key}` of `{}` is not read: that of a model stands in its first part.",
            path.display()
        ));
    }
    Ok(())
}

/// What is assumed, and what is not read.
fn notes(tensors: &[gguf::Tensor<'_>], layout: I2sLayout, untold: usize, notes: &mut Vec<String>) {
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
    if untold > 0 {
        notes.push(format!(
            "{} of type 42 read as Q2_0, and nothing tells whether so meant: groups of 128 \
             weights in 34 bytes, as older files of PrismML's have under that number, would take \
             the same room.",
            count(untold, "small matrix is", "small matrices are"),
        ));
    }
    let mut unread = tensors.iter().filter(|t| is_unread(t.tensor_type()));
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

/// Whether a type is of weights that may be ternary and are not read.
fn is_unread(ty: TensorType) -> bool {
    UNREAD.contains(&ty.0) || ty.name() == "unknown"
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
        unread: is_unread(ty).then(|| "is of a type that is not read".to_owned()),
        data: tensor.data().into(),
    })
}
