//! Writing GGUF files, version 3.

use super::cursor::corrupt;
use super::shape::{MAX_DIMS, Shape};
use super::types::TensorType;
use super::value::{Value, ValueType};
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_NAME, MAX_TENSOR_NAME, Tensor, check_alignment,
};
use crate::error::{FormatError, Result};
use std::collections::HashSet;
use std::io::Write;

/// Collects metadata and the list of tensors, then starts the file. The tensors
/// are written one after another, so only one need be in memory.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    alignment: u32,
    /// Keys and values, encoded.
    metadata: Vec<u8>,
    keys: HashSet<String>,
    tensors: Vec<Planned>,
    names: HashSet<String>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    shape: Shape,
    ty: TensorType,
    bytes: u64,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// A file without metadata or tensors, aligned to
    /// [`DEFAULT_ALIGNMENT`].
    pub fn new() -> Self {
        Self {
            alignment: DEFAULT_ALIGNMENT,
            metadata: Vec::new(),
            keys: HashSet::new(),
            tensors: Vec::new(),
            names: HashSet::new(),
        }
    }

    /// Adds a metadata value. [`ALIGNMENT_KEY`] sets the alignment of the file.
    ///
    /// # Errors
    /// [`FormatError::Container`] if the key is there already or is too long, or
    /// if an alignment is not a power of two.
    pub fn metadata(&mut self, key: &str, value: Value<'_>) -> Result<&mut Self> {
        let alignment = match key {
            ALIGNMENT_KEY => check_alignment(&value).map_err(refused)?,
            _ => self.alignment,
        };
        self.add_key(key)?;
        self.alignment = alignment;
        let out = &mut self.metadata;
        out.extend((value.value_type() as u32).to_le_bytes());
        value.write(out);
        Ok(self)
    }

    /// Adds a metadata array of elements of one type.
    ///
    /// # Errors
    /// Those of [`GgufWriter::metadata`]; [`FormatError::Container`] if an
    /// element is of another type or the key is [`ALIGNMENT_KEY`].
    pub fn metadata_array<'v>(
        &mut self,
        key: &str,
        element: ValueType,
        values: impl IntoIterator<Item = Value<'v>>,
    ) -> Result<&mut Self> {
        if key == ALIGNMENT_KEY {
            return Err(refused("an alignment that is an array, expected U32"));
        }
        let (mut len, mut bytes) = (0u64, Vec::new());
        for value in values {
            if value.value_type() != element {
                let other = value.value_type();
                let what = format!("array `{key}` of {element:?} with an element of {other:?}");
                return Err(refused(what));
            }
            value.write(&mut bytes);
            len += 1;
        }
        self.add_key(key)?;
        let out = &mut self.metadata;
        out.extend((ValueType::Array as u32).to_le_bytes());
        out.extend((element as u32).to_le_bytes());
        out.extend(len.to_le_bytes());
        out.append(&mut bytes);
        Ok(self)
    }

    /// Adds a tensor of a known type to the list; `shape` is `ne`, K first.
    ///
    /// # Errors
    /// [`FormatError::Type`] if the size of the type is not known here (then use
    /// [`GgufWriter::tensor_of_len`]); [`FormatError::Container`] if the name is
    /// there already, or if there are more than 4 dimensions;
    /// [`FormatError::Name`] if ggml could not read the name;
    /// [`FormatError::Block`], [`FormatError::Shape`] or
    /// [`FormatError::ShapeOverflow`] if the type cannot have the shape.
    pub fn tensor(&mut self, name: &str, shape: &[u64], ty: TensorType) -> Result<&mut Self> {
        let bytes = planned_shape(name, shape)?.bytes(ty, name)?;
        let bytes = bytes.ok_or_else(|| FormatError::Type {
            tensor: name.into(),
            type_id: ty.0,
            type_name: ty.name(),
            expected: "a type of known size",
        })?;
        self.plan(name, shape, ty, bytes)
    }

    /// Adds a tensor of `bytes` bytes to the list, whatever its type.
    ///
    /// # Errors
    /// As for [`GgufWriter::tensor`]; [`FormatError::Container`] if the type is
    /// known and takes another number of bytes.
    pub fn tensor_of_len(
        &mut self,
        name: &str,
        shape: &[u64],
        ty: TensorType,
        bytes: u64,
    ) -> Result<&mut Self> {
        match planned_shape(name, shape)?.bytes(ty, name)? {
            Some(expected) if expected != bytes => {
                let what = format!("tensor `{name}` of {bytes} bytes, expected {expected}");
                Err(refused(what))
            }
            _ => self.plan(name, shape, ty, bytes),
        }
    }

    /// Adds a tensor like one of another file, whose
    /// [`data`](Tensor::data) can then be copied.
    ///
    /// # Errors
    /// [`FormatError::Container`] if the name is there already, [`FormatError::Name`] if
    /// ggml could not read it.
    pub fn tensor_like(&mut self, tensor: &Tensor<'_>) -> Result<&mut Self> {
        let bytes = tensor.data().len() as u64;
        self.tensor_of_len(tensor.name(), tensor.shape(), tensor.tensor_type(), bytes)
    }

    /// Writes everything before the tensors. `out` sees many small writes: let
    /// it be buffered.
    ///
    /// # Errors
    /// [`FormatError::Io`]; [`FormatError::Container`] if the file would be
    /// larger than 2^64 bytes.
    pub fn start<W: Write>(self, mut out: W) -> Result<GgufTensors<W>> {
        let mut head = Vec::from(MAGIC);
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.keys.len() as u64).to_le_bytes());
        head.extend_from_slice(&self.metadata);
        let mut offset = 0u64;
        let mut pending = Vec::with_capacity(self.tensors.len());
        for tensor in self.tensors {
            Value::from(tensor.name.as_str()).write(&mut head);
            let ne = tensor.shape.as_slice();
            head.extend((ne.len() as u32).to_le_bytes());
            head.extend(ne.iter().flat_map(|ne| ne.to_le_bytes()));
            head.extend(tensor.ty.0.to_le_bytes());
            head.extend(offset.to_le_bytes());
            let end = offset.checked_add(tensor.bytes);
            let next = end.and_then(|end| end.checked_next_multiple_of(self.alignment.into()));
            offset = next.ok_or_else(|| refused("the tensors take more than 2^64 bytes"))?;
            pending.push((tensor.name, tensor.bytes));
        }
        out.write_all(&head)?;
        pad(&mut out, head.len() as u64, self.alignment)?;
        Ok(GgufTensors {
            out,
            alignment: self.alignment,
            pending: pending.into_iter(),
        })
    }

    fn add_key(&mut self, key: &str) -> Result<()> {
        check_name("metadata key", key, &mut self.keys)?;
        Value::from(key).write(&mut self.metadata);
        Ok(())
    }

    fn plan(&mut self, name: &str, shape: &[u64], ty: TensorType, bytes: u64) -> Result<&mut Self> {
        let shape = planned_shape(name, shape)?;
        check_tensor_name(name)?;
        check_name("tensor", name, &mut self.names)?;
        self.tensors.push(Planned {
            name: name.into(),
            shape,
            ty,
            bytes,
        });
        Ok(self)
    }
}

