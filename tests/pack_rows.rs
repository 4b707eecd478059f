//! Panels out of rows that a closure fills.

use std::sync::Arc;
use tritgemm::{
    GroupSize, Linear, MatrixError, Options, Panels, ParallelFor, Scales, TernaryMatrix, Threads,
    Workspace,
};
use tritgemm_testing::{Rng, view};

/// Runs the last item first, and as many at a time as there are workers: one.
struct Backwards(usize);

impl ParallelFor for Backwards {
    fn workers(&self) -> usize {
        self.0
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..items).rev().for_each(work);
    }
}

fn workspaces() -> [Workspace; 3] {
    [1, 3, 1024].map(|workers| {
        let pool = Threads::Pool(Arc::new(Backwards(workers)));
        Workspace::with_options(Options::new().threads(pool))
    })
}

/// A matrix, its scales empty, and what fills a row.
fn fill(matrix: &TernaryMatrix, row: usize, packed: &mut [u8], scales: &mut [f32]) {
    let len = packed.len();
    packed.copy_from_slice(&matrix.packed()[row * len..][..len]);
    let count = scales.len();
    scales.copy_from_slice(&matrix.scales().values()[row * count..][..count]);
}

#[test]
fn rows_become_the_panels_and_scales_of_their_matrix() {
    // Large enough to be shared, the last panel and the last item not full.
    let [m, k] = [64 * 37 + 5, 2050];
    let mut rng = Rng::new(1);
    let trits = rng.vec(m * k, Rng::trit);
    let groups = k.div_ceil(64);
    for scales in [
        Scales::per_tensor(0.5),
        Scales::per_row(rng.vec(m, Rng::unit)),
        Scales::per_group(GroupSize::G64, rng.vec(m * groups, Rng::unit)),
    ] {
        let matrix = TernaryMatrix::from_trits(view(&trits, m, k), scales).expect("a matrix");
        let wanted = Panels::pack(&matrix).expect("panels");
        for ws in workspaces() {
            let mut scales = match matrix.scales().granularity() {
                tritgemm::Granularity::PerTensor => Scales::per_tensor(0.5),
                tritgemm::Granularity::PerRow => Scales::per_row(vec![0.0; m]),
                tritgemm::Granularity::PerGroup(size) => {
                    Scales::per_group(size, vec![0.0; m * groups])
                }
            };
            let panels = Panels::pack_rows(m, k, &mut scales, &ws, |row, packed, scales| {
                fill(&matrix, row, packed, scales);
                Ok::<_, MatrixError>(())
            });
            let panels = panels.expect("legal rows");
            assert_eq!(panels.as_bytes(), wanted.as_bytes());
            assert_eq!(&scales, matrix.scales());
            assert!(Linear::from_parts(panels, scales, None).is_ok());
        }
    }
}

/// More panels than a loop may have items: by as many workers as there may be.
#[test]
fn many_panels_are_packed_by_many_workers() {
    let rows = 64 * 5000;
    let trits = vec![1i8; rows * 4];
    let matrix = TernaryMatrix::from_trits(view(&trits, rows, 4), Scales::per_tensor(1.0));
    let matrix = matrix.expect("a matrix");
    let wanted = Panels::pack(&matrix).expect("panels");
    for ws in workspaces() {
        let panels = Panels::pack_on(&matrix, &ws).expect("panels");
        assert!(panels.as_bytes() == wanted.as_bytes());
    }
}

/// The first row that fails is named, by `fill` or by what it wrote.
#[test]
fn faults_are_those_of_the_first_row() {
    let [m, k] = [64 * 70, 1022];
    for ws in workspaces() {
        let pack = |wrong: &[(usize, u8)]| {
            let mut scales = Scales::per_tensor(1.0);
            let packed = Panels::pack_rows(m, k, &mut scales, &ws, |row, packed, _| {
                packed.fill(0b01_00_10_00);
                *packed.last_mut().expect("a byte") = 0b01_00_00_00;
                if let Some(&(_, byte)) = wrong.iter().find(|(at, _)| *at == row) {
                    *packed.last_mut().expect("a byte") = byte;
                }
                Ok::<_, MatrixError>(())
            });
            packed.map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(pack(&[]), Ok(()));
        let code = pack(&[(4000, 0b11_00_00_00), (77, 0b11_00_00_00)]).expect_err("a code 11");
        assert!(code.contains("row 77"), "{code}");
        let padding = pack(&[(4001, 1), (3, 1)]).expect_err("padding");
        assert!(padding.contains("row 3"), "{padding}");

        let mut scales = Scales::per_tensor(1.0);
        let stopped = Panels::pack_rows(m, k, &mut scales, &ws, |row, packed, _| {
            packed.fill(0);
            match row {
                200 | 4000 => Err(MatrixError::Unaligned { row }),
                _ => Ok(()),
            }
        });
        assert_eq!(stopped.err(), Some(MatrixError::Unaligned { row: 200 }));
    }
}

#[test]
fn sizes_that_do_not_fit_are_errors_and_nothing_is_filled() {
    let ws = Workspace::new();
    let unfilled = |rows: usize, cols: usize, mut scales: Scales| {
        Panels::pack_rows(rows, cols, &mut scales, &ws, |row, _, _| {
            Err(MatrixError::Unaligned { row })
        })
    };
    let scales = || Scales::per_row(vec![1.0; 3]);
    assert!(matches!(
        unfilled(4, 8, scales()),
        Err(MatrixError::Length { .. })
    ));
    let wide = unfilled(1, 1 << 24, Scales::per_tensor(1.0));
    assert!(matches!(wide, Err(MatrixError::TooManyColumns { .. })));
    for (rows, cols) in [(0, 8), (usize::MAX, 0)] {
        let empty = unfilled(rows, cols, Scales::per_tensor(1.0)).expect("no rows to fill");
        assert_eq!((empty.rows(), empty.cols()), (rows, cols));
    }
    let panics = || {
        let mut scales = scales();
        Panels::pack_rows(
            3,
            8,
            &mut scales,
            &ws,
            |_, _, _| -> Result<(), MatrixError> { panic!("on purpose") },
        )
    };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
}
