//! The GGUF container, versions 2 and 3, little-endian: metadata and tensors of
//! a model in one file.
//!
//! [`Gguf::parse`] takes the bytes of the file, mapped or read, and copies none
//! of the tensors. It believes nothing: every count, length and offset is held
//! against the file's own length first, and memory grows with the part of the
//! file that was read, never with a number in it. What it refuses beside files
//! that are cut short: duplicate names, tensors that overlap, offsets off the
//! alignment, more than 4 dimensions, big-endian files, version 1.
//!
//! [`GgufWriter`] writes version 3.
//!
//! ```
//! use tritgemm::{Granularity, MatRef, TernaryMatrix};
//! use tritgemm_formats::{ScaleRounding, ggml::TernaryType};
//! use tritgemm_formats::gguf::{Gguf, GgufWriter, Value};
//!
//! let weights: Vec<f32> = (0..512).map(|i| (i as f32).sin()).collect();
//! let weights = MatRef::new(&weights, 2, 256)?;
//! let matrix = TernaryMatrix::quantize(weights, Granularity::PerRow)?;
//! // The scales are f32s that f16 has no equal for: rounding must be asked for.
//! let bytes = TernaryType::Tq1_0.encode(&matrix, ScaleRounding::Nearest, "w")?;
//!
//! let mut writer = GgufWriter::new();
//! writer.metadata("general.name", Value::from("example"))?;
//! writer.tensor("w", &[256, 2], TernaryType::Tq1_0.into())?;
//! let mut tensors = writer.start(Vec::new())?;
//! tensors.write(&bytes)?;
//! let file = tensors.finish()?;
//!
//! let gguf = Gguf::parse(&file)?;
//! assert_eq!(gguf.value("general.name").and_then(|v| v.as_str()), Some("example"));
//! assert_eq!(gguf.ternary("w")?.packed(), matrix.packed());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cursor;
mod dequant;
mod place;
mod shape;
mod split;
mod tensor;
mod types;
mod value;
mod write;

pub(crate) use place::Groups;
pub(crate) use split::KEYS as SPLIT_KEYS;
pub use split::{Split, part_name};
pub use tensor::Tensor;
pub use types::TensorType;
pub use value::{Array, Value, ValueType};
pub use write::{GgufTensors, GgufWriter, check_tensor_name};

use crate::error::{FormatError, Result};
use cursor::{Cursor, corrupt};
use place::{Info, place};
use std::collections::{HashMap, HashSet};
use tritgemm::TernaryMatrix;

/// The first bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Where tensors start if the metadata does not say otherwise.
pub const DEFAULT_ALIGNMENT: u32 = 32;
/// The metadata key of the alignment, a u32.
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// Bytes of the name of a tensor that ggml reads at most: its `GGML_MAX_NAME` is
/// 64 with the zero at the end. [`GgufWriter`] writes no longer ones.
pub const MAX_TENSOR_NAME: usize = 63;

/// Bytes of the name of a tensor or a key that are read at most, the
/// specification's limit for keys.
const MAX_NAME: usize = u16::MAX as usize;
/// Name length, number of dimensions, type and offset.
const LEAST_TENSOR: usize = 8 + 4 + 4 + 8;
/// Key length, value type and the smallest value.
const LEAST_METADATA: usize = 8 + 4 + 1;

/// A parsed GGUF file over its bytes.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    version: u32,
    alignment: u32,
    metadata: Vec<(&'a str, Value<'a>)>,
    tensors: Vec<Tensor<'a>>,
    names: HashMap<&'a str, usize>,
    groups: Groups,
}

