//! A grid of edge shapes, covering every pair of (M, K), (M, N) and (K, N).

use tritgemm::Backend;
use tritgemm_testing::case::{Case, GRANULARITIES, Shape, VALUES, Values};
use tritgemm_testing::{oracle, quick, ways};

/// Around 64 rows to a panel, and up to 4 panels to a tile.
const M: [usize; 16] = [
    1, 0, 2, 63, 64, 65, 127, 128, 129, 191, 255, 256, 257, 319, 320, 321,
];
/// Around 4 weights to a byte, 12 to a unit, 240 to a block, and group sizes.
const K: [usize; 33] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 19, 20, 21, 47, 48, 49, 63, 64, 65, 239, 240,
    241, 256, 479, 480, 481, 719, 720, 721,
];
/// Around 16 and 32 tokens to a tile, 2 and 4 to a row tile, and crossovers.
const N: [usize; 24] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 63, 64, 65,
];

/// Every (K, N) once. M runs through its list along both, which meets every
/// (M, K) and (M, N) too, since M is the shortest list.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (i, &k) in K.iter().enumerate() {
        for (j, &n) in N.iter().enumerate() {
            let step = i + 2 * j;
            shapes.push(Shape {
                m: M[(i + j) % M.len()],
                k,
                n,
                gaps: [[0, 1, 5][step % 3], [0, 1, 7][(i + j) % 3]],
                granularity: GRANULARITIES[step % GRANULARITIES.len()],
                bias: (i + j / 2) % 2 == 0,
                values: VALUES[(i + j / 3) % VALUES.len()],
                seed: (i * 100 + j) as u64,
            });
        }
    }
    shapes
}

fn chosen() -> impl Iterator<Item = Case> {
    // 7 divides neither list, so every M, K and N stays in.
    let step = if quick() { 7 } else { 1 };
    shapes().into_iter().step_by(step).map(Case::new)
}

#[test]
fn covers_every_pair() {
    const { assert!(M.len() <= N.len() && M.len() <= K.len()) };
    let shapes = shapes();
    for &m in &M {
        for &k in &K {
            assert!(shapes.iter().any(|s| (s.m, s.k) == (m, k)), "{m} x {k}");
        }
        for &n in &N {
            assert!(
                shapes.iter().any(|s| (s.m, s.n) == (m, n)),
                "{m}, {n} tokens"
            );
        }
    }
}

#[test]
fn every_way_gives_the_oracles_bits() {
    let ways = ways();
    for case in chosen() {
        let expected = case.expected();
        for way in &ways {
            case.check(way, &expected);
        }
    }
}

/// K around the end of each group size's first and second group: the last group may be longer
/// than a kernel's chunk, or end in part of one, and a group may be all of K.
#[test]
fn groups_end_anywhere_in_a_chunk() {
    let ways = ways();
    for &granularity in GRANULARITIES.iter().filter(|&&g| g > 2) {
        for (i, k) in (granularity - 9..granularity + 2).step_by(2).enumerate() {
            for k in [k, granularity + k] {
                let case = Case::new(Shape {
                    granularity,
                    values: Values::Wide,
                    ..Shape::new(65, k, i + 1)
                });
                let expected = case.expected();
                for way in &ways {
                    case.check(way, &expected);
                }
            }
        }
    }
}

/// The canonical order is a definition; this is the check that it defines a
/// good sum.
#[test]
fn f32_results_are_as_near_as_rounding_allows() {
    let mut checked = 0;
    let small = |case: &Case| {
        use Values::{Tiny, Unit, Wide};
        matches!(case.shape.values, Unit | Wide | Tiny)
    };
    for case in chosen().filter(small) {
        let options = tritgemm::Options::new().backend(Backend::scalar());
        let y = case.forward_f32(&mut tritgemm_testing::workspace(options));
        let wanted = case.affine(|a| oracle::reals(case.operands(&case.x_f32), a));
        for (i, (&y, (wanted, bound))) in y.iter().zip(wanted).enumerate() {
            let y = f64::from(f32::from_bits(y));
            assert!(
                (y - wanted).abs() <= bound,
                "output {i} is {y}, expected {wanted} within {bound}: {:?}",
                case.shape
            );
            checked += 1;
        }
    }
    assert!(checked > 10_000, "only {checked} outputs");
}
