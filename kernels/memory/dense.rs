//! The one dense product of training: the gradient of the weights, an f32
//! matrix product by the `gemm` crate.

use gemm::Parallelism;

/// `out[m][k] = sum_n a[n][m] * b[n][k]`: a `[n, m]` and b `[n, k]` row-major,
/// their rows `strides` apart; `out` `[m, k]` dense, overwritten. By as many `workers` of
/// the rayon pool that the caller is in.
///
/// # Panics
/// If a slice is too short for its shape.
pub fn transposed_product(
    [n, m, k]: [usize; 3],
    (a, b): (&[f32], &[f32]),
    strides: [usize; 2],
    out: &mut [f32],
    workers: usize,
) {
    let reach = |stride: usize, width: usize| match n.checked_sub(1) {
        None => Some(0),
        Some(last) => last.checked_mul(stride)?.checked_add(width),
    };
    assert!(reach(strides[0], m).is_some_and(|needed| a.len() >= needed));
    assert!(reach(strides[1], k).is_some_and(|needed| b.len() >= needed));
    assert_eq!(Some(out.len()), m.checked_mul(k), "out is not [m, k]");
    if n == 0 {
        out.fill(0.0);
        return;
    }
    let parallelism = match workers {
        #[cfg(feature = "rayon")]
        workers if workers > 1 => Parallelism::Rayon(workers),
        _ => Parallelism::None,
    };
    // Slices hold at most isize::MAX bytes, so no stride within them wraps.
    let [a_row, b_row, out_row] = [strides[0], strides[1], k].map(|stride| stride as isize);
    // SAFETY: the assertions above: rows of a and b lie in their slices, and
    // out is m rows of k; it is `&mut`, so it overlaps neither. `read_dst` is
    // false, and the destination is initialised all the same.
    unsafe {
        #[rustfmt::skip]
        gemm::gemm(
            m, k, n, out.as_mut_ptr(), 1, out_row, false, a.as_ptr(), a_row, 1, b.as_ptr(), 1,
            b_row, 0.0, 1.0, false, false, false, parallelism,
        );
    }
}
