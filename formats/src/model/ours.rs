//! How packed matrices of this project lie in a safetensors file.
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

use super::files::refused;
use super::rotation::RotationInfo;
use crate::error::{FormatError, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use tritgemm::{Granularity, GroupSize, Scales, TernaryMatrix};

/// The key of the version of these keys.
pub const VERSION_KEY: &str = "tritgemm.version";
/// The key of the list of packed matrices; in GGUF files that were converted, of what
/// they were in a safetensors file.
pub const TENSORS_KEY: &str = "tritgemm.tensors";
/// The key of what is noted in the header of HF BitNet files that were converted: an
/// [`HfInfo`] as JSON.
pub const HF_KEY: &str = "tritgemm.hf";
/// The version that is read and written.
pub const VERSION: &str = "1";

/// The longest header that the safetensors crate reads.
pub const MAX_HEADER: usize = 100_000_000;

/// What the metadata says about a packed matrix.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PackedInfo {
    /// The safetensors type that it was quantised from, or the format that it
    /// was converted from.
    pub dtype: String,
    /// `[M, K]`.
    pub shape: [usize; 2],
    /// What one scale covers.
    #[serde(
        serialize_with = "write_granularity",
        deserialize_with = "read_granularity"
    )]
    pub granularity: Granularity,
    /// `2:4` where of 4 consecutive weights at most 2 are not zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<String>,
    /// The shape of a stack of matrices, slowest dimension first: its matrices follow each
    /// other in the rows of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<Vec<usize>>,
    /// How its inputs or its rows are rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationInfo>,
}

/// What an HF file that was converted says of itself beyond its tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HfInfo {
    /// As in a `config.json`.
    pub linear_class: String,
    /// The HF matrices.
    pub tensors: BTreeMap<String, PackedInfo>,
}

/// What scales can cover, by the names that files and the command line have for it.
const GRANULARITIES: [(&str, Granularity); 6] = [
    ("tensor", Granularity::PerTensor),
    ("row", Granularity::PerRow),
    ("group32", Granularity::PerGroup(GroupSize::G32)),
    ("group64", Granularity::PerGroup(GroupSize::G64)),
    ("group128", Granularity::PerGroup(GroupSize::G128)),
    ("group256", Granularity::PerGroup(GroupSize::G256)),
];

/// The name of what a scale covers: `tensor`, `row`, `group64` and so on.
pub fn granularity_name(granularity: Granularity) -> &'static str {
    let found = GRANULARITIES.iter().find(|(_, g)| *g == granularity);
    found.map_or("other", |(name, _)| name)
}

fn write_granularity<S: Serializer>(granularity: &Granularity, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(granularity_name(*granularity))
}

fn read_granularity<'de, D: Deserializer<'de>>(from: D) -> Result<Granularity, D::Error> {
    let name = String::deserialize(from)?;
    let found = GRANULARITIES.iter().find(|(n, _)| *n == name);
    found.map(|(_, granularity)| *granularity).ok_or_else(|| {
        let names = GRANULARITIES.map(|(name, _)| name).join(", ");
        serde::de::Error::custom(format!("granularity `{name}`, expected one of {names}"))
    })
}

/// The name of a matrix's scales.
pub fn scales_name(name: &str) -> String {
    format!("{name}.scales")
}

/// The shape of the scales of a `[rows, cols]` matrix.
pub fn scales_shape(granularity: Granularity, [rows, cols]: [usize; 2]) -> Vec<usize> {
    match granularity {
        Granularity::PerTensor => vec![1],
        Granularity::PerRow => vec![rows],
        Granularity::PerGroup(group) => vec![rows, group.groups(cols)],
    }
}

/// What the keys of a file's metadata say, which are taken out of it: nothing if it has none.
pub(super) fn packed(
    metadata: &mut BTreeMap<String, String>,
) -> Result<Option<BTreeMap<String, PackedInfo>>> {
    let version = metadata.remove(VERSION_KEY);
    let listed = metadata.remove(TENSORS_KEY);
    match (version.as_deref(), listed) {
        (None, None) => Ok(None),
        (Some(VERSION), Some(json)) => json_value(TENSORS_KEY, &json).map(Some),
        (Some(VERSION), None) => Err(refused(format!("metadata `{TENSORS_KEY}` is missing"))),
        (None, Some(_)) => Err(refused(format!("metadata `{VERSION_KEY}` is missing"))),
        (Some(version), _) => Err(refused(format!(
            "metadata `{VERSION_KEY}` is {version:?}, this program knows {VERSION}"
        ))),
    }
}

/// JSON of ours out of a metadata value.
pub(super) fn json_value<T: for<'de> Deserialize<'de>>(key: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| FormatError::Metadata {
        key: key.into(),
        what: format!("is not what it should be: {e}"),
    })
}

/// The packed matrix of `info` from its bytes, whose sizes were checked: codes, padding and
/// scales are checked here.
pub(super) fn matrix(
    name: &str,
    info: &PackedInfo,
    packed: &[u8],
    scales: &[u8],
) -> Result<TernaryMatrix> {
    let [rows, cols] = info.shape;
    let values: Vec<f32> = crate::FloatType::F32.decode(scales);
    let scales = match info.granularity {
        Granularity::PerTensor => match values[..] {
            [scale] => Scales::per_tensor(scale),
            _ => {
                return Err(in_tensor(
                    name,
                    format!("{} scales, expected 1", values.len()),
                ));
            }
        },
        Granularity::PerRow => Scales::per_row(values),
        Granularity::PerGroup(group) => Scales::per_group(group, values),
    };
    let matrix = TernaryMatrix::from_packed(packed.to_vec(), rows, cols, scales);
    let matrix = matrix.map_err(|source| FormatError::Matrix {
        tensor: name.into(),
        source,
    })?;
    match info.sparsity.as_deref() {
        None => {}
        Some("2:4") => check_2_4(name, &matrix)?,
        Some(other) => {
            let what = format!("sparsity {other:?} is not one that is known: 2:4");
            return Err(in_tensor(name, what));
        }
    }
    Ok(matrix)
}

pub(super) fn in_tensor(name: &str, what: impl std::fmt::Display) -> FormatError {
    refused(format!("tensor `{name}`: {what}"))
}

/// At most 2 of 4 weights that are not zero.
fn check_2_4(name: &str, matrix: &TernaryMatrix) -> Result<()> {
    let dense = matrix.packed().iter().position(|b| b.count_ones() > 2);
    let Some(at) = dense else { return Ok(()) };
    let bytes_per_row = matrix.cols().div_ceil(4);
    let (row, col) = (at / bytes_per_row, at % bytes_per_row * 4);
    let what = format!("is not 2:4 sparse in row {row} at column {col}");
    Err(in_tensor(name, what))
}
