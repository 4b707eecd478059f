//! Products: both lanes, both activation types, groups.

use crate::backends::runs;
use tritgemm::{Lanes, Options, Threads};
use tritgemm_testing::case::{Case, Shape, assert_same};
use tritgemm_testing::{backends, workspace};

/// One product by every backend; the lanes and the type choose its kernel.
fn check([m, k, n]: [usize; 3], granularity: usize, lanes: Lanes, types: &[&str]) {
    let case = Case::new(Shape {
        gaps: [1, 2],
        granularity,
        seed: (m + k + n) as u64,
        ..Shape::new(m, k, n)
    });
    let expected = case.expected();
    let lane = if lanes == Lanes::Row { "row" } else { "column" };
    for backend in backends() {
        let way = Options::new().backend(backend).lanes(lanes);
        let ws = &mut workspace(way.threads(Threads::Serial));
        let what = format!("{:?} {way:?}", case.shape);
        if types.contains(&"i8") && runs(backend, &format!("i8-{lane}")) {
            assert_same("gemm_i8", &what, &case.gemm_i8(ws), &expected.integers);
            if lanes == Lanes::Row {
                let wanted = expected.quantized.as_ref().expect("finite");
                assert_same("forward", &what, &case.forward(ws), wanted);
            }
        }
        if types.contains(&"f32") && runs(backend, &format!("f32-{lane}")) {
            assert_same("forward_f32", &what, &case.forward_f32(ws), &expected.float);
        }
    }
}

/// One unit; one panel and a part of one; a block of 240 and a tail.
#[test]
fn i8_row() {
    check([1, 1, 1], 1, Lanes::Row, &["i8"]);
    check([2, 13, 2], 2, Lanes::Row, &["i8"]);
    check([3, 244, 1], 2, Lanes::Row, &["i8"]);
}

#[test]
fn f32_row() {
    check([1, 1, 1], 1, Lanes::Row, &["f32"]);
    check([2, 13, 2], 2, Lanes::Row, &["f32"]);
    check([3, 244, 1], 2, Lanes::Row, &["f32"]);
}

/// The widest tiles: four panels and one more.
#[test]
fn row_tiles() {
    check([64 * 4 + 1, 5, 2], 1, Lanes::Row, &["i8", "f32"]);
}

#[test]
fn i8_column() {
    check([2, 5, 2], 2, Lanes::Column, &["i8"]);
}

#[test]
fn f32_column() {
    check([2, 5, 2], 2, Lanes::Column, &["f32"]);
}

/// A whole chunk of 12 bytes, so that the tables fill their buffer: a pointer
/// must not leave it, be it unused.
#[test]
fn column_chunks() {
    check([1, 48, 1], 2, Lanes::Column, &["i8", "f32"]);
}

/// A segment for each group: units that straddle two, scales folded in.
#[test]
fn groups() {
    check([2, 70, 1], 64, Lanes::Row, &["i8", "f32"]);
}

/// Two blocks of the canonical order, a partial chunk, a fold.
#[test]
#[cfg_attr(
    miri,
    ignore = "tables of 61 bytes take minutes: the guard pages' kernels fold"
)]
fn column_folds() {
    check([1, 244, 1], 2, Lanes::Column, &["i8", "f32"]);
}
