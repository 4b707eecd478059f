//! The command line's reader of safetensors files on any bytes (the length of
//! the header is put right if the first byte is odd): an error, or tensors that
//! lie inside the file and matrices that survive being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use tritgemm::{Panels, TernaryMatrix};
use tritgemm_fuzz::cli_format::{Layout, Planned, Source};

fuzz_target!(|input: &[u8]| {
    let Some((&flags, file)) = input.split_first() else {
        return;
    };
    let mut file = file.to_vec();
    if flags & 1 == 1 {
        repair(&mut file);
    }
    let Ok(source) = Source::parse(&file) else {
        return;
    };
    let inside = file.as_ptr_range();
    for tensor in &source.tensors {
        let data = tensor.data.as_ptr_range();
        assert!(inside.start <= data.start && data.end <= inside.end);
        let bits = tensor
            .shape
            .iter()
            .try_fold(tensor.dtype.bitsize(), |bits, &n| bits.checked_mul(n));
        assert_eq!(
            bits.expect("in memory").div_ceil(8),
            tensor.data.len(),
            "{}",
            tensor.name
        );
    }
    for (name, info) in &source.packed {
        if let Ok(matrix) = source.matrix(name, info) {
            assert_eq!(info.shape, [matrix.rows(), matrix.cols()]);
            matrix_survives(&matrix);
        }
    }
    again(&source);
});

/// The length before the JSON becomes that up to the last `}`.
fn repair(file: &mut [u8]) {
    let end = file.iter().rposition(|&b| b == b'}').map_or(0, |at| at + 1);
    if let (Some(length), Some(json)) = (file.get_mut(..8), end.checked_sub(8)) {
        length.copy_from_slice(&(json as u64).to_le_bytes());
    }
}

fn matrix_survives(matrix: &TernaryMatrix) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    if matrix.packed().is_empty() {
        return;
    }
    let panels = Panels::pack(matrix).expect("a backend");
    assert_eq!(panels.to_packed(), matrix.packed());
    let scales = matrix.scales().clone();
    let again = TernaryMatrix::from_trits(&matrix.to_trits(), rows, cols, scales);
    assert_eq!(again.expect("trits"), *matrix);
}

/// The tensors laid out as a file of our own are the same tensors.
fn again(source: &Source<'_>) {
    let planned = |t: &tritgemm_fuzz::cli_format::Tensor<'_>| Planned {
        name: t.name.clone(),
        dtype: t.dtype,
        shape: t.shape.clone(),
    };
    let planned: Vec<Planned> = source.tensors.iter().map(planned).collect();
    let packed = source.ours.then_some(&source.packed);
    let Ok(layout) = Layout::new(planned, &source.metadata, packed) else {
        return;
    };
    let mut file = layout.header.clone();
    let len = usize::try_from(layout.len).expect("as long as the source");
    file.resize(len, 0);
    for tensor in &source.tensors {
        let at = layout.offsets[&tensor.name] as usize;
        file[at..][..tensor.data.len()].copy_from_slice(tensor.data);
    }
    let read = match Source::parse(&file) {
        Ok(read) => read,
        Err(error) => panic!("{error:#}: {}", String::from_utf8_lossy(&layout.header)),
    };
    let contents = |source: &Source<'_>| -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
        let entry = |t: &tritgemm_fuzz::cli_format::Tensor<'_>| {
            (
                t.name.clone(),
                (t.dtype.to_string(), t.shape.clone(), t.data.to_vec()),
            )
        };
        source.tensors.iter().map(entry).collect()
    };
    assert_eq!(contents(&read), contents(source));
    assert_eq!(read.metadata, source.metadata);
    assert_eq!(read.packed, source.packed);
}
