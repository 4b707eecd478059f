//! Panel files of models. Of any bytes, as they are or with right checksums (first byte: see
//! below): an error, or matrices that are written back byte for byte and whose rows are what
//! their panels say. Or of drawn layers: what is written is read.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use std::collections::HashSet;
use std::io::Cursor;
use tritgemm::{Linear, ModelFile, ModelWriter, PanelFile, PanelFileError, Rotation, Verify};
use tritgemm_fuzz::draw::Draw;
use tritgemm_fuzz::fill::Fill;
use tritgemm_fuzz::panel_file::repair_model;
use tritgemm_testing::bits;

/// Bits of the first byte: draw layers; repair the checksums; first put lengths right; go
/// through the file system too.
const DRAW: u8 = 1;
const REPAIR: u8 = 2;
const DERIVE: u8 = 4;
const LOAD: u8 = 0x38;

/// Longest row that is unpacked, and most rows.
const MAX_ROW: usize = 1 << 12;
const MAX_ROWS: usize = 200;

fuzz_target!(|input: &[u8]| {
    let Some((&flags, bytes)) = input.split_first() else {
        return;
    };
    if flags & DRAW != 0 {
        // Too short: nothing is drawn.
        let _ = written_is_read(&mut Unstructured::new(bytes));
        return;
    }
    let mut file = bytes.to_vec();
    if flags & REPAIR != 0 {
        repair_model(&mut file, flags & DERIVE != 0);
    }
    let full = ModelFile::from_bytes(file.clone(), Verify::Full);
    let header = ModelFile::from_bytes(file.clone(), Verify::Header);
    if flags & LOAD == LOAD {
        load(&file, &full);
    }
    match (full, header) {
        (Ok(full), Ok(header)) => read(&file, &full, &header),
        (Err(full), Err(header)) => assert_eq!(full.to_string(), header.to_string()),
        (full, header) => panic!("checked in full {full:?}, the header alone {header:?}"),
    }
});

/// What a file is in memory it is on the disk.
fn load(file: &[u8], want: &std::result::Result<ModelFile, PanelFileError>) {
    let path = std::env::temp_dir().join(format!("tritgemm-fuzz-model-{}", std::process::id()));
    std::fs::write(&path, file).expect("a temporary file");
    let got = ModelFile::load(&path);
    std::fs::remove_file(&path).expect("removed");
    match (got, want) {
        (Ok(got), Ok(want)) => assert!(got.names().eq(want.names())),
        (Err(got), Err(want)) => assert_eq!(got.to_string(), want.to_string()),
        (got, want) => panic!("{got:?}, in memory {want:?}"),
    }
}

/// Takes every matrix. Those that are whole make the same file again.
fn read(file: &[u8], full: &ModelFile, header: &ModelFile) {
    let names: Vec<&str> = full.names().collect();
    assert!(header.names().eq(names.iter().copied()));
    let distinct: HashSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    let none = names.concat() + "no";
    let missing = full.get(&none).expect_err("no such matrix");
    assert!(matches!(missing, PanelFileError::NoMatrix { name } if name == none));

    let mut writer = ModelWriter::new(Cursor::new(Vec::new())).expect("to memory");
    let mut whole = true;
    for name in &names {
        match (full.get(name), header.get(name)) {
            (Ok(matrix), Ok(unchecked)) => {
                assert_eq!(matrix.panels().as_bytes(), unchecked.panels().as_bytes());
                rows(&matrix);
                writer.add(name, &matrix).expect("to memory");
            }
            (Err(PanelFileError::Checksum { section, .. }), Ok(unchecked)) => {
                assert_eq!(section, "panels");
                rows(&unchecked);
                whole = false;
            }
            (Err(_), Err(_)) => whole = false,
            (full, header) => panic!("`{name}` in full {full:?}, the header alone {header:?}"),
        }
        let linear = full.linear(name);
        let has_scales = full.get(name).is_ok_and(|matrix| matrix.scales().is_some());
        assert_eq!(linear.is_ok(), has_scales, "{linear:?}");
    }
    if whole {
        let mut again = writer.finish().expect("to memory").into_inner();
        if file[8] == 1 {
            again.clear();
            let matrix = full.get("").expect("whole");
            matrix.write_to(&mut again).expect("to memory");
        }
        assert!(again == file, "written back");
    }
}

