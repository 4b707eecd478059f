//! Encoding, decoding and packing: every backend against the scalar one, bit
//! for bit, and round trips both ways.

use proptest::prelude::*;
use tritgemm::Backend;
use tritgemm::codec::{self, CodecError, Mode, row_bytes};
use tritgemm_testing::backends;

/// What surrounds every output; nothing may change it.
const CANARY: u8 = 0xA5;
/// Bytes of canary on each side, more than any vector.
const MARGIN: usize = 128;
/// Shapes around every block size of every kernel, beyond 0..=300.
const LARGE: &[usize] = &[
    511, 512, 513, 1023, 1024, 1025, 1279, 2047, 2048, 2051, 4093, 4096, 11008, 11009,
];

/// A generator that is enough for test data and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn trits(&mut self, count: usize) -> Vec<i8> {
        (0..count).map(|_| (self.next() % 3) as i8 - 1).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Gives `run` an output of `len` bytes at an address of `offset` modulo 64,
/// and returns it once the canaries around it proved untouched.
fn guarded<T: bytemuck::Pod>(len: usize, offset: usize, run: impl FnOnce(&mut [T])) -> Vec<T> {
    let size = size_of::<T>();
    let mut buffer = vec![CANARY; 2 * MARGIN + 64 + len * size];
    let start = MARGIN + (offset.wrapping_sub(buffer.as_ptr().addr() + MARGIN)) % 64;
    let end = start + len * size;
    run(bytemuck::cast_slice_mut(&mut buffer[start..end]));
    let untouched = |bytes: &[u8]| bytes.iter().all(|&b| b == CANARY);
    assert!(untouched(&buffer[..start]), "wrote before the output");
    assert!(untouched(&buffer[end..]), "wrote after the output");
    bytemuck::pod_collect_to_vec(&buffer[start..end])
}

/// A copy of `values` at an address of `offset` modulo 64.
struct Placed<T> {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: bytemuck::Pod> Placed<T> {
    fn new(values: &[T], offset: usize) -> Self {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let mut buffer = vec![CANARY; bytes.len() + 64];
        let start = offset.wrapping_sub(buffer.as_ptr().addr()) % 64;
        let end = start + bytes.len();
        buffer[start..end].copy_from_slice(bytes);
        let element = std::marker::PhantomData;
        Placed {
            buffer,
            start,
            end,
            element,
        }
    }

