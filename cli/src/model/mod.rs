//! What a file of weights holds, whatever its format.
//!
//! | module | files |
//! |---|---|
//! | [`safetensors`] | ours, as `tritgemm quantize` writes them, and HF BitNet |
//! | [`gguf`] | GGUF |
//! | [`onnx`] | ONNX models, their 2-bit weights |
//! | [`panels`] | panel files |
//! | [`scales`] | what a scale covers, made coarser or finer without loss |

mod gguf;
mod onnx;
mod panels;
mod safetensors;
mod scales;

pub use gguf::{MATRICES_KEY, METADATA_PREFIX, type_of as gguf_type_of};
pub use panels::bias_name;
pub use safetensors::{HF_KEY, HfInfo};
pub use scales::{coarsest, regroup};

use crate::format::PackedInfo;
use ::safetensors::Dtype;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use tritgemm::TernaryMatrix;
use tritgemm_formats::gguf::Value;
use tritgemm_formats::hf::LinearClass;

/// What a file does not say of itself.
#[derive(Default)]
pub struct Hints {
    /// What `weight_scale` means in an HF file.
    pub linear_class: Option<LinearClass>,
    /// M of HF matrices of `ceil(M / 4)` packed rows.
    pub rows: Option<usize>,
    /// Whether an HF file whose linear class nobody knows is opened all the
    /// same, its scales taken as they are stored.
    pub tolerant: bool,
}

/// A file that was opened: what is in it, decoded on demand.
pub struct Model<'a> {
    /// The kind of file.
    pub container: &'static str,
    pub matrices: Vec<Matrix<'a>>,
    /// Everything that is no ternary matrix.
    pub others: Vec<Other<'a>>,
    /// What a safetensors header has for metadata, but for our own keys.
    pub metadata: BTreeMap<String, String>,
    /// What a GGUF header has, but for our own keys.
    pub gguf: Vec<(String, Value<'a>)>,
    /// What its reader has to know.
    pub note: Option<String>,
}

/// A ternary matrix of a file.
pub struct Matrix<'a> {
    pub name: String,
    /// Its format there.
    pub format: &'static str,
    /// `[M, K]`.
    pub shape: [usize; 2],
    /// Bytes in the file, scales included.
    pub bytes: usize,
    /// What our own metadata says of it.
    pub info: Option<PackedInfo>,
    /// Its shape in a GGUF file, K first: a stack of matrices has more than two
    /// dimensions there, and is one matrix of all their rows here.
    pub gguf_shape: Option<Vec<u64>>,
    read: Box<dyn Fn() -> Result<TernaryMatrix> + 'a>,
}

impl Matrix<'_> {
    /// Decodes it; every code and scale is checked.
    pub fn read(&self) -> Result<TernaryMatrix> {
        (self.read)()
    }
}

/// A tensor that is no ternary matrix.
pub struct Other<'a> {
    pub name: String,
    /// Its type, by the name that its format has for it.
    pub type_name: String,
    /// The number of its type in a GGUF file, if it is from one.
    pub gguf_type: Option<u32>,
    /// The safetensors type of the same name and meaning, if there is one.
    pub dtype: Option<Dtype>,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// Row-major, little-endian.
    pub data: &'a [u8],
    /// Values that are not in the file in this form.
    pub owned: Option<Vec<u8>>,
}

impl Other<'_> {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.owned.as_deref().unwrap_or(self.data)
    }
}

impl<'a> Model<'a> {
    /// Reads the header of a file; `path` is where it was found.
    pub fn open(bytes: &'a [u8], path: &Path, hints: &Hints) -> Result<Self> {
        ensure!(!bytes.is_empty(), "is empty");
        let model = if bytes.starts_with(b"GGUF") {
            gguf::open(bytes)?
        } else if bytes.starts_with(b"TRITPANL") {
            panels::open(bytes, path)?
        } else if path.extension().is_some_and(|e| e == "onnx") {
            // Nothing tells protobuf by its first bytes.
            onnx::open(bytes)?
        } else {
            safetensors::open(bytes, path, hints)?
        };
        let hf = model.matrices.iter().any(|m| m.format == safetensors::HF);
        let wanted = hints.linear_class.is_some() || hints.rows.is_some();
        ensure!(
            hf || !wanted,
            "has no HF BitNet matrices, which --linear-class and --rows are for"
        );
        Ok(model)
    }
}
