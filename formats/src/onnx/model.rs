//! `.onnx` files: the weights of their `MatMulNBits` nodes.

use super::{MatMulNBits, ZeroPoints};
use crate::error::{FormatError, Result};
use crate::float::FloatType;
use prost::Message;
use std::borrow::Cow;
use std::collections::HashMap;
use tritgemm::TernaryMatrix;

/// The fields of ONNX's protobuf messages that are read; the others are skipped.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Model {
        #[prost(message, optional, tag = "7")]
        pub graph: Option<Graph>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Graph {
        #[prost(message, repeated, tag = "1")]
        pub node: Vec<Node>,
        #[prost(message, repeated, tag = "5")]
        pub initializer: Vec<Tensor>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Node {
        #[prost(string, repeated, tag = "1")]
        pub input: Vec<String>,
        #[prost(string, tag = "4")]
        pub op_type: String,
        #[prost(message, repeated, tag = "5")]
        pub attribute: Vec<Attribute>,
        #[prost(string, tag = "7")]
        pub domain: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Attribute {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(int64, tag = "3")]
        pub i: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Tensor {
        #[prost(int32, tag = "2")]
        pub data_type: i32,
        #[prost(float, repeated, tag = "4")]
        pub float_data: Vec<f32>,
        #[prost(int32, repeated, tag = "5")]
        pub int32_data: Vec<i32>,
        #[prost(string, tag = "8")]
        pub name: String,
        #[prost(bytes = "vec", tag = "9")]
        pub raw_data: Vec<u8>,
        #[prost(int32, tag = "14")]
        pub data_location: i32,
    }
}

/// `TensorProto.DataType`.
const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const FLOAT16: i32 = 10;
const BFLOAT16: i32 = 16;

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

/// The 2-bit weights of an ONNX model: those of the `com.microsoft.MatMulNBits`
/// nodes of its main graph with `bits = 2` that are stored in the file itself.
///
/// The tensors of the file are copied into memory.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    tensors: HashMap<String, proto::Tensor>,
    /// One a matrix, in the order of the graph.
    nodes: Vec<proto::Node>,
}

impl OnnxModel {
    /// Parses a whole `.onnx` file.
    ///
    /// # Errors
    /// [`FormatError::Container`] if it is no such protobuf message.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let corrupt = |what: String| FormatError::Container {
            container: "ONNX",
            offset: 0,
            what,
        };
        let model = proto::Model::decode(file).map_err(|e| corrupt(e.to_string()))?;
        let graph = model.graph.ok_or_else(|| corrupt("no graph".into()))?;
        let mut nodes: Vec<proto::Node> = Vec::new();
        for node in graph.node {
            let ours = node.op_type == "MatMulNBits"
                && node.domain == "com.microsoft"
                && attribute(&node, "bits") == Some(2);
            // Several nodes may share their weights.
            if ours && !nodes.iter().any(|n| n.input.get(1) == node.input.get(1)) {
                nodes.push(node);
            }
        }
        let named = |t: proto::Tensor| (t.name.clone(), t);
        Ok(Self {
            tensors: graph.initializer.into_iter().map(named).collect(),
            nodes,
        })
    }

    /// The matrices: names of the inputs `B`, in the order of the graph.
    pub fn matrices(&self) -> impl ExactSizeIterator<Item = &str> {
        self.nodes.iter().map(weights)
    }

    /// `[M, K]` of a matrix, as its node says.
    ///
    /// # Errors
    /// [`FormatError::NoTensor`] if there is none of that name;
    /// [`FormatError::Attribute`] if `N` or `K` is missing or negative.
    pub fn shape(&self, matrix: &str) -> Result<[usize; 2]> {
        let node = self.node(matrix)?;
        Ok([size(node, "N")?, size(node, "K")?])
    }

    /// Reads a matrix: see [`MatMulNBits::decode`].
    ///
    /// # Errors
    /// Those of [`MatMulNBits::decode`]; [`FormatError::NoTensor`] if the matrix
    /// or its scales or zero points are not in the file (they may be computed,
    /// or lie in a file of their own); [`FormatError::Attribute`] if an
    /// attribute is missing, a tensor has a type that is not the operator's, or
    /// the columns are permuted (`g_idx`).
    pub fn decode(&self, matrix: &str) -> Result<TernaryMatrix> {
        let node = self.node(matrix)?;
        let [n, k] = self.shape(matrix)?;
        let input = |i: usize| node.input.get(i).map_or("", String::as_str);
        if !input(4).is_empty() {
            return Err(wrong(matrix, "g_idx", input(4), "no permuted columns"));
        }
        let b = self.tensor(matrix)?;
        let b = bytes(b).ok_or_else(|| type_error(matrix, b, "uint8"))?;
        let scales = self.tensor(input(2))?;
        let scales = floats(scales).ok_or_else(|| type_error(input(2), scales, "a float"))?;
        let zeros = match input(3) {
            "" => None,
            name => Some(self.tensor(name)?),
        };
        let packed = zeros.and_then(bytes);
        let per_block = zeros.and_then(floats);
        let zero_points = match (zeros, &packed, &per_block) {
            (None, _, _) => ZeroPoints::Omitted,
            (_, Some(packed), _) => ZeroPoints::Packed(packed),
            (_, _, Some(values)) => ZeroPoints::PerBlock(values),
            (Some(t), None, None) => return Err(type_error(input(3), t, "uint8 or a float")),
        };
        let weights = MatMulNBits {
            tensor: matrix,
            n,
            k,
            block_size: size(node, "block_size")?,
            b: &b,
            scales: &scales,
            zero_points,
        };
        weights.decode()
    }

    fn node(&self, matrix: &str) -> Result<&proto::Node> {
        let found = self.nodes.iter().find(|n| weights(n) == matrix);
        found.ok_or_else(|| missing(matrix))
    }

    /// A tensor whose values are in the file.
    fn tensor(&self, name: &str) -> Result<&proto::Tensor> {
        let found = self.tensors.get(name).ok_or_else(|| missing(name))?;
        if found.data_location == EXTERNAL {
            return Err(wrong(name, "data_location", "EXTERNAL", "data in the file"));
        }
        Ok(found)
    }
}

