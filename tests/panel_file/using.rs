//! Round trips, and products from what was read.

use crate::{Dir, assert_round_trip, bytes, case, crc32, mapped, small};
use std::sync::Arc;
use tritgemm::{
    Linear, Options, PanelFile, PanelFileError, Panels, Rotation, Scales, TernaryMatrix, Verify,
};
use tritgemm_testing::case::{Case, GRANULARITIES, Shape};
use tritgemm_testing::{view, workspace};

#[test]
fn round_trips() {
    let dir = Dir::new();
    for (m, k) in [
        (0, 0),
        (0, 7),
        (5, 0),
        (1, 1),
        (64, 48),
        (65, 49),
        (130, 600),
    ] {
        for granularity in GRANULARITIES {
            for bias in [false, true] {
                let layer = case(m, k, 0, granularity, bias).layer;
                assert_round_trip(&PanelFile::from(&layer), &dir);
                let (panels, bias) = (layer.panels().clone(), layer.bias().map(<[f32]>::to_vec));
                let bare = PanelFile::new(panels, None, bias).expect("no scales");
                assert_round_trip(&bare, &dir);
            }
        }
    }
}

#[test]
fn the_format_is_as_documented() {
    let matrix =
        TernaryMatrix::from_trits(view(&[1, 0, -1, 1, 0, -1], 2, 3), Scales::per_tensor(0.5));
    let layer = Linear::new(&matrix.expect("a matrix")).expect("a layer");
    let bytes = bytes(&PanelFile::from(
        &layer.with_bias(vec![1.0, 2.0]).expect("a bias"),
    ));
    let mut wanted = b"TRITPANL".to_vec();
    let u32s =
        |values: &[u32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let u64s =
        |values: &[u64]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    wanted.extend(u32s(&[1, 128]));
    wanted.extend(u64s(&[2, 3, 3]));
    wanted.extend(u32s(&[1, 1]));
    wanted.extend(u64s(&[128, 320, 1, 324, 2, 332]));
    let mut panels = vec![0; 192];
    panels[..2].copy_from_slice(&[0b01_00_10_00, 0b01_00_10_00]);
    let scales = 0.5f32.to_le_bytes();
    let bias = [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat();
    wanted.extend(u32s(&[crc32(&panels), crc32(&scales), crc32(&bias)]));
    wanted.extend([0; 16]);
    wanted.extend(u32s(&[crc32(&wanted)]));
    wanted.extend([panels.as_slice(), &scales, &bias].concat());
    assert_eq!(bytes, wanted);
}

#[test]
fn a_layer_comes_back_and_needs_scales() {
    let dir = Dir::new();
    let case = case(130, 300, 5, 64, true);
    let path = dir.join("layer.trit");
    case.layer.save(&path).expect("saved");
    let loaded = Linear::load(&path).expect("loaded");
    let x = tritgemm_testing::view(&case.x_f32, 5, 300);
    let ws = &mut workspace(Options::new());
    let mut y = vec![0.0; 5 * 130];
    loaded
        .forward_f32(x, tritgemm_testing::view_mut(&mut y, 5, 130), ws)
        .expect("fits");
    assert_eq!(tritgemm_testing::bits(&y), case.forward_f32(ws));

    let bare = PanelFile::new(case.layer.panels().clone(), None, None).expect("no scales");
    bare.save(&path).expect("saved");
    let error = Linear::load(&path).expect_err("no scales");
    assert!(matches!(error, PanelFileError::NoScales), "{error}");
    assert!(error.to_string().contains("scales"), "{error}");
}

/// Slices, of panels that lie anywhere, compute what the rows they are compute.
#[test]
fn slices_of_files_compute_the_same() {
    let dir = Dir::new();
    let (m, k, n) = (300, 500, 9);
    let case = case(m, k, n, 128, true);
    let path = dir.join("layer.trit");
    case.layer.save(&path).expect("saved");
    let written = bytes(&PanelFile::from(&case.layer));
    // One byte off any alignment, for as long as the process lives.
    let odd: &'static [u8] = Vec::leak([&[0], written.as_slice()].concat());
    let shared: Arc<[u8]> = written.clone().into();
    let files = [
        PanelFile::load(&path),
        PanelFile::from_bytes(written, Verify::Full),
        PanelFile::from_bytes(&odd[1..], Verify::Full),
        PanelFile::from_bytes(shared, Verify::Full),
    ];
    for file in files {
        slices(&case, &file.expect("read"), &dir);
    }
    mapped(&path, |file| slices(&case, file, &dir));
}

fn slices(case: &Case, file: &PanelFile, dir: &Dir) {
    let Shape { m, k, n, .. } = case.shape;
    let layer = Linear::try_from(file.clone()).expect("a layer");
    let x = tritgemm_testing::view(&case.x_f32, n, k);
    for backend in tritgemm_testing::backends() {
        let ws = &mut workspace(Options::new().backend(backend));
        let whole = case.forward_f32(ws);
        for (start, end) in [(0, 300), (0, 64), (64, 192), (256, 300), (128, 128)] {
            let slice = layer.slice_rows(start..end).expect("at panels");
            let rows = end - start;
            let mut y = vec![0.0; n * rows];
            slice
                .forward_f32(x, tritgemm_testing::view_mut(&mut y, n, rows), ws)
                .expect("fits");
            for (token, y) in y.chunks(rows.max(1)).enumerate() {
                let wanted = &whole[token * m + start..token * m + end];
                assert_eq!(
                    tritgemm_testing::bits(y),
                    wanted,
                    "{backend:?} {start}..{end}"
                );
            }
            assert_round_trip(&PanelFile::from(&slice), dir);
        }
    }
}

#[test]
fn panels_share_memory_with_the_bytes_given() {
    let shared: Arc<[u8]> = small().into();
    let file = PanelFile::from_bytes(shared.clone(), Verify::Full).expect("read");
    let panels: &Panels = file.panels();
    assert_eq!(panels.as_bytes().as_ptr(), shared[128..].as_ptr());
}

/// A rotation is kept, with and without signs, of no values as well.
#[test]
fn rotations_are_kept() {
    let [case, none] = [96, 0].map(|k| Case::new(Shape::new(70, k, 2)));
    let signs: Vec<i8> = (0..96).map(|i| if i % 5 < 2 { -1 } else { 1 }).collect();
    for (case, signs) in [
        (&case, None),
        (&case, Some(&signs[..])),
        (&none, None),
        (&none, Some(&[][..])),
    ] {
        let rotation = Rotation::new(32, signs).expect("a rotation");
        let layer = case
            .layer
            .clone()
            .with_rotation(rotation.clone())
            .expect("fits");
        let dir = Dir::new();
        let path = dir.join("rotated.panels");
        layer.save(&path).expect("written");
        let file = PanelFile::load(&path).expect("a file");
        assert_eq!(file.rotation(), Some(&rotation));
        let bytes = std::fs::read(&path).expect("written");
        let again = PanelFile::from_bytes(bytes.clone(), Verify::Full).expect("a file");
        let loaded = Linear::try_from(again).expect("scales");
        assert_eq!(loaded.rotation(), Some(&rotation));
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            PanelFile::from_bytes(bytes, Verify::Full).expect_err("damaged");
        }
    }
    let short = Rotation::new(64, None).expect("a rotation");
    let refused = PanelFile::from(&case.layer)
        .with_rotation(short)
        .expect_err("no whole blocks");
    assert!(refused.to_string().contains("96 columns"), "{refused}");
}
