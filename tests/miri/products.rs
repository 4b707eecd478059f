//! Products: both lanes, both activation types, groups, threads.

use crate::common::case::{Case, Shape, Values};
use crate::common::{backends, workspace};
use tritgemm::{Lanes, Options, Threads};

fn case([m, k, n]: [usize; 3], granularity: usize) -> Case {
    Case::new(Shape {
        m,
        k,
        n,
        gaps: [1, 2],
        granularity,
        bias: true,
        values: Values::Unit,
        seed: (m + k + n) as u64,
    })
}

fn check(shape: [usize; 3], granularity: usize, lanes: Lanes) {
    let case = case(shape, granularity);
    let expected = case.expected();
    for backend in backends() {
        let way = Options::new().backend(backend).lanes(lanes);
        case.check(way.threads(Threads::Serial), &expected);
    }
}

/// One panel and a part of one; one unit, and a block of 240 and a tail.
#[test]
fn row_lanes() {
    check([1, 1, 1], 1, Lanes::Row);
    check([66, 13, 2], 2, Lanes::Row);
    check([3, 250, 1], 2, Lanes::Row);
}

/// The widest tiles: several panels, several tokens.
#[test]
fn row_tiles() {
    check([64 * 4 + 1, 12, 5], 1, Lanes::Row);
}

#[test]
fn row_lanes_by_group() {
    check([2, 130, 2], 64, Lanes::Row);
}

#[test]
fn column_lanes() {
    check([2, 5, 3], 2, Lanes::Column);
    check([66, 50, 2], 2, Lanes::Column);
}

/// Two blocks of the canonical order, a partial chunk, a fold.
#[test]
fn column_folds() {
    check([1, 250, 1], 2, Lanes::Column);
}

#[test]
fn column_lanes_by_group() {
    check([2, 130, 1], 64, Lanes::Column);
}
