//! Products: both families, both activation types, groups.

use crate::backends::runs;
use tritgemm::{Family, Options, Threads};
use tritgemm_testing::case::{Case, Shape, assert_same};
use tritgemm_testing::{backends, workspace};

/// One product by every backend; the family and the type choose its kernel.
fn check([m, k, n]: [usize; 3], granularity: usize, family: Family, types: &[&str]) {
    let case = Case::new(Shape {
        gaps: [1, 2],
        granularity,
        seed: (m + k + n) as u64,
        ..Shape::new(m, k, n)
    });
    let expected = case.expected();
    let name = if family == Family::Few { "few" } else { "many" };
    for backend in backends() {
        let way = Options::new().backend(backend).family(family);
        let ws = &mut workspace(way.clone().threads(Threads::Serial));
        let what = format!("{:?} {way:?}", case.shape);
        if types.contains(&"i8") && runs(backend, &format!("{name}_i8")) {
            assert_same("gemm_i8", &what, &case.gemm_i8(ws), &expected.integers);
            if family == Family::Few {
                let wanted = expected.quantized.as_ref().expect("finite");
                assert_same("forward_int8", &what, &case.forward_int8(ws), wanted);
            }
        }
        if types.contains(&"f32") && runs(backend, &format!("{name}_f32")) {
            assert_same("forward_f32", &what, &case.forward_f32(ws), &expected.float);
        }
    }
}

/// One unit; one panel and a part of one; a block of 240 and a tail.
#[test]
fn few_i8() {
    check([1, 1, 1], 1, Family::Few, &["i8"]);
    check([2, 13, 2], 2, Family::Few, &["i8"]);
    check([3, 244, 1], 2, Family::Few, &["i8"]);
}

#[test]
fn few_f32() {
    check([1, 1, 1], 1, Family::Few, &["f32"]);
    check([2, 13, 2], 2, Family::Few, &["f32"]);
    check([3, 244, 1], 2, Family::Few, &["f32"]);
}

/// The widest tiles: four panels and one more.
#[test]
fn tiles_of_few_tokens() {
    check([64 * 4 + 1, 5, 2], 1, Family::Few, &["i8", "f32"]);
}

#[test]
fn many_i8() {
    check([2, 5, 2], 2, Family::Many, &["i8"]);
}

#[test]
fn many_f32() {
    check([2, 5, 2], 2, Family::Many, &["f32"]);
}

/// A whole chunk of 12 bytes, so that the tables fill their buffer: a pointer
/// must not leave it, be it unused.
#[test]
fn chunks_of_many_tokens() {
    check([1, 48, 1], 2, Family::Many, &["i8", "f32"]);
}

/// A segment for each group: units that straddle two, scales folded in.
#[test]
fn groups() {
    check([2, 70, 1], 64, Family::Few, &["i8", "f32"]);
}

/// Two blocks of the canonical order, a partial chunk, a fold.
#[test]
#[cfg_attr(
    miri,
    ignore = "tables of 61 bytes take minutes: the guard pages' kernels fold"
)]
fn folds_of_many_tokens() {
    check([1, 244, 1], 2, Family::Many, &["i8", "f32"]);
}
