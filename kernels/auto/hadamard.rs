//! The Walsh-Hadamard transform of blocks, by additions and subtractions and one scaling.

use crate::kernels::auto::float::Float;
use crate::kernels::auto::scale::canonical;
use crate::kernels::auto::transpose::{SQUARE, square_f32};
use multiversion::multiversion;

/// `y[j] = x[j]`, with the sign turned where `signs[j]` has the sign bit.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn signed<T: Float>(x: &[T], signs: &[u32], y: &mut [f32]) {
    for ((y, &x), &sign) in y.iter_mut().zip(x).zip(signs) {
        *y = f32::from_bits(x.to_wide().to_bits() ^ sign);
    }
}

/// `y[j] = x[j]`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn widen<T: Float>(x: &[T], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x.to_wide();
    }
}

/// Each `block` values of `x`, a power of two: `x = H x * scale`, `H` in Sylvester's order.
/// Pairs at distance 1 first, then 2, 4 and so on: `(a, b)` becomes `(a + b, a - b)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn transform(x: &mut [f32], block: usize, scale: f32) {
    for x in x.chunks_exact_mut(block) {
        let mut distance = 1;
        if block >= SQUARE * SQUARE {
            // Distances within a vector: as distances between vectors, of squares.
            let (squares, _) = x.as_chunks_mut::<{ SQUARE * SQUARE }>();
            for square in squares {
                let mut columns = square_f32(bytemuck::cast(*square));
                for distance in [1, 2, 4] {
                    for first in (0..SQUARE).filter(|i| i & distance == 0) {
                        let (a, b) = (columns[first], columns[first + distance]);
                        for i in 0..SQUARE {
                            columns[first][i] = a[i] + b[i];
                            columns[first + distance][i] = a[i] - b[i];
                        }
                    }
                }
                *square = bytemuck::cast(square_f32(columns));
            }
            distance = SQUARE;
        }
        while distance < block {
            for pair in x.chunks_exact_mut(2 * distance) {
                let (first, second) = pair.split_at_mut(distance);
                for (a, b) in first.iter_mut().zip(second) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            distance *= 2;
        }
        for x in x {
            *x = canonical(*x * scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry of `H` is a sign: that of the bits which row and column share.
    #[test]
    fn the_transform_is_its_definition() {
        for block in [1, 2, 4, 8, 32, 64, 128, 1024_usize] {
            for column in (0..block).step_by(1 + block / 16) {
                let mut x = vec![0.0; 2 * block];
                x[block + column] = 1.0;
                transform(&mut x, block, 0.5);
                assert!(x[..block].iter().all(|&x| x == 0.0));
                for (row, &x) in x[block..].iter().enumerate() {
                    let odd = (row & column).count_ones() % 2 == 1;
                    assert_eq!(
                        x,
                        if odd { -0.5 } else { 0.5 },
                        "{row}, {column} of {block}"
                    );
                }
            }
        }
    }

    /// The order of additions is the one that is documented.
    #[test]
    fn additions_have_one_order() {
        for block in [16, 64, 256_usize] {
            let x: Vec<f32> = (0..block).map(|i| 1.0 / (i as f32 - 7.3)).collect();
            let mut plain = x.clone();
            let mut distance = 1;
            while distance < block {
                for i in (0..block).filter(|i| i & distance == 0) {
                    let (a, b) = (plain[i], plain[i + distance]);
                    (plain[i], plain[i + distance]) = (a + b, a - b);
                }
                distance *= 2;
            }
            let mut got = x;
            transform(&mut got, block, 1.0);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&plain), "{block}");
        }
    }
}
