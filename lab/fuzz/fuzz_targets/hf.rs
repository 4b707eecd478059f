//! The packed layout of HF BitNet. First byte even: a matrix by its fields, whose
//! values and errors are the definition's and which is written back byte for
//! byte. Odd: a safetensors file of any bytes, the length of its header put
//! right if the second lowest bit is set.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;
use tritgemm_formats::hf::{self, LinearClass, Packed};
use tritgemm_formats::{FloatType, FormatError, ScaleRounding};
use tritgemm_fuzz::fill::{Fill, Style};

#[derive(Arbitrary, Debug)]
struct Fields {
    packed_rows: u8,
    cols: u8,
    huge: Option<[usize; 2]>,
    rows: Option<u8>,
    off: Option<i8>,
    style: Style,
    scale: u32,
    auto: bool,
    tame: bool,
    fill: Fill,
}

fuzz_target!(|input: &[u8]| {
    let Some((&flags, rest)) = input.split_first() else {
        return;
    };
    if flags & 1 == 0 {
        if let Ok(fields) = Fields::arbitrary(&mut Unstructured::new(rest)) {
            matrix(&fields);
        }
    } else if flags & 2 == 0 {
        file(rest);
    } else {
        let mut bytes = rest.to_vec();
        let end = bytes
            .iter()
            .rposition(|&b| b == b'}')
            .map_or(0, |at| at + 1);
        if let Some(json) = end.checked_sub(8) {
            bytes[..8].copy_from_slice(&(json as u64).to_le_bytes());
        }
        file(&bytes);
    }
});

fn matrix(fields: &Fields) {
    let class = LinearClass::ALL[usize::from(fields.auto)];
    let mut shape = [fields.packed_rows % 20, fields.cols % 90].map(usize::from);
    let len = shape[0] * shape[1];
    let mut bytes = fields.fill.bytes(len);
    if let Some(off) = fields.off {
        bytes.resize(len.saturating_add_signed(off.into()), 0);
    }
    if let Some(huge) = fields.huge {
        shape = huge;
    }
    if fields.tame {
        bytes
            .iter_mut()
            .for_each(|b| *b &= !((*b >> 1) & *b & 0x55));
    }
    let [packed_rows, cols] = shape;
    let rows = fields.rows.map(usize::from);
    let weight_scale = Fill::Repeat(fields.scale.to_le_bytes().to_vec()).floats(1, fields.style)[0];
    let packed = Packed {
        tensor: "w",
        bytes: &bytes,
        packed_rows,
        cols,
        weight_scale,
    };
    let got = hf::decode(&packed, class, rows);
    let fits = packed_rows.checked_mul(cols) == Some(bytes.len());
    let code = |row: usize, col: usize| {
        bytes[row % packed_rows * cols + col] >> (2 * (row / packed_rows)) & 3
    };
    match got {
        Ok(matrix) => {
            assert!(fits, "{fields:?}");
            let m = rows.unwrap_or(4 * packed_rows);
            assert_eq!([matrix.rows(), matrix.cols()], [m, cols]);
            if cols > 0 {
                let want = (0..m * cols).map(|at| code(at / cols, at % cols) as i8 - 1);
                assert!(
                    matrix.to_trits().expect("memory").into_iter().eq(want),
                    "{fields:?}"
                );
                assert_eq!(hf::encode(&matrix), bytes);
            }
            let scale = match class {
                LinearClass::AutoBitLinear => weight_scale,
                LinearClass::BitLinear => 1.0 / weight_scale,
            };
            assert_eq!(matrix.scales().values()[0].to_bits(), scale.to_bits());
            scales(&matrix, class, scale);
        }
        Err(FormatError::NotTernary { row, col, .. }) => {
            let mut all = (0..4 * packed_rows * cols).map(|at| (at / cols, at % cols));
            let first = all.find(|&(row, col)| code(row, col) == 3);
            assert_eq!(first, Some((row, col)), "{fields:?}");
        }
        Err(FormatError::PaddingRow {
            row,
            col,
            code: c,
            rows,
            ..
        }) => {
            assert!(row >= rows && c != 0 && code(row, col) == c, "{fields:?}");
        }
        Err(FormatError::Rows { rows, .. }) => assert_ne!(rows.div_ceil(4), packed_rows),
        Err(FormatError::SizeMismatch { .. } | FormatError::ShapeOverflow { .. }) => {
            assert!(!fits || packed_rows > usize::MAX / 4, "{fields:?}");
        }
        Err(FormatError::Scale { .. }) => {
            assert!(!weight_scale.is_finite() || !(1.0 / weight_scale).is_finite());
        }
        Err(FormatError::Matrix { .. }) => assert!(cols > 90, "{fields:?}"),
        Err(error) => panic!("{error}: {fields:?}"),
    }
}

/// A scale that is written without rounding is read back bit for bit.
fn scales(matrix: &tritgemm::TernaryMatrix, class: LinearClass, scale: f32) {
    for stored in [FloatType::F32, FloatType::F16, FloatType::Bf16] {
        let exact = hf::encode_scale("w", matrix, class, stored, ScaleRounding::Exact);
        let nearest = hf::encode_scale("w", matrix, class, stored, ScaleRounding::Nearest);
        if let Ok(exact) = exact {
            let value = stored.decode(&exact)[0];
            let back = match class {
                LinearClass::AutoBitLinear => value,
                LinearClass::BitLinear => 1.0 / value,
            };
            assert_eq!(back.to_bits(), scale.to_bits());
            assert_eq!(nearest.expect("exact"), exact);
        } else if let Ok(nearest) = nearest {
            assert!(stored.decode(&nearest)[0].is_finite());
        }
    }
}

fn file(bytes: &[u8]) {
    let Ok(file) = SafeTensors::deserialize(bytes) else {
        return;
    };
    let names = hf::matrices(&file);
    assert!(names.is_sorted());
    for (name, tensor) in file.iter() {
        for class in LinearClass::ALL {
            match hf::read(&file, name, class, None) {
                Ok(matrix) => {
                    assert!(names.contains(&name));
                    let shape = tensor.shape();
                    assert_eq!(shape, [matrix.rows() / 4, matrix.cols()]);
                    assert_eq!(hf::encode(&matrix), tensor.data());
                }
                Err(FormatError::NoTensor { tensor }) => {
                    assert_eq!(tensor, hf::scale_name(name));
                    assert!(!names.contains(&name));
                }
                Err(FormatError::Shape { .. }) => assert!(!names.contains(&name)),
                Err(_) => assert!(names.contains(&name)),
            }
        }
    }
}
