//! Panels from any shape and bytes: an error or a layout that is right byte for
//! byte, and slices and packed rows that agree with it.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tritgemm::codec::row_bytes;
use tritgemm::{
    MAX_COLS, MatRef, MatrixError, Options, Panels, Scales, TernaryMatrix, Threads, Workspace,
};
use tritgemm_fuzz::codec::{Size, decode};
use tritgemm_fuzz::fill::Fill;
use tritgemm_testing::{backends, view};

#[derive(Arbitrary, Debug)]
enum Input {
    /// Legal bytes of the right length.
    Legal(Size, Fill, [u16; 2]),
    /// Any bytes of the right length.
    Fitting(Size, Fill, [u16; 2]),
    /// Any bytes, any shape.
    Any([usize; 2], Vec<u8>),
}

fuzz_target!(|input: Input| match input {
    Input::Legal(size, fill, cut) => {
        let trits = fill.trits(size.rows * size.cols);
        let scales = Scales::per_tensor(1.0);
        let trits = view(&trits, size.rows, size.cols);
        let matrix = TernaryMatrix::from_trits(trits, scales);
        let matrix = matrix.expect("trits");
        for backend in backends() {
            let options = Options::new().backend(backend).threads(Threads::Rayon);
            let ws = Workspace::with_options(options);
            let panels = Panels::pack_on(&matrix, &ws).expect("memory");
            check(&panels, size, matrix.packed());
            slice(&panels, matrix.packed(), cut);
        }
        let packed = view(matrix.packed(), size.rows, row_bytes(size.cols));
        let panels = Panels::from_packed(packed, size.cols);
        check(&panels.expect("legal"), size, matrix.packed());
    }
    Input::Fitting(size, fill, cut) => {
        let packed = fill.bytes(size.rows * size.cols.div_ceil(4));
        let (_, legal) = decode(&packed, size, tritgemm::codec::Mode::Strict);
        let rows = view(&packed, size.rows, row_bytes(size.cols));
        match (Panels::from_packed(rows, size.cols), legal) {
            (Ok(panels), Ok(())) => {
                check(&panels, size, &packed);
                slice(&panels, &packed, cut);
            }
            (Err(MatrixError::Codec(got)), Err(want)) => assert_eq!(got, want),
            (got, want) => panic!("{got:?}, expected {want:?}"),
        }
    }
    Input::Any([rows, cols], packed) => any(rows, cols, packed),
});

/// `panel[p][strip][r]` is byte `strip` of row `64 p + r`, or zero.
fn check(panels: &Panels, size: Size, packed: &[u8]) {
    let row_bytes = size.cols.div_ceil(4);
    let depth = row_bytes.next_multiple_of(3);
    assert_eq!([panels.rows(), panels.cols()], [size.rows, size.cols]);
    let bytes = panels.as_bytes();
    assert_eq!(bytes.len(), size.rows.div_ceil(64) * depth * 64);
    for (at, &byte) in bytes.iter().enumerate() {
        let (panel, strip, r) = (at / 64 / depth, at / 64 % depth, at % 64);
        let row = 64 * panel + r;
        let inside = row < size.rows && strip < row_bytes;
        let want = if inside {
            packed[row * row_bytes + strip]
        } else {
            0
        };
        assert_eq!(
            byte, want,
            "panel {panel}, strip {strip}, row {r}: {size:?}"
        );
    }
    assert_eq!(panels.to_packed(), packed, "{size:?}");
}

fn slice(panels: &Panels, packed: &[u8], cut: [u16; 2]) {
    let rows = panels.rows();
    let [start, end] = cut.map(|at| usize::from(at) % (rows + 130));
    let edge = |at: usize| at.is_multiple_of(64) || at == rows;
    match panels.slice_rows(start..end) {
        Ok(part) => {
            assert!(start <= end && end <= rows && edge(start) && edge(end));
            let row_bytes = panels.cols().div_ceil(4);
            assert_eq!(part.to_packed(), packed[start * row_bytes..end * row_bytes]);
            // A slice of a slice is a slice.
            let again = part.slice_rows(0..part.rows()).expect("all of it");
            assert_eq!(again.as_bytes(), part.as_bytes());
        }
        Err(MatrixError::Unaligned { row }) => {
            assert!(start <= end && end <= rows && !edge(row));
        }
        Err(MatrixError::OutOfRange { .. }) => assert!(start > end || end > rows),
        Err(error) => panic!("{error:?}"),
    }
}

/// Sizes that the bytes do not vouch for are an error, and take no memory.
fn any(rows: usize, cols: usize, packed: Vec<u8>) {
    let bytes = (rows as u128) * (cols.div_ceil(4) as u128);
    let got = MatRef::new(&packed, rows, cols.div_ceil(4))
        .map(|packed| Panels::from_packed(packed, cols));
    match &got {
        Ok(Ok(panels)) => assert_eq!(panels.to_packed(), packed[..bytes as usize]),
        Ok(Err(MatrixError::TooManyColumns { .. })) => assert!(cols > MAX_COLS),
        Ok(Err(_)) => {}
        Err(_) => assert!(bytes > packed.len() as u128),
    }
    let fits = packed.len() as u128 == bytes;
    let scales = Scales::per_tensor(1.0);
    let matrix = TernaryMatrix::from_packed(packed, rows, cols, scales);
    match (got, matrix) {
        (Ok(Ok(_)), Ok(_)) => assert!(fits),
        (Ok(Ok(_)), Err(error)) => assert!(!fits, "{error:?}"),
        (Ok(Err(got)), Err(want)) => assert!(got == want || !fits, "{got:?} and {want:?}"),
        (Err(_), Err(_)) => {}
        (got, want) => panic!("{got:?} and {want:?}"),
    }
}
