//! ONNX's `MatMulNBits` with 2 bits. First byte even: the tensors of a node,
//! whose values and errors are the definition's. Odd: a model of any bytes.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use tritgemm_formats::FormatError;
use tritgemm_formats::onnx::{MatMulNBits, OnnxModel, ZeroPoints};
use tritgemm_fuzz::fill::{Fill, Style};

#[derive(Arbitrary, Debug)]
enum Zeros {
    Omitted,
    Same(u8),
    Packed(Fill),
    PerBlock(Fill),
}

#[derive(Arbitrary, Debug)]
struct Node {
    n: u8,
    k: u16,
    /// 2 to the power of 4 to 10, one block for all, or any number.
    block: u8,
    any: usize,
    huge: Option<[usize; 2]>,
    off: Option<i8>,
    b: Fill,
    scales: (Fill, Style),
    /// Scales of a group of 64 that are equal.
    equal: bool,
    zeros: Zeros,
}

fuzz_target!(|input: &[u8]| {
    let Some((&flags, rest)) = input.split_first() else {
        return;
    };
    if flags & 1 == 1 {
        model(rest);
    } else if let Ok(fields) = Node::arbitrary(&mut Unstructured::new(rest)) {
        node(&fields);
    }
});

fn node(fields: &Node) {
    let (n, k) = (usize::from(fields.n % 6), usize::from(fields.k % 700));
    let one = fields.block % 9 == 7;
    let block_size = match fields.block % 9 {
        7 => n * k,
        8 => fields.any,
        power => 16 << power,
    };
    let block = if one {
        k.max(1)
    } else {
        block_size.clamp(1, 1 << 12)
    };
    let per_row = k.div_ceil(block);
    let bytes = n * per_row * block.div_ceil(4);
    let mut b = fields.b.bytes(bytes);
    if let Some(off) = fields.off {
        b.resize(bytes.saturating_add_signed(off.into()), 0);
    }
    let count = if one { 1 } else { n * per_row };
    let mut scales = fields.scales.0.floats(count, fields.scales.1);
    if fields.equal
        && let Some(&first) = scales.first()
    {
        scales.fill(first);
    }
    let (packed, values);
    let zero_points = match &fields.zeros {
        Zeros::Omitted => ZeroPoints::Omitted,
        Zeros::Same(zero) => ZeroPoints::Same(zero % 5),
        Zeros::Packed(fill) => {
            packed = fill.bytes(n * per_row.div_ceil(4));
            ZeroPoints::Packed(&packed)
        }
        Zeros::PerBlock(fill) => {
            let zero = |b: u8| f32::from(b) / if b > 250 { 2.0 } else { 1.0 };
            values = fill.bytes(n * per_row).into_iter().map(|b| zero(b % 4));
            let values: &[f32] = &values.collect::<Vec<f32>>();
            return check(
                fields,
                n,
                k,
                block_size,
                [block, per_row],
                &b,
                &scales,
                ZeroPoints::PerBlock(values),
            );
        }
    };
    check(
        fields,
        n,
        k,
        block_size,
        [block, per_row],
        &b,
        &scales,
        zero_points,
    );
}

#[allow(clippy::too_many_arguments)]
fn check(
    fields: &Node,
    n: usize,
    k: usize,
    block_size: usize,
    [block, per_row]: [usize; 2],
    b: &[u8],
    scales: &[f32],
    zero_points: ZeroPoints<'_>,
) {
    let node = MatMulNBits {
        tensor: "B",
        n,
        k,
        block_size,
        b,
        scales,
        zero_points,
    };
    if let Some([n, k]) = fields.huge {
        // Whatever it says, the bytes must vouch for it.
        if let Ok(matrix) = (MatMulNBits { n, k, ..node }).decode() {
            assert_eq!([matrix.rows(), matrix.cols()], [n, k]);
            assert!(k == 0 || n * k <= 4 * b.len());
        }
        return;
    }
    let trit = |row: usize, col: usize| {
        let (at, j) = (row * per_row + col / block, col % block);
        let zero = match zero_points {
            ZeroPoints::Omitted => 2,
            ZeroPoints::Same(zero) => zero,
            ZeroPoints::Packed(packed) => {
                let (row_bytes, at) = (per_row.div_ceil(4), col / block);
                packed[row * row_bytes + at / 4] >> (2 * (at % 4)) & 3
            }
            ZeroPoints::PerBlock(values) => values[at] as u8,
        };
        let code = b[at * block.div_ceil(4) + j / 4] >> (2 * (j % 4)) & 3;
        code as i8 - zero as i8
    };
    let mut places = (0..n * k).map(|at| (at / k, at % k));
    match node.decode() {
        Ok(matrix) => {
            assert_eq!([matrix.rows(), matrix.cols()], [n, k], "{fields:?}");
            let want: Vec<i8> = places.map(|(row, col)| trit(row, col)).collect();
            assert_eq!(matrix.to_trits().expect("memory"), want, "{fields:?}");
            let weights = matrix.to_f32().expect("memory");
            for (at, (&weight, &trit)) in weights.iter().zip(&want).enumerate() {
                let place = at / k * per_row + at % k / block;
                let scale = if scales.len() == 1 {
                    scales[0]
                } else {
                    scales[place]
                };
                let want = if trit == 0 {
                    0.0
                } else {
                    f32::from(trit) * scale
                };
                assert_eq!(weight.to_bits(), want.to_bits(), "weight {at}: {fields:?}");
            }
        }
        Err(FormatError::NotTernary { row, col, .. }) => {
            let first = places.find(|&(row, col)| !(-1..=1).contains(&trit(row, col)));
            assert_eq!(first, Some((row, col)), "{fields:?}");
        }
        Err(FormatError::ScaleGroup { value, first, .. }) => {
            assert!(
                block < 64 && value.to_bits() != first.to_bits(),
                "{fields:?}"
            );
        }
        Err(FormatError::Scale { value, .. }) => assert!(!value.is_finite()),
        Err(FormatError::SizeMismatch { .. }) => {
            assert!(fields.off.is_some() || block != block_size)
        }
        Err(FormatError::Attribute { attribute, .. }) => {
            let zero = matches!(zero_points, ZeroPoints::Same(4)) && attribute == "a zero point";
            assert!(
                zero || block != block_size || block < 16 || !block.is_power_of_two(),
                "{fields:?}"
            );
        }
        Err(FormatError::ShapeOverflow { .. }) => assert!(block_size > 1 << 12),
        Err(error) => panic!("{error}: {fields:?}"),
    }
}

fn model(file: &[u8]) {
    let Ok(model) = OnnxModel::parse(file) else {
        return;
    };
    let mut seen = Vec::new();
    for name in model.matrices() {
        assert!(!seen.contains(&name), "twice: {name}");
        seen.push(name);
        match (model.decode(name), model.shape(name)) {
            (Ok(matrix), Ok(shape)) => {
                assert_eq!([matrix.rows(), matrix.cols()], shape);
                assert!(matrix.packed().len() <= file.len());
                assert!(matrix.scales().values().iter().all(|s| s.is_finite()));
            }
            (Ok(_), Err(error)) => panic!("a matrix without a shape: {error}"),
            (Err(_), _) => {}
        }
    }
    let missing = model.decode("no such tensor anywhere");
    assert!(matches!(missing, Err(FormatError::NoTensor { .. })) || !seen.is_empty());
}
