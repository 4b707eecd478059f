//! Few tokens: every tile, block and fold bounds, extreme values.

use super::*;
use crate::kernels::registry::Cpu;

/// Runs each tile of `kernel` over `units` bytes; the sums of `tokens` tokens.
pub(super) fn run_row<X: Copy, Acc: Copy>(
    kernel: &FewKernel<X, Acc>,
    tile: &FewTile<Acc>,
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
    let mut out: Vec<Acc> = start
        .iter()
        .copied()
        .cycle()
        .take(out_stride * tile.tokens)
        .collect();
    let call = FewCall {
        panels: panels.as_ptr(),
        panel_stride: stride,
        units,
        tables: tables.as_ptr(),
        table_stride,
        out: out.as_mut_ptr(),
        panel_sums: PANEL_ROWS,
        out_stride,
        accumulate,
        ahead: 0,
        read_before: false,
        cpu: Cpu::Other,
    };
    // SAFETY: as above.
    unsafe { (tile.run)(&call) };
    out
}

/// The same tile, one panel and token at a time, by the scalar reference.
fn check_row<X: Copy, Acc: Copy + Bits>(
    [kernel, scalar]: [&FewKernel<X, Acc>; 2],
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
            let got = run_row(
                kernel,
                tile,
                (data, stride),
                (&x[..tile.tokens], units),
                start,
                accumulate,
            );
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

#[test]
fn few_i8() {
    let kernels = SETS.map(|set| set.few_i8);
    let max = kernels[0].max_units;
    let start: Vec<i32> = (0..67).map(|i| i * 1_000_003 - 7).collect();
    for units in [
        0,
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        9,
        12,
        15,
        16,
        17,
        59,
        60,
        61,
        63,
        255,
        max - 1,
        max,
    ] {
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
fn few_i8_every_pair() {
    let kernels = SETS.map(|set| set.few_i8);
    for x0 in i8::MIN..=i8::MAX {
        for x1 in [-128, -127, -33, -32, -31, -1, 0, 1, 15, 16, 32, 126, 127] {
            let x = vec![vec![x0, x1, x1, x0]; 8];
            check_row(kernels, &x, 1, None, &[0]);
        }
    }
}

#[test]
fn few_f32() {
    let kernels = SETS.map(|set| set.few_f32);
    let max = kernels[0].max_units;
    assert_eq!(max % BLOCK_STRIPS, 0);
    let start: Vec<f32> = (0..67).map(|i| i as f32 * 0.37 - 9.0).collect();
    for units in [
        0,
        1,
        2,
        3,
        7,
        58,
        59,
        60,
        61,
        62,
        119,
        120,
        121,
        300,
        max - 1,
        max,
    ] {
        let mut rng = rng(11 + units as u64);
        let random: Vec<Vec<f32>> = (0..4)
            .map(|_| {
                (0..units * 4)
                    .map(|_| rng.random_range(-3.0..3.0))
                    .collect()
            })
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
fn few_f32_zero_weights_touch_nothing() {
    let kernels = SETS.map(|set| set.few_f32);
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
