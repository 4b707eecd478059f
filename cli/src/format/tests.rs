//! Files of any bytes: an error, or tensors inside the file and matrices that survive
//! being written and read again.

use super::*;
use std::path::Path;
use tritgemm::{MatRef, Panels, TernaryMatrix};
use tritgemm_formats::model::Tensor;
use tritgemm_formats::{Model, OpenOptions, open_with};

/// A file as this module lays it out.
fn write(tensors: &[(Planned, &[u8])], metadata: &BTreeMap<String, String>) -> Option<Vec<u8>> {
    let planned = tensors.iter().map(|(planned, _)| planned.clone()).collect();
    let layout = Layout::new(planned, metadata).ok()?;
    let mut file = layout.header.clone();
    file.resize(layout.len.try_into().expect("as long as the source"), 0);
    for (planned, data) in tensors {
        let at = layout.offsets[&planned.name] as usize;
        file[at..][..data.len()].copy_from_slice(data);
    }
    Some(file)
}

/// Two packed matrices, one with 2:4 sparsity, and a tensor of floats.
fn small() -> Vec<u8> {
    let info = |granularity, sparsity: Option<&str>| PackedInfo {
        dtype: "F32".to_owned(),
        shape: [2, 5],
        granularity,
        sparsity: sparsity.map(str::to_owned),
        stack: None,
        rotation: None,
    };
    let packed = [
        ("a", info(Granularity::PerRow, None)),
        ("b", info(Granularity::PerTensor, Some("2:4"))),
    ];
    let packed = packed.map(|(name, info)| (name.to_owned(), info)).into();
    let mut metadata = own_keys(&packed).expect("JSON");
    metadata.insert("key".to_owned(), "value".to_owned());
    let planned = |name: &str, dtype, shape: &[usize]| Planned {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    };
    let scales: Vec<u8> = [1f32, 0.5].iter().flat_map(|s| s.to_le_bytes()).collect();
    let tensors = [
        (
            planned("a", Dtype::U8, &[2, 2]),
            &[0x61, 0x40, 0x99, 0x80][..],
        ),
        (planned("a.scales", Dtype::F32, &[2]), &scales),
        (planned("b", Dtype::U8, &[2, 2]), &[0x50, 0x40, 0x0a, 0x80]),
        (planned("b.scales", Dtype::F32, &[1]), &scales[..4]),
        (planned("c", Dtype::F16, &[3]), &[1, 2, 3, 4, 5, 6]),
    ];
    write(&tensors, &metadata).expect("no name twice")
}

fn open(path: &Path, file: &[u8]) -> Option<Model> {
    std::fs::write(path, file).expect("a file");
    let options = OpenOptions {
        tolerant: true,
        ..OpenOptions::default()
    };
    open_with(path, &options).ok()
}

/// Everything that a file holds, the parts of matrices as well.
fn contents(model: &Model) -> BTreeMap<String, (Planned, Vec<u8>)> {
    let parts = model.matrices().iter().flat_map(|m| &m.stored);
    let all = parts.chain(model.others());
    let entry = |t: &Tensor<'_>| {
        let planned = Planned {
            name: t.name.clone(),
            dtype: t.dtype.expect("of a safetensors file"),
            shape: t.shape.clone(),
        };
        (t.name.clone(), (planned, t.bytes().to_vec()))
    };
    all.map(entry).collect()
}

/// How many matrices of ours the file has, if it is one.
fn check(file: &[u8]) -> Option<usize> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f.safetensors");
    let model = open(&path, file)?;
    let all = contents(&model);
    for (planned, data) in all.values() {
        assert_eq!(
            byte_len(planned.dtype, &planned.shape),
            Some(data.len() as u64)
        );
    }
    let mut matrices = 0;
    let mut packed = BTreeMap::new();
    for m in model.matrices().iter().filter(|m| !m.is_hf()) {
        let info = m.info.clone().expect("listed");
        packed.insert(m.name.clone(), info.clone());
        let Ok(matrix) = m.read() else {
            continue;
        };
        matrices += 1;
        assert_eq!(info.shape, [matrix.rows(), matrix.cols()]);
        let panels = Panels::pack(&matrix).expect("a backend");
        assert_eq!(panels.to_packed(), matrix.packed());
        let trits = matrix.to_trits().expect("a backend");
        let trits = MatRef::new(&trits, matrix.rows(), matrix.cols()).expect("dense");
        let again = TernaryMatrix::from_trits(trits, matrix.scales().clone());
        assert_eq!(again.expect("trits"), matrix);
    }
    let mut metadata = model.metadata().clone();
    metadata.extend(own_keys(&packed).expect("JSON"));
    let tensors: Vec<(Planned, &[u8])> = all
        .values()
        .map(|(planned, data)| (planned.clone(), &data[..]))
        .collect();
    if let Some(again) = write(&tensors, &metadata) {
        let again = open(&dir.path().join("again.safetensors"), &again);
        let again = again.expect("what was written is read");
        let plain = |model: &Model| -> Vec<(String, String, Vec<u8>)> {
            let all = contents(model).into_values();
            all.map(|(p, data)| (p.name, format!("{} {:?}", p.dtype, p.shape), data))
                .collect()
        };
        assert_eq!(plain(&again), plain(&model));
        assert_eq!(again.metadata(), model.metadata());
    }
    Some(matrices)
}

#[test]
fn every_changed_byte_is_read_or_refused() {
    let file = small();
    assert_eq!(check(&file), Some(2));
    let (mut read, mut refused) = (0, 0);
    for at in 0..file.len() {
        for change in [1, 4, 16, 64, 255] {
            let mut file = file.clone();
            file[at] ^= change;
            match check(&file) {
                Some(_) => read += 1,
                None => refused += 1,
            }
        }
    }
    assert!(
        read > 100 && refused > 100,
        "{read} read, {refused} refused"
    );
}

#[test]
fn every_truncation_is_refused() {
    let file = small();
    for len in 0..file.len() {
        assert_eq!(check(&file[..len]), None, "{len} bytes");
    }
}

/// Digits and brackets of the header in each other's place, so that shapes, offsets
/// and the structure lie.
#[test]
fn headers_that_lie_are_read_or_refused() {
    let file = small();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let mut read = 0;
    for at in 8..header {
        for byte in *b"0123456789{}[]\",: " {
            let mut file = file.clone();
            file[at] = byte;
            read += usize::from(check(&file).is_some());
        }
    }
    assert!(read > 100, "only {read} were files");
}
