//! What objects say about themselves: what was put in comes out.

use std::sync::Arc;
use tritgemm::diagnostics::token_split;
use tritgemm::nn::{BitLinear, RmsNorm};
use tritgemm::{
    Backend, Family, GroupSize, Linear, MatrixError, Options, PanelBytes, PanelFile, Panels,
    ParallelFor, PreparedActivations, Scales, TernaryMatrix, Threads, Workspace,
};
use tritgemm_testing::case::{Case, GRANULARITIES, Shape};
use tritgemm_testing::{backends, bits, view, workspace};

fn matrix(rows: usize, cols: usize, scales: Scales) -> TernaryMatrix {
    let trits: Vec<i8> = (0..rows * cols).map(|i| (i % 3) as i8 - 1).collect();
    TernaryMatrix::from_trits(view(&trits, rows, cols), scales).expect("a matrix")
}

/// Scales are found, and dense weights made, by row and column.
#[test]
fn a_scale_is_that_of_its_row_and_group() {
    let (rows, cols) = (3, 150_usize);
    for size in GroupSize::ALL {
        let groups = cols.div_ceil(size.len());
        let values: Vec<f32> = (1..=rows * groups).map(|v| v as f32).collect();
        let matrix = matrix(rows, cols, Scales::per_group(*size, values.clone()));
        let weights = matrix.to_f32().expect("memory");
        for (i, trit) in matrix.to_trits().expect("memory").into_iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let scale = values[row * groups + col / size.len()];
            assert_eq!(matrix.scale(row, col), scale);
            assert_eq!(weights[i], f32::from(trit) * scale, "{row}, {col}");
        }
    }
    let per_tensor = matrix(rows, cols, Scales::per_tensor(0.5));
    assert_eq!(per_tensor.scale(2, 149), 0.5);
    let per_row = matrix(rows, cols, Scales::per_row(vec![0.5, 2.0, 4.0]));
    assert_eq!(per_row.scale(1, 149), 2.0);
}

#[test]
#[should_panic(expected = "row 0, column 3 of a 2 x 3 matrix")]
fn a_scale_outside_of_the_matrix_panics() {
    matrix(2, 3, Scales::per_tensor(0.5)).scale(0, 3);
}

/// All tokens, none, or whole tiles and what is worth one.
#[test]
fn the_family_says_which_tokens_are_many() {
    let (tokens, k) = (70, 20);
    let (x_i8, x_f32) = (vec![1; tokens * k], vec![1.0; tokens * k]);
    let layer = Linear::new(&matrix(1, k, Scales::per_tensor(1.0))).expect("a layer");
    for backend in backends() {
        for (family, wanted) in [
            (Family::Few, 0..=0),
            (Family::Many, 70..=70),
            (Family::Auto, 64..=70),
        ] {
            let ws = &mut workspace(Options::new().backend(backend).family(family));
            let int8 = view(&x_i8, tokens, k);
            let int8 = PreparedActivations::from_int8(int8, vec![1.0; tokens], None, ws);
            let f32 = layer.prepare_f32(view(&x_f32, tokens, k), ws);
            for x in [int8, f32] {
                let x = x.expect("prepared");
                assert_eq!([x.tokens(), x.cols()], [tokens, k]);
                let [whole, left, few] = token_split(&x);
                let what = format!("{backend:?}, {family:?}: {whole}, {left}, {few}");
                assert!(wanted.contains(&(whole + left)), "{what}");
                assert_eq!(whole + left + few, tokens, "{what}");
            }
        }
    }
}

#[test]
fn layers_and_files_hand_out_what_they_were_made_of() {
    let gain = vec![0.5, 2.0, -1.0];
    assert_eq!(RmsNorm::new(gain.clone()).expect("a norm").gain(), gain);

    let layer = BitLinear::new(vec![0.5; 8], 2, 4).expect("a layer");
    assert!(!layer.is_2_4_sparse());
    let mut layer = layer.with_2_4_sparsity(true);
    assert!(layer.is_2_4_sparse());
    let trits = layer.ternary().expect("finite").to_trits();
    for four in trits.expect("memory").chunks(4) {
        assert_eq!(four.iter().filter(|&&trit| trit != 0).count(), 2);
    }

    let matrix = matrix(70, 9, Scales::per_tensor(0.25));
    let panels = Panels::pack(&matrix).expect("panels");
    let scales = Scales::per_row((0..70).map(|v| v as f32).collect());
    let bias = vec![1.5; 70];
    let file = PanelFile::new(panels.clone(), Some(scales.clone()), Some(bias.clone()));
    let (found, found_scales, found_bias, found_rotation) = file.expect("a file").into_parts();
    assert_eq!(found.as_bytes(), panels.as_bytes());
    assert_eq!((found_scales, found_bias), (Some(scales), Some(bias)));
    assert_eq!(found_rotation, None);
    // The bytes themselves, of whatever storage.
    let copy = Panels::from_bytes(panels.as_bytes().to_vec(), 70, 9).expect("panels");
    for panels in [panels, copy] {
        let text = format!("{panels:?}");
        let bytes = format!("{:?}", panels.as_bytes());
        assert!(text.contains(&bytes), "{text}");
    }
}

