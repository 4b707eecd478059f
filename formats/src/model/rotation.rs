//! Matrices whose inputs or rows are rotated: PrismML's `prism.hadamard.*` and the place that
//! our own metadata has for it.
//!
//! | key | value |
//! |---|---|
//! | `.version` | 1 |
//! | `.block_size` | values of a transform |
//! | `.transform` | `normalized-sylvester-walsh-hadamard` |
//! | `.axis` | `input-last-dimension` |
//! | `.sign_mode` | `identity` or `explicit` |
//! | `.sign_widths`, `.sign_values` | K of each run of signs; the runs one after the other |
//! | `.weight_names` | tensors whose inputs are rotated: `y = W H(s x)` |
//! | `.inverse_weight_names` | tables whose rows are rotated: a row is `s H(row)` |
//! | `.gdn_v_grouped` | whether gated delta nets were rotated with their value heads in groups |
//!
//! A `hadamard.json` beside safetensors files has the same keys, with `prism.hadamard` before
//! them or without.

use super::files::refused;
use crate::error::{FormatError, Result};
use crate::gguf::{Array, Gguf, GgufWriter, Value, ValueType};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use tritgemm::Rotation;

/// What the keys begin with.
pub const PREFIX: &str = "prism.hadamard.";
/// The only transform that is known.
pub const TRANSFORM: &str = "normalized-sylvester-walsh-hadamard";
/// The only axis that is known.
pub const AXIS: &str = "input-last-dimension";

/// Every key that has a meaning here.
const KEYS: [&str; 10] = [
    "version",
    "block_size",
    "transform",
    "axis",
    "sign_mode",
    "sign_widths",
    "sign_values",
    "weight_names",
    "inverse_weight_names",
    "gdn_v_grouped",
];

/// How a tensor is rotated.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub struct Rotated {
    /// The transform.
    pub rotation: Rotation,
    /// Products take rotated inputs: `y = W H(s x)`.
    pub input: bool,
    /// Its rows are rotated: what is looked up is `s H(row)`, [`Rotation::invert`].
    pub rows: bool,
    /// The model's gated delta nets were rotated with their value heads in groups. The inputs
    /// of their output projection (`ssm_out`) are in that order where the rotation is applied:
    /// bringing them into it is the caller's.
    pub gdn_v_grouped: bool,
}

/// [`Rotated`] in the metadata of a safetensors file of ours.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationInfo {
    /// Values of a transform.
    pub block: usize,
    /// The signs of the inputs, `+` or `-` for each, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signs: Option<String>,
    /// Whether products take rotated inputs.
    pub input: bool,
    /// Whether its rows are rotated.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub rows: bool,
    /// Whether the model's gated delta nets were rotated with their value heads in groups.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub gdn_v_grouped: bool,
}

impl RotationInfo {
    /// What the metadata says of a rotated matrix.
    pub fn new(rotated: &Rotated) -> Self {
        let sign = |sign| if sign < 0 { '-' } else { '+' };
        Self {
            block: rotated.rotation.block(),
            signs: rotated.rotation.signs().map(|s| s.map(sign).collect()),
            input: rotated.input,
            rows: rotated.rows,
            gdn_v_grouped: rotated.gdn_v_grouped,
        }
    }

    /// The rotation of the tensor `name` of `cols` columns.
    pub(super) fn rotated(&self, name: &str, cols: usize) -> Result<Rotated> {
        let signs = self.signs.as_deref().map(|signs| {
            let sign = |c| match c {
                '+' => 1,
                '-' => -1,
                _ => 0,
            };
            signs.chars().map(sign).collect::<Vec<i8>>()
        });
        Ok(Rotated {
            rotation: rotation(name, cols, self.block, signs.as_deref())?,
            input: self.input,
            rows: self.rows,
            gdn_v_grouped: self.gdn_v_grouped,
        })
    }
}

/// A rotation of `cols` values.
fn rotation(name: &str, cols: usize, block: usize, signs: Option<&[i8]>) -> Result<Rotation> {
    let wrong = |what: String| refused(format!("tensor `{name}`: its rotation {what}"));
    let rotation = Rotation::new(block, signs).map_err(|e| wrong(format!("cannot be: {e}")))?;
    match signs {
        _ if !cols.is_multiple_of(block) => Err(wrong(format!(
            "is of blocks of {block}, which K = {cols} is not"
        ))),
        Some(signs) if signs.len() != cols => {
            let len = signs.len();
            Err(wrong(format!(
                "has {len} signs, expected {cols}, one a column"
            )))
        }
        _ => Ok(rotation),
    }
}

