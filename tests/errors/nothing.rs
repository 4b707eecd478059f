//! Degenerate and impossible shapes: no elements, any number of rows, strides
//! that overflow, matrices that no memory holds.

use crate::{HUGE, assert_names, layer};
use tritgemm::codec::{self, CodecError, Mode};
use tritgemm::nn::{BitLinear, RmsNorm};
use tritgemm::quant::{self, QuantError};
use tritgemm::{
    GemmError, Granularity, GroupSize, Linear, MAX_COLS, MatMut, MatRef, MatrixError, Panels,
    PreparedActivations, Scales, TernaryMatrix,
};
use tritgemm_testing::{bits, view, view_mut, ways, workspace};

/// Panels of another length, or that no memory holds.
#[test]
fn lengths_of_panels() {
    let expected = Panels::byte_len(65, 13).expect("fits");
    assert_eq!(expected, 2 * 6 * 64);
    for len in [0, expected - 1, expected + 1] {
        let error = MatrixError::Length {
            argument: "panels",
            len,
            expected,
        };
        assert_names(&error, &[&"panels", &len, &expected]);
        let made = Panels::from_bytes(vec![0; len], 65, 13);
        assert_eq!(made.err(), Some(error));
    }
    let (rows, cols) = (HUGE, MAX_COLS + 1);
    for (rows, cols, error) in [
        (
            rows,
            8,
            MatrixError::Codec(CodecError::TooLarge { rows, cols: 8 }),
        ),
        (1, cols, MatrixError::TooManyColumns { cols }),
    ] {
        assert_eq!(Panels::byte_len(rows, cols), Err(error.clone()));
        assert_eq!(Panels::from_bytes(vec![], rows, cols).err(), Some(error));
    }
    let scales = Scales::per_group(GroupSize::G64, vec![]);
    let made = TernaryMatrix::from_packed(vec![], rows, 65, scales);
    let error = CodecError::TooLarge { rows, cols: 65 };
    assert_eq!(made.err(), Some(MatrixError::Codec(error)));
}

/// The rows of a matrix are the columns of its transpose.
#[cfg(feature = "train")]
#[test]
fn too_many_rows_to_transpose() {
    let cols = MAX_COLS + 1;
    let matrix = TernaryMatrix::from_trits(view(&[], cols, 0), Scales::per_tensor(1.0));
    let made = Panels::pack_transposed(&matrix.expect("nothing"));
    assert_eq!(made.err(), Some(MatrixError::TooManyColumns { cols }));
}

