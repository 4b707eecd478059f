//! How packed matrices lie in a safetensors file.
//!
//! A matrix `NAME` of shape `[M, K]` is two tensors:
//!
//! | tensor | type | shape |
//! |---|---|---|
//! | `NAME` | U8 | `[M, ceil(K / 4)]`, the interchange encoding |
//! | `NAME.scales` | F32 | `[1]`, `[M]` or `[M, ceil(K / group)]` |
//!
//! and an entry in the file's `__metadata__`, whose values safetensors wants
//! to be strings:
//!
//! | key | value |
//! |---|---|
//! | `tritgemm.version` | `1` |
//! | `tritgemm.tensors` | JSON: for each `NAME` a [`PackedInfo`] |
//!
//! Files are written here and not by the safetensors crate, because its header
//! has the metadata in random order: the same input would give other bytes
//! each time.

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use tritgemm::{Granularity, GroupSize, Scales, TernaryMatrix};

const VERSION_KEY: &str = "tritgemm.version";
const TENSORS_KEY: &str = "tritgemm.tensors";
const VERSION: &str = "1";

/// The longest header that the safetensors crate reads.
const MAX_HEADER: usize = 100_000_000;

/// What one scale covers, by its name on the command line and in files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// As the command line has it.
    pub fn from_granularity(granularity: Granularity) -> Self {
        match granularity {
            Granularity::PerTensor => Grain::Tensor,
            Granularity::PerRow => Grain::Row,
            Granularity::PerGroup(GroupSize::G32) => Grain::Group32,
            Granularity::PerGroup(GroupSize::G64) => Grain::Group64,
            Granularity::PerGroup(GroupSize::G128) => Grain::Group128,
            Granularity::PerGroup(GroupSize::G256) => Grain::Group256,
        }
    }

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

    /// The shape of the scales of a `[rows, cols]` matrix.
    pub fn scales_shape(self, [rows, cols]: [usize; 2]) -> Vec<usize> {
        match self.granularity() {
            Granularity::PerTensor => vec![1],
            Granularity::PerRow => vec![rows],
            Granularity::PerGroup(group) => vec![rows, group.groups(cols)],
        }
    }

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Grain::Tensor => "tensor",
            Grain::Row => "row",
            Grain::Group32 => "group32",
            Grain::Group64 => "group64",
            Grain::Group128 => "group128",
            Grain::Group256 => "group256",
        }
    }

    fn scales(self, values: Vec<f32>) -> Result<Scales> {
        Ok(match self.granularity() {
            Granularity::PerTensor => match values[..] {
                [scale] => Scales::per_tensor(scale),
                _ => bail!("{} scales for a tensor, expected 1", values.len()),
            },
            Granularity::PerRow => Scales::per_row(values),
            Granularity::PerGroup(group) => Scales::per_group(group, values),
        })
    }
}

/// What the metadata says about a packed matrix.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PackedInfo {
    /// The safetensors type that it was quantised from, or the format that it
    /// was converted from.
    pub dtype: String,
    /// `[M, K]`.
    pub shape: [usize; 2],
    /// What one scale covers.
    pub granularity: Grain,
    /// `2:4` where of 4 consecutive weights at most 2 are not zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<String>,
}

/// The name of a matrix's scales.
pub fn scales_name(name: &str) -> String {
    format!("{name}.scales")
}

/// A tensor of a file that was read.
pub struct Tensor<'a> {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: &'a [u8],
}

/// A file that was read: its tensors in the order of their bytes, its metadata
/// but for our own keys, and what those say.
pub struct Source<'a> {
    pub tensors: Vec<Tensor<'a>>,
    pub metadata: BTreeMap<String, String>,
    pub packed: BTreeMap<String, PackedInfo>,
    /// Whether it has our keys at all.
    pub ours: bool,
}

