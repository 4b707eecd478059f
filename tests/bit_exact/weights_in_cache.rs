//! Whether weights are said to be in the cache changes the kernel, never a bit.

use tritgemm::{
    Granularity, GroupSize, Linear, MatMut, MatRef, Options, PreparedActivations, TernaryMatrix,
    Workspace,
};
use tritgemm_testing::backends;

/// Every tail of the units of 4 and 12 weights, and several tiles of panels.
const SHAPES: [[usize; 2]; 4] = [[1, 1], [65, 47], [300, 253], [577, 6200]];

#[test]
fn weights_in_cache_give_the_same_bits() {
    for [m, k] in SHAPES {
        let weights: Vec<f32> = (0..m * k).map(|i| ((i * 37) % 19) as f32 - 9.0).collect();
        let x: Vec<i8> = (0..2 * k).map(|i| (i * 89 % 256) as u8 as i8).collect();
        for granularity in [Granularity::PerRow, Granularity::PerGroup(GroupSize::G64)] {
            let matrix =
                TernaryMatrix::quantize(MatRef::new(&weights, m, k).unwrap(), granularity).unwrap();
            let layer = Linear::new(&matrix).unwrap();
            let trits = matrix.to_trits().unwrap();
            for n in [1, 2] {
                let tokens = MatRef::new(&x[..n * k], n, k).unwrap();
                let sum = |t: usize, r: usize| -> i32 {
                    (0..k)
                        .map(|i| i32::from(trits[r * k + i]) * i32::from(x[t * k + i]))
                        .sum()
                };
                let exact: Vec<i32> = (0..n * m).map(|i| sum(i / m, i % m)).collect();
                let mut first: Option<Vec<f32>> = None;
                for backend in backends() {
                    for in_cache in [false, true] {
                        let options = Options::new().backend(backend).weights_in_cache(in_cache);
                        let mut ws = Workspace::with_options(options);
                        let mut sums = vec![0; n * m];
                        let y = MatMut::new(&mut sums, n, m).unwrap();
                        layer.panels().gemm_i8(tokens, y, &mut ws).unwrap();
                        assert_eq!(sums, exact, "{m} x {k} x {n}, {backend:?}, {in_cache}");

                        let scales = vec![0.25; n];
                        let x =
                            PreparedActivations::from_int8(tokens, scales, layer.group(), &mut ws);
                        let mut out = vec![0.0; n * m];
                        let y = MatMut::new(&mut out, n, m).unwrap();
                        layer.forward_int8(&x.unwrap(), y, &mut ws).unwrap();
                        let first = first.get_or_insert_with(|| out.clone());
                        assert_eq!(&out, first, "{m} x {k} x {n}, {backend:?}, {in_cache}");
                    }
                }
            }
        }
    }
}