fn weights(node: &proto::Node) -> &str {
    node.input.get(1).map_or("", String::as_str)
}

fn attribute(node: &proto::Node, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.i)
}

fn size(node: &proto::Node, name: &'static str) -> Result<usize> {
    let value = attribute(node, name);
    let size = value.and_then(|v| usize::try_from(v).ok());
    size.ok_or_else(|| {
        let value = value.map_or("missing".to_owned(), |v| v.to_string());
        wrong(weights(node), name, &value, "a number from 0 up")
    })
}

fn missing(tensor: &str) -> FormatError {
    let tensor = tensor.to_owned();
    FormatError::NoTensor { tensor }
}

fn wrong(
    tensor: &str,
    attribute: &'static str,
    value: &str,
    expected: &'static str,
) -> FormatError {
    FormatError::Attribute {
        tensor: tensor.to_owned(),
        attribute,
        value: value.to_owned(),
        expected,
    }
}

fn type_error(name: &str, tensor: &proto::Tensor, expected: &'static str) -> FormatError {
    let ty = tensor.data_type.to_string();
    wrong(name, "data_type", &ty, expected)
}

/// The bytes of a uint8 tensor; one that `int32_data` holds must fit.
fn bytes(tensor: &proto::Tensor) -> Option<Cow<'_, [u8]>> {
    if tensor.data_type != UINT8 {
        return None;
    }
    if !tensor.raw_data.is_empty() || tensor.int32_data.is_empty() {
        return Some(Cow::Borrowed(&tensor.raw_data));
    }
    let values = tensor.int32_data.iter().map(|&v| u8::try_from(v).ok());
    values.collect::<Option<Vec<u8>>>().map(Cow::Owned)
}

/// The values of a float tensor.
fn floats(tensor: &proto::Tensor) -> Option<Vec<f32>> {
    let ty = match tensor.data_type {
        FLOAT => FloatType::F32,
        FLOAT16 => FloatType::F16,
        BFLOAT16 => FloatType::Bf16,
        _ => return None,
    };
    if !tensor.raw_data.is_empty() {
        return Some(ty.decode(&tensor.raw_data));
    }
    if ty == FloatType::F32 {
        return Some(tensor.float_data.clone());
    }
    // The bits of 16-bit floats, one an int32.
    let halves = tensor.int32_data.iter().map(|&v| u16::try_from(v).ok());
    let halves: Vec<u16> = halves.collect::<Option<_>>()?;
    let halves: Vec<u8> = halves.into_iter().flat_map(u16::to_le_bytes).collect();
    Some(ty.decode(&halves))
}
