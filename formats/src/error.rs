//! Why weights could not be read or written.

use std::path::PathBuf;
use tritgemm::{Granularity, MatrixError};

/// Why weights could not be read or written.
///
/// Every variant that speaks of weights names the tensor, and, where there is
/// one, the row and the column. Rows and columns count from 0; the columns run
/// along K.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A code that stands for no ternary weight.
    #[error("tensor `{tensor}`, row {row}, column {col}: {format} code {code} is not -1, 0 or +1")]
    NotTernary {
        /// The tensor.
        tensor: String,
        /// Row of the weight.
        row: usize,
        /// Column of the weight.
        col: usize,
        /// The code as stored.
        code: u8,
        /// Name of the format, for example `TQ2_0`.
        format: &'static str,
    },
    /// The bytes of a tensor do not fit its shape.
    #[error(
        "tensor `{tensor}`: {rows} x {cols} weights take {expected} bytes in {format}, got {got}"
    )]
    SizeMismatch {
        /// The tensor.
        tensor: String,
        /// Rows, M.
        rows: usize,
        /// Columns, K.
        cols: usize,
        /// Name of the format.
        format: &'static str,
        /// Bytes that the shape calls for.
        expected: usize,
        /// Bytes there are.
        got: usize,
    },
    /// The size of a shape, in weights or bytes, does not fit the address space.
    #[error("tensor `{tensor}`: the size of shape {shape:?} overflows")]
    ShapeOverflow {
        /// The tensor.
        tensor: String,
        /// The shape, in the order of the file.
        shape: Vec<u64>,
    },
    /// A tensor has a shape that this reader has no meaning for.
    #[error("tensor `{tensor}`: shape {shape:?}, expected {expected}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The shape, in the order of the file.
        shape: Vec<u64>,
        /// What would have been understood.
        expected: &'static str,
    },
    /// K is not a multiple of the block, which the format has no way to store.
    #[error(
        "tensor `{tensor}`: K = {cols} is not a multiple of the {block} weights in a {format} block"
    )]
    Block {
        /// The tensor.
        tensor: String,
        /// K.
        cols: usize,
        /// Weights in a block.
        block: usize,
        /// Name of the format.
        format: &'static str,
    },
    /// The tensor is of a type that is not the one wanted.
    #[error("tensor `{tensor}` is of type {type_name} ({type_id}), expected {expected}")]
    Type {
        /// The tensor.
        tensor: String,
        /// The container's number of the type.
        type_id: u32,
        /// Its name, `unknown` if it has none here.
        type_name: &'static str,
        /// What was wanted.
        expected: &'static str,
    },
    /// A scale is NaN or infinite.
    #[error("tensor `{tensor}`, row {row}, column {col}: the scale is {value}, expected a number")]
    Scale {
        /// The tensor.
        tensor: String,
        /// Row of the first weight that the scale covers.
        row: usize,
        /// Column of the first weight that the scale covers.
        col: usize,
        /// The scale.
        value: f32,
    },
    /// A scale would lose bits in the format's own type of scale.
    #[error(
        "tensor `{tensor}`, row {row}, column {col}: {format} stores scales as {stored}, which \
         has no {value}; the nearest is {nearest}"
    )]
    ScaleRounding {
        /// The tensor.
        tensor: String,
        /// Row of the first weight that the scale covers.
        row: usize,
        /// Column of the first weight that the scale covers.
        col: usize,
        /// The scale.
        value: f32,
        /// The nearest one that the format can store; infinite if there is none.
        nearest: f32,
        /// The type of the stored scale: `f16` or `bf16`.
        stored: &'static str,
        /// Name of the format.
        format: &'static str,
    },
    /// The format cannot express what one scale covers.
    #[error("tensor `{tensor}`: scales {granularity}, but {format} has {expected}")]
    ScaleLayout {
        /// The tensor.
        tensor: String,
        /// What a scale of the matrix covers.
        granularity: Granularity,
        /// What the format can express.
        expected: &'static str,
        /// Name of the format.
        format: &'static str,
    },
    /// A block has one scale in the format and several in the matrix.
    #[error(
        "tensor `{tensor}`, row {row}, column {col}: scales {granularity} differ within a block \
         of {block}, and {format} has one a block"
    )]
    ScaleBlock {
        /// The tensor.
        tensor: String,
        /// Row of the block.
        row: usize,
        /// Column of its first weight.
        col: usize,
        /// Weights in a block of the format.
        block: usize,
        /// What a scale of the matrix covers.
        granularity: Granularity,
        /// Name of the format.
        format: &'static str,
    },
    /// A container file is cut short or contradicts itself.
    #[error("{container}, byte {offset}: {what}")]
    Container {
        /// The kind of file: `GGUF`, `safetensors`.
        container: &'static str,
        /// Offset of what is wrong.
        offset: u64,
        /// What was found and what was expected.
        what: String,
    },
    /// There is no tensor of that name.
    #[error("there is no tensor `{tensor}`")]
    NoTensor {
        /// The name asked for.
        tensor: String,
    },
    /// Smaller blocks of scales do not agree within a group of the matrix.
    #[error(
        "tensor `{tensor}`, row {row}, column {col}: the scale of this block of {block} is \
         {value}, but its group of {group} began with {first}"
    )]
    ScaleGroup {
        /// The tensor.
        tensor: String,
        /// Row of the first weight of the block.
        row: usize,
        /// Column of the first weight of the block.
        col: usize,
        /// Weights in a block.
        block: usize,
        /// Weights in a group.
        group: usize,
        /// The block's scale.
        value: f32,
        /// The scale of the group's first block.
        first: f32,
    },
    /// The rows asked for are not those of the packed tensor.
    #[error("tensor `{tensor}`: {rows} rows do not take {packed_rows} packed rows, 4 rows in each")]
    Rows {
        /// The tensor.
        tensor: String,
        /// Rows asked for, M.
        rows: usize,
        /// Rows of bytes in the file.
        packed_rows: usize,
    },
    /// A row after the last one is not empty.
    #[error(
        "tensor `{tensor}`, row {row}, column {col}: code {code} after the last of {rows} rows, \
         expected 0"
    )]
    PaddingRow {
        /// The tensor.
        tensor: String,
        /// Row of the code.
        row: usize,
        /// Column of the code.
        col: usize,
        /// The code as stored.
        code: u8,
        /// Rows of the matrix, M.
        rows: usize,
    },
    /// An attribute that the format does not allow.
    #[error("tensor `{tensor}`: {attribute} is {value}, expected {expected}")]
    Attribute {
        /// The tensor.
        tensor: String,
        /// The attribute, for example `block_size`.
        attribute: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A name that the format has no place for.
    #[error("tensor `{tensor}`: its name has {what}, expected {expected}")]
    Name {
        /// The tensor.
        tensor: String,
        /// What is wrong with the name.
        what: String,
        /// What the format can hold.
        expected: &'static str,
    },
    /// A file or a folder that cannot be opened.
    #[error("cannot open: {0}")]
    Open(std::io::Error),
    /// A file that is of none of the formats that are read.
    #[error("is {what}: none of the formats that are read")]
    Unknown {
        /// What it is or looks like.
        what: String,
    },
    /// A file of a model of several files is missing, not one of them or contradicts the
    /// others.
    #[error("`{}`: {what}", path.display())]
    Part {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file could not be read.
    #[error("`{}`: {error}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<FormatError>,
    },
    /// Metadata that is not what it should be, or that has no meaning here.
    #[error("metadata `{key}` {what}")]
    Metadata {
        /// The key.
        key: String,
        /// What was found and what was expected.
        what: String,
    },
    /// What a model's file or its `config.json` says keeps its matrices from being read.
    #[error("{what}")]
    Refused {
        /// What was found and what was expected.
        what: String,
    },
    /// A panel file could not be read.
    #[error(transparent)]
    Panels(#[from] tritgemm::PanelFileError),
    /// A valid tensor that makes no valid matrix, for example too many columns.
    #[error("tensor `{tensor}`: {source}")]
    Matrix {
        /// The tensor.
        tensor: String,
        /// Why.
        source: MatrixError,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A stream could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The result of reading or writing a format.
pub type Result<T, E = FormatError> = std::result::Result<T, E>;
