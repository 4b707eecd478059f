//! Each format against an encoder written from its description, one weight at a
//! time, which shares nothing with the crate.

mod common;

use common::{assert_same, both_ways, f32s, halves, matrix, rng, trits};
use half::f16;
use proptest::prelude::*;
use tritgemm::{Granularity, GroupSize, Scales, TernaryMatrix, Workspace};
use tritgemm_formats::ggml::{I2sLayout, TernaryType};
use tritgemm_formats::{FormatError, ScaleRounding, simplify};

fn decode(
    ty: TernaryType,
    bytes: &[u8],
    rows: usize,
    cols: usize,
) -> Result<TernaryMatrix, FormatError> {
    let layer = |ws: &Workspace| ty.linear(bytes, rows, cols, "w", ws);
    both_ways(ty.decode(bytes, rows, cols, "w"), layer)
}

/// `codes[row][col]`, `w + 1` or 3, and the scales in the format's own order.
struct Stored {
    ty: TernaryType,
    rows: usize,
    cols: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Stored {
    fn random(ty: TernaryType, rows: usize, cols: usize, seed: u64) -> Self {
        let rng = &mut rng(seed);
        let codes = trits(rng, rows * cols);
        let codes = codes.into_iter().map(|trit| (trit + 1) as u8).collect();
        let scales = match ty {
            TernaryType::I2S => vec![0.1],
            TernaryType::Iq2Bn => (0..rows).map(|row| 0.1 - row as f32).collect(),
            TernaryType::Iq1Bn => f32s(&halves(rng, rows)),
            _ => f32s(&halves(rng, rows * cols / ty.block())),
        };
        Self {
            ty,
            rows,
            cols,
            codes,
            scales,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let rows = self.codes.chunks(self.cols).enumerate();
        let half = |i: usize| f16::from_f32(self.scales[i]).to_le_bytes();
        let mut out = Vec::new();
        match self.ty {
            TernaryType::Tq2_0 => {
                for (i, block) in self.codes.chunks(256).enumerate() {
                    let mut qs = [0; 64];
                    for (e, code) in block.iter().enumerate() {
                        // e = 4 j + m + 32 n with j = 0 or 32, m < 32, n < 4.
                        let (j, n, m) = (e / 128 * 32, e % 128 / 32, e % 32);
                        qs[j + m] |= code << (2 * n);
                    }
                    out.extend(qs);
                    out.extend(half(i));
                }
            }
            TernaryType::Tq1_0 => {
                for (i, block) in self.codes.chunks(256).enumerate() {
                    let byte = |elements: [Option<usize>; 5]| {
                        let digit = |e: Option<usize>| e.map_or(0, |e| u32::from(block[e]));
                        let q = elements.into_iter().fold(0, |q, e| 3 * q + digit(e));
                        (q * 256).div_ceil(243) as u8
                    };
                    out.extend((0..32).map(|m| byte([0, 1, 2, 3, 4].map(|n| Some(m + 32 * n)))));
                    let qs = (0..16).map(|m| byte([0, 1, 2, 3, 4].map(|n| Some(160 + m + 16 * n))));
                    out.extend(qs);
                    let qh = |j: usize| {
                        byte([0, 1, 2, 3, 4].map(|m| (m < 4).then_some(240 + j + 4 * m)))
                    };
                    out.extend((0..4).map(qh));
                    out.extend(half(i));
                }
            }
            TernaryType::Q2_0 => {
                for (i, block) in self.codes.chunks(64).enumerate() {
                    out.extend(half(i));
                    let mut qs = [0; 16];
                    for (j, code) in block.iter().enumerate() {
                        qs[j / 4] |= code << (2 * (j % 4));
                    }
                    out.extend(qs);
                }
            }
            TernaryType::Pq2_0 => {
                for (i, block) in self.codes.chunks(128).enumerate() {
                    out.extend(half(i));
                    let mut qs = [0; 32];
                    for (j, code) in block.iter().enumerate() {
                        qs[j / 4] |= code << (2 * (j % 4));
                    }
                    out.extend(qs);
                }
            }
            TernaryType::Ptq1_0 => {
                for (i, block) in self.codes.chunks(128).enumerate() {
                    let byte = |first: usize, step: usize, digits: usize| {
                        let digit = |n: usize| match n < digits {
                            true => u32::from(block[first + step * n]),
                            false => 0,
                        };
                        let q = (0..5).fold(0, |q, n| 3 * q + digit(n));
                        (q * 256).div_ceil(243) as u8
                    };
                    out.extend((0..16).map(|m| byte(m, 16, 5)));
                    out.extend((0..8).map(|m| byte(80 + m, 8, 5)));
                    out.extend((0..2).map(|j| byte(120 + j, 2, 4)));
                    out.extend(half(i));
                }
            }
            TernaryType::I2S => {
                for block in self.codes.chunks(128) {
                    let mut bytes = [0; 32];
                    for (e, code) in block.iter().enumerate() {
                        bytes[e % 32] |= code << [6, 4, 2, 0][e / 32];
                    }
                    out.extend(bytes);
                }
                out.extend(self.scales[0].to_le_bytes());
                out.extend([0xa5; 28]); // Means nothing.
            }
            TernaryType::Iq2Bn => {
                for (row, codes) in rows {
                    out.extend(self.scales[row].to_le_bytes());
                    for l in codes.chunks(64) {
                        let byte =
                            |j: usize| l[j] | l[j + 16] << 2 | l[j + 32] << 4 | l[j + 48] << 6;
                        out.extend((0..16).map(byte));
                    }
                }
            }
            TernaryType::Iq1Bn => {
                for (row, codes) in rows {
                    out.extend(half(row));
                    for block in codes.chunks(64) {
                        let ceil = |idx: u32| (256 * idx).div_ceil(243) as u8;
                        let mut extra = 0;
                        for (i, sixteen) in block.chunks(16).enumerate() {
                            for five in sixteen[..15].chunks(5) {
                                let digits = five.iter().enumerate();
                                let idx = digits.map(|(d, &l)| u32::from(l) * 3u32.pow(d as u32));
                                out.push(ceil(idx.sum()));
                            }
                            extra += u32::from(sixteen[15]) * 3u32.pow(i as u32);
                        }
                        out.push(ceil(extra));
                    }
                }
            }
            _ => unreachable!("{}", self.ty),
        }
        out
    }

    fn matrix(&self) -> TernaryMatrix {
        let trits: Vec<i8> = self.codes.iter().map(|&code| code as i8 - 1).collect();
        let scales = self.scales.clone();
        let scales = match self.ty {
            TernaryType::Tq1_0 | TernaryType::Tq2_0 => Scales::per_group(GroupSize::G256, scales),
            TernaryType::Pq2_0 | TernaryType::Ptq1_0 => Scales::per_group(GroupSize::G128, scales),
            TernaryType::Q2_0 => Scales::per_group(GroupSize::G64, scales),
            TernaryType::I2S => Scales::per_tensor(scales[0]),
            _ => Scales::per_row(scales),
        };
        matrix(&trits, self.rows, self.cols, scales)
    }

    fn decoded(&self) -> Result<TernaryMatrix, FormatError> {
        decode(self.ty, &self.bytes(), self.rows, self.cols)
    }
}

#[test]
fn every_type_decodes_what_its_description_encodes() {
    for &ty in TernaryType::ALL {
        let block = ty.block();
        // The last one is shared among threads.
        for (rows, blocks) in [(1, 1), (3, 1), (5, 3), (64, 5), (300, 9)] {
            let stored = Stored::random(ty, rows, blocks * block, rows as u64);
            let bytes = stored.bytes();
            let len = ty.tensor_bytes(rows, blocks * block, "w").unwrap();
            assert_eq!(bytes.len(), len, "{ty}");
            assert_same(&stored.decoded().unwrap(), &stored.matrix());
            if ty.is_written() {
                let encoded = ty.encode(&stored.matrix(), ScaleRounding::Exact, "w");
                assert_eq!(encoded.unwrap(), bytes, "{ty}");
            }
        }
    }
}

/// Blocks of I2_S run across the ends of rows, whatever K.
#[test]
fn i2_s_rows_need_not_end_with_a_block() {
    for (rows, cols) in [(4, 32), (8, 48), (128, 5), (64, 6), (128, 127)] {
        let stored = Stored::random(TernaryType::I2S, rows, cols, 7);
        assert_same(&stored.decoded().unwrap(), &stored.matrix());
    }
}

#[test]
fn code_3_is_refused_at_its_place() {
    for ty in [
        TernaryType::Tq2_0,
        TernaryType::Q2_0,
        TernaryType::Pq2_0,
        TernaryType::I2S,
        TernaryType::Iq2Bn,
    ] {
        let (rows, cols) = (130, 512);
        let mut stored = Stored::random(ty, rows, cols, 2);
        // From the last place to the first: the first is told.
        for (row, col) in [(129, 511), (129, 510), (100, 300), (7, 1), (0, 127), (0, 0)] {
            stored.codes[row * cols + col] = 3;
            let error = stored.decoded().unwrap_err();
            let name = ty.name();
            match error {
                FormatError::NotTernary {
                    ref tensor,
                    row: r,
                    col: c,
                    code: 3,
                    format,
                } if tensor == "w" && (r, c) == (row, col) && format == name => {}
                _ => panic!("{error}"),
            }
            let text = format!("tensor `w`, row {row}, column {col}: {name} code 3");
            assert!(error.to_string().starts_with(&text), "{error}");
        }
    }
}

#[test]
fn every_byte_of_five_trits_decodes() {
    for (ty, cols) in [
        (TernaryType::Tq1_0, 256),
        (TernaryType::Ptq1_0, 128),
        (TernaryType::Iq1Bn, 64),
    ] {
        for byte in 0..=255 {
            let mut bytes = vec![byte; ty.row_bytes(cols).unwrap()];
            let scale = match ty {
                TernaryType::Tq1_0 => 52,
                TernaryType::Ptq1_0 => 26,
                _ => 0,
            };
            bytes[scale..scale + 2].fill(0);
            let matrix = decode(ty, &bytes, 1, cols).unwrap();
            // ggml's own arithmetic, as its sources have it.
            let digit = |power: u8| ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
            let (place, powers) = match ty {
                TernaryType::Tq1_0 => ([0, 32, 64, 96, 128], [1, 3, 9, 27, 81]),
                TernaryType::Ptq1_0 => ([0, 16, 32, 48, 64], [1, 3, 9, 27, 81]),
                _ => ([0, 1, 2, 3, 4], [81, 27, 9, 3, 1]),
            };
            for (at, power) in place.into_iter().zip(powers) {
                assert_eq!(
                    matrix.to_trits().unwrap()[at],
                    digit(power),
                    "{ty} {byte} {at}"
                );
            }
        }
    }
}

#[test]
fn scales_that_are_no_numbers_are_refused_at_their_place() {
    for &ty in TernaryType::ALL {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut stored = Stored::random(ty, 3, 512, 4);
            let last = stored.scales.len() - 1;
            stored.scales[last] = value;
            let (row, col) = match ty {
                TernaryType::Tq1_0 | TernaryType::Tq2_0 => (2, 256),
                TernaryType::Pq2_0 | TernaryType::Ptq1_0 => (2, 384),
                TernaryType::Q2_0 => (2, 448),
                TernaryType::I2S => (0, 0),
                _ => (2, 0),
            };
            let error = stored.decoded().unwrap_err();
            let at = match error {
                FormatError::Scale { row, col, .. } => (row, col),
                _ => panic!("{error}"),
            };
            assert_eq!(at, (row, col), "{ty}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    for &ty in TernaryType::ALL {
        let bytes = Stored::random(ty, 2, 256, 5).bytes();
        for wrong in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat(), &[]] {
            let error = decode(ty, wrong, 2, 256).unwrap_err();
            assert!(
                matches!(error, FormatError::SizeMismatch { expected, got, .. }
                    if expected == bytes.len() && got == wrong.len()),
                "{error}"
            );
        }
        // K = 255, 1 and the block minus 4.
        for cols in [255, 1, ty.block() - 4] {
            let error = decode(ty, &bytes, 1, cols).unwrap_err();
            assert!(
                matches!(error, FormatError::Block { cols: k, .. } if k == cols),
                "{error}"
            );
        }
        for (rows, cols) in [(0, 256), (2, 0), (0, 0)] {
            let error = decode(ty, &[], rows, cols).unwrap_err();
            assert!(matches!(error, FormatError::Shape { .. }), "{error}");
        }
        let most = usize::MAX / 256 * 256;
        for (rows, cols) in [(most, 256), (2, most), (most, most)] {
            let error = decode(ty, &bytes, rows, cols).unwrap_err();
            assert!(
                matches!(error, FormatError::ShapeOverflow { .. }),
                "{error}"
            );
        }
    }
    // More columns than the library's sums allow, in a tensor that is whole.
    let cols = 1 << 24;
    let bytes = vec![0; TernaryType::Tq1_0.row_bytes(cols).unwrap()];
    let error = decode(TernaryType::Tq1_0, &bytes, 1, cols).unwrap_err();
    assert!(matches!(error, FormatError::Matrix { .. }), "{error}");
}

fn encode(scales: Scales, rounding: ScaleRounding) -> Result<Vec<u8>, FormatError> {
    let trits = trits(&mut rng(6), 2 * 512);
    TernaryType::Tq2_0.encode(&matrix(&trits, 2, 512, scales), rounding, "w")
}

#[test]
fn scales_that_f16_does_not_have_are_rounded_only_when_asked() {
    let error = encode(Scales::per_row(vec![0.5, 0.1]), ScaleRounding::Exact).unwrap_err();
    match error {
        FormatError::ScaleRounding {
            row: 1,
            col: 0,
            value,
            nearest,
            ..
        } => {
            assert_eq!((value, nearest), (0.1, 0.099_975_586));
        }
        _ => panic!("{error}"),
    }
    let rounded = encode(Scales::per_row(vec![0.5, 0.1]), ScaleRounding::Nearest).unwrap();
    let back = simplify(decode(TernaryType::Tq2_0, &rounded, 2, 512).unwrap());
    assert_eq!(back.scales(), &Scales::per_row(vec![0.5, 0.099_975_586]));
    // Beyond f16 at either end, even so.
    for lost in [1e6, -1e6, 1e-9] {
        let error = encode(Scales::per_tensor(lost), ScaleRounding::Nearest).unwrap_err();
        assert!(
            matches!(error, FormatError::ScaleRounding { .. }),
            "{error}"
        );
    }
    // The signs of 0 are two scales.
    let zeros = encode(Scales::per_row(vec![0.0, -0.0]), ScaleRounding::Exact).unwrap();
    assert_eq!(zeros[131], 0);
    assert_eq!(zeros[263], 0x80);
}

#[test]
fn groups_fit_where_a_block_has_one_scale() {
    let group = |size: GroupSize, scales: &[f32]| {
        let scales: Vec<f32> = scales.to_vec();
        encode(Scales::per_group(size, scales), ScaleRounding::Exact)
    };
    let wide = group(GroupSize::G256, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    let narrow = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0];
    assert_eq!(group(GroupSize::G128, &narrow).unwrap(), wide);
    let narrow: Vec<f32> = narrow.iter().flat_map(|&s| [s, s]).collect();
    assert_eq!(group(GroupSize::G64, &narrow).unwrap(), wide);
    let mut other = narrow;
    other[14] = 4.5;
    let error = group(GroupSize::G64, &other).unwrap_err();
    assert!(
        matches!(
            error,
            FormatError::ScaleBlock {
                row: 1,
                col: 256,
                block: 256,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn only_some_types_are_written_and_only_whole_blocks() {
    let whole = matrix(&[1; 256], 1, 256, Scales::per_tensor(1.0));
    let part = matrix(&[1; 288], 1, 288, Scales::per_tensor(1.0));
    for &ty in TernaryType::ALL {
        let error = ty.encode(&part, ScaleRounding::Exact, "w").unwrap_err();
        if ty.is_written() {
            assert!(
                matches!(error, FormatError::Block { cols: 288, .. }),
                "{error}"
            );
        } else {
            let error = ty.encode(&whole, ScaleRounding::Exact, "w").unwrap_err();
            assert!(matches!(error, FormatError::Type { .. }), "{error}");
        }
        assert_eq!(TernaryType::from_id(ty.id()), Some(ty));
    }
    assert_eq!(TernaryType::from_id(0), None);
}

#[test]
fn simplify_keeps_scales_that_differ() {
    let simplified = |size, scales: &[f32]| {
        let trits = [1; 2 * 512];
        let matrix = matrix(&trits, 2, 512, Scales::per_group(size, scales.to_vec()));
        simplify(matrix).scales().clone()
    };
    let g256 = GroupSize::G256;
    assert_eq!(simplified(g256, &[0.5; 4]), Scales::per_tensor(0.5));
    assert_eq!(
        simplified(g256, &[0.5, 0.5, 0.25, 0.25]),
        Scales::per_row(vec![0.5, 0.25])
    );
    let kept = simplified(g256, &[0.5, 0.5, 0.5, 0.25]);
    assert_eq!(kept.granularity(), Granularity::PerGroup(g256));
    assert_eq!(kept.values(), [0.5, 0.5, 0.5, 0.25]);
    // +0 and -0 are equal numbers with different bits.
    let kept = simplified(g256, &[0.0, -0.0, 0.0, 0.0]);
    assert_eq!(kept.granularity(), Granularity::PerGroup(g256));
}

/// PrismML's type and llama.cpp's of the same codes: two blocks of 64 share the scale of one
/// of 128, and come back.
#[test]
fn pq2_0_and_q2_0_say_the_same() {
    let stored = Stored::random(TernaryType::Pq2_0, 5, 384, 11);
    let matrix = stored.decoded().unwrap();
    let q2_0 = TernaryType::Q2_0.encode(&matrix, ScaleRounding::Exact, "w");
    let q2_0 = q2_0.unwrap();
    assert_eq!(q2_0.len(), 5 * 6 * 18);
    let back = decode(TernaryType::Q2_0, &q2_0, 5, 384).unwrap();
    assert_eq!(back.to_f32().unwrap(), matrix.to_f32().unwrap());
    let pq2_0 = TernaryType::Pq2_0.encode(&back, ScaleRounding::Exact, "w");
    assert_eq!(pq2_0.unwrap(), stored.bytes());
    // Blocks of 64 that differ are no block of 128, nor is half a block.
    let halves = Stored::random(TernaryType::Q2_0, 2, 128, 12).matrix();
    let error = TernaryType::Pq2_0.encode(&halves, ScaleRounding::Exact, "w");
    assert!(matches!(
        error,
        Err(FormatError::ScaleBlock { block: 128, .. })
    ));
    let short = Stored::random(TernaryType::Q2_0, 2, 192, 13).matrix();
    let error = TernaryType::Pq2_0.encode(&short, ScaleRounding::Exact, "w");
    assert!(matches!(error, Err(FormatError::Block { cols: 192, .. })));
}

/// A group that is longer than the row's last blocks.
#[test]
fn scales_of_groups_are_repeated_to_the_end_of_a_row() {
    let trits = trits(&mut rng(8), 2 * 320);
    let scales = Scales::per_group(GroupSize::G256, vec![1.0, 2.0, 3.0, 4.0]);
    let matrix = matrix(&trits, 2, 320, scales);
    let bytes = TernaryType::Q2_0.encode(&matrix, ScaleRounding::Exact, "w");
    let back = decode(TernaryType::Q2_0, &bytes.unwrap(), 2, 320).unwrap();
    assert_eq!(back.to_f32().unwrap(), matrix.to_f32().unwrap());
}

/// The three layouts of I2_S, each by an encoder of its own.
#[test]
fn i2_s_in_its_three_layouts() {
    for (rows, cols) in [(4, 32), (8, 48), (64, 128), (128, 64), (64, 5), (12, 256)] {
        let stored = Stored::random(TernaryType::I2S, rows, cols, 9);
        let (codes, want) = (&stored.codes, stored.matrix());
        let tail = [&stored.scales[0].to_le_bytes()[..], &[0x5a; 28]].concat();
        let mut rows4 = vec![0; rows * cols / 4];
        for (at, code) in codes.iter().enumerate() {
            let (row, col) = (at / cols, at % cols);
            rows4[row / 4 * cols + col] |= code << (6 - 2 * (row % 4));
        }
        let mut arm = vec![0; rows * cols / 4];
        for (at, code) in codes.iter().enumerate() {
            arm[at / 64 * 16 + at % 16] |= code << (6 - 2 * (at % 64 / 16));
        }
        let read = |layout: I2sLayout, bytes: &[u8]| {
            let layer = |ws: &Workspace| layout.linear(bytes, rows, cols, "w", ws);
            both_ways(layout.decode(bytes, rows, cols, "w"), layer)
        };
        for (layout, weights) in [(I2sLayout::Rows4, rows4), (I2sLayout::Arm, arm)] {
            let bytes = [&weights[..], &tail].concat();
            assert_same(&read(layout, &bytes).unwrap(), &want);
            // Each weight that is none, at its place.
            for (row, col) in [(0, 0), (rows - 1, cols - 1), (3, cols / 2)] {
                let (at, mut bytes) = (row * cols + col, bytes.clone());
                match layout {
                    I2sLayout::Rows4 => {
                        bytes[row / 4 * cols + col] |= 3 << (6 - 2 * (row % 4));
                    }
                    _ => bytes[at / 64 * 16 + at % 16] |= 3 << (6 - 2 * (at % 64 / 16)),
                }
                match read(layout, &bytes) {
                    Err(FormatError::NotTernary { row: r, col: c, .. }) => {
                        assert_eq!((r, c), (row, col), "{layout:?}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    let short = vec![0; 6 * 64 / 4 + 32];
    let error = I2sLayout::Rows4.decode(&short, 6, 64, "w").unwrap_err();
    assert!(error.to_string().contains("rows in fours"), "{error}");
    let short = vec![0; 3 * 32 / 4 + 32];
    let error = I2sLayout::Arm.decode(&short, 3, 32, "w").unwrap_err();
    assert!(
        matches!(error, FormatError::Block { block: 64, .. }),
        "{error}"
    );
}

proptest! {
    #[test]
    fn round_trips_are_identities(rows in 1usize..20, blocks in 1usize..6, seed: u64, kind in 0..3) {
        let rng = &mut rng(seed);
        let cols = 256 * blocks;
        let trits = trits(rng, rows * cols);
        let scales = match kind {
            0 => Scales::per_tensor(halves(rng, 1)[0].to_f32()),
            1 => Scales::per_row(f32s(&halves(rng, rows))),
            _ => Scales::per_group(GroupSize::G256, f32s(&halves(rng, rows * blocks))),
        };
        let matrix = matrix(&trits, rows, cols, scales);
        let written = TernaryType::ALL.iter().copied().filter(|ty| ty.is_written());
        for ty in written {
            let bytes = ty.encode(&matrix, ScaleRounding::Exact, "w").unwrap();
            let back = decode(ty, &bytes, rows, cols).unwrap();
            prop_assert_eq!(back.packed(), matrix.packed());
            for row in 0..rows {
                for block in 0..blocks {
                    let at = |m: &TernaryMatrix| m.scale(row, 256 * block).to_bits();
                    prop_assert_eq!(at(&back), at(&matrix));
                }
            }
            if ty.block() == 256 {
                assert_same(&simplify(back), &simplify(matrix.clone()));
            }
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600),
        rows in 0usize..5, cols in 0usize..1100, ty in 0..8usize) {
        let ty = TernaryType::ALL[ty];
        if let Ok(matrix) = decode(ty, &bytes, rows, cols) {
            prop_assert_eq!(ty.tensor_bytes(rows, cols, "w").unwrap(), bytes.len());
            prop_assert_eq!((matrix.rows(), matrix.cols()), (rows, cols));
        }
    }
}
