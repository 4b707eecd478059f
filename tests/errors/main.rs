//! Every error says what was given and what was expected, leaves the output as
//! it was, and nothing panics, whatever the arguments.
//!
//! `IsaError`, and what only a wrong `TRITGEMM_ISA` brings about, is in
//! `dispatch.rs`; `PanelFileError` in `panel_file`.

mod nothing;
mod texts;

use std::error::Error;
use tritgemm::codec::CodecError;
use tritgemm::quant::QuantError;
use tritgemm::{
    GemmError, Granularity, GroupSize, Linear, MAX_COLS, MatMut, MatRef, MatrixError, Options,
    Panels, PreparedActivations, Scales, TernaryMatrix, ViewError, Workspace,
};
use tritgemm_testing::{view, view_mut, ways, workspace};

const HUGE: usize = usize::MAX;

/// The text of an error names all of `parts`.
#[track_caller]
fn assert_names(error: &dyn Error, parts: &[&dyn std::fmt::Display]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(&part.to_string()), "`{text}` lacks `{part}`");
    }
}

fn matrix(m: usize, k: usize, scales: Scales) -> TernaryMatrix {
    TernaryMatrix::from_trits(view(&vec![1; m * k], m, k), scales).expect("a matrix")
}

fn layer(m: usize, k: usize) -> Linear {
    Linear::new(&matrix(m, k, Scales::per_tensor(1.0))).expect("a layer")
}

#[test]
fn views() {
    let data = [0i8; 10];
    let mut out = [0i8; 10];
    let cases = [
        // rows, cols, stride, error
        (
            3,
            4,
            4,
            ViewError::Length {
                rows: 3,
                cols: 4,
                stride: 4,
                len: 10,
                expected: 12,
            },
        ),
        (
            2,
            3,
            8,
            ViewError::Length {
                rows: 2,
                cols: 3,
                stride: 8,
                len: 10,
                expected: 11,
            },
        ),
        (
            1,
            11,
            HUGE,
            ViewError::Length {
                rows: 1,
                cols: 11,
                stride: HUGE,
                len: 10,
                expected: 11,
            },
        ),
        (2, 3, 2, ViewError::Stride { cols: 3, stride: 2 }),
        (0, 1, 0, ViewError::Stride { cols: 1, stride: 0 }),
        (
            HUGE,
            HUGE,
            HUGE,
            ViewError::TooLarge {
                rows: HUGE,
                cols: HUGE,
                stride: HUGE,
            },
        ),
        (
            2,
            1,
            HUGE,
            ViewError::TooLarge {
                rows: 2,
                cols: 1,
                stride: HUGE,
            },
        ),
        (
            HUGE,
            0,
            2,
            ViewError::TooLarge {
                rows: HUGE,
                cols: 0,
                stride: 2,
            },
        ),
    ];
    for (rows, cols, stride, error) in cases {
        let found = MatRef::with_stride(&data, rows, cols, stride).map(|_| ());
        assert_eq!(found, Err(error));
        let found = MatMut::with_stride(&mut out, rows, cols, stride).map(|_| ());
        assert_eq!(found, Err(error));
        match error {
            ViewError::Length { len, expected, .. } => {
                assert_names(&error, &[&rows, &cols, &stride, &len, &expected]);
            }
            ViewError::Stride { .. } => assert_names(&error, &[&cols, &stride]),
            _ => assert_names(&error, &[&rows, &cols, &stride]),
        }
    }
    // What looks odd and is right: nothing, one row of any stride, the last
    // row without its gap.
    for (rows, cols, stride) in [
        (0, 0, 0),
        (HUGE, 0, 0),
        (0, 4, HUGE),
        (1, 10, HUGE),
        (2, 3, 7),
    ] {
        MatRef::with_stride(&data, rows, cols, stride).expect("fits");
        MatMut::with_stride(&mut out, rows, cols, stride).expect("fits");
    }
}

