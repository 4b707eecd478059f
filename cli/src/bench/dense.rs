//! The dense f32 GEMM that ternary products are compared with.

use gemm::Parallelism;

/// `y[m][n] = sum_k w[m][k] * x[k][n]`, all row-major and dense, by the gemm
/// crate, on `threads` threads of the rayon pool this is called in.
///
/// Of the layouts tried (w by rows or columns, tokens by rows or columns of x
/// and y) this one was never slower than the others, and up to 14 times faster
/// at a few tokens: the comparison is with gemm at its best.
///
/// # Panics
/// If a slice does not have the length that the shape asks for.
pub fn multiply([m, n, k]: [usize; 3], w: &[f32], x: &[f32], y: &mut [f32], threads: usize) {
    assert_eq!(Some(w.len()), m.checked_mul(k), "w is not [m][k]");
    assert_eq!(Some(x.len()), n.checked_mul(k), "x is not [k][n]");
    assert_eq!(Some(y.len()), n.checked_mul(m), "y is not [m][n]");
    let parallelism = match threads {
        1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    // Lengths of slices are below isize::MAX.
    let (one, n_step, k_step) = (1, n as isize, k as isize);
    // SAFETY: gemm reads `lhs[i * lhs_rs + j * lhs_cs]` for i < m, j < k, `rhs`
    // likewise for k by n, and writes `dst` for m by n. With these strides the
    // greatest index of each is its slice's length - 1, by the assertions
    // above; `y` is borrowed mutably and overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            one, // column strides come before row strides
            n_step,
            false,
            w.as_ptr(),
            one,
            k_step,
            x.as_ptr(),
            one,
            n_step,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_product_meant() {
        for [m, n, k] in [[1, 1, 1], [3, 2, 5], [17, 9, 33]] {
            let w: Vec<f32> = (0..m * k).map(|i| (i % 7) as f32 - 3.0).collect();
            let x: Vec<f32> = (0..n * k).map(|i| (i % 5) as f32 - 2.0).collect();
            let mut y = vec![f32::NAN; n * m];
            multiply([m, n, k], &w, &x, &mut y, 1);
            for (i, &y) in y.iter().enumerate() {
                let (row, token) = (i / n, i % n);
                let want: f32 = (0..k).map(|j| w[row * k + j] * x[j * n + token]).sum();
                assert_eq!(y, want);
            }
        }
    }
}