/// Rows that there are, and none that there are not.
fn rows(matrix: &PanelFile) {
    let panels = matrix.panels();
    let (m, k) = (panels.rows(), panels.cols());
    if k > MAX_ROW {
        return;
    }
    let (mut trits, mut values) = (vec![5; k], vec![f32::NAN; k]);
    let linear = matrix
        .scales()
        .is_some()
        .then(|| Linear::try_from(matrix.clone()));
    let linear = linear.transpose().expect("scales");
    for row in (0..m).take(MAX_ROWS).chain(m.checked_sub(1)) {
        panels.unpack_row(row, &mut trits).expect("a row");
        assert!(trits.iter().all(|trit| matches!(trit, -1..=1)));
        let Some(linear) = &linear else { continue };
        linear.unpack_row(row, &mut values).expect("a row");
        for (&trit, value) in trits.iter().zip(&values) {
            assert!(value.is_finite() && (trit != 0 || *value == 0.0));
        }
        if let Some(rotation) = linear.rotation() {
            rotation.invert(&mut values).expect("whole blocks");
        }
    }
    for row in [m, usize::MAX] {
        panels.unpack_row(row, &mut trits).expect_err("no such row");
    }
    trits.push(0);
    panels.unpack_row(0, &mut trits).expect_err("too long");
}

/// A layer that is drawn.
#[derive(Arbitrary, Debug)]
struct Entry {
    name: String,
    draw: Draw,
    /// The logarithm of a rotated block, and signs.
    rotation: Option<(u8, Option<Fill>)>,
}

impl Entry {
    fn layer(&self) -> Linear {
        let layer = self.draw.i8(&Fill::Repeat(Vec::new())).layer;
        let Some((log, signs_of)) = &self.rotation else {
            return layer;
        };
        let k = layer.in_features();
        let sign = |trit: i8| if trit < 0 { -1 } else { 1 };
        let signs = |fill: &Fill| fill.trits(k).into_iter().map(sign).collect::<Vec<_>>();
        let signs = signs_of.as_ref().map(signs);
        let rotation = Rotation::new(1 << (log % 8), signs.as_deref());
        match rotation.and_then(|rotation| layer.clone().with_rotation(rotation)) {
            Ok(rotated) => rotated,
            // K is no whole blocks.
            Err(_) => layer,
        }
    }
}

/// Layers with their names, into memory that may be too small.
fn written_is_read(u: &mut Unstructured<'_>) -> Result<()> {
    let entries = Vec::<Entry>::arbitrary(u)?;
    let entries = &entries[..entries.len().min(4)];
    let layers: Vec<Linear> = entries.iter().map(Entry::layer).collect();
    let mut writer = ModelWriter::new(Cursor::new(Vec::new())).expect("to memory");
    let mut kept: Vec<(&str, &Linear)> = Vec::new();
    for (Entry { name, .. }, layer) in entries.iter().zip(&layers) {
        let twice = kept.iter().any(|(other, _)| other == name);
        match writer.add(name, layer) {
            Ok(()) if !twice => kept.push((name, layer)),
            Err(PanelFileError::NameTwice { name: it }) if twice => assert_eq!(it, *name),
            result => panic!("`{name}`, twice: {twice}, {result:?}"),
        }
    }
    let file = writer.finish().expect("to memory").into_inner();
    let model = ModelFile::from_bytes(file.clone(), Verify::Full).expect("a model");
    assert!(model.names().eq(kept.iter().map(|(name, _)| *name)));
    for (name, layer) in &kept {
        let read = model.linear(name).expect("a layer");
        assert_eq!(read.panels().as_bytes(), layer.panels().as_bytes());
        assert_eq!(read.scales(), layer.scales());
        assert_eq!(read.bias().map(bits), layer.bias().map(bits));
        assert_eq!(read.rotation(), layer.rotation());
    }
    // Where there is less room, no file is made.
    let mut room = vec![0; u.int_in_range(0..=file.len())?];
    let done = ModelWriter::new(Cursor::new(&mut room[..])).is_ok_and(|mut writer| {
        let add = |(name, layer): &(&str, &Linear)| writer.add(name, *layer).is_ok();
        kept.iter().all(add) && writer.finish().is_ok()
    });
    assert_eq!(done, room.len() == file.len());
    assert!(room.len() < file.len() || room == file);
    Ok(())
}
