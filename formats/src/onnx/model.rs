//! `.onnx` files: the weights of their `MatMulNBits` nodes.

use super::proto::{Graph, Model, Node, Tensor, type_name};
use super::tensor::{External, type_error, wrong};
use super::{MatMulNBits, ZeroPoints};
use crate::error::{FormatError, Result};
use prost::Message;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tritgemm::TernaryMatrix;

/// The 2-bit weights of an ONNX model: those of the `com.microsoft.MatMulNBits`
/// nodes of its main graph with `bits = 2`.
///
/// Tensors that the file holds are copied into memory. Those in files of their own
/// (external data, above 2 GB) are read from what [`OnnxModel::attach`] gives.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    /// In the order of the file.
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
    /// One a matrix, in the order of the graph.
    matrices: Vec<Matrix>,
    by_name: HashMap<String, usize>,
    /// Weights of nodes that are not read.
    unread: Vec<String>,
    /// Scales and the like of such weights.
    tables: HashSet<String>,
    /// Initialisers of branches and loops.
    nested: usize,
    external: External,
}

#[derive(Clone, Debug)]
struct Matrix {
    name: String,
    node: Node,
}

/// What makes a matrix another one than that of a node with the same weights: its scales, its
/// zero points, the permutation of its columns, and the attributes.
fn identity(node: &Node) -> (Vec<String>, [Option<i64>; 3]) {
    let inputs = (1..5).map(|i| node.input.get(i).cloned().unwrap_or_default());
    let attributes = ["N", "K", "block_size"].map(|name| attribute(node, name));
    (inputs.collect(), attributes)
}

/// What stands in the branches, loops and functions of a model, whose weights are not read.
#[derive(Default)]
struct Nested {
    unread: Vec<String>,
    tables: HashSet<String>,
    initialisers: usize,
}

impl Nested {
    /// Adds a node and what is in it.
    fn add(&mut self, node: &Node) {
        self.unread.extend(weights(node).map(str::to_owned));
        self.tables.extend(tables(node).cloned());
        self.inside(node);
    }

    /// Adds what is in a node.
    fn inside(&mut self, node: &Node) {
        let bodies = node.attribute.iter();
        for graph in bodies.flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs)) {
            self.initialisers += graph.initializer.len();
            graph.node.iter().for_each(|node| self.add(node));
        }
    }
}

impl OnnxModel {
    /// Whether `file` has the outermost fields of an ONNX model, a graph among them, to its
    /// end.
    pub(crate) fn recognises(file: &[u8]) -> bool {
        use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
        let (mut left, mut graph) = (file, false);
        while !left.is_empty() {
            let Ok((field, wire)) = decode_key(&mut left) else {
                return false;
            };
            let known = match wire {
                WireType::Varint => matches!(field, 1 | 5),
                WireType::LengthDelimited => matches!(field, 2..=4 | 6..=8 | 14 | 20 | 25 | 26),
                _ => false,
            };
            graph |= field == 7;
            if !known || skip_field(wire, field, &mut left, DecodeContext::default()).is_err() {
                return false;
            }
        }
        graph
    }

