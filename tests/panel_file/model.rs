//! Files of a whole model.

use crate::Dir;
use std::io::Cursor;
use tritgemm::{Linear, ModelFile, ModelWriter, PanelFile, PanelFileError, Rotation, Verify};
use tritgemm_testing::bits;
use tritgemm_testing::case::{Case, GRANULARITIES, Shape};

fn layers() -> Vec<(String, Linear)> {
    let shapes = [(130, 77), (1, 1), (64, 300), (3, 0), (0, 5), (200, 130)];
    let cases = shapes
        .into_iter()
        .zip(GRANULARITIES)
        .map(|((m, k), granularity)| {
            let shape = Shape {
                granularity,
                bias: m % 2 == 0,
                ..Shape::new(m, k, 1)
            };
            let mut layer = Case::new(shape).layer;
            if k == 300 {
                let rotation = Rotation::new(4, Some(&[-1; 300])).expect("a rotation");
                layer = layer.with_rotation(rotation).expect("whole blocks");
            }
            (format!("blk.{m}.größe"), layer)
        });
    cases.collect()
}

fn written(layers: &[(String, Linear)]) -> Vec<u8> {
    let mut writer = ModelWriter::new(Cursor::new(Vec::new())).expect("memory");
    for (name, layer) in layers {
        writer.add(name, layer).expect("memory");
    }
    writer.finish().expect("memory").into_inner()
}

fn assert_same(a: &Linear, b: &Linear) {
    assert_eq!(a.panels().as_bytes(), b.panels().as_bytes());
    assert_eq!(
        [a.in_features(), a.out_features()],
        [b.in_features(), b.out_features()]
    );
    assert_eq!(a.scales(), b.scales());
    assert_eq!(a.rotation(), b.rotation());
    assert_eq!(a.bias().map(bits), b.bias().map(bits));
}

/// Everything comes back, from memory, from a file and from a mapped one.
#[test]
fn what_was_written_is_read() {
    let layers = layers();
    let dir = Dir::new();
    let path = dir.join("model.panels");
    let files: Vec<PanelFile> = layers.iter().map(|(_, layer)| layer.into()).collect();
    let named = layers.iter().map(|(name, _)| name.as_str()).zip(&files);
    ModelFile::save(&path, named).expect("written");
    let bytes = written(&layers);
    assert_eq!(std::fs::read(&path).expect("a file"), bytes);
    for verify in [Verify::Full, Verify::Header] {
        let mut models = vec![
            ModelFile::from_bytes(bytes.clone(), verify).expect("a model"),
            ModelFile::load(&path).expect("a model"),
        ];
        #[cfg(feature = "mmap")]
        // SAFETY: nobody changes the file.
        models.push(unsafe { ModelFile::map(&path, verify) }.expect("a model"));
        for model in models.drain(..) {
            assert!(model.names().eq(layers.iter().map(|(name, _)| name)));
            for (name, layer) in &layers {
                assert_same(&model.linear(name).expect("a layer"), layer);
                let header = model.header(name).expect("a header");
                assert_eq!(
                    [header.cols, header.rows],
                    [layer.in_features(), layer.out_features()]
                );
                assert_eq!(header.granularity, Some(layer.granularity()));
                assert_eq!(header.has_bias, layer.bias().is_some());
                assert_eq!(header.is_rotated, layer.rotation().is_some());
                assert_eq!(header.panel_bytes, layer.panels().as_bytes().len());
            }
            let shard = model.linear(&layers[0].0).expect("a layer");
            let shard = shard.slice_rows(64..130).expect("at a panel");
            assert_same(
                &shard,
                &layers[0].1.slice_rows(64..130).expect("at a panel"),
            );
            let none = model.get("blk").expect_err("no such");
            assert_eq!(none.to_string(), "the panel file has no matrix `blk`");
            model.header("blk").expect_err("no such");
        }
    }
    // No matrix, and a file of one.
    let none = ModelFile::from_bytes(written(&[]), Verify::Full).expect("a model");
    assert_eq!(none.names().len(), 0);
    let mut one = Vec::new();
    files[0].write_to(&mut one).expect("memory");
    let one = ModelFile::from_bytes(one, Verify::Full).expect("a model");
    assert!(one.names().eq([""]));
    assert_same(&one.linear("").expect("a layer"), &layers[0].1);
    let model = PanelFile::from_bytes(bytes, Verify::Full).expect_err("many");
    assert!(model.to_string().contains("of a model"), "{model}");
}

