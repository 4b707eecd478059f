//! The files of a model: found, mapped and told apart.

use super::mapped::{Mapped, cannot_open};
use super::weight_map::WeightMap;
use super::{folder, header};
use crate::error::{FormatError, Result};
use crate::gguf::{Gguf, part_name};
use crate::onnx::OnnxModel;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A file of a model.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) bytes: Mapped,
}

impl Part {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        match Mapped::open(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(source) => Err(in_file(&path, source)),
        }
    }
}

/// What kind of files they are.
pub(super) enum Kind {
    /// One or all parts, in their order.
    Gguf,
    /// One, the shards of an index, or the shards of a folder without one.
    Safetensors(Option<WeightMap>),
    /// The model; then the files of its external data, which it holds as well.
    Onnx(Arc<OnnxModel>),
    /// Of one matrix or of many.
    Panels,
}

/// All files of a model.
pub(super) struct Files {
    pub(super) parts: Vec<Part>,
    pub(super) kind: Kind,
    /// What a reader has to know of how they were found.
    pub(super) notes: Vec<String>,
}

pub(super) fn in_file(path: &Path, error: FormatError) -> FormatError {
    FormatError::InFile {
        path: path.into(),
        error: Box::new(error),
    }
}

pub(super) fn refused(what: impl Into<String>) -> FormatError {
    FormatError::Refused { what: what.into() }
}

pub(super) fn unknown(what: impl Into<String>) -> FormatError {
    FormatError::Unknown { what: what.into() }
}

impl Files {
    /// The files of the model at `path`: a file, a safetensors index or a folder.
    pub(super) fn find(path: &Path) -> Result<Self> {
        let kind = fs::metadata(path).map_err(cannot_open)?;
        if kind.is_dir() {
            return folder::find(path);
        }
        let bytes = Mapped::open(path)?;
        if bytes.is_empty() {
            return Err(refused("is empty"));
        }
        let ending = path.extension().and_then(|e| e.to_str());
        let ending = ending.unwrap_or("").to_ascii_lowercase();
        let part = Part {
            path: path.into(),
            bytes,
        };
        let one = |part, kind| Self {
            parts: vec![part],
            kind,
            notes: Vec::new(),
        };
        let bytes = &part.bytes;
        if bytes.starts_with(b"GGUF") {
            return gguf_parts(part);
        }
        if bytes.starts_with(b"TRITPANL") {
            return Ok(one(part, Kind::Panels));
        }
        let safetensors = |part| {
            let mut files = one(part, Kind::Safetensors(None));
            files.notes.extend(index_beside(path));
            files
        };
        // Before what begins like other files: the length of a header may be any two bytes.
        if header::begins(bytes) {
            return Ok(safetensors(part));
        }
        if let Some(what) = foreign(bytes) {
            return Err(unknown(what));
        }
        let text = bytes.strip_prefix(super::BOM).unwrap_or(bytes);
        if text.trim_ascii_start().starts_with(b"{") {
            let map = WeightMap::parse(bytes)?;
            return Self::shards(path, map);
        }
        if is_text(bytes) {
            return Err(unknown("text"));
        }
        // Damaged ones are told by their endings: by their bytes they are nothing.
        match &*ending {
            "safetensors" => Ok(safetensors(part)),
            _ if ending == "onnx" || OnnxModel::recognises(bytes) => onnx_parts(part),
            _ => Err(unknown("data that begins like no file that is known")),
        }
    }

    /// The shards that an index at `path` names.
    pub(super) fn shards(path: &Path, map: WeightMap) -> Result<Self> {
        let mut parts = Vec::new();
        for name in map.files() {
            let shard = beside(path, name, "shard")?;
            parts.push(Part::open(shard)?);
        }
        Ok(Self {
            parts,
            kind: Kind::Safetensors(Some(map)),
            notes: Vec::new(),
        })
    }
}