/// A file whose list of tensors is written: takes the tensors, in that order.
#[derive(Debug)]
pub struct GgufTensors<W> {
    out: W,
    alignment: u32,
    pending: std::vec::IntoIter<(String, u64)>,
}

impl<W: Write> GgufTensors<W> {
    /// The name of the tensor to write next.
    pub fn next_name(&self) -> Option<&str> {
        self.pending.as_slice().first().map(|(name, _)| &**name)
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// [`FormatError::Container`] if there is none left or `bytes` is not as
    /// long as announced, then nothing is written; [`FormatError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (name, expected) = match self.pending.as_slice().first() {
            Some((name, expected)) => (name, *expected),
            None => return Err(refused("a tensor more than were announced")),
        };
        let len = bytes.len() as u64;
        if len != expected {
            let what = format!("tensor `{name}` of {len} bytes, {expected} were announced");
            return Err(refused(what));
        }
        self.pending.next();
        self.out.write_all(bytes)?;
        pad(&mut self.out, len, self.alignment)
    }

    /// Flushes the file and gives it back.
    ///
    /// # Errors
    /// [`FormatError::Container`] if a tensor has not been written;
    /// [`FormatError::Io`].
    pub fn finish(mut self) -> Result<W> {
        if let Some(name) = self.next_name() {
            return Err(refused(format!(
                "tensor `{name}` was announced, not written"
            )));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// What cannot be written; there is no offset yet.
fn refused(what: impl Into<String>) -> FormatError {
    corrupt(0, what)
}

fn planned_shape(name: &str, shape: &[u64]) -> Result<Shape> {
    Shape::new(shape).ok_or_else(|| {
        let dims = shape.len();
        refused(format!(
            "tensor `{name}` of {dims} dimensions, expected {MAX_DIMS} at most"
        ))
    })
}

/// That ggml can read the name of a tensor back: it is a C string there.
///
/// # Errors
/// [`FormatError::Name`] if it is longer than [`MAX_TENSOR_NAME`] or has a zero byte.
pub fn check_tensor_name(name: &str) -> Result<()> {
    let what = match name.len() {
        len if len > MAX_TENSOR_NAME => format!("{len} bytes"),
        _ if name.contains('\0') => "a zero byte".into(),
        _ => return Ok(()),
    };
    Err(FormatError::Name {
        tensor: name.into(),
        what,
        expected: "at most 63 bytes, none of them zero, in a GGUF file",
    })
}

fn check_name(what: &str, name: &str, names: &mut HashSet<String>) -> Result<()> {
    if name.len() > MAX_NAME {
        let len = name.len();
        return Err(refused(format!(
            "a {what} of {len} bytes, at most {MAX_NAME} expected"
        )));
    }
    if !names.insert(name.into()) {
        return Err(refused(format!("a second {what} `{name}`")));
    }
    Ok(())
}

fn pad(out: &mut impl Write, len: u64, alignment: u32) -> Result<()> {
    let alignment = u64::from(alignment);
    let mut left = (alignment - len % alignment) % alignment;
    let zeros = [0; 4096];
    while left > 0 {
        let some = left.min(zeros.len() as u64);
        out.write_all(&zeros[..some as usize])?;
        left -= some;
    }
    Ok(())
}
