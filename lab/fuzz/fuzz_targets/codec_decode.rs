//! Decoding of any bytes, strict and lenient, on every kernel: the values and
//! errors of the definition, also after an error, and an error for any lengths
//! that do not fit.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tritgemm::codec::{CodecError, Mode, row_bytes};
use tritgemm::{Backend, MatMut, MatRef};
use tritgemm_fuzz::codec::{CANARY, Guarded, ModeChoice, Size, decode, scaled};
use tritgemm_fuzz::fill::{Fill, Style};
use tritgemm_testing::{backends, bits, view, view_mut};

#[derive(Arbitrary, Debug)]
enum Input {
    /// Bytes of the right length.
    Fitting(Size, Fill, ModeChoice, (Fill, Style)),
    /// Bytes of any length with any shape, and trits of any other.
    Any([usize; 2], Vec<u8>, [u8; 2], u8, ModeChoice),
}

fuzz_target!(|input: Input| match input {
    Input::Fitting(size, bytes, mode, (scales, style)) => {
        let packed = bytes.bytes(size.rows * size.cols.div_ceil(4));
        fitting(size, &packed, mode.into(), &scales.floats(size.rows, style));
    }
    Input::Any(shape, packed, trits, scales, mode) => {
        let [rows, cols] = trits.map(usize::from);
        let (trits, scales) = (vec![CANARY as i8; rows * cols], vec![1.0; scales.into()]);
        any(shape, &packed, trits, [rows, cols], &scales, mode.into());
    }
});

fn fitting(size: Size, packed: &[u8], mode: Mode, scales: &[f32]) {
    let Size { rows, cols } = size;
    let (want, result) = decode(packed, size, mode);
    let canary = f32::from_bits(CANARY.into());
    for backend in backends() {
        let what = format!("{rows} x {cols}, {mode:?}, {backend:?}");
        let mut trits = Guarded::new(want.len(), CANARY as i8);
        let from = view(packed, rows, row_bytes(cols));
        let got = backend.decode(from, view_mut(trits.inside(), rows, cols), mode);
        let trits = trits.take(&what);
        assert_eq!(got, result, "{what}");
        assert_eq!(trits, want, "{what}");

        let mut floats = Guarded::new(want.len(), canary);
        let to = view_mut(floats.inside(), rows, cols);
        let got = backend.decode_f32(from, to, scales, mode);
        assert_eq!(got, result, "{what}");
        let floats = bits(&floats.take(&what));
        assert_eq!(floats, scaled(&want, size, scales), "{what}");

        if mode == Mode::Strict && result.is_ok() {
            let mut again = vec![CANARY; packed.len()];
            let to = view_mut(&mut again, rows, row_bytes(cols));
            backend
                .encode(view(&trits, rows, cols), to, mode)
                .expect("trits");
            assert_eq!(again, packed, "{what}");
        }
    }
}

/// Lengths that no view has are an error of the view. Of views, every combination of
/// shapes but the right one is an error that says so, and nothing is written then.
fn any(
    shape: [usize; 2],
    packed: &[u8],
    mut trits: Vec<i8>,
    [rows, cols]: [usize; 2],
    scales: &[f32],
    mode: Mode,
) {
    let Ok(from) = MatRef::new(packed, shape[0], shape[1]) else {
        let needed = (shape[0] as u128) * (shape[1] as u128);
        assert!(needed > packed.len() as u128);
        return;
    };
    if MatMut::new(&mut trits, rows, cols).is_err() {
        let needed = (rows as u128) * (cols as u128);
        assert!(needed > trits.len() as u128);
        return;
    }
    let shapes = shape == [rows, row_bytes(cols)];
    for backend in backends() {
        let got = backend.decode(from, view_mut(&mut trits, rows, cols), mode);
        check(&got, shapes, true);
        let mut floats = vec![0.5; trits.len()];
        let to = view_mut(&mut floats, rows, cols);
        let got = backend.decode_f32(from, to, scales, mode);
        check(&got, shapes, scales.len() == rows);
    }
    if !shapes {
        assert!(trits.iter().all(|&t| t == CANARY as i8));
        let packed = &mut packed.to_vec();
        let to = view_mut(packed, shape[0], shape[1]);
        let got = Backend::scalar().encode(view(&trits, rows, cols), to, mode);
        check(&got, false, true);
    }
}

fn check(got: &Result<(), CodecError>, shapes: bool, scales: bool) {
    match got {
        Err(CodecError::Shape { .. }) => assert!(!shapes, "{got:?}"),
        Err(CodecError::Length { .. }) => assert!(!scales, "{got:?}"),
        _ => assert!(shapes && scales, "{got:?}"),
    }
}