/// That a shard was named and not the model.
fn index_beside(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, part, count) = folder::numbered(name.strip_suffix(".safetensors")?)?;
    let index = format!("{stem}.safetensors.index.json");
    path.with_file_name(&index)
        .is_file()
        .then(|| format!("This is shard {part} of {count} alone: `{index}` is the whole model."))
}

/// All parts of a GGUF model, from its first one.
fn gguf_parts(first: Part) -> Result<Files> {
    let gguf = Gguf::parse(&first.bytes)?;
    let name = first
        .path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or("");
    let numbered = name.strip_suffix(".gguf").and_then(folder::numbered);
    let (count, tensors) = match gguf.split()? {
        None => match numbered {
            Some((_, part, count)) if count > 1 => {
                let what = format!(
                    "its name says part {part} of {count}, but it has no split.count: it is a \
                     part of no model"
                );
                return Err(refused(what));
            }
            _ => (1, None),
        },
        Some(split) if split.no > 0 => {
            let what = format!(
                "is part {} of {}: the first part, which has the metadata, is the one to name",
                split.no + 1,
                split.count
            );
            return Err(refused(what));
        }
        Some(split) => (split.count, split.tensors),
    };
    drop(gguf);
    let mut parts = vec![first];
    for no in 1..count {
        let name = parts[0].path.file_name().and_then(|n| n.to_str());
        let Some(name) = name.and_then(|name| part_name(name, no, count)) else {
            let what = format!(
                "is part 1 of {count}, and is not named NAME-00001-of-{count:05}.gguf, which the \
                 others are found by"
            );
            return Err(refused(what));
        };
        let path = parts[0].path.with_file_name(name);
        if !path.exists() {
            let what = format!("part {} of {count} is missing", no + 1);
            return Err(FormatError::Part { path, what });
        }
        let part = Part::open(path)?;
        same_model(&part, no, count, tensors)?;
        parts.push(part);
    }
    Ok(Files {
        parts,
        kind: Kind::Gguf,
        notes: Vec::new(),
    })
}

/// That a part says to be what its name says.
fn same_model(part: &Part, no: u64, count: u64, tensors: Option<u64>) -> Result<()> {
    if let Some(what) = foreign(&part.bytes).filter(|_| !part.bytes.starts_with(b"GGUF")) {
        return Err(in_file(&part.path, unknown(what)));
    }
    let gguf = Gguf::parse(&part.bytes).map_err(|e| in_file(&part.path, e))?;
    let split = gguf.split().map_err(|e| in_file(&part.path, e))?;
    let what = match split {
        None => "has no split.count: it is a part of no model".to_owned(),
        Some(split) if (split.no, split.count) != (no, count) => format!(
            "says to be part {} of {}, expected part {} of {count}",
            split.no + 1,
            split.count,
            no + 1
        ),
        Some(split) if split.tensors != tensors => {
            let number = |n: Option<u64>| n.map_or("no number".to_owned(), |n| n.to_string());
            format!(
                "is a part of another model: its split.tensors.count is {}, that of the first \
                 part {}",
                number(split.tensors),
                number(tensors)
            )
        }
        Some(_) => return Ok(()),
    };
    let path = part.path.clone();
    Err(FormatError::Part { path, what })
}

/// An ONNX model and the files of its external data.
fn onnx_parts(part: Part) -> Result<Files> {
    let mut model = OnnxModel::parse(&part.bytes)?;
    let mut parts = vec![part];
    for location in model.external_files() {
        let path = beside(&parts[0].path, &location, "external data")?;
        let part = Part::open(path)?;
        // Of raw bytes nothing else can be told.
        if part.bytes.starts_with(LFS) {
            let what = foreign(&part.bytes).unwrap_or_default();
            return Err(in_file(&part.path, unknown(what)));
        }
        model.attach(&location, part.bytes.clone());
        parts.push(part);
    }
    Ok(Files {
        parts,
        kind: Kind::Onnx(Arc::new(model)),
        notes: Vec::new(),
    })
}

