//! Every NEON kernel against the scalar reference, on the same data, exactly.

use super::super::contract::*;
use super::super::generated::DECODE;
use super::super::table::KernelSet;
use super::NEON;
use crate::kernels::scalar::SCALAR;
use aligned_vec::{AVec, ConstAlign, avec};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Bytes on a cache line, as the preconditions want tables.
fn lines(len: usize) -> AVec<u8, ConstAlign<64>> {
    avec![[64]| 0; len]
}

/// Panel bytes: all `weight` if given, else random, illegal codes included.
fn panels(len: usize, weight: Option<u8>, rng: &mut StdRng) -> Vec<u8> {
    match weight {
        Some(byte) => vec![byte; len],
        None => (0..len).map(|_| rng.random()).collect(),
    }
}

/// What is compared: the bits, except that all NaN are one (the epilogue
/// stores one NaN for all).
trait Bits: Copy {
    fn bits(self) -> u32;
}
impl Bits for i32 {
    fn bits(self) -> u32 {
        self as u32
    }
}
impl Bits for f32 {
    fn bits(self) -> u32 {
        if self.is_nan() { !0 } else { self.to_bits() }
    }
}

fn bits<T: Bits>(values: &[T]) -> Vec<u32> {
    values.iter().map(|v| v.bits()).collect()
}

/// Runs each tile of `kernel` over `units` bytes; the sums of `tokens` tokens.
fn run_row<X: Copy, Acc: Copy>(
    kernel: &RowKernel<X, Acc>,
    tile: &RowTile<Acc>,
    (panels, stride): (&[u8], usize),
    (x, units): (&[Vec<X>], usize),
    start: &[Acc],
    accumulate: bool,
) -> Vec<Acc> {
    let table_stride = (units * kernel.table_bytes).next_multiple_of(64) + 64;
    let mut tables = lines(table_stride * tile.tokens);
    for (x, tables) in x.iter().zip(tables.chunks_mut(table_stride)) {
        assert_eq!(x.len(), units * 4);
        // SAFETY: NEON is baseline; the sizes are as the contract asks.
        unsafe { (kernel.build)(x.as_ptr(), units, tables.as_mut_ptr()) };
    }
    let out_stride = tile.panels * PANEL_ROWS + 3;
    let mut out: Vec<Acc> = start.iter().copied().cycle().take(out_stride * tile.tokens).collect();
    let call = RowCall {
        panels: panels.as_ptr(),
        panel_stride: stride,
        units,
        tables: tables.as_ptr(),
        table_stride,
        out: out.as_mut_ptr(),
        out_stride,
        accumulate,
    };
    // SAFETY: as above.
    unsafe { (tile.run)(&call) };
    out
}

/// The same tile, one panel and token at a time, by the scalar reference.
fn check_row<X: Copy, Acc: Copy + Bits>(
    [kernel, scalar]: [&RowKernel<X, Acc>; 2],
    x: &[Vec<X>],
    units: usize,
    weight: Option<u8>,
    start: &[Acc],
) {
    assert!(units <= kernel.max_units);
    let mut rng = rng(units as u64);
    for tile in kernel.tiles {
        let stride = units * PANEL_ROWS + 64;
        let data = panels(1 + stride * tile.panels, weight, &mut rng);
        // One byte in: panels have no alignment.
        let data = &data[1..];
        for accumulate in [false, true] {
            let got = run_row(kernel, tile, (data, stride), (&x[..tile.tokens], units), start, accumulate);
            let mut want: Vec<Acc> = start.iter().copied().cycle().take(got.len()).collect();
            let out_stride = got.len() / tile.tokens;
            for t in 0..tile.tokens {
                for p in 0..tile.panels {
                    let first = t * out_stride + p * PANEL_ROWS;
                    let one = run_row(
                        scalar,
                        &scalar.tiles[0],
                        (&data[p * stride..], stride),
                        (&x[t..=t], units),
                        &want[first..first + PANEL_ROWS],
                        accumulate,
                    );
                    want[first..first + PANEL_ROWS].copy_from_slice(&one[..PANEL_ROWS]);
                }
            }
            assert_eq!(
                bits(&got),
                bits(&want),
                "{} {}x{} units {units} weight {weight:?} accumulate {accumulate}",
                kernel.name,
                tile.panels,
                tile.tokens
            );
        }
    }
}

const SETS: [&KernelSet; 2] = [&NEON, &SCALAR];

