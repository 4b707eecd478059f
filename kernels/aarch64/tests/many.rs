//! Many tokens: every chunk and fold, and that both families agree.

use super::row::run_row;
use super::*;

/// Every chunk of a K of `bytes`, folded at blocks, finished at the end or at
/// the limit; returns what reaches the output and the raw totals.
fn run_column<X: Copy, Acc: Copy>(
    kernel: &ManyKernel<X, Acc>,
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
    let mut tables = lines(kernel.tables_len(kernel.chunk_strips));
    let mut done = 0;
    while done < bytes {
        let block_left = BLOCK_STRIPS - done % BLOCK_STRIPS;
        let chunk = kernel.chunk_strips.min(bytes - done).min(block_left);
        let ends = chunk == block_left || done + chunk == bytes;
        let fold = match (ends, done < BLOCK_STRIPS) {
            (false, _) => Fold::Keep,
            (true, true) => Fold::Start,
            (true, false) => Fold::Add,
        };
        // The int8 accumulator goes on after a fold, the f32 one starts again.
        let first = done == 0 || size_of::<X>() == 4 && done % BLOCK_STRIPS == 0;
        let call = ManyCall {
            panels: data[done * PANEL_ROWS..].as_ptr(),
            panel_stride: data.len() / panel_count,
            panel_count,
            bytes: chunk,
            tokens: lanes,
            tables: tables.as_ptr(),
            acc: acc.as_mut_ptr(),
            total: total.as_mut_ptr(),
            first,
            fold,
        };
        // SAFETY: NEON is baseline; the sizes are as the contract asks.
        unsafe {
            (kernel.build)(&BuildCall {
                xt: x[done * 4 * lanes..].as_ptr(),
                bytes: chunk,
                tokens: lanes,
                tables: tables.as_mut_ptr(),
            });
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
            tokens: lanes,
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
    [kernel, scalar]: [&ManyKernel<X, Acc>; 2],
    bytes: usize,
    weight: Option<u8>,
    start: &[Acc],
    mut pick: impl FnMut(&mut StdRng) -> X,
) {
    assert_eq!(kernel.lanes, scalar.lanes);
    let mut rng = rng(bytes as u64);
    let panel_count = 2;
    let data = panels(1 + panel_count * (bytes + 1) * PANEL_ROWS, weight, &mut rng);
    let x: Vec<X> = (0..bytes * 4 * kernel.lanes)
        .map(|_| pick(&mut rng))
        .collect();
    for accumulate in [false, true] {
        let [got, want] = [kernel, scalar].map(|kernel| {
            let shape = (panel_count, bytes);
            bits(&run_column(
                kernel,
                &data[1..],
                shape,
                &x,
                start,
                accumulate,
            ))
        });
        assert_eq!(
            got, want,
            "{} {bytes} bytes, weight {weight:?}",
            kernel.name
        );
    }
}

#[test]
fn many_i8() {
    let kernels = SETS.map(|set| set.many_i8);
    let start: Vec<i32> = (0..67).map(|i| i * 1_000_003 - 7).collect();
    for bytes in [1, 2, 4, 5, 6, 9, 10, 11, 59, 60, 61, 65, 120, 123, 305] {
        check_column(kernels, bytes, None, &start, |rng| rng.random());
        for (byte, value) in [
            (0x55, -128),
            (0xaa, -128),
            (0x55, 127),
            (0xaa, 127),
            (0xff, 3),
        ] {
            check_column(kernels, bytes, Some(byte), &start, |_| value);
        }
    }
    let max = MANY_MAX_FOLDS * BLOCK_STRIPS;
    for byte in [0x55, 0xaa] {
        check_column(kernels, max, Some(byte), &start, |_| -128);
    }
}

#[test]
fn many_f32() {
    let kernels = SETS.map(|set| set.many_f32);
    let start: Vec<f32> = (0..67).map(|i| i as f32 * 0.37 - 9.0).collect();
    for bytes in [1, 2, 4, 5, 6, 9, 10, 11, 59, 60, 61, 65, 120, 123, 305] {
        check_column(kernels, bytes, None, &start, |rng| {
            rng.random_range(-3.0..3.0)
        });
        check_column(kernels, bytes, None, &start, |rng| {
            f32::from_bits(rng.random())
        });
        check_column(kernels, bytes, Some(0xff), &start, |_| f32::NAN);
        check_column(kernels, bytes, Some(0x00), &start, |_| f32::INFINITY);
        check_column(kernels, bytes, None, &start, |rng| {
            match rng.random_range(0..40) {
                0 => f32::NAN,
                1 => f32::INFINITY,
                _ => 1.25,
            }
        });
    }
}

/// Both families agree in f32 too: one canonical order.
#[test]
fn lanes_agree() {
    let mut rng = rng(5);
    let (bytes, lanes) = (305, NEON.many_f32.lanes);
    let data = panels(bytes * PANEL_ROWS, None, &mut rng);
    let xt: Vec<f32> = (0..bytes * 4 * lanes)
        .map(|_| rng.random_range(-3.0..3.0))
        .collect();
    let column = run_column(NEON.many_f32, &data, (1, bytes), &xt, &[0.0], false);
    let kernel = NEON.few_f32;
    for t in 0..lanes {
        let x: Vec<f32> = xt.iter().skip(t).step_by(lanes).copied().collect();
        let tile = kernel.tiles.last().unwrap();
        let row = run_row(
            kernel,
            tile,
            (&data, data.len()),
            (&[x], bytes),
            &[0.0],
            false,
        );
        let column = &column[t * (PANEL_ROWS + 5)..][..PANEL_ROWS];
        assert_eq!(bits(&row[..PANEL_ROWS]), bits(column), "token {t}");
    }
}
