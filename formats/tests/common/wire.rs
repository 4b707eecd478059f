//! ONNX files by hand: protobuf's wire format.

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

pub fn int(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value as u64)].concat()
}

pub fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(value.len() as u64),
        value.to_vec(),
    ]
    .concat()
}

/// An ONNX tensor: type, name and `raw_data`.
pub fn tensor(name: &str, data_type: i64, raw: &[u8], more: &[u8]) -> Vec<u8> {
    let fields = [
        int(2, data_type),
        bytes(8, name.as_bytes()),
        bytes(9, raw),
        more.to_vec(),
    ];
    bytes(5, &fields.concat())
}

/// A `MatMulNBits` node.
pub fn node(inputs: &[&str], attributes: &[(&str, i64)]) -> Vec<u8> {
    let mut node: Vec<u8> = inputs.iter().flat_map(|i| bytes(1, i.as_bytes())).collect();
    node.extend(bytes(4, b"MatMulNBits"));
    for (name, value) in attributes {
        let fields = [bytes(1, name.as_bytes()), int(3, *value), int(20, 2)];
        node.extend(bytes(5, &fields.concat()));
    }
    node.extend(bytes(7, b"com.microsoft"));
    node
}

/// A model of nodes and tensors.
pub fn graph(nodes: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    let nodes = nodes.iter().flat_map(|node| bytes(1, node));
    let graph: Vec<u8> = nodes.chain(tensors.concat()).collect();
    [int(1, 10), bytes(7, &graph)].concat()
}

/// A model of one `MatMulNBits` node, which it has twice, and its tensors.
pub fn onnx(inputs: &[&str], attributes: &[(&str, i64)], tensors: &[Vec<u8>]) -> Vec<u8> {
    let other = [bytes(1, b"x"), bytes(4, b"Relu")].concat();
    let node = node(inputs, attributes);
    graph(&[other, node.clone(), node], tensors)
}
