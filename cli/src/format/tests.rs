//! Files of any bytes: an error, or tensors inside the file and matrices that survive
//! being written and read again.

use super::*;
use tritgemm::{MatRef, Panels};

/// A file as this module lays it out.
fn write(tensors: &[(Planned, &[u8])], source: &Source<'_>) -> Option<Vec<u8>> {
    let planned = tensors.iter().map(|(planned, _)| planned.clone()).collect();
    let packed = source.ours.then_some(&source.packed);
    let layout = Layout::new(planned, &source.metadata, packed).ok()?;
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
    };
    let packed = [
        ("a", info(Grain::Row, None)),
        ("b", info(Grain::Tensor, Some("2:4"))),
    ];
    let source = Source {
        tensors: Vec::new(),
        metadata: [("key".to_owned(), "value".to_owned())].into(),
        packed: packed.map(|(name, info)| (name.to_owned(), info)).into(),
        ours: true,
    };
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
    write(&tensors, &source).expect("no name twice")
}

/// How many matrices the file has, if it is one.
fn check(file: &[u8]) -> Option<usize> {
    let source = Source::parse(file).ok()?;
    let inside = file.as_ptr_range();
    let mut tensors = Vec::new();
    for tensor in &source.tensors {
        let data = tensor.data.as_ptr_range();
        assert!(inside.start <= data.start && data.end <= inside.end);
        assert_eq!(
            byte_len(tensor.dtype, &tensor.shape),
            Some(tensor.data.len() as u64)
        );
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        let dtype = tensor.dtype;
        tensors.push((Planned { name, dtype, shape }, tensor.data));
    }
    let mut matrices = 0;
    for (name, info) in &source.packed {
        let Ok(matrix) = source.matrix(name, info) else {
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
    if let Some(again) = write(&tensors, &source) {
        let again = Source::parse(&again).expect("what was written is read");
        let contents = |source: &Source<'_>| -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
            let entry = |t: &Tensor<'_>| (t.dtype.to_string(), t.shape.clone(), t.data.to_vec());
            source
                .tensors
                .iter()
                .map(|t| (t.name.clone(), entry(t)))
                .collect()
        };
        assert_eq!(contents(&again), contents(&source));
        assert_eq!(
            (&again.metadata, &again.packed),
            (&source.metadata, &source.packed)
        );
    }
    Some(matrices)
}

#[test]
fn every_changed_byte_is_read_or_refused() {
    let file = small();
    assert_eq!(check(&file), Some(2));
    let (mut read, mut refused) = (0, 0);
    for at in 0..file.len() {
        for change in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
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
