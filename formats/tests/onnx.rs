//! ONNX `MatMulNBits` with 2 bits against an encoder written from the
//! operator's description alone.

mod common;

use common::both_ways;
use common::wire::{self, onnx, tensor};
use proptest::prelude::*;
use tritgemm::{GroupSize, Scales, TernaryMatrix};
use tritgemm_formats::FormatError;
use tritgemm_formats::onnx::{MatMulNBits, OnnxModel, ZeroPoints};

/// As a matrix, and the same as a layer.
trait Decoded {
    fn decoded(&self) -> Result<TernaryMatrix, FormatError>;
}

impl Decoded for MatMulNBits<'_> {
    #[track_caller]
    fn decoded(&self) -> Result<TernaryMatrix, FormatError> {
        both_ways(self.decode(), |ws| self.linear(ws))
    }
}

/// Blocks of every row, each a string of bits, least significant first.
fn independent(trits: &[i8], k: usize, block: usize, zero: impl Fn(usize, usize) -> i8) -> Vec<u8> {
    let mut bytes = Vec::new();
    if k == 0 {
        return bytes;
    }
    for (row, trits) in trits.chunks(k).enumerate() {
        for (b, trits) in trits.chunks(block).enumerate() {
            let mut blob = vec![0u8; block / 4];
            for (j, trit) in trits.iter().enumerate() {
                let code = u8::try_from(trit + zero(row, b)).unwrap();
                for bit in 0..2 {
                    let at = 2 * j + bit;
                    blob[at / 8] |= (code >> bit & 1) << (at % 8);
                }
            }
            bytes.extend(blob);
        }
    }
    bytes
}

fn trits(n: usize, k: usize) -> Vec<i8> {
    (0..n * k)
        .map(|i| ((i * 5 + i / 7) % 3) as i8 - 1)
        .collect()
}

fn node<'a>(
    n: usize,
    k: usize,
    block_size: usize,
    b: &'a [u8],
    scales: &'a [f32],
) -> MatMulNBits<'a> {
    MatMulNBits {
        tensor: "B",
        n,
        k,
        block_size,
        b,
        scales,
        zero_points: ZeroPoints::Same(1),
    }
}

#[test]
fn one_byte_by_hand() {
    // -1, 0, +1, 0 from the lowest bits up, with the zero point 1.
    let b = [0b01_10_01_00, 0, 0, 0];
    let matrix = node(1, 4, 16, &b, &[0.5]).decoded().unwrap();
    assert_eq!(matrix.to_trits().unwrap(), [-1, 0, 1, 0]);
    // The default zero point is 2.
    let b = [0b10_11_10_01, 0, 0, 0];
    let node = MatMulNBits {
        zero_points: ZeroPoints::Omitted,
        ..node(1, 4, 16, &b, &[0.5])
    };
    assert_eq!(node.decoded().unwrap().to_trits().unwrap(), [-1, 0, 1, 0]);
}

#[test]
fn what_the_blocks_are_decides_what_a_scale_covers() {
    let (n, k) = (3, 300);
    let trits = trits(n, k);
    let ramp = |len: usize| (1..=len).map(|i| i as f32 / 8.0).collect::<Vec<f32>>();
    let cases = [
        (
            64,
            Scales::per_group(GroupSize::G64, ramp(n * 5)),
            ramp(n * 5),
        ),
        (
            128,
            Scales::per_group(GroupSize::G128, ramp(n * 3)),
            ramp(n * 3),
        ),
        (
            256,
            Scales::per_group(GroupSize::G256, ramp(n * 2)),
            ramp(n * 2),
        ),
        (512, Scales::per_row(ramp(n)), ramp(n)),
    ];
    for (block, want, scales) in cases {
        let b = independent(&trits, k, block, |_, _| 1);
        let matrix = node(n, k, block, &b, &scales).decoded().unwrap();
        assert_eq!(
            (matrix.scales(), matrix.to_trits().unwrap()),
            (&want, trits.clone()),
            "{block}"
        );
    }
    // One block for all of the matrix.
    let b = independent(&trits, k, k, |_, _| 1);
    let matrix = node(n, k, n * k, &b, &[0.75]).decoded().unwrap();
    assert_eq!(
        (matrix.scales(), matrix.to_trits().unwrap()),
        (&Scales::per_tensor(0.75), trits)
    );
}

