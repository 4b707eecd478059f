//! HF BitNet against an encoder written from the layout's description alone.

mod common;

use common::both_ways;
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tritgemm::{Granularity, GroupSize, MatRef, Scales, TernaryMatrix, Workspace};
use tritgemm_formats::hf::{self, LinearClass, Packed};
use tritgemm_formats::{FloatType, FormatError, ScaleRounding};

/// Row by row: weight + 1 into byte (row mod R), bits 2 (row div R).
fn independent(trits: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let quarter = rows.div_ceil(4);
    let mut bytes = vec![0u8; quarter * cols];
    for row in 0..rows {
        for col in 0..cols {
            let code = (trits[row * cols + col] + 1) as u8;
            bytes[(row % quarter) * cols + col] += code * 4u8.pow((row / quarter) as u32);
        }
    }
    bytes
}

/// As a matrix, and the same as a layer.
#[track_caller]
fn decode(
    packed: &Packed<'_>,
    class: LinearClass,
    rows: Option<usize>,
) -> Result<TernaryMatrix, FormatError> {
    let layer = |ws: &Workspace| hf::linear(packed, class, rows, ws);
    both_ways(hf::decode(packed, class, rows), layer)
}

fn trits(rows: usize, cols: usize) -> Vec<i8> {
    (0..rows * cols)
        .map(|i| ((i * 7 + i / 5) % 3) as i8 - 1)
        .collect()
}

fn packed(bytes: &[u8], packed_rows: usize, cols: usize) -> Packed<'_> {
    Packed {
        tensor: "layer.weight",
        bytes,
        packed_rows,
        cols,
        weight_scale: 0.5,
    }
}

#[test]
fn one_byte_by_hand() {
    // Rows 0 to 3 of one column are -1, 0, +1, 0.
    let matrix = decode(
        &packed(&[0b01_10_01_00], 1, 1),
        LinearClass::AutoBitLinear,
        None,
    );
    let matrix = matrix.unwrap();
    assert_eq!(matrix.to_trits().unwrap(), [-1, 0, 1, 0]);
    assert_eq!(matrix.scales(), &Scales::per_tensor(0.5));
    let divided = decode(
        &packed(&[0b01_10_01_00], 1, 1),
        LinearClass::BitLinear,
        None,
    );
    assert_eq!(divided.unwrap().scales(), &Scales::per_tensor(2.0));
}

#[test]
fn rows_that_are_no_multiple_of_four() {
    for rows in [1, 2, 3, 5, 6, 7, 9, 10, 11] {
        let trits = trits(rows, 3);
        let bytes = independent(&trits, rows, 3);
        let stored = packed(&bytes, rows.div_ceil(4), 3);
        let matrix = decode(&stored, LinearClass::AutoBitLinear, Some(rows)).unwrap();
        assert_eq!(matrix.to_trits().unwrap(), trits);
        assert_eq!(hf::encode(&matrix), bytes);
        // Without M the padding reads as weights of -1, as the file says.
        let all = decode(&stored, LinearClass::AutoBitLinear, None).unwrap();
        assert_eq!(all.rows(), 4 * rows.div_ceil(4));
        assert!(all.to_trits().unwrap()[rows * 3..].iter().all(|&t| t == -1));
    }
}

#[test]
fn an_m_too_small_drops_no_weights() {
    let bytes = independent(&[1; 8 * 2], 8, 2);
    let error = decode(&packed(&bytes, 2, 2), LinearClass::BitLinear, Some(7)).unwrap_err();
    assert!(
        matches!(
            error,
            FormatError::PaddingRow {
                row: 7,
                col: 0,
                code: 2,
                rows: 7,
                ..
            }
        ),
        "{error}"
    );
    for rows in [4, 9, 0, usize::MAX] {
        let error = decode(&packed(&bytes, 2, 2), LinearClass::BitLinear, Some(rows));
        let error = error.unwrap_err();
        assert!(
            matches!(error, FormatError::Rows { packed_rows: 2, .. }),
            "{error}"
        );
    }
}