/// Shapes that have no elements and so no slice that could be too short: any
/// number of rows must work, in no time and no memory.
#[test]
fn nothing_may_be_as_many_rows_as_it_likes() {
    let one = || Scales::per_tensor(1.0);
    let matrix = TernaryMatrix::from_trits(view(&[], HUGE, 0), one()).expect("nothing");
    assert_eq!(
        TernaryMatrix::from_packed(vec![], HUGE, 0, one()).as_ref(),
        Ok(&matrix)
    );
    assert_eq!(matrix.to_trits(), Ok(vec![]));
    assert_eq!(matrix.to_f32(), Ok(vec![]));
    let tall = Linear::new(&matrix).expect("nothing");
    assert!(tall.panels().as_bytes().is_empty() && tall.panels().to_packed().is_empty());
    assert_eq!(
        Panels::from_packed(view(&[], HUGE, 0), 0)
            .expect("nothing")
            .rows(),
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
    let grouped = TernaryMatrix::from_trits(view(&[], HUGE, 0), grouped).expect("nothing");
    let grouped = Linear::new(&grouped).expect("nothing");

    for way in &ways() {
        let ws = &mut workspace(way);
        // No tokens for all those rows.
        let (x, y) = (
            || view::<f32>(&[], 0, 0),
            || MatMut::<f32>::new(&mut [], 0, HUGE),
        );
        for layer in [&tall, &grouped] {
            layer
                .forward_int8(x(), y().expect("empty"), ws)
                .expect("fits");
            layer
                .forward_f32(x(), y().expect("empty"), ws)
                .expect("fits");
        }
        // As many tokens of nothing for no rows.
        let none = layer(0, 0);
        let tokens = || view::<f32>(&[], HUGE, 0);
        let y = || view_mut::<f32>(&mut [], HUGE, 0);
        none.forward_int8(tokens(), y(), ws).expect("fits");
        none.forward_f32(tokens(), y(), ws).expect("fits");
        let panels = none.panels();
        let y_i32 = view_mut::<i32>(&mut [], HUGE, 0);
        panels.gemm_i8(view(&[], HUGE, 0), y_i32, ws).expect("fits");
        for layer in [&none, &grouped] {
            let x = layer.prepare_f32(tokens(), ws).expect("fits");
            assert_eq!([x.tokens(), x.cols()], [HUGE, 0]);
            let x = layer.prepare_int8(tokens(), ws).expect("fits");
            assert_eq!([x.tokens(), x.cols()], [HUGE, 0]);
        }
        let x = none.prepare_int8(tokens(), ws).expect("fits");
        none.forward_int8(&x, y(), ws).expect("fits");
        let x = PreparedActivations::from_int8(view(&[], HUGE, 0), vec![], None, ws);
        let error = GemmError::Length {
            argument: "token_scales",
            len: 0,
            expected: HUGE,
        };
        assert_eq!(x.err(), Some(error));
    }
}

/// The codec, for as many rows of nothing.
#[test]
fn nothing_encodes_to_nothing() {
    for mode in [Mode::Strict, Mode::Lenient] {
        assert_eq!(
            codec::encode(view(&[], HUGE, 0), view_mut(&mut [], HUGE, 0), mode),
            Ok(())
        );
        assert_eq!(
            codec::decode(view(&[], HUGE, 0), view_mut(&mut [], HUGE, 0), mode),
            Ok(())
        );
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
    for way in &ways() {
        let ws = &mut workspace(way);
        let mut run = |layer: &Linear, path: usize| {
            let mut y = [7.0; 6];
            let (x, view) = (view::<f32>(&[], 2, 0), view_mut(&mut y, 2, 3));
            match path {
                0 => layer.forward_int8(x, view, ws),
                1 => layer.forward_f32(x, view, ws),
                2 => {
                    let x = layer.prepare_int8(x, ws).expect("prepared");
                    layer.forward_int8(&x, view, ws)
                }
                _ => {
                    let x = layer.prepare_f32(x, ws).expect("prepared");
                    layer.forward_f32(&x, view, ws)
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
        (HUGE >> 4, 1 << 20),
    ] {
        let made = TernaryMatrix::from_packed(vec![], rows, cols, one());
        assert_names(&made.expect_err("beyond memory"), &[&rows]);
        let made = MatRef::<f32>::new(&[], rows, cols);
        assert_names(&made.expect_err("beyond memory"), &[&rows]);
        let made = BitLinear::new(vec![], rows, cols);
        assert!(made.is_err());
    }
    // The scales of rows of nothing would need memory that nothing vouches for.
    for rows in [HUGE, HUGE >> 4, 1 << 28] {
        let too_large = QuantError::TooLarge { rows, cols: 0 };
        let made = quant::absmean(view(&[], rows, 0), Granularity::PerRow);
        assert_eq!(made, Err(too_large.clone()));
        let made = TernaryMatrix::quantize(view(&[], rows, 0), Granularity::PerRow);
        assert_eq!(made.err(), Some(MatrixError::Quant(too_large.clone())));
        let made = TernaryMatrix::quantize(view(&[], rows, 0), Granularity::PerTensor);
        assert_eq!(made.expect("one scale").rows(), rows);
        let made = quant::quantize_activations(view::<f32>(&[], rows, 0));
        assert_eq!(made, Err(too_large));
    }
}

/// A stride that could overflow is never multiplied with more than it was
/// checked for.
#[test]
fn one_row_of_any_stride() {
    let layer = layer(65, 20);
    for way in &ways() {
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
        layer.forward_int8(wide(&x), y_view, ws).expect("fits");
        assert!(y.iter().all(|v| (v - 20.0).abs() < 1e-4), "{way:?}: {y:?}");
    }
    // Whatever else takes a view.
    let wide = || MatRef::with_stride(&[1.0f32; 20], 1, 20, HUGE).expect("one row");
    let scales = || Scales::per_tensor(1.0);
    let matrix = TernaryMatrix::quantize(wide(), Granularity::PerRow).expect("finite");
    let trits = MatRef::with_stride(&[1i8; 20], 1, 20, HUGE).expect("one row");
    let same = TernaryMatrix::from_trits(trits, scales()).expect("legal");
    assert_eq!(matrix.packed(), same.packed());
    let packed = MatRef::with_stride(matrix.packed(), 1, 5, HUGE).expect("one row");
    let panels = Panels::from_packed(packed, 20).expect("legal");
    assert_eq!(panels.to_packed(), matrix.packed());
    quant::quantize_activations(wide()).expect("finite");
    let mut y = [0.0; 20];
    let norm = RmsNorm::new(vec![1.0; 20]).expect("a norm");
    let y_view = MatMut::with_stride(&mut y, 1, 20, HUGE).expect("one row");
    norm.forward(wide(), y_view).expect("fits");
    for backend in tritgemm_testing::backends() {
        let mut trits = [0; 20];
        let view = MatMut::with_stride(&mut trits, 1, 20, HUGE).expect("one row");
        backend.decode(packed, view, Mode::Strict).expect("legal");
        assert_eq!(trits, [1; 20]);
    }
}