/// A change of any byte is an error when the file is opened or its matrix is taken.
#[test]
fn every_damaged_byte_is_found() {
    let layers = layers();
    let whole = written(&layers);
    for at in 0..whole.len() {
        for change in [1, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            let found = match ModelFile::from_bytes(bytes, Verify::Full) {
                Err(_) => true,
                Ok(model) => layers.iter().any(|(name, _)| model.get(name).is_err()),
            };
            assert!(found, "byte {at} of {}", whole.len());
        }
    }
    for len in 0..whole.len() {
        ModelFile::from_bytes(whole[..len].to_vec(), Verify::Full).expect_err("cut");
    }
    let longer = [&whole[..], &[0]].concat();
    ModelFile::from_bytes(longer, Verify::Full).expect_err("longer");
}

/// Indexes that lie, with checksums that fit.
#[test]
fn indexes_that_lie_are_errors() {
    let layers = &layers()[..2];
    let whole = written(layers);
    let at = u64::from_le_bytes(whole[24..32].try_into().expect("8 bytes")) as usize;
    let lie = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let len = (bytes.len() - at) as u64;
        bytes[32..40].copy_from_slice(&len.to_le_bytes());
        let file_len = bytes.len() as u64;
        bytes[40..48].copy_from_slice(&file_len.to_le_bytes());
        let crc = crc32fast::hash(&bytes[at..]);
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        ModelFile::from_bytes(bytes, Verify::Full)
            .expect_err("a lie")
            .to_string()
    };
    let name_len = layers[0].0.len();
    let place = at + 4 + name_len;
    let second = place + 16;
    let again = whole[at..place].to_vec();
    type Lie<'a> = (&'a dyn Fn(&mut Vec<u8>), &'a str);
    let cases: [Lie<'_>; 12] = [
        (
            &|b| b.truncate(b.len() - 1),
            "entry 1 of the index: it is cut",
        ),
        (&|b| b[at] = 255, "it is cut"),
        (&|b| b[at + 4] = 0xff, "not UTF-8"),
        (&|b| b[place] = 0, "next multiple of 64"),
        (&|b| b[place + 8..place + 16].fill(0xff), "before the index"),
        (&|b| b[place + 8..place + 16].fill(0), "before the index"),
        (&|b| b[place + 8] -= 1, "not zeros"),
        (&|b| b.truncate(second), "offset of the index"),
        (&|b| b[16] = 3, "number of matrices"),
        (&|b| b[52] = 1, "header byte"),
        (&|b| b[8] = 3, "version 3, supported is 2"),
        (
            &|b| drop(b.splice(second..second + 4 + layers[1].0.len(), again.clone())),
            "entry 1 of the index: another has its name",
        ),
    ];
    for (change, text) in cases {
        let got = lie(change);
        assert!(got.contains(text), "`{got}` lacks `{text}`");
    }
}

/// What cannot be written has the name of the matrix, or of the file.
#[test]
fn a_matrix_that_cannot_be_written_is_named() {
    let layers = layers();
    let mut room = [0; 1 << 10];
    let mut writer = ModelWriter::new(Cursor::new(&mut room[..])).expect("room");
    writer.add("small", &layers[1].1).expect("room");
    let error = writer.add("large", &layers[0].1).expect_err("no room");
    assert!(matches!(&error, PanelFileError::Write { name, .. } if name == "large"));
    assert!(error.to_string().starts_with("matrix `large`: "), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    writer.finish().expect_err("a matrix is written in part");
    let dir = Dir::new();
    let nowhere = dir.join("none/model.panels");
    let error = ModelFile::save(&nowhere, [("a", &layers[0].1)]).expect_err("nowhere");
    assert!(matches!(&error, PanelFileError::Io { path, .. } if *path == nowhere));
}

/// Two matrices of one name are refused, and leave nothing behind.
#[test]
fn names_are_unique() {
    let (_, layer) = &layers()[0];
    let file = PanelFile::from(layer);
    let dir = Dir::new();
    let path = dir.join("model.panels");
    let twice = ModelFile::save(&path, [("a", &file), ("b", &file), ("a", &file)]);
    assert!(matches!(twice, Err(PanelFileError::NameTwice { name }) if name == "a"));
    assert!(dir.names().is_empty());
}
