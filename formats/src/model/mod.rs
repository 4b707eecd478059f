//! A model as it lies on the disk, in one file or in many, whatever its format.
//!
//! | module | files |
//! |---|---|
//! | `files`, `folder`, `weight_map` | which files there are |
//! | `mapped` | their bytes |
//! | `gguf` | GGUF, in one file or split |
//! | `safetensors`, `header` | HF BitNet and this project's own, in one file or sharded |
//! | `config` | what is said beside them |
//! | `unrecognised` | packed weights that are not read |
//! | `onnx` | ONNX, with its external data |
//! | `panels` | panel files |
//! | [`ours`] | how this project's matrices lie in safetensors files |
//! | [`rotation`] | matrices with rotated inputs |

mod config;
mod files;
mod folder;
mod gguf;
mod header;
mod mapped;
mod onnx;
pub mod ours;
mod panels;
pub mod rotation;
mod safetensors;
mod tensors;
mod unrecognised;
mod weight_map;

pub use panels::bias_name;
pub use tensors::{Matrix, Tensor};

use crate::error::{FormatError, Result};
use crate::ggml::{I2sLayout, TernaryType};
use crate::gguf::Value;
use crate::hf::LinearClass;
use files::{Files, Kind};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tritgemm::{Linear, TernaryMatrix, Workspace};

/// What some editors put before UTF-8 text.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The metadata of a safetensors file in a GGUF file that was converted from it has this
/// before its keys.
pub const SAFETENSORS_PREFIX: &str = "safetensors.";

/// What files do not say of themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// What `weight_scale` means in HF BitNet files, before what a `config.json` says.
    pub linear_class: Option<LinearClass>,
    /// M of HF BitNet matrices of `ceil(M / 4)` packed rows.
    pub rows: Option<usize>,
    /// The layout of I2_S tensors, [`I2sLayout::X86`] if nothing is said.
    pub i2s_layout: Option<I2sLayout>,
    /// Whether HF BitNet matrices that cannot be read for what `config.json` says or lacks are
    /// opened all the same, with a note: their scales are taken as they are stored.
    pub tolerant: bool,
}

/// Opens the model at `path` with [`OpenOptions::default`]: see [`open_with`].
///
/// ```no_run
/// use tritgemm::Workspace;
///
/// let model = tritgemm_formats::open("model-00001-of-00003.gguf")?;
/// for matrix in model.matrices() {
///     println!("{} {:?}", matrix.name, matrix.shape);
/// }
/// let layer = model.linear("blk.0.ffn_up.weight", &Workspace::new())?;
/// # Ok::<(), tritgemm_formats::FormatError>(())
/// ```
///
/// # Errors
/// Those of [`open_with`].
pub fn open(path: impl AsRef<Path>) -> Result<Model> {
    open_with(path, &OpenOptions::default())
}

/// Opens the model at `path` and all files that belong to it, mapped into memory. `path` is
///
/// - a GGUF, safetensors, ONNX or panel file, told by what is in it; of a split GGUF model its first part, and of an ONNX model the file that names
///   its external data;
/// - `*.safetensors.index.json`, whose shards are read;
/// - a folder that holds one of these.
///
/// Headers are read and checked now, weights when they are asked for. The files must not be
/// changed or cut short while the model lives: changed bytes are read as wrong numbers, and
/// reading what was cut off ends the process.
///
/// # Errors
/// [`FormatError::InFile`] with the path and why: the file is of no format that is read, a
/// file that belongs to it is missing or foreign, a header is damaged, or something is said
/// that has no meaning here (another `quant_method`, an unknown rotation).
pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Model> {
    let path = path.as_ref();
    let open = || {
        let files = Files::find(path)?;
        let cell = Cell::try_new(files, |files| Contents::read(files, path, options))?;
        let contents = cell.borrow_dependent();
        let mut index = HashMap::new();
        let names = contents.matrices.iter().map(|m| &m.name);
        for (i, name) in names
            .chain(contents.others.iter().map(|t| &t.name))
            .enumerate()
        {
            if index.insert(name.clone(), i).is_some() {
                return Err(files::refused(format!("has two tensors `{name}`")));
            }
        }
        Ok(Model { cell, index })
    };
    open().map_err(|source| match source {
        // A folder's only file.
        error @ FormatError::InFile { .. } if path.is_dir() => error,
        source => files::in_file(path, source),
    })
}

self_cell::self_cell!(
    struct Cell {
        owner: Files,
        #[covariant]
        dependent: Contents,
    }
);

/// What files hold.
pub(super) struct Contents<'a> {
    container: &'static str,
    matrices: Vec<Matrix<'a>>,
    others: Vec<Tensor<'a>>,
    metadata: BTreeMap<String, String>,
    gguf: Vec<(String, Value<'a>)>,
    notes: Vec<String>,
    unsupported: Option<String>,
}

