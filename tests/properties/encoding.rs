//! Encoding and decoding undo each other.

use crate::config;
use proptest::prelude::*;
use tritgemm::Backend;
use tritgemm::codec::{Mode, row_bytes};
use tritgemm_testing::{Rng, backends, dense};

fn encode(backend: Backend, trits: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let mut packed = vec![0xff; rows * row_bytes(cols)];
    dense::encode(backend, trits, [rows, cols], &mut packed, Mode::Strict).expect("trits");
    packed
}

fn decode(backend: Backend, packed: &[u8], rows: usize, cols: usize) -> Vec<i8> {
    let mut trits = vec![9; rows * cols];
    dense::decode(backend, packed, [rows, cols], &mut trits, Mode::Strict).expect("legal");
    trits
}

/// `count` bytes without the code 11.
fn legal_bytes(count: usize, seed: u64) -> Vec<u8> {
    Rng::new(seed).vec(count, |r| {
        let byte = r.bits() as u8;
        byte & !(byte >> 1 & 0x55)
    })
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn trits_come_back(rows in 0..5usize, cols in 0..1200usize, seed: u64) {
        let trits = Rng::new(seed).vec(rows * cols, Rng::trit);
        for encoder in backends() {
            let packed = encode(encoder, &trits, rows, cols);
            for decoder in backends() {
                prop_assert_eq!(&decode(decoder, &packed, rows, cols), &trits);
            }
        }
    }

    #[test]
    fn legal_bytes_come_back(rows in 0..5usize, bytes in 0..300usize, seed: u64) {
        let packed = legal_bytes(rows * bytes, seed);
        for decoder in backends() {
            let trits = decode(decoder, &packed, rows, 4 * bytes);
            for encoder in backends() {
                prop_assert_eq!(&encode(encoder, &trits, rows, 4 * bytes), &packed);
            }
        }
    }
}

/// The 81 legal bytes and no others, at every place of a vector.
#[test]
fn every_legal_byte_comes_back() {
    let is_legal = |byte: &u8| byte & (byte >> 1) & 0x55 == 0;
    let legal: Vec<u8> = (0..=255).filter(is_legal).collect();
    assert_eq!(legal.len(), 81);
    for backend in backends() {
        for place in 0..81 {
            let mut packed = legal.repeat(3);
            packed.rotate_left(place);
            let trits = decode(backend, &packed, 1, 4 * packed.len());
            assert_eq!(
                encode(backend, &trits, 1, trits.len()),
                packed,
                "{backend:?}"
            );
        }
        for byte in (0..=255).filter(|byte| !is_legal(byte)) {
            let mut trits = [0; 4];
            dense::decode(backend, &[byte], [1, 4], &mut trits, Mode::Strict)
                .expect_err("no weight has the code 11");
        }
    }
}