impl<'a> Source<'a> {
    /// Reads and checks the header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        ensure!(!bytes.is_empty(), "is empty, not a safetensors file");
        let (header_len, header) = SafeTensors::read_metadata(bytes)
            .map_err(|e| anyhow!("not a valid safetensors file: {e}"))?;
        let data = bytes.get(8 + header_len..).unwrap_or_default();
        let mut tensors = Vec::new();
        for name in header.offset_keys() {
            let info = header.info(&name).context("a tensor without an entry")?;
            let (start, end) = info.data_offsets;
            tensors.push(Tensor {
                dtype: info.dtype,
                shape: info.shape.clone(),
                data: data.get(start..end).context("a tensor beyond the end")?,
                name,
            });
        }
        let mut metadata: BTreeMap<String, String> = header
            .metadata()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect();
        let version = metadata.remove(VERSION_KEY);
        let listed = metadata.remove(TENSORS_KEY);
        let ours = version.is_some() || listed.is_some();
        let packed = match (version.as_deref(), listed) {
            (None, None) => BTreeMap::new(),
            (Some(VERSION), Some(json)) => serde_json::from_str(&json)
                .with_context(|| format!("metadata `{TENSORS_KEY}` is not what it should be"))?,
            (Some(VERSION), None) => bail!("metadata `{TENSORS_KEY}` is missing"),
            (None, Some(_)) => bail!("metadata `{VERSION_KEY}` is missing"),
            (Some(version), _) => {
                bail!("metadata `{VERSION_KEY}` is {version:?}, this program knows {VERSION}")
            }
        };
        Ok(Self {
            tensors,
            metadata,
            packed,
            ours,
        })
    }

    fn tensor(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&Tensor<'a>> {
        // Files have thousands of tensors at most.
        let tensor = self.tensors.iter().find(|t| t.name == name);
        let tensor = tensor.with_context(|| format!("there is no tensor `{name}`"))?;
        ensure!(
            tensor.dtype == dtype && tensor.shape == shape,
            "`{name}` is {} {:?}, expected {dtype} {shape:?}",
            tensor.dtype,
            tensor.shape
        );
        Ok(tensor)
    }

    /// The packed matrix `name`: its codes, padding, shapes and scales checked.
    pub fn matrix(&self, name: &str, info: &PackedInfo) -> Result<TernaryMatrix> {
        let [rows, cols] = info.shape;
        let packed = self.tensor(name, Dtype::U8, &[rows, cols.div_ceil(4)])?;
        let shape = info.granularity.scales_shape(info.shape);
        let scales = self.tensor(&scales_name(name), Dtype::F32, &shape)?;
        let values: Vec<f32> = scales
            .data
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        let scales = info.granularity.scales(values)?;
        let matrix = TernaryMatrix::from_packed(packed.data.to_vec(), rows, cols, scales)?;
        match info.sparsity.as_deref() {
            None => {}
            Some("2:4") => check_2_4(&matrix)?,
            Some(other) => bail!("sparsity {other:?} is unknown"),
        }
        Ok(matrix)
    }
}

/// A code has one bit set unless it is 0, so a byte of 4 weights has as many
/// bits as weights that are not zero.
fn check_2_4(matrix: &TernaryMatrix) -> Result<()> {
    let dense = matrix.packed().iter().position(|b| b.count_ones() > 2);
    if let Some(at) = dense {
        let bytes_per_row = matrix.cols().div_ceil(4);
        let (row, col) = (at / bytes_per_row, at % bytes_per_row * 4);
        bail!("is not 2:4 sparse in row {row} at column {col}");
    }
    Ok(())
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
    /// that all are aligned, then by name. `packed` lists the packed matrices,
    /// if the file is one of ours.
    pub fn new(
        mut tensors: Vec<Planned>,
        metadata: &BTreeMap<String, String>,
        packed: Option<&BTreeMap<String, PackedInfo>>,
    ) -> Result<Self> {
        tensors.sort_by(|a, b| {
            let width = b.dtype.bitsize().cmp(&a.dtype.bitsize());
            width.then_with(|| a.name.cmp(&b.name))
        });
        let mut names = HashSet::new();
        if let Some(twice) = tensors.iter().find(|t| !names.insert(&t.name)) {
            bail!("two tensors of the output would be called `{}`", twice.name);
        }
        let mut metadata = metadata.clone();
        if let Some(packed) = packed {
            metadata.insert(VERSION_KEY.to_owned(), VERSION.to_owned());
            metadata.insert(TENSORS_KEY.to_owned(), serde_json::to_string(packed)?);
        }

        let mut json = format!("{{\"__metadata__\":{}", serde_json::to_string(&metadata)?);
        let mut starts = Vec::with_capacity(tensors.len());
        let mut end = 0u64;
        for tensor in &tensors {
            let start = end;
            end = byte_len(tensor.dtype, &tensor.shape)
                .and_then(|len| start.checked_add(len))
                .with_context(|| format!("tensor `{}` is too large", tensor.name))?;
            starts.push(start);
            json += &format!(
                ",{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{start},{end}]}}",
                serde_json::to_string(&tensor.name)?,
                tensor.dtype,
                serde_json::to_string(&tensor.shape)?,
            );
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

fn byte_len(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    let bits = shape.iter().try_fold(dtype.bitsize() as u64, |bits, &n| {
        bits.checked_mul(n.try_into().ok()?)
    })?;
    Some(bits.div_ceil(8))
}

#[cfg(test)]
mod tests;
