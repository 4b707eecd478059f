//! Encoding, decoding and packing, against the scalar backend.

use crate::backends::runs;
use tritgemm::Backend;
use tritgemm::codec::{Mode, row_bytes};
use tritgemm_testing::{Rng, backends, bits, dense};

/// Nothing, less than a vector, whole vectors and every kind of tail.
fn widths() -> impl Iterator<Item = usize> {
    (0..=9).chain([31, 63, 64, 65, 127, 128, 130, 255, 256, 259, 515])
}

#[test]
fn every_backend_encodes_and_decodes_alike() {
    let (mut rng, rows) = (Rng::new(1), 2);
    for cols in widths() {
        let trits = rng.vec(rows * cols, Rng::trit);
        let mut packed = vec![0; rows * row_bytes(cols)];
        let scalar = Backend::scalar();
        dense::encode(scalar, &trits, [rows, cols], &mut packed, Mode::Strict).expect("legal");
        for backend in backends() {
            let what = format!("{backend:?}, {cols} columns");
            let mut again = vec![0xff; packed.len()];
            dense::encode(backend, &trits, [rows, cols], &mut again, Mode::Strict).expect("legal");
            assert_eq!(again, packed, "{what}");
            let mut back = vec![9; trits.len()];
            dense::decode(backend, &packed, [rows, cols], &mut back, Mode::Strict).expect("legal");
            assert_eq!(back, trits, "{what}");
            if !runs(backend, "codec: decode_f32") {
                continue;
            }
            let mut floats = vec![9.0; trits.len()];
            let scales = [0.5, 2.0];
            dense::decode_f32(
                backend,
                &packed,
                (&mut floats, [rows, cols]),
                &scales,
                Mode::Strict,
            )
            .expect("legal");
            let expected = trits.iter().enumerate().map(|(i, &t)| match t {
                0 => 0.0,
                t => f32::from(t) * scales[i / cols],
            });
            assert_eq!(bits(&floats), bits(&expected.collect::<Vec<_>>()), "{what}");
        }
    }
}

/// Illegal values take the path that looks for them.
#[test]
fn illegal_input_is_found() {
    for backend in backends() {
        for cols in [3, 130, 515] {
            let mut trits = vec![0; cols];
            trits[cols - 1] = 3;
            let packed = &mut vec![0; row_bytes(cols)];
            dense::encode(backend, &trits, [1, cols], packed, Mode::Strict)
                .expect_err("not a trit");
            let last = packed.len() - 1;
            packed[last / 2] = 0xff;
            dense::decode(backend, packed, [1, cols], &mut trits, Mode::Strict)
                .expect_err("not a code");
        }
    }
}

#[test]
fn every_backend_packs_alike() {
    for (rows, bytes, depth) in [
        (0, 1, 3),
        (1, 1, 3),
        (17, 33, 33),
        (64, 70, 72),
        (63, 129, 129),
    ] {
        let data = Rng::new(bytes as u64).vec(rows * bytes, |r| r.bits() as u8);
        for backend in backends() {
            let mut panel = vec![0xff; depth * 64];
            tritgemm::codec::pack_panel_with(backend, &data, bytes, &mut panel);
            for (k, strip) in panel.chunks(64).enumerate() {
                for (r, &byte) in strip.iter().enumerate() {
                    let inside = r < rows && k < bytes;
                    let expected = if inside { data[r * bytes + k] } else { 0 };
                    assert_eq!(byte, expected, "{backend:?}: {k}, {r}");
                }
            }
        }
    }
}