impl<'a> Contents<'a> {
    fn read(files: &'a Files, path: &Path, options: &OpenOptions) -> Result<Self> {
        let mut contents = match &files.kind {
            Kind::Gguf => gguf::read(&files.parts, options)?,
            Kind::Safetensors(map) => safetensors::read(files, map.as_ref(), path, options)?,
            Kind::Onnx(model) => onnx::read(model, &files.parts)?,
            Kind::Panels => panels::read(&files.parts[0])?,
        };
        contents.notes.splice(..0, files.notes.iter().cloned());
        let hf = contents.matrices.iter().any(Matrix::is_hf);
        if !hf && (options.linear_class.is_some() || options.rows.is_some()) {
            return Err(files::refused(
                "has no HF BitNet matrices, which a linear class and rows are for",
            ));
        }
        let i2s = |m: &Matrix<'_>| m.format == TernaryType::I2S.name();
        if options.i2s_layout.is_some() && !contents.matrices.iter().any(i2s) {
            return Err(files::refused(
                "has no I2_S matrices, which a layout is for",
            ));
        }
        Ok(contents)
    }
}

/// A model whose files are open: its ternary matrices and its other tensors, by their names,
/// read on demand.
pub struct Model {
    cell: Cell,
    /// Matrices, then others.
    index: HashMap<String, usize>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("container", &self.container())
            .field("matrices", &self.matrices().len())
            .field("others", &self.others().len())
            .finish_non_exhaustive()
    }
}

impl Model {
    /// The kind of its files: `GGUF`, `safetensors`, `ONNX` or `panel file`.
    pub fn container(&self) -> &'static str {
        self.contents().container
    }

    /// Its files and their bytes: the one that has the metadata first, but for shards, which
    /// are sorted. An index is not among them.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&Path, u64)> {
        let parts = &self.cell.borrow_owner().parts;
        parts
            .iter()
            .map(|p| (p.path.as_path(), p.bytes.len() as u64))
    }

    /// Its ternary matrices.
    pub fn matrices(&self) -> &[Matrix<'_>] {
        &self.contents().matrices
    }

    /// Everything that is no ternary matrix.
    pub fn others(&self) -> &[Tensor<'_>] {
        &self.contents().others
    }

    /// The ternary matrix of that name.
    ///
    /// # Errors
    /// [`FormatError::NoTensor`] if there is none.
    pub fn matrix(&self, name: &str) -> Result<&Matrix<'_>> {
        let matrix = self.index.get(name).and_then(|&i| self.matrices().get(i));
        matrix.ok_or_else(|| FormatError::NoTensor {
            tensor: name.into(),
        })
    }

    /// The tensor of that name that is no ternary matrix.
    ///
    /// # Errors
    /// [`FormatError::NoTensor`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor<'_>> {
        let index = self.index.get(name);
        let index = index.and_then(|i| i.checked_sub(self.matrices().len()));
        let tensor = index.and_then(|i| self.others().get(i));
        tensor.ok_or_else(|| FormatError::NoTensor {
            tensor: name.into(),
        })
    }

    /// Reads the ternary matrix of that name: see [`Matrix::read`].
    ///
    /// # Errors
    /// [`FormatError::NoTensor`] and those of [`Matrix::read`].
    pub fn ternary(&self, name: &str) -> Result<TernaryMatrix> {
        self.matrix(name)?.read()
    }

    /// Reads the ternary matrix of that name as a layer: see [`Matrix::linear`].
    ///
    /// # Errors
    /// [`FormatError::NoTensor`] and those of [`Matrix::linear`].
    pub fn linear(&self, name: &str, ws: &Workspace) -> Result<Linear> {
        self.matrix(name)?.linear(ws)
    }

    /// What safetensors headers have for metadata, but for this project's own keys.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents().metadata
    }

    /// What a GGUF header has, but for this project's own keys and those of parts.
    pub fn gguf_metadata(&self) -> &[(String, Value<'_>)] {
        &self.contents().gguf
    }

    /// What a reader has to know: assumptions that no file states, and matrices that look
    /// packed and were not recognised.
    pub fn notes(&self) -> &[String] {
        &self.contents().notes
    }

    /// What a file beside the model says of its weights that is not read here: that another
    /// method packs them, or a rotation of packed ones. Floats of such a model are no weights
    /// to be quantised.
    pub fn unsupported(&self) -> Option<&str> {
        self.contents().unsupported.as_deref()
    }

    fn contents(&self) -> &Contents<'_> {
        self.cell.borrow_dependent()
    }
}
