//! Encoding on every kernel gives the bytes and errors of the definition, and
//! decoding gives the trits and floats back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tritgemm::codec::{self, Mode};
use tritgemm_fuzz::codec::{CANARY, Guarded, ModeChoice, Size, Trits, encode, scaled};
use tritgemm_fuzz::common::{backends, bits};
use tritgemm_fuzz::fill::{Fill, Style};

fuzz_target!(|input: (Size, Trits, ModeChoice, (Fill, Style))| {
    let (size, trits, mode, (scales, style)) = input;
    let (Size { rows, cols }, mode) = (size, Mode::from(mode));
    let trits = trits.values(rows * cols);
    let scales = scales.floats(rows, style);
    let (want, result) = encode(&trits, size, mode);
    for backend in backends() {
        let what = format!("{rows} x {cols}, {mode:?}, {backend:?}");
        let mut packed = Guarded::new(want.len(), CANARY);
        let got = codec::encode_with(backend, &trits, rows, cols, packed.inside(), mode);
        let packed = packed.take(&what);
        assert_eq!(got, result, "{what}");
        assert_eq!(packed, want, "{what}");
        if result.is_err() {
            continue;
        }

        // What was encoded is legal, and is the trits that were.
        let legal = |&t: &i8| if (-1..=1).contains(&t) { t } else { 0 };
        let legal: Vec<i8> = trits.iter().map(legal).collect();
        let mut back = Guarded::new(trits.len(), CANARY as i8);
        codec::decode_with(backend, &packed, rows, cols, back.inside(), Mode::Strict)
            .expect("legal");
        assert_eq!(back.take(&what), legal, "{what}");
        let mut floats = Guarded::new(trits.len(), 0.5f32);
        let out = floats.inside();
        codec::decode_f32_with(backend, &packed, rows, cols, &scales, out, Mode::Strict)
            .expect("legal");
        let floats = bits(&floats.take(&what));
        assert_eq!(floats, scaled(&legal, size, &scales), "{what}");
    }
});
