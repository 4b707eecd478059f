//! Encoding, decoding, packing.

use tritgemm::codec::{self, Mode, row_bytes};
use tritgemm::{Backend, Panels, Scales, TernaryMatrix};
use tritgemm_testing::guarded::{Guarded, Place};
use tritgemm_testing::{Rng, backends, bits, dense, quick, view};

/// One matrix with every slice at `place`, by every backend.
fn check(rows: usize, cols: usize, place: Place) {
    let mut rng = Rng::new((rows * 10_000 + cols) as u64);
    let trits = rng.vec(rows * cols, Rng::trit);
    let scales = rng.vec(rows, Rng::unit);
    let mut packed = vec![0; rows * row_bytes(cols)];
    let scalar = Backend::scalar();
    dense::encode(scalar, &trits, [rows, cols], &mut packed, Mode::Strict).expect("legal");
    let weights: Vec<f32> = (0..rows * cols)
        .map(|i| match trits[i] {
            0 => 0.0,
            1 => scales[i / cols],
            _ => -scales[i / cols],
        })
        .collect();

    let from_trits = Guarded::new(&trits, place);
    let from_packed = Guarded::new(&packed, place);
    let from_scales = Guarded::new(&scales, place.of_operand(2));
    let (trits_in, packed_in) = (from_trits.get(), from_packed.get());
    for backend in backends() {
        for mode in [Mode::Strict, Mode::Lenient] {
            let what = format!("{backend:?} {mode:?}, {rows} x {cols} at {place:?}");
            let mut out = Guarded::filled(packed.len(), place.of_operand(1));
            dense::encode(backend, trits_in, [rows, cols], out.get_mut(), mode).expect("legal");
            assert!(out.take(&what) == packed, "encode: {what}");

            let mut out = Guarded::filled(trits.len(), place.of_operand(1));
            dense::decode(backend, packed_in, [rows, cols], out.get_mut(), mode).expect("legal");
            assert!(out.take(&what) == trits, "decode: {what}");

            let mut out = Guarded::filled(trits.len(), place.of_operand(1));
            let (scales, out_slice) = (from_scales.get(), out.get_mut());
            dense::decode_f32(backend, packed_in, (out_slice, [rows, cols]), scales, mode)
                .expect("legal");
            assert!(bits(&out.take(&what)) == bits(&weights), "floats: {what}");
        }
    }
}

#[test]
fn every_width() {
    let step = if quick() { 7 } else { 1 };
    for cols in (0..=300).step_by(step).chain([511, 513, 1023, 1025, 4097]) {
        for place in Place::tight() {
            check(1, cols, place);
        }
    }
}

#[test]
fn every_alignment() {
    let widths = if quick() {
        &[130][..]
    } else {
        &[1, 5, 66, 130, 259, 517]
    };
    for place in Place::all() {
        for &cols in widths {
            check(2, cols, place);
        }
    }
}

/// The paths that look for what is illegal, and at padding.
#[test]
fn illegal_input() {
    for place in Place::tight() {
        for cols in [1, 63, 130, 258, 517] {
            let mut trits = vec![1i8; cols];
            trits[cols - 1] = 7;
            let mut codes = vec![0u8; row_bytes(cols)];
            codes[(cols - 1) / 4] = 0xff;
            let (trits, codes) = (Guarded::new(&trits, place), Guarded::new(&codes, place));
            for backend in backends() {
                let what = format!("{backend:?} {cols} at {place:?}");
                let mut out = Guarded::filled(row_bytes(cols), place);
                dense::encode(backend, trits.get(), [1, cols], out.get_mut(), Mode::Strict)
                    .expect_err("7 is no trit");
                out.take(&what);
                let mut out = Guarded::filled(cols, place);
                dense::decode(backend, codes.get(), [1, cols], out.get_mut(), Mode::Strict)
                    .expect_err("11 is no code");
                out.take(&what);
            }
            TernaryMatrix::from_trits(view(trits.get(), 1, cols), Scales::per_tensor(1.0))
                .expect_err("7 is no trit");
            Panels::from_packed(view(codes.get(), 1, row_bytes(cols)), cols)
                .expect_err("11 is no code");
        }
    }
}

/// One panel of `rows` rows, every backend; `depth` strips.
fn check_panel(rows: usize, bytes: usize, depth: usize, place: Place) {
    let data = Rng::new((rows * 1000 + bytes) as u64).vec(rows * bytes, |r| r.bits() as u8);
    let source = Guarded::new(&data, place);
    for backend in backends() {
        let mut panel = Guarded::filled(depth * 64, place.of_operand(1));
        codec::pack_panel_with(backend, source.get(), bytes, panel.get_mut());
        let panel = panel.take(&(backend, rows, bytes, place));
        for (k, strip) in panel.chunks(64).enumerate() {
            for (r, &byte) in strip.iter().enumerate() {
                let inside = r < rows && k < bytes;
                let expected = if inside { data[r * bytes + k] } else { 0 };
                assert_eq!(byte, expected, "{backend:?} {rows} x {bytes} at {place:?}");
            }
        }
    }
}

#[test]
fn packing() {
    let all_rows = [0, 1, 15, 16, 17, 31, 33, 48, 63, 64];
    for rows in all_rows.into_iter().step_by(if quick() { 4 } else { 1 }) {
        for bytes in (1..=20).chain([31, 32, 33, 63, 64, 65, 129, 130]) {
            for place in Place::tight() {
                check_panel(rows, bytes, bytes.next_multiple_of(3), place);
            }
        }
    }
    for place in Place::all() {
        check_panel(64, 70, 72, place);
        check_panel(5, 33, 33, place);
    }
}

/// The safe constructors, which check before they read.
#[test]
fn matrices_and_panels() {
    let (rows, cols) = (67, 131);
    let trits = Rng::new(3).vec(rows * cols, Rng::trit);
    let scales = || Scales::per_tensor(1.0);
    let wanted = TernaryMatrix::from_trits(view(&trits, rows, cols), scales()).expect("legal");
    for place in Place::all() {
        let trits = Guarded::new(&trits, place);
        let matrix =
            TernaryMatrix::from_trits(view(trits.get(), rows, cols), scales()).expect("legal");
        assert!(matrix == wanted, "{place:?}");
        let packed = Guarded::new(wanted.packed(), place);
        let panels =
            Panels::from_packed(view(packed.get(), rows, row_bytes(cols)), cols).expect("legal");
        assert!(panels.to_packed() == wanted.packed(), "{place:?}");
    }
}