#[test]
fn row_i8() {
    let kernels = SETS.map(|set| set.row_i8);
    let max = kernels[0].max_units;
    let start: Vec<i32> = (0..67).map(|i| i * 1_000_003 - 7).collect();
    for units in [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 59, 60, 61, 63, 255, max - 1, max] {
        let mut rng = rng(7 + units as u64);
        let random: Vec<Vec<i8>> = (0..8)
            .map(|_| (0..units * 4).map(|_| rng.random()).collect())
            .collect();
        check_row(kernels, &random, units, None, &start);
        for value in [-128i8, 127, 1] {
            let x = vec![vec![value; units * 4]; 8];
            // All +1, all -1, all illegal, +1 -1 alternating.
            for byte in [0x55, 0xaa, 0xff, 0x66] {
                check_row(kernels, &x, units, Some(byte), &start);
            }
        }
    }
}

#[test]
fn row_i8_every_pair() {
    let kernels = SETS.map(|set| set.row_i8);
    for x0 in i8::MIN..=i8::MAX {
        for x1 in [-128, -127, -33, -32, -31, -1, 0, 1, 15, 16, 32, 126, 127] {
            let x = vec![vec![x0, x1, x1, x0]; 8];
            check_row(kernels, &x, 1, None, &[0]);
        }
    }
}

#[test]
fn codec_i8_and_f32() {
    let mut rng = rng(1);
    for cols in 0..300usize {
        for offset in 0..3 {
            let bytes = cols.div_ceil(4);
            let mut trits: Vec<i8> = (0..cols + offset).map(|_| rng.random_range(-1..=1)).collect();
            for illegal in [false, true] {
                if illegal && cols > 0 {
                    trits[offset + rng.random_range(0..cols)] = rng.random_range(2..=127);
                    trits[offset + rng.random_range(0..cols)] = rng.random_range(-128..=-2);
                }
                let [got, want] = SETS.map(|set| {
                    let mut out = vec![0x5au8; bytes + offset + 8];
                    // SAFETY: the slices hold cols and ceil(cols / 4).
                    let legal = unsafe {
                        (set.codec.encode)(trits[offset..].as_ptr(), cols, out[offset..].as_mut_ptr())
                    };
                    (out, legal)
                });
                assert_eq!(got, want, "encode {cols} columns");
                assert!(illegal || got.1);
            }
            for legal in [false, true] {
                let mut packed: Vec<u8> = (0..bytes + offset).map(|_| rng.random()).collect();
                if legal {
                    // Beyond `cols`, codes are not looked at.
                    for byte in &mut packed {
                        *byte &= !(*byte & 0x55) << 1 | 0x55;
                    }
                    if let Some(last) = packed.last_mut()
                        && cols % 4 != 0
                    {
                        *last |= 0xff >> (2 * (cols % 4));
                    }
                }
                let packed = &packed[offset..];
                let [got, want] = SETS.map(|set| {
                    let mut out = vec![77i8; cols + offset + 8];
                    // SAFETY: the slices hold ceil(cols / 4) and cols.
                    let legal = unsafe {
                        (set.codec.decode_i8)(packed.as_ptr(), cols, out[offset..].as_mut_ptr())
                    };
                    (out, legal)
                });
                assert_eq!(got, want, "decode_i8 {cols} columns");
                assert!(!legal || got.1);
                for scale in [0.37f32, -2.5, f32::NAN, -0.0, f32::INFINITY] {
                    let [got, want] = SETS.map(|set| {
                        let mut out = vec![77f32; cols + offset + 8];
                        // SAFETY: as above.
                        let legal = unsafe {
                            let dst = out[offset..].as_mut_ptr();
                            (set.codec.decode_f32)(packed.as_ptr(), cols, scale, dst)
                        };
                        let bits: Vec<u32> = out.iter().map(|w| w.to_bits()).collect();
                        (bits, legal)
                    });
                    assert_eq!(got, want, "decode_f32 {cols} columns, scale {scale}");
                }
            }
        }
    }
}

/// One bad value at each place of a row is seen; one beyond the row is not.
#[test]
fn codec_sees_each_place() {
    const COLS: usize = 131;
    let codec = NEON.codec;
    for bad in 0..COLS {
        let mut trits = vec![0i8; COLS];
        trits[bad] = 2;
        let mut out = vec![0u8; COLS.div_ceil(4)];
        // SAFETY: the slices hold COLS and ceil(COLS / 4).
        assert!(!unsafe { (codec.encode)(trits.as_ptr(), COLS, out.as_mut_ptr()) });
        assert!(out.iter().all(|&byte| byte == 0));
        out[bad / 4] |= 0xc0 >> (2 * (bad % 4));
        assert_eq!(DECODE[out[bad / 4] as usize], [0; 4]);
        trits.fill(9);
        // SAFETY: as above.
        assert!(!unsafe { (codec.decode_i8)(out.as_ptr(), COLS, trits.as_mut_ptr()) });
        assert!(trits.iter().all(|&trit| trit == 0));
        // SAFETY: as above; the first `bad` columns alone are legal.
        assert!(unsafe { (codec.decode_i8)(out.as_ptr(), bad, trits.as_mut_ptr()) });
    }
}

