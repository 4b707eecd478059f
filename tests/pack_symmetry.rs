//! Encoding, decoding and packing: every backend against the scalar one, bit
//! for bit, and round trips both ways.

use proptest::prelude::*;
use tritgemm::codec::{self, CodecError, Mode, row_bytes};
use tritgemm::{Backend, MatMut, MatRef};
use tritgemm_testing::{backends, dense, view, view_mut};

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
                dense::encode(backend, source.get(), [rows, cols], out, mode).unwrap();
            });
            assert!(packed == expected, "encode: {at}");
            let decoded = guarded::<i8>(trits.len(), (offset * 3 + 2) % 64, |out| {
                dense::decode(backend, bytes.get(), [rows, cols], out, mode).unwrap();
            });
            assert!(decoded == trits, "decode: {at}");
            let weights = guarded::<f32>(trits.len(), offset / 4 * 4, |out| {
                dense::decode_f32(backend, bytes.get(), (out, [rows, cols]), &scales, mode)
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
                let strict = dense::decode(backend, &packed, [1, cols], &mut trits, Mode::Strict);
                let reference =
                    dense::decode(scalar, &packed, [1, cols], &mut expected, Mode::Strict);
                assert_eq!(strict, reference);
                assert_eq!(strict.is_ok(), legal(byte));
                assert!(trits == expected, "{backend:?}: byte {byte} at {place}");
                for j in 0..4 {
                    let trit = [0, 1, -1, 0][usize::from(byte >> (6 - 2 * j) & 3)];
                    assert_eq!(trits[4 * place + j], trit);
                }
                let mut weights = vec![7.0; cols];
                let strict_f32 = dense::decode_f32(
                    backend,
                    &packed,
                    (&mut weights, [1, cols]),
                    &[2.0],
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
                    dense::encode(backend, &trits, [1, cols], &mut again, Mode::Strict).unwrap();
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
                    dense::encode(backend, &trits, [rows, cols], &mut packed, Mode::Strict);
                let (row, col) = (place / cols, place % cols);
                assert_eq!(
                    result,
                    Err(CodecError::Trit { row, col, value }),
                    "{backend:?}"
                );
                let written = (row + 1) * row_bytes(cols);
                assert_eq!(packed[..written], reference(&trits, rows, cols)[..written]);
                assert!(packed[written..].iter().all(|&b| b == 0xFF));
                dense::encode(backend, &trits, [rows, cols], &mut packed, Mode::Lenient).unwrap();
                assert_eq!(packed, reference(&trits, rows, cols), "{backend:?}");
            }
        }
        // Nothing but illegal values.
        let trits = [i8::MIN, 2, -2, 127].repeat(200);
        let mut packed = vec![0xFF; 200];
        dense::encode(backend, &trits, [1, 800], &mut packed, Mode::Lenient).unwrap();
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
                let result = dense::decode(backend, &packed, [3, cols], &mut trits, Mode::Strict);
                assert_eq!(result, Err(CodecError::Code { row: 1, col }), "{backend:?}");
                assert!(trits[..2 * cols].iter().all(|&t| t == 0));
                assert!(trits[2 * cols..].iter().all(|&t| t == 5));
                dense::decode(backend, &packed, [3, cols], &mut trits, Mode::Lenient).unwrap();
                assert!(trits.iter().all(|&t| t == 0));
            }
            for pad in cols..4 * bytes {
                for code in 1..4 {
                    let mut packed = vec![0; 2 * bytes];
                    packed[2 * bytes - 1] = code << (6 - 2 * (pad % 4));
                    let mut trits = vec![5; 2 * cols];
                    let result =
                        dense::decode(backend, &packed, [2, cols], &mut trits, Mode::Strict);
                    assert_eq!(result, Err(CodecError::Padding { row: 1 }), "{backend:?}");
                    dense::decode(backend, &packed, [2, cols], &mut trits, Mode::Lenient).unwrap();
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
            dense::decode_f32(
                backend,
                &packed,
                (&mut weights, [1, 160]),
                &[scale],
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
fn wrong_shapes_name_both() {
    let wrong = |shape| {
        Err(CodecError::Shape {
            argument: "packed",
            shape,
            expected: [2, 2],
        })
    };
    let (mut trits, mut weights) = ([9; 10], [9.0; 10]);
    for mode in [Mode::Strict, Mode::Lenient] {
        for shape in [[2, 1], [2, 3], [1, 2], [3, 2], [0, 0], [2, 0]] {
            let mut packed = [0x55; 6];
            let to = view_mut(&mut packed, shape[0], shape[1]);
            assert_eq!(codec::encode(view(&[0; 10], 2, 5), to, mode), wrong(shape));
            assert_eq!(packed, [0x55; 6]);
            let from = view(&packed, shape[0], shape[1]);
            let to = view_mut(&mut trits, 2, 5);
            assert_eq!(codec::decode(from, to, mode), wrong(shape));
            let to = view_mut(&mut weights, 2, 5);
            assert_eq!(codec::decode_f32(from, to, &[1.0; 2], mode), wrong(shape));
        }
        for len in [0, 1, 3] {
            let (from, to) = (view(&[0; 4], 2, 2), view_mut(&mut weights, 2, 5));
            let error = CodecError::Length {
                argument: "scales",
                len,
                expected: 2,
            };
            assert_eq!(
                error.to_string(),
                format!("`scales` has length {len}, expected 2")
            );
            assert_eq!(
                codec::decode_f32(from, to, &vec![1.0; len], mode),
                Err(error)
            );
        }
    }
    assert_eq!((trits, weights), ([9; 10], [9.0; 10]));
    let error = wrong([3, 2]).expect_err("of that shape");
    assert_eq!(error.to_string(), "`packed` is 3 x 2, expected 2 x 2");
    let (rows, cols) = (usize::MAX / 2, 5);
    let too_large = CodecError::TooLarge { rows, cols };
    assert_eq!(codec::packed_len(rows, cols), Err(too_large));
    for (rows, cols) in [(0, 0), (0, usize::MAX), (usize::MAX, 0)] {
        assert_eq!(codec::packed_len(rows, cols), Ok(0));
        let (trits, packed) = (view(&[], rows, cols), view(&[], rows, row_bytes(cols)));
        let to = view_mut(&mut [], rows, row_bytes(cols));
        assert_eq!(codec::encode(trits, to, Mode::Strict), Ok(()));
        let to = view_mut(&mut [], rows, cols);
        assert_eq!(codec::decode(packed, to, Mode::Strict), Ok(()));
    }
}

/// Rows may lie apart, in and out: what is between them is neither read nor
/// written.
#[test]
fn gaps_between_rows_do_not_count() {
    let (rows, cols) = (5, 517);
    let bytes = row_bytes(cols);
    let trits = Random(4).trits(rows * cols);
    let packed = reference(&trits, rows, cols);
    fn apart<T: Copy>(values: &[T], cols: usize, gap: T) -> Vec<T> {
        let rows = values.chunks(cols);
        rows.flat_map(|row| row.iter().copied().chain([gap; 3]))
            .collect()
    }
    let (trits_apart, packed_apart) = (apart(&trits, cols, 9), apart(&packed, bytes, 0xff));
    let from_trits = MatRef::with_stride(&trits_apart, rows, cols, cols + 3).unwrap();
    let from_packed = MatRef::with_stride(&packed_apart, rows, bytes, bytes + 3).unwrap();
    for backend in backends() {
        let mut out = apart(&vec![0; packed.len()], bytes, 0xff);
        let to = MatMut::with_stride(&mut out, rows, bytes, bytes + 3).unwrap();
        backend.encode(from_trits, to, Mode::Strict).unwrap();
        assert!(out == packed_apart, "{backend:?}");
        let mut out = apart(&vec![0; trits.len()], cols, 9);
        let to = MatMut::with_stride(&mut out, rows, cols, cols + 3).unwrap();
        backend.decode(from_packed, to, Mode::Strict).unwrap();
        assert!(out == trits_apart, "{backend:?}");
        let mut out = apart(&vec![0.0; trits.len()], cols, 9.0);
        let to = MatMut::with_stride(&mut out, rows, cols, cols + 3).unwrap();
        backend
            .decode_f32(from_packed, to, &vec![1.0; rows], Mode::Strict)
            .unwrap();
        let wanted: Vec<f32> = trits_apart.iter().map(|&t| f32::from(t)).collect();
        assert!(out == wanted, "{backend:?}");
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
        dense::decode(scalar, &packed, [1, cols], &mut expected, Mode::Lenient).unwrap();
        let error = dense::decode(scalar, &packed, [1, cols], &mut vec![0; cols], Mode::Strict);
        for backend in backends() {
            let mut trits = vec![0; cols];
            dense::decode(backend, &packed, [1, cols], &mut trits, Mode::Lenient).unwrap();
            prop_assert_eq!(&trits, &expected);
            let strict = dense::decode(backend, &packed, [1, cols], &mut trits, Mode::Strict);
            prop_assert_eq!(&strict, &error);
            if strict.is_ok() {
                let mut again = vec![0; bytes];
                dense::encode(backend, &trits, [1, cols], &mut again, Mode::Strict).unwrap();
                prop_assert_eq!(&again, &packed);
            }
        }
    }
}
