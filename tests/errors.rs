//! Every error says what was given and what was expected, leaves the output as
//! it was, and nothing panics, whatever the arguments.
//!
//! `IsaError`, and what only a wrong `TRITGEMM_ISA` brings about, is in
//! `dispatch.rs`; `PanelFileError` in `panel_file`.

mod common;

use common::{bits, view, view_mut, workspace};
use std::error::Error;
use tritgemm::quant::{ActivationError, WeightError};
use tritgemm::{
    GemmError, Granularity, GroupSize, Linear, MAX_COLS, MatMut, MatRef, MatrixError, Options,
    Panels, PrepareError, PreparedActivations, Scales, SliceError, TernaryMatrix, ViewError,
    Workspace, quant,
};

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
    TernaryMatrix::from_trits(&vec![1; m * k], m, k, scales).expect("a matrix")
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
    for way in common::ways() {
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
            let x = PreparedActivations::int8(view(&x8, n, k), vec![1.0; n], None, ws);
            layer
                .panels()
                .gemm_i8_prepared(&x.expect("prepared"), y, ws)
        });
        let x = || view(&x32, n, k);
        refused(y, -1.0, error.clone(), |y, ws| layer.forward(x(), y, ws));
        refused(y, -1.0, error.clone(), |y, ws| {
            layer.forward_f32(x(), y, ws)
        });
        refused(y, -1.0, error, |y, ws| {
            let x = PreparedActivations::float(x(), None, ws).expect("prepared");
            layer.forward_prepared(&x, y, ws)
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
        let same = |error: &ActivationError| {
            assert_names(error, &[&token, &index, &value]);
            matches!(error, ActivationError::NonFinite { token: 2, index: i, value: v }
                if *i == index && v.to_bits() == value.to_bits())
        };
        for way in common::ways() {
            let ws = &mut workspace(way);
            let mut y = vec![-1.0; 3 * 65];
            match layer.forward(view(&x, 3, 20), view_mut(&mut y, 3, 65), ws) {
                Err(GemmError::Quant(error)) => assert!(same(&error), "{error:?}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(y, vec![-1.0; 3 * 65], "{way:?}");
            match PreparedActivations::quantize(view(&x, 3, 20), None, ws) {
                Err(PrepareError::Quant(error)) => assert!(same(&error), "{error:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn prepared_for_something_else() {
    let ws = &mut workspace(Options::new());
    let x = [1.0f32; 40];
    let plain = PreparedActivations::float(view(&x, 2, 20), None, ws).expect("prepared");
    let g64 = Some(GroupSize::G64);
    let grouped = PreparedActivations::quantize(view(&x, 2, 20), g64, ws).expect("prepared");
    let by_row = layer(65, 20);
    let scales = Scales::per_group(GroupSize::G128, vec![1.0; 65]);
    let by_group = Linear::new(&matrix(65, 20, scales)).expect("a layer");

    let g128 = Some(GroupSize::G128);
    let error = GemmError::Group {
        prepared: None,
        matrix: g128,
    };
    assert_names(&error, &[&"None", &"G128"]);
    refused([2, 65], -1.0, error, |y, ws| {
        by_group.forward_prepared(&plain, y, ws)
    });
    let error = GemmError::Group {
        prepared: g64,
        matrix: g128,
    };
    refused([2, 65], -1.0, error, |y, ws| {
        by_group.forward_prepared(&grouped, y, ws)
    });
    let error = GemmError::Group {
        prepared: g64,
        matrix: None,
    };
    refused([2, 65], -1.0, error.clone(), |y, ws| {
        by_row.forward_prepared(&grouped, y, ws)
    });
    let panels = by_row.panels();
    refused([2, 65], -1, error, |y, ws| {
        panels.gemm_i8_prepared(&grouped, y, ws)
    });
    let error = GemmError::PreparedType {
        prepared: "f32",
        expected: "int8",
    };
    assert_names(&error, &[&"f32", &"int8"]);
    refused([2, 65], -1, error, |y, ws| {
        panels.gemm_i8_prepared(&plain, y, ws)
    });

    for len in [0, 1, 3] {
        let x = [1i8; 40];
        let result = PreparedActivations::int8(view(&x, 2, 20), vec![1.0; len], None, ws);
        let error = PrepareError::TokenScales { tokens: 2, len };
        assert_names(&error, &[&2, &len]);
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
        TernaryMatrix::from_trits(&[], 0, too_wide, one()).map(|_| ()),
        TernaryMatrix::from_packed(vec![], 0, too_wide, one()).map(|_| ()),
        TernaryMatrix::quantize(&[], 0, too_wide, Granularity::PerTensor).map(|_| ()),
        Panels::from_packed(&[], 0, too_wide).map(|_| ()),
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
        let error = MatrixError::ScaleCount {
            rows: 3,
            cols: 100,
            granularity: scales.granularity(),
            len: scales.values().len(),
            expected,
        };
        let given = scales.values().len();
        assert_names(
            &error,
            &[&3, &100, &scales.granularity(), &given, &expected],
        );
        let made = TernaryMatrix::from_trits(&[0; 300], 3, 100, scales.clone());
        assert_eq!(made.err(), Some(error.clone()));
        let panels = layer(3, 100).panels().clone();
        assert_eq!(Linear::from_parts(panels, scales, None).err(), Some(error));
    }

    for value in [f32::INFINITY, f32::NEG_INFINITY] {
        let scales = Scales::per_row(vec![1.0, value, 1.0]);
        let error = MatrixError::Scale { index: 1, value };
        assert_names(&error, &[&1, &value]);
        let made = TernaryMatrix::from_trits(&[0; 6], 3, 2, scales);
        assert_eq!(made.err(), Some(error));
    }
    let made = TernaryMatrix::from_packed(vec![0], 1, 1, Scales::per_tensor(f32::NAN));
    assert!(matches!(made, Err(MatrixError::Scale { index: 0, value }) if value.is_nan()));

    let error = MatrixError::BiasLength { rows: 3, len: 2 };
    assert_names(&error, &[&3, &2]);
    let made = layer(3, 4).with_bias(vec![0.0; 2]);
    assert_eq!(made.err(), Some(error.clone()));
    let made = Linear::from_parts(layer(3, 4).panels().clone(), one(), Some(vec![0.0; 2]));
    assert_eq!(made.err(), Some(error));

    let made = TernaryMatrix::quantize(&[1.0, f32::NAN], 2, 1, Granularity::PerRow);
    match made {
        Err(MatrixError::Quant(error @ WeightError::NonFinite { row: 1, col: 0, .. })) => {
            assert_names(&error, &[&1, &0, &"NaN"]);
        }
        other => panic!("{other:?}"),
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
        let error = SliceError::Unaligned { row };
        assert_names(&error, &[&row, &64]);
        assert_eq!(layer.slice_rows(range.clone()).err(), Some(error.clone()));
        assert_eq!(layer.panels().slice_rows(range).err(), Some(error));
    }
    #[allow(clippy::reversed_empty_ranges)]
    let outside = [0..151, 128..64, 192..192, HUGE..HUGE, 0..HUGE, HUGE..0];
    for range in outside {
        let rows = 150;
        let error = SliceError::OutOfRange {
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

/// Shapes that have no elements and so no slice that could be too short: any
/// number of rows must work, in no time and no memory.
#[test]
fn nothing_may_be_as_many_rows_as_it_likes() {
    let one = || Scales::per_tensor(1.0);
    let matrix = TernaryMatrix::from_trits(&[], HUGE, 0, one()).expect("nothing");
    assert_eq!(
        TernaryMatrix::from_packed(vec![], HUGE, 0, one()).as_ref(),
        Ok(&matrix)
    );
    assert!(matrix.to_trits().is_empty() && matrix.to_f32().is_empty());
    assert!(matrix.nonzero_mask().is_empty());
    let tall = Linear::new(&matrix).expect("nothing");
    assert!(tall.panels().as_bytes().is_empty() && tall.panels().to_packed().is_empty());
    assert_eq!(
        Panels::from_packed(&[], HUGE, 0).expect("nothing").rows(),
        HUGE
    );
    let half = HUGE / 2 + 1;
    assert_eq!(
        tall.slice_rows(half..HUGE)
            .expect("at a panel")
            .out_features(),
        half - 1
    );
    let grouped = Scales::per_group(GroupSize::G64, vec![]);
    let grouped = TernaryMatrix::from_trits(&[], HUGE, 0, grouped).expect("nothing");
    let grouped = Linear::new(&grouped).expect("nothing");

    for way in common::ways() {
        let ws = &mut workspace(way);
        // No tokens for all those rows.
        let (x, y) = (|| view::<f32>(&[], 0, 0), || MatMut::new(&mut [], 0, HUGE));
        for layer in [&tall, &grouped] {
            layer.forward(x(), y().expect("empty"), ws).expect("fits");
            layer
                .forward_f32(x(), y().expect("empty"), ws)
                .expect("fits");
        }
        // As many tokens of nothing for no rows.
        let none = layer(0, 0);
        let tokens = || view::<f32>(&[], HUGE, 0);
        let y = || view_mut::<f32>(&mut [], HUGE, 0);
        none.forward(tokens(), y(), ws).expect("fits");
        none.forward_f32(tokens(), y(), ws).expect("fits");
        let panels = none.panels();
        let y_i32 = view_mut::<i32>(&mut [], HUGE, 0);
        panels.gemm_i8(view(&[], HUGE, 0), y_i32, ws).expect("fits");
        for group in [None, Some(GroupSize::G256)] {
            let x = PreparedActivations::float(tokens(), group, ws).expect("fits");
            assert_eq!([x.tokens(), x.cols()], [HUGE, 0]);
            let x = PreparedActivations::quantize(tokens(), group, ws).expect("fits");
            assert_eq!([x.tokens(), x.cols()], [HUGE, 0]);
        }
        let x = PreparedActivations::quantize(tokens(), None, ws).expect("fits");
        none.forward_prepared(&x, y(), ws).expect("fits");
        let x = PreparedActivations::int8(view(&[], HUGE, 0), vec![], None, ws);
        let error = PrepareError::TokenScales {
            tokens: HUGE,
            len: 0,
        };
        assert_eq!(x.err(), Some(error));
    }
}

/// With K = 0 an output is its bias.
#[test]
fn sums_over_nothing_are_zero() {
    let panels = layer(3, 0).panels().clone();
    let scales = Scales::per_row(vec![-1.0, 0.0, 2.0]);
    let plain = Linear::from_parts(panels, scales, None).expect("a layer");
    let biased = plain
        .clone()
        .with_bias(vec![-0.0, f32::NAN, 2.5])
        .expect("a bias");
    for way in common::ways() {
        let ws = &mut workspace(way);
        let mut run = |layer: &Linear, path: usize| {
            let mut y = [7.0; 6];
            let (x, view) = (view::<f32>(&[], 2, 0), view_mut(&mut y, 2, 3));
            match path {
                0 => layer.forward(x, view, ws),
                1 => layer.forward_f32(x, view, ws),
                2 => {
                    let x = PreparedActivations::quantize(x, None, ws).expect("prepared");
                    layer.forward_prepared(&x, view, ws)
                }
                _ => {
                    let x = PreparedActivations::float(x, None, ws).expect("prepared");
                    layer.forward_prepared(&x, view, ws)
                }
            }
            .expect("fits");
            bits(&y)
        };
        for path in 0..4 {
            assert_eq!(run(&plain, path), [0; 6], "{way:?}");
            let wanted = [0, 0x7fc0_0000, 2.5f32.to_bits()].repeat(2);
            assert_eq!(run(&biased, path), wanted, "{way:?}");
        }
        let mut y = [7; 6];
        let y_view = view_mut(&mut y, 2, 3);
        plain
            .panels()
            .gemm_i8(view(&[], 2, 0), y_view, ws)
            .expect("fits");
        assert_eq!(y, [0; 6], "{way:?}");
    }
}

#[test]
fn shapes_beyond_memory_are_errors() {
    let one = || Scales::per_tensor(1.0);
    for (rows, cols) in [
        (HUGE, 1),
        (HUGE, MAX_COLS),
        (HUGE / 4, 5),
        (1 << 60, 1 << 20),
    ] {
        let results = [
            TernaryMatrix::from_trits(&[], rows, cols, one()).map(|_| ()),
            TernaryMatrix::from_packed(vec![], rows, cols, one()).map(|_| ()),
            TernaryMatrix::quantize(&[], rows, cols, Granularity::PerRow).map(|_| ()),
            Panels::from_packed(&[], rows, cols).map(|_| ()),
        ];
        for result in results {
            let error = result.expect_err("beyond memory");
            assert_names(&error, &[&rows]);
        }
    }
    // The scales of rows of nothing would need memory that nothing vouches for.
    for rows in [HUGE, 1 << 60, 1 << 40] {
        let too_large = WeightError::TooLarge { rows, cols: 0 };
        let made = quant::absmean(&[], [rows, 0], Granularity::PerRow);
        assert_eq!(made, Err(too_large.clone()));
        let made = TernaryMatrix::quantize(&[], rows, 0, Granularity::PerRow);
        assert_eq!(made.err(), Some(MatrixError::Quant(too_large)));
        let made = TernaryMatrix::quantize(&[], rows, 0, Granularity::PerTensor);
        assert_eq!(made.expect("one scale").rows(), rows);
        let made = quant::quantize_activations::<f32>(&[], [rows, 0]);
        let too_large = ActivationError::TooLarge {
            tokens: rows,
            features: 0,
        };
        assert_eq!(made, Err(too_large));
    }
}

/// A stride that could overflow is never multiplied with more than it was
/// checked for.
#[test]
fn one_row_of_any_stride() {
    let layer = layer(65, 20);
    for way in common::ways() {
        let ws = &mut workspace(way);
        let (x8, x) = ([1i8; 20], [1.0f32; 20]);
        let (mut y32, mut y) = ([0; 65], [0.0; 65]);
        let panels = layer.panels();
        let wide = |x| MatRef::with_stride(x, 1, 20, HUGE).expect("one row");
        let y_view = MatMut::with_stride(&mut y32, 1, 65, HUGE).expect("one row");
        let x_view = MatRef::with_stride(&x8, 1, 20, HUGE).expect("one row");
        panels.gemm_i8(x_view, y_view, ws).expect("fits");
        assert_eq!(y32, [20; 65], "{way:?}");
        let y_view = MatMut::with_stride(&mut y, 1, 65, HUGE).expect("one row");
        layer.forward_f32(wide(&x), y_view, ws).expect("fits");
        assert_eq!(y, [20.0; 65], "{way:?}");
        let y_view = MatMut::with_stride(&mut y, 1, 65, HUGE).expect("one row");
        layer.forward(wide(&x), y_view, ws).expect("fits");
        assert!(y.iter().all(|v| (v - 20.0).abs() < 1e-4), "{way:?}: {y:?}");
    }
}