#[test]
fn pack_panel() {
    let mut rng = rng(3);
    for rows in 1..=PANEL_ROWS {
        for (bytes, depth, gap) in [
            (0, 3, 1),
            (1, 1, 0),
            (3, 3, 2),
            (15, 15, 0),
            (16, 18, 0),
            (17, 21, 5),
            (31, 33, 1),
            (64, 66, 0),
            (100, 102, 7),
        ] {
            let stride = bytes + gap;
            // Exactly what may be read: the last row has no gap.
            let src = panels(stride * (rows - 1) + bytes, None, &mut rng);
            let [got, want] = SETS.map(|set| {
                let mut out = vec![0x77u8; depth * PANEL_ROWS + 9];
                // SAFETY: `rows` rows of `bytes`; `depth` strips.
                unsafe {
                    let dst = out[1..].as_mut_ptr();
                    (set.codec.pack_panel)(src.as_ptr(), stride, rows, bytes, dst, depth);
                }
                out
            });
            assert_eq!(got, want, "{rows} rows of {bytes} bytes into {depth}");
        }
    }
}

#[test]
fn row_f32() {
    let kernels = SETS.map(|set| set.row_f32);
    let max = kernels[0].max_units;
    assert_eq!(max % BLOCK_BYTES, 0);
    let start: Vec<f32> = (0..67).map(|i| i as f32 * 0.37 - 9.0).collect();
    for units in [0, 1, 2, 3, 7, 58, 59, 60, 61, 62, 119, 120, 121, 300, max - 1, max] {
        let mut rng = rng(11 + units as u64);
        let random: Vec<Vec<f32>> = (0..4)
            .map(|_| (0..units * 4).map(|_| rng.random_range(-3.0..3.0)).collect())
            .collect();
        check_row(kernels, &random, units, None, &start);
        for byte in [0x55, 0xaa, 0x00, 0xff, 0x66, 0x84] {
            check_row(kernels, &random, units, Some(byte), &start);
        }
        // Sizes apart, denormals, both zeros.
        let wild: Vec<Vec<f32>> = (0..4)
            .map(|_| {
                let mut pick = || match rng.random_range(0..8) {
                    0 => -0.0,
                    1 => 0.0,
                    2 => f32::from_bits(rng.random_range(0..1 << 23)),
                    3 => f32::MAX,
                    _ => f32::from_bits(rng.random()),
                };
                (0..units * 4).map(|_| pick()).collect()
            })
            .collect();
        check_row(kernels, &wild, units, None, &start);
    }
}

/// NaN and infinity spread to the rows that weigh them and to no other.
#[test]
fn row_f32_zero_weights_touch_nothing() {
    let kernels = SETS.map(|set| set.row_f32);
    for units in [1, 2, 61] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..units * 4 {
                let mut x = vec![1.5f32; units * 4];
                x[place] = value;
                check_row(kernels, &vec![x; 4], units, None, &[0.25]);
            }
        }
    }
    let x = vec![vec![f32::NAN; 4]; 4];
    for byte in [0x00, 0xff, 0x3c] {
        check_row(kernels, &x, 1, Some(byte), &[0.25]);
    }
}

/// Every chunk of a K of `bytes`, folded at blocks, finished at the end or at
/// the limit; returns what reaches the output and the raw totals.
fn run_column<X: Copy, Acc: Copy>(
    kernel: &ColumnKernel<X, Acc>,
    data: &[u8],
    (panel_count, bytes): (usize, usize),
    x: &[X],
    start: &[Acc],
    accumulate: bool,
) -> Vec<Acc> {
    let (lanes, entry) = (kernel.lanes, kernel.entry_bytes);
    let rows = panel_count * PANEL_ROWS;
    let (mut acc, mut total) = (lines(rows * entry), lines(rows * entry));
    acc.fill(0x5a);
    total.fill(0x5a);
    let mut tables = lines(kernel.chunk_bytes * COLUMN_ENTRIES * entry);
    let mut done = 0;
    while done < bytes {
        let block_left = BLOCK_BYTES - done % BLOCK_BYTES;
        let chunk = kernel.chunk_bytes.min(bytes - done).min(block_left);
        let ends = chunk == block_left || done + chunk == bytes;
        let fold = match (ends, done < BLOCK_BYTES) {
            (false, _) => Fold::Keep,
            (true, true) => Fold::Start,
            (true, false) => Fold::Add,
        };
        // The int8 accumulator goes on after a fold, the f32 one starts again.
        let first = done == 0 || size_of::<X>() == 4 && done % BLOCK_BYTES == 0;
        let call = ColumnCall {
            panels: data[done * PANEL_ROWS..].as_ptr(),
            panel_stride: data.len() / panel_count,
            panel_count,
            bytes: chunk,
            tables: tables.as_ptr(),
            acc: acc.as_mut_ptr(),
            total: total.as_mut_ptr(),
            first,
            fold,
        };
        // SAFETY: NEON is baseline; the sizes are as the contract asks.
        unsafe {
            (kernel.build)(x[done * 4 * lanes..].as_ptr(), chunk, tables.as_mut_ptr());
            (kernel.run)(&call);
        }
        done += chunk;
    }
    let out_stride = PANEL_ROWS + 5;
    let len = panel_count * lanes * out_stride;
    let mut out: Vec<Acc> = start.iter().copied().cycle().take(len).collect();
    for p in 0..panel_count {
        let call = FinishCall {
            acc: acc[p * PANEL_ROWS * entry..].as_ptr(),
            total: total[p * PANEL_ROWS * entry..].as_ptr(),
            out: out[p * lanes * out_stride..].as_mut_ptr(),
            out_stride,
            accumulate,
        };
        // SAFETY: as above.
        unsafe { (kernel.finish)(&call) };
    }
    out
}