/// Runs a product that must fail: with `error`, and with `y` as it was.
#[track_caller]
fn refused<T: Copy + PartialEq + std::fmt::Debug>(
    [rows, cols]: [usize; 2],
    canary: T,
    error: GemmError,
    run: impl Fn(MatMut<'_, T>, &mut Workspace) -> Result<(), GemmError>,
) {
    for way in &ways() {
        let mut y = vec![canary; rows * cols];
        let found = run(view_mut(&mut y, rows, cols), &mut workspace(way));
        assert_eq!(found.as_ref(), Err(&error));
        assert!(y.iter().all(|&v| v == canary), "{way:?}: {y:?}");
    }
}

#[test]
fn shapes_of_products() {
    let layer = layer(65, 20);
    let (x8, x32) = (vec![1i8; 200], vec![1.0f32; 200]);
    let shapes = [
        (
            [2, 19],
            [2, 65],
            GemmError::InputWidth {
                cols: 19,
                expected: 20,
            },
        ),
        (
            [2, 0],
            [2, 65],
            GemmError::InputWidth {
                cols: 0,
                expected: 20,
            },
        ),
        ([2, 20], [3, 65], output(3, 65, 2)),
        ([2, 20], [2, 64], output(2, 64, 2)),
        ([0, 20], [1, 65], output(1, 65, 0)),
        ([2, 20], [0, 0], output(0, 0, 2)),
    ];
    for ([n, k], y, error) in shapes {
        match &error {
            GemmError::InputWidth { cols, expected } => assert_names(&error, &[cols, expected]),
            _ => assert_names(&error, &[&y[0], &y[1], &n, &65]),
        }
        refused(y, -1, error.clone(), |y, ws| {
            layer.panels().gemm_i8(view(&x8, n, k), y, ws)
        });
        refused(y, -1, error.clone(), |y, ws| {
            let x = PreparedActivations::from_int8(view(&x8, n, k), vec![1.0; n], None, ws);
            layer.panels().gemm_i8(&x.expect("prepared"), y, ws)
        });
        let x = || view(&x32, n, k);
        refused(y, -1.0, error.clone(), |y, ws| {
            layer.forward_int8(x(), y, ws)
        });
        refused(y, -1.0, error.clone(), |y, ws| {
            layer.forward_f32(x(), y, ws)
        });
        refused(y, -1.0, error, |y, ws| {
            let x = layer.prepare_f32(x(), ws)?;
            layer.forward_f32(&x, y, ws)
        });
    }
}

fn output(rows: usize, cols: usize, tokens: usize) -> GemmError {
    GemmError::OutputShape {
        rows,
        cols,
        tokens,
        expected_cols: 65,
    }
}

#[test]
fn activations_that_are_no_numbers() {
    let layer = layer(65, 20);
    for (at, value) in [(47, f32::NAN), (40, f32::INFINITY), (59, f32::NEG_INFINITY)] {
        let mut x = vec![1.0; 60];
        x[at] = value;
        let (token, index) = (2, at - 40);
        let same = |error: &QuantError| {
            assert_names(error, &[&token, &index, &value]);
            matches!(error, QuantError::Activation { token: 2, index: i, value: v }
                if *i == index && v.to_bits() == value.to_bits())
        };
        for way in &ways() {
            let ws = &mut workspace(way);
            let mut y = vec![-1.0; 3 * 65];
            match layer.forward_int8(view(&x, 3, 20), view_mut(&mut y, 3, 65), ws) {
                Err(GemmError::Quant(error)) => assert!(same(&error), "{error:?}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(y, vec![-1.0; 3 * 65], "{way:?}");
            match layer.prepare_int8(view(&x, 3, 20), ws) {
                Err(GemmError::Quant(error)) => assert!(same(&error), "{error:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn prepared_for_something_else() {
    let ws = &mut workspace(Options::new());
    let x = [1.0f32; 40];
    let by_row = layer(65, 20);
    let by_group = |size| {
        let scales = Scales::per_group(size, vec![1.0; 65]);
        Linear::new(&matrix(65, 20, scales)).expect("a layer")
    };
    let g64 = Some(GroupSize::G64);
    let (x, for_64) = (view(&x, 2, 20), by_group(GroupSize::G64));
    let plain = by_row.prepare_f32(x, ws).expect("prepared");
    let plain_int8 = by_row.prepare_int8(x, ws).expect("prepared");
    let grouped = for_64.prepare_int8(x, ws).expect("prepared");
    let by_group = by_group(GroupSize::G128);

    let g128 = Some(GroupSize::G128);
    let error = GemmError::Group {
        prepared: None,
        matrix: g128,
    };
    assert_names(&error, &[&"no groups", &"groups of 128"]);
    refused([2, 65], -1.0, error, |y, ws| {
        by_group.forward_f32(&plain, y, ws)
    });
    let error = GemmError::Group {
        prepared: g64,
        matrix: g128,
    };
    refused([2, 65], -1.0, error, |y, ws| {
        by_group.forward_int8(&grouped, y, ws)
    });
    let error = GemmError::Group {
        prepared: g64,
        matrix: None,
    };
    refused([2, 65], -1.0, error.clone(), |y, ws| {
        by_row.forward_int8(&grouped, y, ws)
    });
    let panels = by_row.panels();
    refused([2, 65], -1, error, |y, ws| panels.gemm_i8(&grouped, y, ws));
    let error = GemmError::PreparedType {
        prepared: "f32",
        expected: "int8",
    };
    assert_names(&error, &[&"f32", &"int8"]);
    refused([2, 65], -1, error.clone(), |y, ws| {
        panels.gemm_i8(&plain, y, ws)
    });
    refused([2, 65], -1.0, error, |y, ws| {
        by_row.forward_int8(&plain, y, ws)
    });
    let error = GemmError::PreparedType {
        prepared: "int8",
        expected: "f32",
    };
    refused([2, 65], -1.0, error, |y, ws| {
        by_row.forward_f32(&plain_int8, y, ws)
    });

    for len in [0, 1, 3] {
        let x = [1i8; 40];
        let result = PreparedActivations::from_int8(view(&x, 2, 20), vec![1.0; len], None, ws);
        let error = GemmError::Length {
            argument: "token_scales",
            len,
            expected: 2,
        };
        assert_names(&error, &[&"token_scales", &2, &len]);
        assert_eq!(result.err(), Some(error));
    }
}

#[test]
fn matrices() {
    let too_wide = MAX_COLS + 1;
    let error = MatrixError::TooManyColumns { cols: too_wide };
    assert_names(&error, &[&too_wide, &MAX_COLS]);
    let one = || Scales::per_tensor(1.0);
    let results = [
        TernaryMatrix::from_trits(view(&[], 0, too_wide), one()).map(|_| ()),
        TernaryMatrix::from_packed(vec![], 0, too_wide, one()).map(|_| ()),
        TernaryMatrix::quantize(view(&[], 0, too_wide), Granularity::PerTensor).map(|_| ()),
        Panels::from_packed(view(&[], 0, too_wide.div_ceil(4)), too_wide).map(|_| ()),
    ];
    for result in results {
        assert_eq!(result, Err(error.clone()));
    }

    let group = |count| Scales::per_group(GroupSize::G64, vec![1.0; count]);
    for (scales, expected) in [
        (Scales::per_row(vec![1.0; 2]), 3),
        (Scales::per_row(vec![1.0; 4]), 3),
        (group(5), 6),
        (group(3), 6),
    ] {
        let len = scales.values().len();
        let error = MatrixError::Length {
            argument: "scales",
            len,
            expected,
        };
        assert_names(&error, &[&"scales", &len, &expected]);
        let made = TernaryMatrix::from_trits(view(&[0; 300], 3, 100), scales.clone());
        assert_eq!(made.err(), Some(error.clone()));
        let panels = layer(3, 100).panels().clone();
        assert_eq!(Linear::from_parts(panels, scales, None).err(), Some(error));
    }

    for value in [f32::INFINITY, f32::NEG_INFINITY] {
        let scales = Scales::per_row(vec![1.0, value, 1.0]);
        let error = MatrixError::Scale { index: 1, value };
        assert_names(&error, &[&1, &value]);
        let made = TernaryMatrix::from_trits(view(&[0; 6], 3, 2), scales);
        assert_eq!(made.err(), Some(error));
    }
    let made = TernaryMatrix::from_packed(vec![0], 1, 1, Scales::per_tensor(f32::NAN));
    assert!(matches!(made, Err(MatrixError::Scale { index: 0, value }) if value.is_nan()));

    let error = MatrixError::Length {
        argument: "bias",
        len: 2,
        expected: 3,
    };
    assert_names(&error, &[&"bias", &3, &2]);
    let made = layer(3, 4).with_bias(vec![0.0; 2]);
    assert_eq!(made.err(), Some(error.clone()));
    let made = Linear::from_parts(layer(3, 4).panels().clone(), one(), Some(vec![0.0; 2]));
    assert_eq!(made.err(), Some(error));

    let made = TernaryMatrix::quantize(view(&[1.0, f32::NAN], 2, 1), Granularity::PerRow);
    match made {
        Err(MatrixError::Quant(error @ QuantError::Weight { row: 1, col: 0, .. })) => {
            assert_names(&error, &[&1, &0, &"NaN"]);
        }
        other => panic!("{other:?}"),
    }
}

/// The encoding's errors, as matrices and panels hand them on.
#[test]
fn encodings() {
    let one = || Scales::per_tensor(1.0);
    let mut trits = vec![1i8; 35];
    trits[4 * 7 + 6] = 2;
    let error = CodecError::Trit {
        row: 4,
        col: 6,
        value: 2,
    };
    assert_names(&error, &[&4, &6, &2]);
    let made = TernaryMatrix::from_trits(view(&trits, 5, 7), one());
    assert_eq!(made.err(), Some(MatrixError::Codec(error)));

    let good = vec![0u8; 10];
    let with = |at: usize, byte: u8| {
        let mut packed = good.clone();
        packed[at] = byte;
        packed
    };
    let cases = [
        (with(3, 0b00_11_00_00), CodecError::Code { row: 1, col: 5 }),
        (with(9, 0b00_00_00_01), CodecError::Padding { row: 4 }),
    ];
    for (packed, error) in cases {
        match &error {
            CodecError::Code { row, col } => assert_names(&error, &[row, col]),
            _ => assert_names(&error, &[&4]),
        }
        let error = Some(MatrixError::Codec(error));
        assert_eq!(Panels::from_packed(view(&packed, 5, 2), 7).err(), error);
        assert_eq!(TernaryMatrix::from_packed(packed, 5, 7, one()).err(), error);
    }
    for len in [0, 9, 11] {
        let error = MatrixError::Length {
            argument: "packed",
            len,
            expected: 10,
        };
        assert_names(&error, &[&"packed", &len, &10]);
        let made = TernaryMatrix::from_packed(vec![0; len], 5, 7, one());
        assert_eq!(made.err(), Some(error));
    }
    for cols in [0, 1, 3] {
        let error = CodecError::Shape {
            argument: "packed",
            shape: [5, cols],
            expected: [5, 2],
        };
        assert_names(&error, &[&"packed", &5, &cols, &2]);
        let made = Panels::from_packed(view(&[0; 15], 5, cols), 7);
        assert_eq!(made.err(), Some(MatrixError::Codec(error)));
    }
}

#[test]
fn slices() {
    let layer = layer(150, 8);
    let unaligned = [
        (1..64, 1),
        (0..63, 63),
        (64..149, 149),
        (65..150, 65),
        (149..149, 149),
    ];
    for (range, row) in unaligned {
        let error = MatrixError::Unaligned { row };
        assert_names(&error, &[&row, &64]);
        assert_eq!(layer.slice_rows(range.clone()).err(), Some(error.clone()));
        assert_eq!(layer.panels().slice_rows(range).err(), Some(error));
    }
    #[allow(clippy::reversed_empty_ranges)]
    let outside = [0..151, 128..64, 192..192, HUGE..HUGE, 0..HUGE, HUGE..0];
    for range in outside {
        let rows = 150;
        let error = MatrixError::OutOfRange {
            range: range.clone(),
            rows,
        };
        assert_names(&error, &[&range.start, &range.end, &rows]);
        assert_eq!(layer.slice_rows(range.clone()).err(), Some(error.clone()));
        assert_eq!(layer.panels().slice_rows(range).err(), Some(error));
    }
    for range in [0..0, 0..150, 64..128, 128..150, 128..128, 150..150] {
        assert_eq!(
            layer
                .slice_rows(range.clone())
                .expect("fits")
                .out_features(),
            range.len()
        );
    }
}
