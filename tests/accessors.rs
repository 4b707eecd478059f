//! What objects say about themselves: what was put in comes out.

use std::sync::Arc;
use tritgemm::nn::{BitLinear, RmsNorm};
use tritgemm::{
    Backend, GroupSize, Lanes, Linear, Options, PanelFile, Panels, ParallelFor,
    PreparedActivations, Residency, Scales, TernaryMatrix, Threads, Workspace,
};
use tritgemm_testing::view;

fn matrix(rows: usize, cols: usize, scales: Scales) -> TernaryMatrix {
    let trits: Vec<i8> = (0..rows * cols).map(|i| (i % 3) as i8 - 1).collect();
    TernaryMatrix::from_trits(&trits, rows, cols, scales).expect("a matrix")
}

/// Scales are found, and dense weights made, by row and column.
#[test]
fn a_scale_is_that_of_its_row_and_group() {
    let (rows, cols) = (3, 150_usize);
    for size in GroupSize::ALL {
        let groups = cols.div_ceil(size.len());
        let values: Vec<f32> = (1..=rows * groups).map(|v| v as f32).collect();
        let matrix = matrix(rows, cols, Scales::per_group(*size, values.clone()));
        let weights = matrix.to_f32();
        for (i, trit) in matrix.to_trits().into_iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let scale = values[row * groups + col / size.len()];
            assert_eq!(matrix.scales().at(row, col, cols), scale);
            assert_eq!(weights[i], f32::from(trit) * scale, "{row}, {col}");
        }
    }
    assert_eq!(Scales::per_tensor(0.5).at(2, 149, cols), 0.5);
    assert_eq!(Scales::per_row(vec![0.5, 2.0]).at(1, 149, cols), 2.0);
}

/// All tokens, none, or whole tiles and what is worth one.
#[test]
fn column_tokens_are_those_that_the_lanes_say() {
    let (tokens, k) = (70, 20);
    let (x_i8, x_f32) = (vec![1; tokens * k], vec![1.0; tokens * k]);
    for backend in tritgemm_testing::backends() {
        let prepared = |lanes| {
            let ws = &mut tritgemm_testing::workspace(Options::new().backend(backend).lanes(lanes));
            let int8 = view(&x_i8, tokens, k);
            [
                PreparedActivations::int8(int8, vec![1.0; tokens], None, ws).expect("prepared"),
                PreparedActivations::float(view(&x_f32, tokens, k), None, ws).expect("prepared"),
            ]
        };
        for (lanes, wanted) in [
            (Lanes::Row, 0..=0),
            (Lanes::Column, 70..=70),
            (Lanes::Auto, 64..=70),
        ] {
            for x in prepared(lanes) {
                assert_eq!([x.tokens(), x.cols()], [tokens, k]);
                assert!(
                    wanted.contains(&x.many_tokens()),
                    "{backend:?}, {lanes:?}: {x:?}"
                );
            }
        }
        // The last 6 fit half a tile, where there is a kernel for such.
        for (x, of) in prepared(Lanes::Column).iter().zip(["i8", "f32"]) {
            let kernel = |operation: &str| {
                let kernels = backend.kernels();
                let found = kernels.iter().find(|k| k.operation == operation);
                found.expect("an operation of every row").name
            };
            let narrower = kernel(&format!("{of}-narrow")) != kernel(&format!("{of}-column"));
            assert_eq!(x.narrow_tokens(), if narrower { 6 } else { 0 });
        }
        assert!(prepared(Lanes::Row).iter().all(|x| x.narrow_tokens() == 0));
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
    let mask = layer.nonzero_mask().expect("finite");
    for four in mask.chunks(4) {
        assert_eq!(four.iter().filter(|&&nonzero| nonzero).count(), 2);
    }

    let matrix = matrix(70, 9, Scales::per_tensor(0.25));
    let panels = Panels::pack(&matrix).expect("panels");
    let scales = Scales::per_row((0..70).map(|v| v as f32).collect());
    let bias = vec![1.5; 70];
    let file = PanelFile::new(panels.clone(), Some(scales.clone()), Some(bias.clone()));
    let (found, found_scales, found_bias) = file.expect("a file").into_parts();
    assert_eq!(found.as_bytes(), panels.as_bytes());
    assert_eq!((found_scales, found_bias), (Some(scales), Some(bias)));
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
    let mut ws = Workspace::new().with_parallel_for(Arc::new(Five));
    assert_eq!(ws.options(), Options::new());
    let text = format!("{ws:?}");
    assert!(text.contains("Auto") && text.contains("Some(5)"), "{text}");

    let other = Options::new()
        .backend(Backend::scalar())
        .threads(Threads::Serial)
        .residency(Residency::Memory)
        .lanes(Lanes::Column);
    ws.set_options(other);
    assert_eq!(ws.options(), other);
    let text = format!("{ws:?}");
    for part in ["scalar", "Serial", "Memory", "Column"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    // They count from the next preparation on.
    let layer = Linear::new(&matrix(2, 4, Scales::per_tensor(1.0))).expect("a layer");
    let x = view(&[1.0_f32, 2.0, 3.0, 4.0], 1, 4);
    let x = PreparedActivations::quantize(x, layer.group(), &mut ws).expect("prepared");
    assert_eq!(x.many_tokens(), 1);
}