    /// Parses a whole `.onnx` file.
    ///
    /// # Errors
    /// [`FormatError::Container`] if it is no such protobuf message, or has two initialisers
    /// of a name.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let model = Model::decode(file).map_err(|e| corrupt(e.to_string()))?;
        let graph = model.graph.ok_or_else(|| corrupt("no graph".into()))?;
        let mut nested = Nested::default();
        for node in model.functions.iter().flat_map(|f| &f.node) {
            nested.add(node);
        }
        for node in &graph.node {
            nested.inside(node);
        }
        let Graph { node, initializer } = graph;
        let mut index = HashMap::new();
        for (i, tensor) in initializer.iter().enumerate() {
            if index.insert(tensor.name.clone(), i).is_some() {
                return Err(corrupt(format!("a second initialiser `{}`", tensor.name)));
            }
        }
        let mut all = Self {
            tensors: initializer,
            index,
            matrices: Vec::new(),
            by_name: HashMap::new(),
            unread: Vec::new(),
            tables: nested.tables,
            nested: nested.initialisers,
            external: External::default(),
        };
        let mut seen = HashSet::new();
        for node in node {
            let read = node.op_type == "MatMulNBits" && node.domain == "com.microsoft";
            match attribute(&node, "bits") {
                // Several nodes may share a matrix, and several matrices their weights.
                Some(2) if read => {
                    if seen.insert(identity(&node)) {
                        all.add(node);
                    }
                }
                _ => {
                    all.unread.extend(weights(&node).map(str::to_owned));
                    all.tables.extend(tables(&node).cloned());
                }
            }
        }
        all.unread.append(&mut nested.unread);
        let mut names = HashSet::new();
        all.unread.retain(|name| names.insert(name.clone()));
        Ok(all)
    }

    /// Adds the matrix of a node under a name of its own: that of `B` for the first of those
    /// that share it, that with the scales' after a colon for the others.
    fn add(&mut self, node: Node) {
        let input = |i: usize| node.input.get(i).map_or("", String::as_str);
        let names = [
            input(1).to_owned(),
            format!("{}:{}", input(1), input(2)),
            format!("{}:{}:{}", input(1), input(2), input(3)),
        ];
        let count = self.matrices.len();
        let numbered = std::iter::once(format!("{}:{}", names[2], count));
        let fallback = (0..).map(|i| format!("{}:{count}:{i}", names[2]));
        let mut names = names.clone().into_iter().chain(numbered).chain(fallback);
        let free = names.find(|name| !self.by_name.contains_key(name));
        let name = free.unwrap_or_default();
        self.by_name.insert(name.clone(), count);
        self.matrices.push(Matrix { name, node });
    }

    /// The matrices: names of the inputs `B`, in the order of the graph. Where nodes share a `B`
    /// and not its scales or zero points, they are several matrices; the names of all but the
    /// first of them are `B:scales`.
    pub fn matrices(&self) -> impl ExactSizeIterator<Item = &str> {
        self.matrices.iter().map(|m| m.name.as_str())
    }

    /// The weights of nodes that multiply by packed ones and are not read: of other bits, of
    /// other operators or domains, or in branches, loops and functions of the model.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        self.unread.iter().map(String::as_str)
    }

    /// Whether an initialiser has scales or the like of packed weights that are not read.
    pub(crate) fn is_table(&self, name: &str) -> bool {
        self.tables.contains(name)
    }

    /// How many initialisers stand in branches and loops, where they are not read.
    pub fn nested(&self) -> usize {
        self.nested
    }

    /// The files that hold external data, as the model names them, sorted.
    pub fn external_files(&self) -> Vec<String> {
        let locations = self.tensors.iter().filter_map(|t| t.location().ok()?);
        let locations: BTreeSet<&str> = locations.collect();
        locations.into_iter().map(str::to_owned).collect()
    }

    /// Gives the bytes of a file of external data. Which files a model may name is the
    /// caller's to decide: [`open`](crate::open) takes none outside of its folder.
    pub fn attach(&mut self, location: &str, bytes: impl AsRef<[u8]> + Send + Sync + 'static) {
        self.external.0.insert(location.to_owned(), Arc::new(bytes));
    }

    /// Initialisers that are no part of a matrix that is read, in the order of the file.
    pub(crate) fn others(&self) -> Result<Vec<Initialiser<'_>>> {
        let of = |m: &Matrix| {
            m.node
                .input
                .iter()
                .skip(1)
                .take(4)
                .cloned()
                .collect::<Vec<_>>()
        };
        let used: HashSet<String> = self.matrices.iter().flat_map(of).collect();
        let others = self.tensors.iter().filter(|t| !used.contains(&t.name));
        others
            .map(|t| {
                let name = t.name.as_str();
                Ok(match t.plain(&self.external)? {
                    Some((dtype, shape, bytes)) => Initialiser::Plain(name, dtype, shape, bytes),
                    None => Initialiser::Unread(name, type_name(t.data_type)),
                })
            })
            .collect()
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
    /// or its scales or zero points are not in the file (they may be computed);
    /// [`FormatError::Attribute`] if an attribute is missing, a tensor has a type that
    /// is not the operator's, the columns are permuted (`g_idx`), or external data is
    /// not attached or too short.
    pub fn decode(&self, matrix: &str) -> Result<TernaryMatrix> {
        let node = self.node(matrix)?;
        let [n, k] = self.shape(matrix)?;
        let input = |i: usize| node.input.get(i).map_or("", String::as_str);
        if !input(4).is_empty() {
            return Err(wrong(matrix, "g_idx", input(4), "no permuted columns"));
        }
        let b = self.tensor(input(1))?;
        let b_bytes = b.bytes(&self.external)?;
        let b = b_bytes.ok_or_else(|| type_error(matrix, b, "uint8"))?;
        let scales = self.tensor(input(2))?;
        let values = scales.floats(&self.external)?;
        let scales = values.ok_or_else(|| type_error(input(2), scales, "a float"))?;
        let zeros = match input(3) {
            "" => None,
            name => Some(self.tensor(name)?),
        };
        let (packed, per_block) = match zeros {
            None => (None, None),
            Some(zeros) => (zeros.bytes(&self.external)?, zeros.floats(&self.external)?),
        };
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

    fn node(&self, matrix: &str) -> Result<&Node> {
        let found = self.by_name.get(matrix).map(|&i| &self.matrices[i].node);
        found.ok_or_else(|| missing(matrix))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        let found = self.index.get(name).map(|&i| &self.tensors[i]);
        found.ok_or_else(|| missing(name))
    }
}