impl<'a> Gguf<'a> {
    /// Parses the metadata and the list of tensors of a whole file.
    ///
    /// # Errors
    /// [`FormatError::Container`] with the offset if the file is no GGUF file of
    /// version 2 or 3, is cut short or contradicts itself, also if a tensor does
    /// not fit into its part of the file; [`FormatError::Block`],
    /// [`FormatError::Shape`] or [`FormatError::ShapeOverflow`] if a tensor's
    /// type cannot have its shape.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        Self::parse_part(file, false)
    }

    /// Parses a part of a model, of which other parts have groups of 128 weights under the
    /// number of Q2_0 if `of_128`.
    pub(crate) fn parse_part(file: &'a [u8], of_128: bool) -> Result<Self> {
        let mut cursor = Cursor::new(file);
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.u64("the number of tensors")?;
        let metadata_count = cursor.u64("the number of metadata values")?;
        cursor.check_count(tensor_count, LEAST_TENSOR, "tensors")?;
        cursor.check_count(metadata_count, LEAST_METADATA, "metadata values")?;
        let (metadata, alignment) = read_metadata(&mut cursor, metadata_count)?;

        let mut infos = Vec::new();
        let mut names = HashMap::new();
        for i in 0..tensor_count {
            let at = cursor.position();
            let info = Info::read(&mut cursor, alignment)?;
            if names.insert(info.name, i as usize).is_some() {
                return Err(corrupt(at, format!("a second tensor `{}`", info.name)));
            }
            infos.push(info);
        }
        let start = cursor
            .position()
            .checked_next_multiple_of(alignment as usize);
        // A file without tensors may end before the padding.
        let data = start.and_then(|start| file.get(start..)).unwrap_or(&[]);
        let data_start = file.len() - data.len();
        let (tensors, groups) = place(infos, data, data_start, alignment, of_128)?;
        Ok(Self {
            version,
            alignment,
            metadata,
            tensors,
            names,
            groups,
        })
    }

    /// What the number of Q2_0 means in it.
    pub(crate) fn groups(&self) -> Groups {
        self.groups
    }

    /// 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Tensors start at multiples of it, a power of two.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// The metadata, in the order of the file.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&'a str, Value<'a>)> {
        self.metadata.iter().copied()
    }

    /// The metadata value of that key.
    pub fn value(&self, key: &str) -> Option<Value<'a>> {
        self.metadata().find(|&(k, _)| k == key).map(|(_, v)| v)
    }

    /// The tensors, in the order of the file's list.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor<'a>> {
        self.tensors.iter()
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`FormatError::NoTensor`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor<'a>> {
        match self.names.get(name) {
            Some(&index) => Ok(&self.tensors[index]),
            None => Err(FormatError::NoTensor {
                tensor: name.into(),
            }),
        }
    }

    /// The matrix of a ternary tensor, see [`Tensor::ternary`].
    ///
    /// # Errors
    /// [`FormatError::NoTensor`] and those of [`Tensor::ternary`].
    pub fn ternary(&self, name: &str) -> Result<TernaryMatrix> {
        self.tensor(name)?.ternary()
    }
}

/// The values of bytes of a type that has them: see [`Tensor::to_f32`].
pub(crate) fn values(ty: TensorType, data: &[u8]) -> Option<Vec<f32>> {
    dequant::to_f32(ty, data)
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let magic = cursor.array("the magic number")?;
    if magic != MAGIC {
        let magic = magic.escape_ascii();
        return Err(corrupt(
            0,
            format!("`{magic}` at the start, expected `GGUF`"),
        ));
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(corrupt(
            4,
            "a big-endian file, expected a little-endian one (llama.cpp's \
             gguf_convert_endian.py converts)",
        )),
        _ => Err(corrupt(4, format!("version {version}, expected 2 or 3"))),
    }
}

type Metadata<'a> = Vec<(&'a str, Value<'a>)>;

fn read_metadata<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<(Metadata<'a>, u32)> {
    let mut metadata = Vec::new();
    let mut keys = HashSet::new();
    let mut alignment = DEFAULT_ALIGNMENT;
    for _ in 0..count {
        let at = cursor.position();
        let key = cursor.name("a metadata key", MAX_NAME)?;
        if !keys.insert(key) {
            return Err(corrupt(at, format!("a second metadata value `{key}`")));
        }
        let value = Value::read(cursor)?;
        if key == ALIGNMENT_KEY {
            alignment = check_alignment(&value).map_err(|what| corrupt(at, what))?;
        }
        metadata.push((key, value));
    }
    Ok((metadata, alignment))
}

fn check_alignment(value: &Value<'_>) -> Result<u32, String> {
    match *value {
        Value::U32(alignment) if alignment.is_power_of_two() => Ok(alignment),
        Value::U32(alignment) => Err(format!(
            "an alignment of {alignment}, expected a power of two"
        )),
        value => Err(format!(
            "an alignment of type {:?}, expected U32",
            value.value_type()
        )),
    }
}
