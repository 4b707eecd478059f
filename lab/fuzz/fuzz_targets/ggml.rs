//! Any bytes as a tensor of each of ggml's ternary types: values and errors are
//! the definition's, and what can be written is read back as it was.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use tritgemm::TernaryMatrix;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::{FormatError, ScaleRounding, simplify};
use tritgemm_fuzz::fill::Fill;
use tritgemm_fuzz::ggml::codes;
use tritgemm_testing::bits;

#[derive(Debug)]
struct Input {
    ty: TernaryType,
    rows: usize,
    cols: usize,
    /// Bytes beside the right number of them.
    off: i8,
    fill: Fill,
    /// Scales that are numbers, codes that are no 3.
    tame: bool,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let ty = *u.choose(TernaryType::ALL)?;
        let cols = if u.ratio(1, 8)? {
            u.int_in_range(0..=300)?
        } else {
            64 * u.int_in_range(1..=16)?
        };
        Ok(Self {
            ty,
            rows: u.int_in_range(0..=6)?,
            cols,
            off: if u.ratio(1, 8)? { u.arbitrary()? } else { 0 },
            tame: u.ratio(3, 4)?,
            fill: u.arbitrary()?,
        })
    }
}

fuzz_target!(|input: Input| {
    let Input {
        ty,
        rows,
        cols,
        off,
        ref fill,
        tame,
    } = input;
    let expected = match ty.tensor_bytes(rows, cols, "w") {
        Ok(len) => len,
        Err(error) => {
            let weights = rows * cols;
            let run = if ty == TernaryType::I2S {
                weights
            } else {
                cols
            };
            assert!(weights == 0 || !run.is_multiple_of(ty.block()), "{error}");
            let decoded = ty.decode(&fill.bytes(64), rows, cols, "w");
            assert_eq!(decoded.unwrap_err().to_string(), error.to_string());
            return;
        }
    };
    let mut bytes = fill.bytes(expected.saturating_add_signed(off.into()));
    if tame {
        // Clears code 3 in every type that has it, and exponents of all ones.
        for byte in &mut bytes {
            *byte &= !((*byte >> 1) & *byte & 0x55);
        }
    }
    let got = ty.decode(&bytes, rows, cols, "w");
    if bytes.len() != expected {
        assert!(
            matches!(got, Err(FormatError::SizeMismatch { .. })),
            "{got:?}"
        );
        return;
    }
    let (codes, scales) = codes(ty, &bytes, rows, cols);
    let three = codes.iter().position(|&code| code == 3);
    let finite = scales.iter().all(|&s| f32::from_bits(s).is_finite());
    match got {
        Ok(matrix) => {
            assert!(three.is_none() && finite, "{input:?}");
            let want: Vec<i8> = codes.iter().map(|&code| code as i8 - 1).collect();
            assert_eq!(matrix.to_trits().expect("memory"), want, "{input:?}");
            assert_eq!(bits(matrix.scales().values()), scales, "{input:?}");
            written(ty, &bytes, matrix);
        }
        Err(FormatError::NotTernary { row, col, code, .. }) => {
            assert_eq!((Some(row * cols + col), code), (three, 3), "{input:?}");
        }
        Err(FormatError::Scale { value, .. }) => {
            assert!(
                !finite && !value.is_finite() && three.is_none(),
                "{input:?}"
            );
        }
        Err(error) => panic!("{error}: {input:?}"),
    }
});

fn same(a: &TernaryMatrix, b: &TernaryMatrix) -> bool {
    let scales = |m: &TernaryMatrix| bits(m.scales().values());
    a == b && scales(a) == scales(b)
}

fn written(from: TernaryType, bytes: &[u8], matrix: TernaryMatrix) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let weights = bits(&matrix.to_f32().expect("memory"));
    let simple = simplify(matrix.clone());
    assert_eq!(bits(&simple.to_f32().expect("memory")), weights);
    for &ty in TernaryType::ALL {
        let encoded = ty.encode(&matrix, ScaleRounding::Exact, "w");
        match encoded {
            Ok(encoded) => {
                assert!(ty.is_written());
                let back = ty.decode(&encoded, rows, cols, "w").expect("encoded");
                assert_eq!(back.packed(), matrix.packed());
                assert_eq!(bits(&back.to_f32().expect("memory")), weights);
                let again = ty.encode(&back, ScaleRounding::Exact, "w");
                assert_eq!(again.expect("a second time"), encoded);
                if from == ty {
                    assert!(same(&back, &matrix));
                    // Not every byte of five trits is one that an encoder makes.
                    let trits = [TernaryType::Tq1_0, TernaryType::Ptq1_0];
                    assert!(trits.contains(&ty) || encoded == bytes);
                }
            }
            Err(FormatError::Type { .. }) => assert!(!ty.is_written()),
            Err(FormatError::Block { .. }) => assert!(!cols.is_multiple_of(ty.block())),
            Err(FormatError::ScaleBlock { .. }) => assert!(from.block() < ty.block()),
            Err(FormatError::ScaleRounding { .. }) => {
                // Those whose scales are f32s.
                assert!(matches!(from, TernaryType::I2S | TernaryType::Iq2Bn));
            }
            Err(error) => panic!("{error}"),
        }
    }
}
