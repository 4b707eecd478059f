//! Encoding on every kernel gives the bytes and errors of the definition, and
//! decoding gives the trits and floats back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tritgemm::codec::{Mode, row_bytes};
use tritgemm_fuzz::codec::{CANARY, Guarded, ModeChoice, Size, Trits, encode, scaled};
use tritgemm_fuzz::fill::{Fill, Style};
use tritgemm_testing::{backends, bits, view, view_mut};

fuzz_target!(|input: (Size, Trits, ModeChoice, (Fill, Style))| {
    let (size, trits, mode, (scales, style)) = input;
    let (Size { rows, cols }, mode) = (size, Mode::from(mode));
    let trits = trits.values(rows * cols);
    let scales = scales.floats(rows, style);
    let (want, result) = encode(&trits, size, mode);
    for backend in backends() {
        let what = format!("{rows} x {cols}, {mode:?}, {backend:?}");
        let mut packed = Guarded::new(want.len(), CANARY);
        let bytes = row_bytes(cols);
        let to = view_mut(packed.inside(), rows, bytes);
        let got = backend.encode(view(&trits, rows, cols), to, mode);
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
        let from = view(&packed, rows, bytes);
        let to = view_mut(back.inside(), rows, cols);
        backend.decode(from, to, Mode::Strict).expect("legal");
        assert_eq!(back.take(&what), legal, "{what}");
        let mut floats = Guarded::new(trits.len(), 0.5f32);
        let to = view_mut(floats.inside(), rows, cols);
        backend
            .decode_f32(from, to, &scales, Mode::Strict)
            .expect("legal");
        let floats = bits(&floats.take(&what));
        assert_eq!(floats, scaled(&legal, size, &scales), "{what}");
    }
});