/// What the keys of a model say.
pub(super) struct Hadamard {
    block: usize,
    gdn_v_grouped: bool,
    /// The signs of each width; none for the identity.
    signs: Option<HashMap<usize, Vec<i8>>>,
    inputs: HashSet<String>,
    rows: HashSet<String>,
}

impl Hadamard {
    /// Reads the keys, if there are any.
    pub(super) fn read(metadata: &[(String, Value<'_>)]) -> Result<Option<Self>> {
        let keys: HashMap<&str, &Value<'_>> = metadata
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)))
            .collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let mut unknown: Vec<&str> = keys.keys().copied().collect();
        unknown.retain(|key| !KEYS.contains(key));
        if let Some(key) = unknown.iter().min() {
            return Err(FormatError::Metadata {
                key: format!("{PREFIX}{key}"),
                what: format!("is not known, expected {}", KEYS.join(", ")),
            });
        }
        let known = |key: &str, expected: &str, value: Option<&str>| match value {
            Some(value) if value == expected => Ok(()),
            _ => Err(wrong(key, keys.get(key).copied(), expected)),
        };
        let version = keys.get("version").and_then(|v| v.as_u64());
        if version != Some(1) {
            return Err(wrong("version", keys.get("version").copied(), "1"));
        }
        let text = |key: &str| keys.get(key).and_then(|v| v.as_str());
        known("transform", TRANSFORM, text("transform"))?;
        known("axis", AXIS, text("axis"))?;
        let block = keys.get("block_size").and_then(|v| v.as_u64());
        let block = block.and_then(|n| usize::try_from(n).ok());
        let block = block.filter(|n| n.is_power_of_two()).ok_or_else(|| {
            wrong(
                "block_size",
                keys.get("block_size").copied(),
                "a power of two",
            )
        })?;
        let array = |key: &str| match keys.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(*array)),
            Some(value) => Err(wrong(key, Some(value), "an array")),
        };
        let signs = match text("sign_mode") {
            Some("identity") => None,
            Some("explicit") => Some(signs(array("sign_widths")?, array("sign_values")?)?),
            _ => {
                let value = keys.get("sign_mode").copied();
                return Err(wrong("sign_mode", value, "identity or explicit"));
            }
        };
        let names = |key: &str| -> Result<HashSet<String>> {
            let Some(array) = array(key)? else {
                return Ok(HashSet::new());
            };
            let name = |v: Value<'_>| v.as_str().map(str::to_owned);
            let names: Option<_> = array.iter().map(name).collect();
            names.ok_or_else(|| wrong(key, keys.get(key).copied(), "names"))
        };
        let gdn_v_grouped = match keys.get("gdn_v_grouped") {
            None => false,
            Some(Value::Bool(grouped)) => *grouped,
            value => return Err(wrong("gdn_v_grouped", value.copied(), "true or false")),
        };
        Ok(Some(Self {
            block,
            gdn_v_grouped,
            signs,
            inputs: names("weight_names")?,
            rows: names("inverse_weight_names")?,
        }))
    }

    /// Reads a `hadamard.json`: as the keys of a GGUF file that says the same.
    pub(super) fn from_json(json: &serde_json::Value) -> Result<Self> {
        let not = || refused("is no JSON object of a rotation");
        let mut writer = GgufWriter::new();
        for (key, value) in json.as_object().ok_or_else(not)? {
            // What else the file tells of its model is not about the rotation.
            let name = key.strip_prefix(PREFIX).unwrap_or(key);
            if KEYS.contains(&name) || name != key {
                add_json(&mut writer, &format!("{PREFIX}{name}"), value)?;
            }
        }
        let file = writer.start(Vec::new())?.finish()?;
        let gguf = Gguf::parse(&file)?;
        let metadata: Vec<(String, Value<'_>)> = (gguf.metadata())
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        Self::read(&metadata)?.ok_or_else(not)
    }

    /// Whether the tensor `name` is rotated.
    pub(super) fn names(&self, name: &str) -> bool {
        self.inputs.contains(name) || self.rows.contains(name)
    }

    /// How the tensor `name` of `cols` columns is rotated, if it is.
    pub(super) fn of(&self, name: &str, cols: usize) -> Result<Option<Rotated>> {
        let (input, rows) = (self.inputs.contains(name), self.rows.contains(name));
        if !input && !rows {
            return Ok(None);
        }
        let signs = match &self.signs {
            None => None,
            Some(signs) => Some(signs.get(&cols).ok_or_else(|| {
                let key = format!("{PREFIX}sign_widths");
                let what = format!("has no signs of width {cols}, which tensor `{name}` has");
                FormatError::Metadata { key, what }
            })?),
        };
        Ok(Some(Rotated {
            rotation: rotation(name, cols, self.block, signs.map(Vec::as_slice))?,
            input,
            rows,
            gdn_v_grouped: self.gdn_v_grouped,
        }))
    }

    /// Tensors that are named and not among `names`.
    pub(super) fn absent(&self, has: impl Fn(&str) -> bool) -> Vec<&str> {
        let all = self.inputs.union(&self.rows).map(String::as_str);
        let mut absent: Vec<&str> = all.filter(|name| !has(name)).collect();
        absent.sort_unstable();
        absent
    }
}

