//! Safetensors files as they are written; how packed matrices lie in them is told by
//! [`tritgemm_formats::model::ours`].
//!
//! Files are written here and not by the safetensors crate, because its header
//! has the metadata in random order: the same input would give other bytes
//! each time.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap, HashSet};
use tritgemm::{Granularity, GroupSize};
use tritgemm_formats::model::ours::{MAX_HEADER, PackedInfo, TENSORS_KEY, VERSION, VERSION_KEY};

/// What one scale covers, by its name on the command line and in files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Grain {
    /// one scale for the tensor
    Tensor,
    /// one scale a row
    Row,
    /// one for every 32 weights of a row
    Group32,
    /// one for every 64 weights of a row
    Group64,
    /// one for every 128 weights of a row
    Group128,
    /// one for every 256 weights of a row
    Group256,
}

impl Grain {
    /// As the library has it.
    pub fn granularity(self) -> Granularity {
        match self {
            Grain::Tensor => Granularity::PerTensor,
            Grain::Row => Granularity::PerRow,
            Grain::Group32 => Granularity::PerGroup(GroupSize::G32),
            Grain::Group64 => Granularity::PerGroup(GroupSize::G64),
            Grain::Group128 => Granularity::PerGroup(GroupSize::G128),
            Grain::Group256 => Granularity::PerGroup(GroupSize::G256),
        }
    }
}

/// What our own keys of the metadata say of packed matrices.
pub fn own_keys(packed: &BTreeMap<String, PackedInfo>) -> Result<BTreeMap<String, String>> {
    Ok(BTreeMap::from([
        (VERSION_KEY.to_owned(), VERSION.to_owned()),
        (TENSORS_KEY.to_owned(), serde_json::to_string(packed)?),
    ]))
}

/// What is said of matrices among `names`.
pub fn of_names(
    packed: &BTreeMap<String, PackedInfo>,
    names: &[&str],
) -> BTreeMap<String, PackedInfo> {
    let of_name = |name: &&str| Some(((*name).to_owned(), packed.get(*name)?.clone()));
    names.iter().filter_map(of_name).collect()
}

/// A tensor of a file to be written.
#[derive(Clone, Debug)]
pub struct Planned {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// Where everything goes in a file to be written.
pub struct Layout {
    /// The first bytes of the file.
    pub header: Vec<u8>,
    /// Where each tensor's bytes start, from the start of the file.
    pub offsets: HashMap<String, u64>,
    /// Length of the file.
    pub len: u64,
}

impl Layout {
    /// Lays out `tensors`, as the safetensors crate does: wide types first, so
    /// that all are aligned, then by name.
    pub fn new(mut tensors: Vec<Planned>, metadata: &BTreeMap<String, String>) -> Result<Self> {
        tensors.sort_by(|a, b| {
            let width = b.dtype.bitsize().cmp(&a.dtype.bitsize());
            width.then_with(|| a.name.cmp(&b.name))
        });
        let mut names = HashSet::new();
        if let Some(twice) = tensors.iter().find(|t| !names.insert(&t.name)) {
            bail!("two tensors of the output would be called `{}`", twice.name);
        }
        ensure!(
            !tensors.iter().any(|t| t.name == "__metadata__"),
            "tensor `__metadata__`: a safetensors file has its metadata under that name"
        );
        let mut json = format!("{{\"__metadata__\":{}", serde_json::to_string(metadata)?);
        let mut starts = Vec::with_capacity(tensors.len());
        let mut end = 0u64;
        for tensor in &tensors {
            let start = end;
            end = byte_len(tensor.dtype, &tensor.shape)
                .and_then(|len| start.checked_add(len))
                .with_context(|| format!("tensor `{}` is too large", tensor.name))?;
            starts.push(start);
            json += &entry(tensor, [start, end])?;
        }
        json.push('}');
        while json.len() % 8 != 0 {
            json.push(' ');
        }
        ensure!(json.len() <= MAX_HEADER, "the header would be too long");
        let data = 8 + json.len() as u64;
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        let names = tensors.into_iter().map(|t| t.name);
        Ok(Self {
            header,
            offsets: names.zip(starts.into_iter().map(|s| data + s)).collect(),
            len: data + end,
        })
    }
}

/// What a header says of a tensor.
fn entry(tensor: &Planned, [start, end]: [u64; 2]) -> Result<String> {
    Ok(format!(
        ",{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{start},{end}]}}",
        serde_json::to_string(&tensor.name)?,
        tensor.dtype,
        serde_json::to_string(&tensor.shape)?,
    ))
}

/// Bytes that a header takes for a tensor, wherever that is.
pub fn entry_len(tensor: &Planned) -> Result<u64> {
    Ok(entry(tensor, [u64::MAX; 2])?.len() as u64)
}

/// Bytes of a tensor.
pub fn byte_len(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let bits = shape.iter().try_fold(dtype.bitsize() as u64, |bits, &n| {
        bits.checked_mul(n.try_into().ok()?)
    })?;
    Some(bits.div_ceil(8))
}

#[cfg(test)]
mod tests;