#[test]
fn blocks_longer_than_a_group_repeat_their_scale() {
    let (n, k) = (2, 1100);
    let trits = trits(n, k);
    let b = independent(&trits, k, 512, |_, _| 1);
    let matrix = node(n, k, 512, &b, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .decoded()
        .unwrap();
    let want = vec![1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 5.0, 5.0, 6.0];
    assert_eq!(matrix.scales(), &Scales::per_group(GroupSize::G256, want));
    assert_eq!(matrix.to_trits().unwrap(), trits);
}

#[test]
fn short_blocks_need_equal_scales_in_a_group() {
    let (n, k, block) = (2, 150, 16);
    let trits = trits(n, k);
    let b = independent(&trits, k, block, |_, _| 1);
    let per_row = k.div_ceil(block);
    let mut scales: Vec<f32> = (0..n * per_row)
        .map(|i| (1 + i % per_row * block / 32) as f32)
        .collect();
    let matrix = node(n, k, block, &b, &scales).decoded().unwrap();
    let want = [1.0, 2.0, 3.0, 4.0, 5.0].repeat(2);
    assert_eq!(matrix.scales(), &Scales::per_group(GroupSize::G32, want));
    assert_eq!(matrix.to_trits().unwrap(), trits);
    // The second block of the second group of row 1.
    let at = per_row + 32 / block + 1;
    scales[at] = 7.0;
    let error = node(n, k, block, &b, &scales).decoded().unwrap_err();
    assert!(
        matches!(error, FormatError::ScaleGroup { row: 1, col, group: 32, .. } if col == 32 + block),
        "{error}"
    );
}

#[test]
fn zero_points_in_every_form() {
    let (n, k, block) = (3, 600, 64);
    let (trits, blocks) = (trits(n, k), 10);
    let zero = |row: usize, b: usize| 1 + ((row + b) % 2) as i8;
    let b = independent(&trits, k, block, zero);
    let scales = vec![1.0; n * blocks];
    // Each row's 10 zero points take 3 bytes of their own.
    let mut packed = vec![0u8; n * 3];
    for row in 0..n {
        for block in 0..blocks {
            packed[row * 3 + block / 4] |= (zero(row, block) as u8) << (2 * (block % 4));
        }
    }
    let floats: Vec<f32> = (0..n * blocks)
        .map(|i| f32::from(zero(i / blocks, i % blocks)))
        .collect();
    for zero_points in [ZeroPoints::Packed(&packed), ZeroPoints::PerBlock(&floats)] {
        let node = MatMulNBits {
            zero_points,
            ..node(n, k, block, &b, &scales)
        };
        assert_eq!(node.decoded().unwrap().to_trits().unwrap(), trits);
    }
    let half = vec![1.5; n * blocks];
    for zero_points in [
        ZeroPoints::Packed(&packed[1..]),
        ZeroPoints::PerBlock(&floats[1..]),
        ZeroPoints::PerBlock(&half),
        ZeroPoints::PerBlock(&[f32::NAN; 30]),
        ZeroPoints::Same(4),
    ] {
        let node = MatMulNBits {
            zero_points,
            ..node(n, k, block, &b, &scales)
        };
        let error = node.decoded().unwrap_err();
        assert!(matches!(error, FormatError::Attribute { .. }), "{error}");
    }
}

#[test]
fn codes_that_are_no_trits_are_named_with_their_place() {
    let (n, k) = (4, 130);
    let trits = trits(n, k);
    let scales = vec![1.0; n * 3];
    let mut b = independent(&trits, k, 64, |_, _| 1);
    // Row 2, block 1, element 5.
    b[(2 * 3 + 1) * 16 + 1] |= 0b11 << 2;
    let error = node(n, k, 64, &b, &scales).decoded().unwrap_err();
    assert!(
        matches!(
            error,
            FormatError::NotTernary {
                row: 2,
                col: 69,
                code: 3,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("tensor `B`, row 2, column 69"),
        "{error}"
    );
    // Code 0 is -2 where the zero point is 2.
    let b = independent(&trits, k, 64, |_, _| 1);
    let node = MatMulNBits {
        zero_points: ZeroPoints::Omitted,
        ..node(n, k, 64, &b, &scales)
    };
    let error = node.decoded().unwrap_err();
    let col = trits.iter().position(|&t| t == -1).unwrap();
    assert!(
        matches!(error, FormatError::NotTernary { row: 0, col: c, code: 0, .. } if c == col),
        "{error}"
    );
}

#[test]
fn what_stands_after_the_last_column_is_nobodys_business() {
    let trits = trits(2, 70);
    let mut b = independent(&trits, 70, 64, |_, _| 1);
    b[31] = 0xff;
    b[17] |= 0xf0;
    let matrix = node(2, 70, 64, &b, &[1.0; 4]).decoded().unwrap();
    assert_eq!(matrix.to_trits().unwrap(), trits);
}

#[test]
fn sizes_that_lie() {
    let b = independent(&trits(2, 70), 70, 64, |_, _| 1);
    let attribute = [
        node(2, 70, 48, &b, &[1.0; 4]),
        node(2, 70, 8, &b, &[1.0; 4]),
        node(2, 70, 0, &b, &[1.0; 4]),
        node(2, 70, 64, &b, &[1.0; 3]),
        node(2, 70, 64, &b, &[1.0; 1]),
    ];
    for node in attribute {
        let error = node.decoded().unwrap_err();
        assert!(matches!(error, FormatError::Attribute { .. }), "{error}");
    }
    let size = [
        node(2, 70, 64, &b[1..], &[1.0; 4]),
        node(2, 64, 64, &b, &[1.0; 2]),
    ];
    for node in size {
        let error = node.decoded().unwrap_err();
        assert!(matches!(error, FormatError::SizeMismatch { .. }), "{error}");
    }
    let huge = [
        node(usize::MAX, 70, 64, &b, &[1.0; 4]),
        node(usize::MAX / 2, 64, 64, &b, &[1.0; 4]),
        node(usize::MAX, usize::MAX, 64, &b, &[1.0]),
    ];
    for node in huge {
        let error = node.decoded().unwrap_err();
        assert!(
            matches!(error, FormatError::ShapeOverflow { .. }),
            "{error}"
        );
    }
    let error = node(2, 70, 64, &b, &[1.0, 1.0, 1.0, f32::NAN])
        .decoded()
        .unwrap_err();
    assert!(
        matches!(
            error,
            FormatError::Scale {
                row: 1,
                col: 64,
                ..
            }
        ),
        "{error}"
    );
    for (n, k) in [(0, 0), (0, 5), (usize::MAX, 0)] {
        let matrix = node(n, k, 32, &[], &[]).decoded().unwrap();
        assert_eq!((matrix.rows(), matrix.cols()), (n, k));
    }
}

proptest! {
    #[test]
    fn round_trips(
        (n, k, trits) in (0usize..12, 1usize..300).prop_flat_map(|(n, k)| {
            (Just(n), Just(k), proptest::collection::vec(-1i8..=1, n * k))
        }),
        exponent in 4u32..11,
        zero in 1i8..=2,
    ) {
        let block = 1 << exponent;
        let b = independent(&trits, k, block, |_, _| zero);
        let scales = vec![0.25; n * k.div_ceil(block)];
        let zero_points = ZeroPoints::Same(zero as u8);
        let node = MatMulNBits { zero_points, ..node(n, k, block, &b, &scales) };
        let matrix = node.decoded().unwrap();
        prop_assert_eq!(matrix.to_trits().unwrap(), trits);
        prop_assert!(matrix.scales().values().iter().all(|&s| s == 0.25));
    }

    #[test]
    fn any_bytes_are_a_matrix_or_an_error(
        b in proptest::collection::vec(any::<u8>(), 0..64),
        zeros in proptest::collection::vec(any::<u8>(), 0..8),
        n in 0usize..4, k in 0usize..70, block in 0usize..70,
    ) {
        let scales = vec![1.0; n * k.div_ceil(block.max(1))];
        let zero_points = ZeroPoints::Packed(&zeros);
        let node = MatMulNBits { zero_points, ..node(n, k, block, &b, &scales) };
        if let Ok(matrix) = node.decoded() {
            prop_assert_eq!((matrix.rows(), matrix.cols()), (n, k));
        }
    }
}

#[test]
fn models() {
    let (n, k) = (3, 70);
    let trits = trits(n, k);
    let b = independent(&trits, k, 64, |_, _| 1);
    let scales: Vec<u8> = (1..=6u8)
        .flat_map(|i| half::f16::from_f32(f32::from(i)).to_le_bytes())
        .collect();
    let attributes = [("K", 70), ("N", 3), ("bits", 2), ("block_size", 64)];
    let zeros = [0b0101; 3];
    let tensors = [
        tensor("w", 2, &b, &[]),
        tensor("s", 10, &scales, &[]),
        tensor("z", 2, &zeros, &[]),
    ];
    let file = onnx(&["x", "w", "s", "z"], &attributes, &tensors);
    let model = OnnxModel::parse(&file).unwrap();
    assert_eq!(model.matrices().collect::<Vec<_>>(), ["w"]);
    assert_eq!(model.shape("w").unwrap(), [3, 70]);
    let matrix = model.decode("w").unwrap();
    let want = Scales::per_group(GroupSize::G64, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(
        (matrix.to_trits().unwrap(), matrix.scales()),
        (trits.clone(), &want)
    );

    // Values in the typed fields instead of `raw_data`.
    let packed = |values: &[i64]| -> Vec<u8> {
        wire::bytes(
            5,
            &values
                .iter()
                .flat_map(|&v| wire::varint(v as u64))
                .collect::<Vec<_>>(),
        )
    };
    let ints: Vec<i64> = b.iter().map(|&b| b.into()).collect();
    let floats: Vec<u8> = (1..=6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let typed = [
        tensor("w", 2, &[], &packed(&ints)),
        tensor("s", 1, &[], &wire::bytes(4, &floats)),
        tensor("z", 1, &1f32.to_le_bytes().repeat(6), &[]),
    ];
    let file = onnx(&["x", "w", "s", "z"], &attributes, &typed);
    assert_eq!(
        OnnxModel::parse(&file).unwrap().decode("w").unwrap(),
        matrix
    );

    let error = |inputs: &[&str], attributes: &[(&str, i64)], tensors: &[Vec<u8>]| {
        let model = OnnxModel::parse(&onnx(inputs, attributes, tensors)).unwrap();
        model.decode("w").unwrap_err().to_string()
    };
    // Without zero points they are 2, and code 0 is -2.
    let text = error(&["x", "w", "s"], &attributes, &tensors);
    assert!(
        text.contains("`w`, row 0, column") && text.contains("code 0"),
        "{text}"
    );
    let text = error(&["x", "w", "s", "", "g"], &attributes, &tensors);
    assert!(text.contains("g_idx"), "{text}");
    let text = error(&["x", "w", "s", "z"], &attributes, &tensors[..2]);
    assert!(text.contains("no tensor `z`"), "{text}");
    let text = error(&["x", "w", "s", "z"], &attributes[..3], &tensors);
    assert!(text.contains("block_size is missing"), "{text}");
    let mut negative = attributes;
    negative[1].1 = -3;
    let text = error(&["x", "w", "s", "z"], &negative, &tensors);
    assert!(text.contains("N is -3"), "{text}");
    let external = [
        vec![tensor("w", 2, &[], &wire::int(14, 1))],
        tensors[1..].to_vec(),
    ]
    .concat();
    let text = error(&["x", "w", "s", "z"], &attributes, &external);
    assert!(text.contains("EXTERNAL"), "{text}");
    let text = error(&["x", "w", "w", "z"], &attributes, &tensors);
    assert!(text.contains("data_type is 2, expected a float"), "{text}");
    let four = [("K", 70), ("N", 3), ("bits", 4), ("block_size", 64)];
    let model = OnnxModel::parse(&onnx(&["x", "w", "s", "z"], &four, &tensors)).unwrap();
    assert_eq!(model.matrices().len(), 0);

    for len in 0..file.len() {
        if let Ok(model) = OnnxModel::parse(&file[..len]) {
            assert!(model.decode("w").is_err(), "{len}");
        }
    }
}

/// Nodes that share their weights and not their scales are several matrices.
#[test]
fn shared_weights_with_other_scales_are_other_matrices() {
    let attributes = [("K", 64), ("N", 1), ("bits", 2), ("block_size", 64)];
    let mut half = attributes;
    half[0].1 = 32;
    let four = [("K", 64), ("N", 1), ("bits", 4), ("block_size", 64)];
    let node = |inputs: &[&str], attributes: &[(&str, i64)]| wire::node(inputs, attributes);
    let nodes = [
        node(&["x", "w", "s1", "z"], &attributes),
        node(&["x", "w", "s2", "z"], &attributes),
        node(&["y", "w", "s1", "z"], &attributes),
        node(&["x", "w", "s1"], &attributes),
        node(&["x", "w", "s1", "z"], &half),
        node(&["x", "v", "s1", "z"], &four),
    ];
    let scale = |value: f32| value.to_le_bytes();
    let tensors = [
        tensor("w", 2, &[0b01_01_10_10; 16], &[]),
        tensor("s1", 1, &scale(1.0), &[]),
        tensor("s2", 1, &scale(2.0), &[]),
        tensor("z", 1, &scale(1.0), &[]),
    ];
    let model = OnnxModel::parse(&wire::graph(&nodes, &tensors)).unwrap();
    let names: Vec<&str> = model.matrices().collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(names[..2], ["w", "w:s2"]);
    let scale = |name: &str| model.decode(name).unwrap().scales().values()[0];
    assert_eq!((scale("w"), scale("w:s2")), (1.0, 2.0));
    // Zero points that are left out are 2: the same codes are other weights.
    assert_eq!(
        model.decode(names[2]).unwrap().to_trits().unwrap()[..4],
        [0, 0, -1, -1]
    );
    assert_eq!(model.shape(names[3]).unwrap(), [1, 32]);
    assert_eq!(model.unread().collect::<Vec<_>>(), ["v"]);
    let twice = [tensor("w", 2, &[], &[]), tensor("w", 2, &[], &[])];
    let error = OnnxModel::parse(&wire::graph(&nodes, &twice)).unwrap_err();
    assert!(
        error.to_string().contains("second initialiser `w`"),
        "{error}"
    );
}

/// A node of any operator and domain, with fields of its own after the inputs.
fn any_node(op: &str, domain: &str, inputs: &[&str], more: &[u8]) -> Vec<u8> {
    let mut node: Vec<u8> = inputs
        .iter()
        .flat_map(|i| wire::bytes(1, i.as_bytes()))
        .collect();
    node.extend(wire::bytes(4, op.as_bytes()));
    node.extend(more);
    node.extend(wire::bytes(7, domain.as_bytes()));
    node
}

/// Packed weights that are not read are named, wherever in a model they are.
#[test]
fn packed_weights_elsewhere_are_named() {
    let two_bits = wire::bytes(5, &[wire::bytes(1, b"bits"), wire::int(3, 2)].concat());
    let nested = |name: &str| {
        let inner = any_node("MatMulNBits", "com.microsoft", &["x", name, "s"], &two_bits);
        [wire::bytes(1, &inner), wire::tensor(name, 2, &[0; 4], &[])].concat()
    };
    let branch = [
        wire::bytes(1, b"then_branch"),
        wire::bytes(6, &nested("in_branch")),
    ]
    .concat();
    let body = [wire::bytes(1, b"body"), wire::bytes(11, &nested("in_body"))].concat();
    let nodes = [
        any_node("If", "", &["c"], &wire::bytes(5, &branch)),
        any_node("Loop", "", &["c"], &wire::bytes(5, &body)),
        any_node(
            "MatMulNBits",
            "other",
            &["x", "other_domain", "s"],
            &two_bits,
        ),
        any_node(
            "QMoE",
            "com.microsoft",
            &["x", "router", "fc1", "s", "", "fc2"],
            &[],
        ),
        any_node(
            "GatherBlockQuantized",
            "com.microsoft",
            &["table", "ids", "s"],
            &[],
        ),
        any_node("MatMulBnb4", "com.microsoft", &["x", "bnb", "s"], &[]),
        any_node("MatMul", "", &["x", "dense"], &[]),
    ];
    let tensors = [
        wire::tensor("router", 1, &[0; 4], &[]),
        wire::tensor("two", 26, &[0; 4], &[]),
        wire::tensor("unsigned", 25, &[0; 4], &[]),
    ];
    let graph: Vec<u8> = nodes
        .iter()
        .flat_map(|node| wire::bytes(1, node))
        .chain(tensors.concat())
        .collect();
    let function = any_node(
        "MatMulNBits",
        "com.microsoft",
        &["x", "in_function", "s"],
        &two_bits,
    );
    let model = [
        wire::int(1, 10),
        wire::bytes(7, &graph),
        wire::bytes(25, &wire::bytes(7, &function)),
    ];
    let model = model.concat();
    let parsed = OnnxModel::parse(&model).unwrap();
    let mut unread: Vec<&str> = parsed.unread().collect();
    unread.sort_unstable();
    let wanted = [
        "bnb",
        "fc1",
        "fc2",
        "in_body",
        "in_branch",
        "in_function",
        "other_domain",
        "table",
    ];
    assert_eq!(unread, wanted);
    assert_eq!((parsed.matrices().len(), parsed.nested()), (0, 2));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, model).unwrap();
    let opened = tritgemm_formats::open(&path).unwrap();
    let notes = opened.notes().join(" ");
    for word in [
        "`two` of type INT2",
        "and 1 more",
        "and 7 more",
        "2 initialisers of branches",
    ] {
        assert!(notes.contains(word), "no {word}: {notes}");
    }
    assert!(!notes.contains("router"), "{notes}");
}