/// The file `name` beside the model: never one outside of the model's folder, by its name or
/// by a link. Where the model itself is a link, as in a cache of downloads, what it points to
/// may have its files beside it as well.
pub(super) fn beside(model: &Path, name: &str, kind: &str) -> Result<PathBuf> {
    let folder = match model.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let inside = |c| matches!(c, Component::Normal(_) | Component::CurDir);
    let relative = Path::new(name);
    if name.is_empty() || name.contains('\0') || !relative.components().all(inside) {
        return Err(refused(format!(
            "names `{name}` as {kind}, which is not in the model's folder"
        )));
    }
    let path = match model.parent() {
        Some(folder) => folder.join(relative),
        None => relative.into(),
    };
    let part = |what: String| FormatError::Part {
        path: path.clone(),
        what,
    };
    let real = fs::canonicalize(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => part(format!("{kind} of the model is missing")),
        _ => part(format!("cannot open: {e}")),
    })?;
    let mut folders = vec![fs::canonicalize(folder).map_err(cannot_open)?];
    if let Ok(model) = fs::canonicalize(model) {
        folders.extend(model.parent().map(Path::to_path_buf));
    }
    match folders.iter().any(|folder| real.starts_with(folder)) {
        true => Ok(path),
        false => Err(part("is a link that leaves the model's folder".into())),
    }
}

/// What Git LFS leaves in the place of a file.
const POINTER: &str = "a Git LFS pointer, not the file it stands for (`git lfs pull` fetches that)";

/// How a Git LFS pointer begins.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What a file is that is often taken for a model.
pub(super) fn foreign(bytes: &[u8]) -> Option<String> {
    let text = bytes.strip_prefix(super::BOM).unwrap_or(bytes);
    const PICKLE: &str = "a Python pickle, as PyTorch's old checkpoints are";
    let known: [(&[u8], &str); 23] = [
        (LFS, POINTER),
        (b"version https://hawser.github.com/spec/", POINTER),
        (b"PK\x03\x04", "a zip file, as PyTorch's checkpoints are"),
        (b"PK\x05\x06", "an empty zip file"),
        (b"PK\x07\x08", "a zip file in several parts"),
        (b"\x80\x02", PICKLE),
        (b"\x80\x03", PICKLE),
        (b"\x80\x04", PICKLE),
        (b"\x80\x05", PICKLE),
        (b"BZh", "a bzip2 file"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
        (b"\x7fELF", "a program or library (ELF)"),
        (b"%PDF-", "a PDF document"),
        (b"PAR1", "a Parquet file"),
        (b"/annex/objects/", "a git-annex pointer"),
        (b"\x1f\x8b", "a gzip file"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
        (b"\xfd7zXZ", "an xz file"),
        (b"\x89HDF", "an HDF5 file"),
        (b"lmgg", "a ggml file from before GGUF"),
        (b"fmgg", "a ggml file from before GGUF"),
        (b"tjgg", "a ggml file from before GGUF"),
        (b"\x93NUMPY", "a NumPy array"),
    ];
    let found = known.iter().find(|(magic, _)| text.starts_with(magic));
    if let Some((_, what)) = found {
        return Some((*what).to_owned());
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar file".to_owned());
    }
    let start: Vec<u8> = text.iter().take(64).map(u8::to_ascii_lowercase).collect();
    let start = start.trim_ascii_start();
    (start.starts_with(b"<!doctype") || start.starts_with(b"<html"))
        .then(|| "a web page".to_owned())
}

/// Whether a file begins as text does: UTF-8, without the control characters that no text has.
fn is_text(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(512)];
    let valid = match str::from_utf8(start) {
        Ok(text) => text,
        // A character that goes on after the start.
        Err(e) if e.error_len().is_none() => {
            str::from_utf8(&start[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c');
    !valid.is_empty() && !valid.contains(control)
}