/// An initialiser that is no part of a matrix.
pub(crate) enum Initialiser<'a> {
    /// Its name, type, shape and bytes.
    Plain(&'a str, Dtype, Vec<usize>, Cow<'a, [u8]>),
    /// Its name, and that of a type that is not read.
    Unread(&'a str, String),
}

fn corrupt(what: String) -> FormatError {
    FormatError::Container {
        container: "ONNX",
        offset: 0,
        what,
    }
}

/// The packed weights of a node, if its operator takes such.
fn weights(node: &Node) -> impl Iterator<Item = &str> {
    let at: &[usize] = match &*node.op_type {
        "MatMulNBits" | "MatMulBnb4" | "MatMulFpQ4" => &[1],
        "GatherBlockQuantized" => &[0],
        // Those of up to three layers of the experts.
        "QMoE" => &[2, 5, 8],
        _ => &[],
    };
    let names = at.iter().filter_map(|&i| node.input.get(i));
    names.map(String::as_str).filter(|name| !name.is_empty())
}

/// What belongs to the packed weights of a node: their scales, zero points and so on.
fn tables(node: &Node) -> impl Iterator<Item = &String> {
    let first = match &*node.op_type {
        "DequantizeLinear" => 1,
        _ if weights(node).next().is_some() => 2,
        _ => usize::MAX,
    };
    let rest = node.input.iter().skip(first);
    rest.filter(|name| weights(node).all(|weights| weights != name.as_str()))
}

fn attribute(node: &Node, name: &str) -> Option<i64> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.i)
}

fn size(node: &Node, name: &'static str) -> Result<usize> {
    let value = attribute(node, name);
    let size = value.and_then(|v| usize::try_from(v).ok());
    size.ok_or_else(|| {
        let value = value.map_or("missing".to_owned(), |v| v.to_string());
        let weights = node.input.get(1).map_or("", String::as_str);
        wrong(weights, name, &value, "a number from 0 up")
    })
}

fn missing(tensor: &str) -> FormatError {
    let tensor = tensor.to_owned();
    FormatError::NoTensor { tensor }
}
