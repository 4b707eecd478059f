//! Decoding of any bytes, strict and lenient, on every kernel: the values and
//! errors of the definition, also after an error, and an error for any lengths
//! that do not fit.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tritgemm::Backend;
use tritgemm::codec::{self, CodecError, Mode};
use tritgemm_fuzz::codec::{CANARY, Guarded, ModeChoice, Size, decode, scaled};
use tritgemm_fuzz::common::{backends, bits};
use tritgemm_fuzz::fill::{Fill, Style};

#[derive(Arbitrary, Debug)]
enum Input {
    /// Bytes of the right length.
    Fitting(Size, Fill, ModeChoice, (Fill, Style)),
    /// Bytes of any length with any shape.
    Any([usize; 2], Vec<u8>, u8, u8, ModeChoice),
}

fuzz_target!(|input: Input| match input {
    Input::Fitting(size, bytes, mode, (scales, style)) => {
        let packed = bytes.bytes(size.rows * size.cols.div_ceil(4));
        fitting(size, &packed, mode.into(), &scales.floats(size.rows, style));
    }
    Input::Any(shape, packed, trits, scales, mode) => {
        let trits = vec![CANARY as i8; trits.into()];
        any(
            shape,
            &packed,
            trits,
            &vec![1.0; scales.into()],
            mode.into(),
        );
    }
});

fn fitting(size: Size, packed: &[u8], mode: Mode, scales: &[f32]) {
    let Size { rows, cols } = size;
    let (want, result) = decode(packed, size, mode);
    let canary = f32::from_bits(CANARY.into());
    for backend in backends() {
        let what = format!("{rows} x {cols}, {mode:?}, {backend:?}");
        let mut trits = Guarded::new(want.len(), CANARY as i8);
        let got = codec::decode_with(backend, packed, rows, cols, trits.inside(), mode);
        let trits = trits.take(&what);
        assert_eq!(got, result, "{what}");
        assert_eq!(trits, want, "{what}");

        let mut floats = Guarded::new(want.len(), canary);
        let out = floats.inside();
        let got = codec::decode_f32_with(backend, packed, rows, cols, scales, out, mode);
        assert_eq!(got, result, "{what}");
        let floats = bits(&floats.take(&what));
        assert_eq!(floats, scaled(&want, size, scales), "{what}");

        if mode == Mode::Strict && result.is_ok() {
            let mut again = vec![CANARY; packed.len()];
            codec::encode_with(backend, &trits, rows, cols, &mut again, mode).expect("trits");
            assert_eq!(again, packed, "{what}");
        }
    }
}

/// Every combination of lengths but the right one is an error that says so, and
/// nothing is written then.
fn any([rows, cols]: [usize; 2], packed: &[u8], mut trits: Vec<i8>, scales: &[f32], mode: Mode) {
    let weights = (rows as u128) * (cols as u128);
    let bytes = (rows as u128) * (cols.div_ceil(4) as u128);
    let lengths = packed.len() as u128 == bytes && trits.len() as u128 == weights;
    let too_large = weights.max(bytes) > usize::MAX as u128;
    for backend in backends() {
        let got = codec::decode_with(backend, packed, rows, cols, &mut trits, mode);
        check(&got, lengths, too_large);
        let mut floats = vec![0.5; trits.len()];
        let got = codec::decode_f32_with(backend, packed, rows, cols, scales, &mut floats, mode);
        check(&got, lengths && scales.len() == rows, too_large);
    }
    if !lengths {
        assert!(trits.iter().all(|&t| t == CANARY as i8));
        let packed = &mut packed.to_vec();
        let got = codec::encode_with(Backend::scalar(), &trits, rows, cols, packed, mode);
        check(&got, false, too_large);
    }
}

fn check(got: &Result<(), CodecError>, lengths: bool, too_large: bool) {
    match got {
        Err(CodecError::TooLarge { .. }) => assert!(too_large, "{got:?}"),
        Err(CodecError::Length { .. }) => assert!(!lengths && !too_large, "{got:?}"),
        _ => assert!(lengths && !too_large, "{got:?}"),
    }
}