/// Runs of signs by their widths.
fn signs(widths: Option<Array<'_>>, values: Option<Array<'_>>) -> Result<HashMap<usize, Vec<i8>>> {
    let missing = |key| wrong(key, None, "an array, as sign_mode is explicit");
    let widths = widths.ok_or_else(|| missing("sign_widths"))?;
    let values = values.ok_or_else(|| missing("sign_values"))?;
    let mut left = values.iter();
    let mut all = HashMap::new();
    for width in widths.iter() {
        let len = width.as_u64().and_then(|n| usize::try_from(n).ok());
        let len = len.ok_or_else(|| wrong("sign_widths", Some(&width), "numbers from 0 up"))?;
        let mut run = Vec::new();
        for value in left.by_ref().take(len) {
            run.push(match value {
                Value::I32(1) | Value::I8(1) | Value::I16(1) | Value::I64(1) => 1,
                Value::I32(-1) | Value::I8(-1) | Value::I16(-1) | Value::I64(-1) => -1,
                value => return Err(wrong("sign_values", Some(&value), "1 or -1")),
            });
        }
        if run.len() < len {
            let what = format!("a run of {len}, as sign_widths says");
            return Err(wrong("sign_values", None, &what));
        }
        if all.insert(len, run).is_some() {
            return Err(wrong("sign_widths", Some(&width), "each width once"));
        }
    }
    match left.next() {
        None => Ok(all),
        Some(value) => Err(wrong(
            "sign_values",
            Some(&value),
            "no more than sign_widths says",
        )),
    }
}

/// Adds a value of JSON to the metadata of a GGUF file.
fn add_json(writer: &mut GgufWriter, key: &str, value: &serde_json::Value) -> Result<()> {
    use serde_json::Value as Json;
    let scalar = |value: &'_ Json| match value {
        Json::Bool(value) => Some(Value::Bool(*value)),
        Json::Number(number) => Some(match number.as_i64() {
            Some(number) => Value::I64(number),
            None => Value::F64(number.as_f64()?),
        }),
        _ => None,
    };
    let wrong = || FormatError::Metadata {
        key: key.to_owned(),
        what: format!("is `{value}`, expected a text, a number, true, false or an array of one"),
    };
    let added = match value {
        Json::String(text) => writer.metadata(key, Value::from(text.as_str())),
        Json::Array(items) if items.iter().all(Json::is_string) => {
            let texts = items.iter().filter_map(Json::as_str).map(Value::from);
            writer.metadata_array(key, ValueType::String, texts)
        }
        Json::Array(items) => {
            let values = items.iter().map(scalar).collect::<Option<Vec<_>>>();
            let values = values.ok_or_else(wrong)?;
            writer.metadata_array(key, ValueType::I64, values)
        }
        value => writer.metadata(key, scalar(value).ok_or_else(wrong)?),
    };
    added.map(|_| ())
}

fn wrong(key: &str, value: Option<&Value<'_>>, expected: &str) -> FormatError {
    let found = value.map_or("is missing".to_owned(), |value| format!("is `{value}`"));
    FormatError::Metadata {
        key: format!("{PREFIX}{key}"),
        what: format!("{found}, expected {expected}"),
    }
}