struct Five;

impl ParallelFor for Five {
    fn workers(&self) -> usize {
        5
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..items).for_each(work);
    }
}

#[test]
fn a_workspace_shows_its_options_and_takes_others() {
    let pool = Threads::Pool(Arc::new(Five));
    let mut ws = Workspace::with_options(Options::new().threads(pool));
    let text = format!("{ws:?}");
    assert!(text.contains("Auto") && text.contains("Pool(5)"), "{text}");

    ws.set_options(
        Options::new()
            .backend(Backend::scalar())
            .threads(Threads::Serial)
            .weights_in_cache(true)
            .family(Family::Many),
    );
    for text in [format!("{ws:?}"), format!("{:?}", ws.options())] {
        for part in ["scalar", "Serial", "weights_in_cache: true", "Many"] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
    // They count from the next preparation on.
    let layer = Linear::new(&matrix(2, 4, Scales::per_tensor(1.0))).expect("a layer");
    let x = view(&[1.0_f32, 2.0, 3.0, 4.0], 1, 4);
    let x = layer.prepare_int8(x, &mut ws).expect("prepared");
    assert_eq!(token_split(&x)[2], 0, "many");
}

/// A row alone is what the whole matrix has there; there is no other row.
#[test]
fn rows_are_unpacked_one_by_one() {
    for granularity in GRANULARITIES {
        for (m, k) in [(1, 1), (130, 77), (64, 300), (3, 0)] {
            let case = Case::new(Shape {
                granularity,
                ..Shape::new(m, k, 1)
            });
            let layer = &case.layer;
            let (mut trits, mut values) = (vec![7; k], vec![7.0; k]);
            for row in 0..m {
                layer.panels().unpack_row(row, &mut trits).expect("a row");
                assert_eq!(trits, case.trits[row * k..][..k]);
                layer.unpack_row(row, &mut values).expect("a row");
                let scale = |col| case.affine(|a| (a.scale)(row, col));
                let want: Vec<f32> = trits
                    .iter()
                    .enumerate()
                    .map(|(col, &t)| {
                        if t == 0 {
                            0.0
                        } else {
                            f32::from(t) * scale(col)
                        }
                    })
                    .collect();
                assert_eq!(bits(&values), bits(&want), "row {row} of {:?}", case.shape);
            }
            let out = MatrixError::OutOfRange {
                range: m..m + 1,
                rows: m,
            };
            assert_eq!(layer.unpack_row(m, &mut values), Err(out.clone()));
            assert_eq!(layer.panels().unpack_row(m, &mut trits), Err(out));
            let length = |argument| MatrixError::Length {
                argument,
                len: k + 1,
                expected: k,
            };
            let got = layer.unpack_row(0, &mut vec![0.0; k + 1]);
            assert_eq!(got, Err(length("y")));
            let got = layer.panels().unpack_row(0, &mut vec![0; k + 1]);
            assert_eq!(got, Err(length("trits")));
        }
    }
}

/// Panels in a part of what somebody else owns, who lives as long as they do.
#[test]
fn panels_lie_in_any_owners_memory() {
    let case = Case::new(Shape::new(130, 77, 3));
    let bytes = case.layer.panels().as_bytes();
    let container: Vec<u8> = [&[9; 5], bytes, &[9; 7]].concat();
    let (start, len) = (5, container.len());
    let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(container);
    let weak = Arc::downgrade(&owner);
    let shared = PanelBytes::shared(owner.clone(), start..start + bytes.len()).expect("inside");
    for range in [start..len + 1, len..start] {
        let got = PanelBytes::shared(owner.clone(), range.clone()).expect_err("outside");
        assert_eq!(got, MatrixError::NoBytes { range, len });
    }
    drop(owner);
    let panels = Panels::from_bytes(shared, 130, 77).expect("as long");
    assert_eq!(panels.as_bytes(), bytes);
    let shard = panels.slice_rows(64..130).expect("at a panel");
    drop(panels);
    assert_eq!(
        shard.to_packed(),
        case.layer.panels().to_packed()[64 * 20..]
    );
    assert!(weak.upgrade().is_some());
    drop(shard);
    assert!(weak.upgrade().is_none(), "nobody else has it");
}