    fn get(&self) -> &[T] {
        bytemuck::cast_slice(&self.buffer[self.start..self.end])
    }
}

/// The encoding, from its definition.
fn reference(trits: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let mut packed = vec![0; rows * row_bytes(cols)];
    for row in 0..rows {
        for col in 0..cols {
            let code = match trits[row * cols + col] {
                1 => 0b01,
                -1 => 0b10,
                _ => 0b00,
            };
            packed[row * row_bytes(cols) + col / 4] |= code << (6 - 2 * (col % 4));
        }
    }
    packed
}

/// Encodes and decodes one legal matrix every way there is.
fn check(trits: &[i8], rows: usize, cols: usize, offset: usize) {
    let expected = reference(trits, rows, cols);
    let scales: Vec<f32> = (0..rows).map(|row| 0.1 + row as f32).collect();
    let source = Placed::new(trits, offset);
    let bytes = Placed::new(&expected, (offset * 7 + 3) % 64);
    for backend in backends() {
        let at = format!("{backend:?}, {rows} x {cols}, offset {offset}");
        for mode in [Mode::Strict, Mode::Lenient] {
            let packed = guarded::<u8>(expected.len(), (offset * 5 + 1) % 64, |out| {
                codec::encode_with(backend, source.get(), rows, cols, out, mode).unwrap();
            });
            assert!(packed == expected, "encode: {at}");
            let decoded = guarded::<i8>(trits.len(), (offset * 3 + 2) % 64, |out| {
                codec::decode_with(backend, bytes.get(), rows, cols, out, mode).unwrap();
            });
            assert!(decoded == trits, "decode: {at}");
            let weights = guarded::<f32>(trits.len(), offset / 4 * 4, |out| {
                codec::decode_f32_with(backend, bytes.get(), rows, cols, &scales, out, mode)
                    .unwrap();
            });
            for (i, (weight, &trit)) in weights.iter().zip(trits).enumerate() {
                let scale = scales[i / cols];
                let expected = [-scale, 0.0, scale][(trit + 1) as usize];
                assert_eq!(
                    weight.to_bits(),
                    expected.to_bits(),
                    "decode_f32: {at}, {i}"
                );
            }
        }
    }
}

#[test]
fn every_small_shape_and_offset() {
    let mut random = Random(1);
    for rows in 0..5 {
        for cols in 0..=300 {
            let trits = random.trits(rows * cols);
            check(&trits, rows, cols, (cols * 11 + rows) % 64);
        }
    }
    for offset in 0..64 {
        for cols in [1, 3, 64, 257, 517] {
            check(&random.trits(2 * cols), 2, cols, offset);
        }
    }
}

#[test]
fn large_shapes() {
    let mut random = Random(2);
    for (i, &cols) in LARGE.iter().enumerate() {
        check(&random.trits(3 * cols), 3, cols, (i * 9) % 64);
    }
}

/// Whether none of a byte's codes is 11.
fn legal(byte: u8) -> bool {
    byte & (byte >> 1) & 0x55 == 0
}

#[test]
fn every_byte_value_at_every_place() {
    // Long enough for a vector block, a partial vector and a scalar tail.
    const BYTES: usize = 150;
    let scalar = Backend::scalar();
    for backend in backends() {
        for byte in 0..=255_u8 {
            for place in 0..BYTES {
                let mut packed = vec![0b01_10_00_01; BYTES];
                packed[place] = byte;
                let cols = 4 * BYTES;
                let (mut trits, mut expected) = (vec![9; cols], vec![8; cols]);
                let strict =
                    codec::decode_with(backend, &packed, 1, cols, &mut trits, Mode::Strict);
                let reference =
                    codec::decode_with(scalar, &packed, 1, cols, &mut expected, Mode::Strict);
                assert_eq!(strict, reference);
                assert_eq!(strict.is_ok(), legal(byte));
                assert!(trits == expected, "{backend:?}: byte {byte} at {place}");
                for j in 0..4 {
                    let trit = [0, 1, -1, 0][usize::from(byte >> (6 - 2 * j) & 3)];
                    assert_eq!(trits[4 * place + j], trit);
                }
                let mut weights = vec![7.0; cols];
                let strict_f32 = codec::decode_f32_with(
                    backend,
                    &packed,
                    1,
                    cols,
                    &[2.0],
                    &mut weights,
                    Mode::Strict,
                );
                assert_eq!(strict_f32, strict);
                assert!(
                    weights
                        .iter()
                        .zip(&trits)
                        .all(|(w, &t)| *w == 2.0 * f32::from(t))
                );
                if legal(byte) {
                    let mut again = vec![0; BYTES];
                    codec::encode_with(backend, &trits, 1, cols, &mut again, Mode::Strict).unwrap();
                    assert_eq!(again, packed);
                }
            }
        }
    }
}

#[test]
fn illegal_trits_are_named_and_become_zero() {
    for backend in backends() {
        for value in (i8::MIN..=i8::MAX).filter(|v| !(-1..=1).contains(v)) {
            let (rows, cols) = (2, 700);
            let mut random = Random(3);
            for place in [
                0, 1, 63, 64, 130, 255, 256, 300, 511, 512, 600, 699, 700, 1000, 1399,
            ] {
                let mut trits = random.trits(rows * cols);
                trits[place] = value;
                // A later one must not be the one that is named.
                trits[rows * cols - 1] = value;
                let mut packed = vec![0xFF; rows * row_bytes(cols)];
                let result =
                    codec::encode_with(backend, &trits, rows, cols, &mut packed, Mode::Strict);
                let (row, col) = (place / cols, place % cols);
                assert_eq!(
                    result,
                    Err(CodecError::Trit { row, col, value }),
                    "{backend:?}"
                );
                let written = (row + 1) * row_bytes(cols);
                assert_eq!(packed[..written], reference(&trits, rows, cols)[..written]);
                assert!(packed[written..].iter().all(|&b| b == 0xFF));
                codec::encode_with(backend, &trits, rows, cols, &mut packed, Mode::Lenient)
                    .unwrap();
                assert_eq!(packed, reference(&trits, rows, cols), "{backend:?}");
            }
        }
        // Nothing but illegal values.
        let trits = [i8::MIN, 2, -2, 127].repeat(200);
        let mut packed = vec![0xFF; 200];
        codec::encode_with(backend, &trits, 1, 800, &mut packed, Mode::Lenient).unwrap();
        assert!(packed.iter().all(|&b| b == 0));
    }
}

#[test]
fn illegal_codes_and_padding_are_named() {
    for backend in backends() {
        for cols in (1..=40).chain([255, 257, 258, 259, 1027]) {
            let bytes = row_bytes(cols);
            for col in 0..cols {
                let mut packed = vec![0; 3 * bytes];
                packed[bytes + col / 4] = 0b11 << (6 - 2 * (col % 4));
                packed[3 * bytes - 1] |= 0xC0;
                let mut trits = vec![5; 3 * cols];
                let result =
                    codec::decode_with(backend, &packed, 3, cols, &mut trits, Mode::Strict);
                assert_eq!(result, Err(CodecError::Code { row: 1, col }), "{backend:?}");
                assert!(trits[..2 * cols].iter().all(|&t| t == 0));
                assert!(trits[2 * cols..].iter().all(|&t| t == 5));
                codec::decode_with(backend, &packed, 3, cols, &mut trits, Mode::Lenient).unwrap();
                assert!(trits.iter().all(|&t| t == 0));
            }
            for pad in cols..4 * bytes {
                for code in 1..4 {
                    let mut packed = vec![0; 2 * bytes];
                    packed[2 * bytes - 1] = code << (6 - 2 * (pad % 4));
                    let mut trits = vec![5; 2 * cols];
                    let result =
                        codec::decode_with(backend, &packed, 2, cols, &mut trits, Mode::Strict);
                    assert_eq!(result, Err(CodecError::Padding { row: 1 }), "{backend:?}");
                    codec::decode_with(backend, &packed, 2, cols, &mut trits, Mode::Lenient)
                        .unwrap();
                    assert!(trits.iter().all(|&t| t == 0));
                }
            }
        }
    }
}

#[test]
fn any_scale_is_copied() {
    let packed = [0b01_10_00_11; 40];
    for backend in backends() {
        for scale in [0.0, -0.0, 1e-45, f32::INFINITY, -2.5, f32::NAN] {
            let mut weights = [9.0; 160];
            codec::decode_f32_with(
                backend,
                &packed,
                1,
                160,
                &[scale],
                &mut weights,
                Mode::Lenient,
            )
            .unwrap();
            for four in weights.chunks(4) {
                let expected = [scale, -scale, 0.0, 0.0].map(f32::to_bits);
                assert_eq!(
                    [0, 1, 2, 3].map(|j| four[j].to_bits()),
                    expected,
                    "{backend:?}"
                );
            }
        }
    }
}

#[test]
fn wrong_lengths_name_both() {
    let wrong = |what, len, expected| {
        Err(CodecError::Length {
            what,
            len,
            expected,
        })
    };
    let (s, l) = (Mode::Strict, Mode::Lenient);
    assert_eq!(
        codec::encode(&[0; 9], 2, 5, &mut [0; 4], s),
        wrong("trits", 9, 10)
    );
    assert_eq!(
        codec::encode(&[0; 10], 2, 5, &mut [0; 3], l),
        wrong("packed", 3, 4)
    );
    assert_eq!(
        codec::decode(&[0; 5], 2, 5, &mut [0; 10], s),
        wrong("packed", 5, 4)
    );
    assert_eq!(
        codec::decode(&[0; 4], 2, 5, &mut [0; 11], l),
        wrong("trits", 11, 10)
    );
    assert_eq!(
        codec::decode_f32(&[0; 3], 2, 5, &[1.0; 2], &mut [0.0; 10], l),
        wrong("packed", 3, 4)
    );
    assert_eq!(
        codec::decode_f32(&[0; 4], 2, 5, &[1.0], &mut [0.0; 10], s),
        wrong("scales", 1, 2)
    );
    assert_eq!(
        codec::decode_f32(&[0; 4], 2, 5, &[1.0; 2], &mut [0.0; 9], s),
        wrong("weights", 9, 10)
    );
    assert_eq!(codec::encode(&[0], 3, 0, &mut [], s), wrong("trits", 1, 0));
    let (rows, cols) = (usize::MAX / 2, 5);
    let too_large = CodecError::TooLarge { rows, cols };
    assert_eq!(codec::packed_len(rows, cols), Err(too_large.clone()));
    let refused = || Err(too_large.clone());
    let results = [
        codec::encode(&[], rows, cols, &mut [], s),
        codec::decode(&[], rows, cols, &mut [], s),
        codec::decode_f32(&[], rows, cols, &[], &mut [], s),
    ];
    assert_eq!(results, [refused(), refused(), refused()]);
    for (rows, cols) in [(0, 0), (0, usize::MAX), (usize::MAX, 0)] {
        assert_eq!(codec::packed_len(rows, cols), Ok(0));
        assert_eq!(codec::encode(&[], rows, cols, &mut [], s), Ok(()));
        assert_eq!(codec::decode(&[], rows, cols, &mut [], s), Ok(()));
    }
}

/// Packs `rows` rows into a panel and compares it with the definition.
fn check_panel(backend: Backend, rows: usize, bytes: usize, depth: usize, offset: usize) {
    let data = Random((rows * 1000 + bytes + 1) as u64).bytes(rows * bytes);
    let source = Placed::new(&data, offset);
    let panel = guarded::<u8>(depth * 64, (offset * 5) % 64, |out| {
        codec::pack_panel_with(backend, source.get(), bytes, out);
    });
    for k in 0..depth {
        for r in 0..64 {
            let expected = if r < rows && k < bytes {
                data[r * bytes + k]
            } else {
                0
            };
            assert_eq!(
                panel[k * 64 + r],
                expected,
                "{backend:?} {rows} x {bytes}: {k}, {r}"
            );
        }
    }
}

#[test]
fn panels_are_the_transposed_bytes() {
    for backend in backends() {
        for rows in [0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64] {
            for bytes in (1..=130).chain([255, 256, 257, 640]) {
                check_panel(backend, rows, bytes, bytes.next_multiple_of(3), bytes % 64);
            }
        }
        for offset in 0..64 {
            check_panel(backend, 64, 70, 72, offset);
        }
        check_panel(backend, 64, 1024, 1026, 0);
        check_panel(backend, 5, 8, 300, 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_shapes(rows in 0_usize..9, cols in 0_usize..1500, offset in 0_usize..64, seed in 1_u64..) {
        check(&Random(seed).trits(rows * cols), rows, cols, offset);
    }

    #[test]
    fn random_bytes(bytes in 0_usize..400, cut in 0_usize..4, seed in 1_u64..) {
        let packed = Random(seed).bytes(bytes);
        let cols = (4 * bytes).saturating_sub(cut);
        let mut expected = vec![0; cols];
        let scalar = Backend::scalar();
        codec::decode_with(scalar, &packed, 1, cols, &mut expected, Mode::Lenient).unwrap();
        let error = codec::decode_with(scalar, &packed, 1, cols, &mut vec![0; cols], Mode::Strict);
        for backend in backends() {
            let mut trits = vec![0; cols];
            codec::decode_with(backend, &packed, 1, cols, &mut trits, Mode::Lenient).unwrap();
            prop_assert_eq!(&trits, &expected);
            let strict = codec::decode_with(backend, &packed, 1, cols, &mut trits, Mode::Strict);
            prop_assert_eq!(&strict, &error);
            if strict.is_ok() {
                let mut again = vec![0; bytes];
                codec::encode_with(backend, &trits, 1, cols, &mut again, Mode::Strict).unwrap();
                prop_assert_eq!(&again, &packed);
            }
        }
    }
}