#[test]
fn code_3_is_named_with_its_place() {
    let mut bytes = independent(&trits(12, 5), 12, 5);
    // Row 7 = packed row 1 of 3, third quarter, bits 4-5.
    bytes[5 + 4] |= 0b11 << 4;
    let error = decode(&packed(&bytes, 3, 5), LinearClass::BitLinear, None).unwrap_err();
    assert!(
        matches!(
            error,
            FormatError::NotTernary {
                row: 7,
                col: 4,
                code: 3,
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    for word in ["`layer.weight`", "row 7", "column 4", "HF BitNet"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn the_first_row_in_error_is_the_one_named() {
    let bytes = vec![0xff; 64 * 9];
    for _ in 0..20 {
        let error = decode(&packed(&bytes, 64, 9), LinearClass::BitLinear, None).unwrap_err();
        assert!(
            matches!(error, FormatError::NotTernary { row: 0, col: 0, .. }),
            "{error}"
        );
    }
}

#[test]
fn sizes_that_lie() {
    let cases = [(2, 3, 5), (0, 3, 1), (3, 0, 1)];
    for (packed_rows, cols, len) in cases {
        let bytes = vec![0; len];
        let error = decode(
            &packed(&bytes, packed_rows, cols),
            LinearClass::BitLinear,
            None,
        );
        let error = error.unwrap_err();
        assert!(matches!(error, FormatError::SizeMismatch { .. }), "{error}");
    }
    for (packed_rows, cols) in [
        (usize::MAX, 2),
        (usize::MAX / 2, 1),
        (1 << (usize::BITS - 1), 1),
    ] {
        let error = decode(
            &packed(&[], packed_rows, cols),
            LinearClass::BitLinear,
            None,
        );
        let error = error.unwrap_err();
        assert!(
            matches!(error, FormatError::ShapeOverflow { .. }),
            "{error}"
        );
    }
    let wide = vec![0; 1 << 24];
    let error = decode(&packed(&wide, 1, 1 << 24), LinearClass::BitLinear, None).unwrap_err();
    assert!(matches!(error, FormatError::Matrix { .. }), "{error}");
}

#[test]
fn shapes_without_weights() {
    for (packed_rows, cols) in [(0, 0), (0, 7), (2, 0), (usize::MAX / 4, 0)] {
        let matrix = decode(
            &packed(&[], packed_rows, cols),
            LinearClass::BitLinear,
            None,
        );
        let matrix = matrix.unwrap();
        assert_eq!((matrix.rows(), matrix.cols()), (4 * packed_rows, cols));
        assert!(hf::encode(&matrix).is_empty());
    }
}

fn one_weight(scale: f32) -> TernaryMatrix {
    TernaryMatrix::from_trits(MatRef::new(&[1], 1, 1).unwrap(), Scales::per_tensor(scale)).unwrap()
}

/// Every bf16 and f16 there is, through both classes.
#[test]
fn every_stored_scale_comes_back_bit_for_bit() {
    let mut kept = 0;
    for bits in 0..=u16::MAX {
        let values = [
            (FloatType::Bf16, bf16::from_bits(bits).to_f32()),
            (FloatType::F16, f16::from_bits(bits).to_f32()),
        ];
        for ((stored, weight_scale), class) in values
            .into_iter()
            .flat_map(|v| LinearClass::ALL.map(|class| (v, class)))
        {
            let bytes = [0b01];
            let packed = Packed {
                weight_scale,
                ..packed(&bytes, 1, 1)
            };
            let want = match class {
                LinearClass::AutoBitLinear => weight_scale,
                LinearClass::BitLinear => 1.0 / weight_scale,
            };
            match decode(&packed, class, Some(1)) {
                Ok(matrix) => {
                    let scale = matrix.scales().values()[0];
                    assert_eq!(scale.to_bits(), want.to_bits(), "{class:?} {weight_scale}");
                    let back = hf::encode_scale("w", &matrix, class, stored, ScaleRounding::Exact);
                    assert_eq!(
                        back.unwrap(),
                        bits.to_le_bytes(),
                        "{class:?} {weight_scale}"
                    );
                    kept += 1;
                }
                Err(error) => {
                    assert!(matches!(error, FormatError::Scale { .. }), "{error}");
                    let finite = want.is_finite() && weight_scale.is_finite();
                    assert!(!finite, "{class:?} {weight_scale}");
                }
            }
        }
    }
    assert!(kept > 250_000, "{kept}");
}

#[test]
fn scales_that_bf16_lacks() {
    let matrix = one_weight(0.1);
    let write = |class, stored, rounding| hf::encode_scale("w", &matrix, class, stored, rounding);
    let error = write(
        LinearClass::AutoBitLinear,
        FloatType::Bf16,
        ScaleRounding::Exact,
    );
    let error = error.unwrap_err();
    let nearest = bf16::from_f32(0.1);
    assert!(
        matches!(&error, FormatError::ScaleRounding { value, nearest: n, .. }
            if *value == 0.1 && *n == nearest.to_f32()),
        "{error}"
    );
    let rounded = write(
        LinearClass::AutoBitLinear,
        FloatType::Bf16,
        ScaleRounding::Nearest,
    );
    assert_eq!(rounded.unwrap(), nearest.to_le_bytes());
    let whole = write(
        LinearClass::AutoBitLinear,
        FloatType::F32,
        ScaleRounding::Exact,
    );
    assert_eq!(whole.unwrap(), 0.1f32.to_le_bytes());
    // No rounding makes an infinity of a scale.
    for (scale, class, stored) in [
        (1e6, LinearClass::AutoBitLinear, FloatType::F16),
        (1e-9, LinearClass::AutoBitLinear, FloatType::F16),
        (0.0, LinearClass::BitLinear, FloatType::Bf16),
        (1e-39, LinearClass::BitLinear, FloatType::F32),
    ] {
        let written = hf::encode_scale(
            "w",
            &one_weight(scale),
            class,
            stored,
            ScaleRounding::Nearest,
        );
        assert!(written.is_err(), "{scale} as {written:?}");
    }
}

#[test]
fn only_one_scale_a_tensor() {
    let scales = [
        Scales::per_row(vec![1.0; 2]),
        Scales::per_group(GroupSize::G64, vec![1.0; 2]),
    ];
    for scales in scales {
        let matrix =
            TernaryMatrix::from_trits(MatRef::new(&[1, 0], 2, 1).unwrap(), scales).unwrap();
        let (class, stored) = (LinearClass::AutoBitLinear, FloatType::F32);
        let error = hf::encode_scale("w", &matrix, class, stored, ScaleRounding::Nearest);
        let error = error.unwrap_err();
        assert!(
            matches!(&error, FormatError::ScaleLayout { granularity, .. }
                if *granularity != Granularity::PerTensor),
            "{error}"
        );
    }
}

#[test]
fn files() {
    let trits = trits(8, 6);
    let bytes = independent(&trits, 8, 6);
    let scale = bf16::from_f32(1.25).to_le_bytes();
    let u8s = |data, shape: &[usize]| TensorView::new(Dtype::U8, shape.to_vec(), data).unwrap();
    let scale_of = |dtype, data, shape: &[usize]| TensorView::new(dtype, shape.to_vec(), data);
    let file = safetensors::serialize(
        [
            ("a.weight", u8s(&bytes, &[2, 6])),
            (
                "a.weight_scale",
                scale_of(Dtype::BF16, &scale, &[1]).unwrap(),
            ),
            ("b.weight", u8s(&bytes, &[2, 6])),
            ("c.weight", u8s(&bytes, &[2, 6])),
            (
                "c.weight_scale",
                scale_of(Dtype::BF16, &bytes[..4], &[2]).unwrap(),
            ),
            ("d.weight", u8s(&bytes, &[12])),
            (
                "d.weight_scale",
                scale_of(Dtype::F32, &bytes[..4], &[]).unwrap(),
            ),
        ],
        None,
    )
    .unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(hf::matrices(&file), ["a.weight"]);
    let matrix = hf::read(&file, "a.weight", LinearClass::AutoBitLinear, None).unwrap();
    assert_eq!(
        (matrix.to_trits().unwrap(), matrix.scales()),
        (trits, &Scales::per_tensor(1.25))
    );
    let read = |name| hf::read(&file, name, LinearClass::BitLinear, None).unwrap_err();
    assert!(matches!(read("x"), FormatError::NoTensor { tensor } if tensor == "x"));
    assert!(
        matches!(read("b.weight"), FormatError::NoTensor { tensor } if tensor == "b.weight_scale")
    );
    assert!(
        matches!(read("c.weight"), FormatError::Shape { tensor, .. } if tensor == "c.weight_scale")
    );
    assert!(matches!(read("d.weight"), FormatError::Shape { tensor, .. } if tensor == "d.weight"));
}

proptest! {
    #[test]
    fn round_trips(
        (rows, cols, trits) in (0usize..40, 0usize..70).prop_flat_map(|(rows, cols)| {
            let trits = proptest::collection::vec(-1i8..=1, rows * cols);
            (Just(rows), Just(cols), trits)
        }),
        scale in any::<u16>().prop_map(|bits| bf16::from_bits(bits).to_f32()),
        auto in any::<bool>(),
    ) {
        let class = LinearClass::ALL[usize::from(auto)];
        prop_assume!(scale.is_finite() && (1.0 / scale).is_finite());
        let bytes = independent(&trits, rows, cols);
        let stored = Packed { weight_scale: scale, ..packed(&bytes, rows.div_ceil(4), cols) };
        let matrix = decode(&stored, class, Some(rows)).unwrap();
        prop_assert_eq!(matrix.to_trits().unwrap(), trits);
        prop_assert_eq!(hf::encode(&matrix), bytes);
        let written = hf::encode_scale("w", &matrix, class, FloatType::Bf16, ScaleRounding::Exact);
        prop_assert_eq!(written.unwrap(), bf16::from_f32(scale).to_le_bytes());
    }

    #[test]
    fn any_bytes_are_a_matrix_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        packed_rows in 0usize..8,
        cols in 0usize..8,
        rows in proptest::option::of(0usize..33),
    ) {
        let stored = packed(&bytes, packed_rows, cols);
        if let Ok(matrix) = decode(&stored, LinearClass::AutoBitLinear, rows) {
            prop_assert_eq!(hf::encode(&matrix), bytes);
        }
    }
}