fn check_column<X: Copy, Acc: Copy + Bits>(
    [kernel, scalar]: [&ColumnKernel<X, Acc>; 2],
    bytes: usize,
    weight: Option<u8>,
    start: &[Acc],
    mut pick: impl FnMut(&mut StdRng) -> X,
) {
    assert_eq!(kernel.lanes, scalar.lanes);
    let mut rng = rng(bytes as u64);
    let panel_count = 2;
    let data = panels(1 + panel_count * (bytes + 1) * PANEL_ROWS, weight, &mut rng);
    let x: Vec<X> = (0..bytes * 4 * kernel.lanes).map(|_| pick(&mut rng)).collect();
    for accumulate in [false, true] {
        let [got, want] = [kernel, scalar].map(|kernel| {
            let shape = (panel_count, bytes);
            bits(&run_column(kernel, &data[1..], shape, &x, start, accumulate))
        });
        assert_eq!(got, want, "{} {bytes} bytes, weight {weight:?}", kernel.name);
    }
}

#[test]
fn column_i8() {
    let kernels = SETS.map(|set| set.column_i8);
    let start: Vec<i32> = (0..67).map(|i| i * 1_000_003 - 7).collect();
    for bytes in [1, 2, 4, 5, 6, 9, 10, 11, 59, 60, 61, 65, 120, 123, 305] {
        check_column(kernels, bytes, None, &start, |rng| rng.random());
        for (byte, value) in [(0x55, -128), (0xaa, -128), (0x55, 127), (0xaa, 127), (0xff, 3)] {
            check_column(kernels, bytes, Some(byte), &start, |_| value);
        }
    }
    let max = COLUMN_MAX_BLOCKS * BLOCK_BYTES;
    for byte in [0x55, 0xaa] {
        check_column(kernels, max, Some(byte), &start, |_| -128);
    }
}

#[test]
fn column_f32() {
    let kernels = SETS.map(|set| set.column_f32);
    let start: Vec<f32> = (0..67).map(|i| i as f32 * 0.37 - 9.0).collect();
    for bytes in [1, 2, 4, 5, 6, 9, 10, 11, 59, 60, 61, 65, 120, 123, 305] {
        check_column(kernels, bytes, None, &start, |rng| rng.random_range(-3.0..3.0));
        check_column(kernels, bytes, None, &start, |rng| f32::from_bits(rng.random()));
        check_column(kernels, bytes, Some(0xff), &start, |_| f32::NAN);
        check_column(kernels, bytes, Some(0x00), &start, |_| f32::INFINITY);
        check_column(kernels, bytes, None, &start, |rng| match rng.random_range(0..40) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            _ => 1.25,
        });
    }
}

/// The row and the column lanes agree in f32 too: one canonical order.
#[test]
fn lanes_agree() {
    let mut rng = rng(5);
    let (bytes, lanes) = (305, NEON.column_f32.lanes);
    let data = panels(bytes * PANEL_ROWS, None, &mut rng);
    let xt: Vec<f32> = (0..bytes * 4 * lanes).map(|_| rng.random_range(-3.0..3.0)).collect();
    let column = run_column(NEON.column_f32, &data, (1, bytes), &xt, &[0.0], false);
    let kernel = NEON.row_f32;
    for t in 0..lanes {
        let x: Vec<f32> = xt.iter().skip(t).step_by(lanes).copied().collect();
        let tile = kernel.tiles.last().unwrap();
        let row = run_row(kernel, tile, (&data, data.len()), (&[x], bytes), &[0.0], false);
        let column = &column[t * (PANEL_ROWS + 5)..][..PANEL_ROWS];
        assert_eq!(bits(&row[..PANEL_ROWS]), bits(column), "token {t}");
    }
}
