//! Dense f32 products by the `gemm` crate.

/// A matrix in a slice: element `[i][j]` is at `i * row + j * col`.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub col: usize,
}

impl<'a> Strided<'a> {
    /// Rows `stride` apart.
    pub fn rows(data: &'a [f32], stride: usize) -> Self {
        let (row, col) = (stride, 1);
        Self { data, row, col }
    }

    /// The transpose of rows `stride` apart.
    pub fn transposed(data: &'a [f32], stride: usize) -> Self {
        let (row, col) = (1, stride);
        Self { data, row, col }
    }

    fn reaches(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// `c[m][n] = a[m][k] b[k][n]` with rows of `c` `stride` apart, shared among the
/// rayon threads that the caller is in if `parallel`.
pub fn product(
    [m, n, k]: [usize; 3],
    a: Strided<'_>,
    b: Strided<'_>,
    (c, stride): (&mut [f32], usize),
    parallel: bool,
) {
    assert!(
        a.reaches(m, k) && b.reaches(k, n),
        "an operand is too short"
    );
    assert!(
        stride >= n && (m == 0 || (m - 1) * stride + n <= c.len()),
        "the result is too short"
    );
    let threads = match rayon::current_num_threads() {
        threads if parallel && threads > 1 => gemm::Parallelism::Rayon(threads),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: by the assertions every element that the strides reach lies in its
    // slice; `c` is borrowed alone and its rows do not overlap.
    unsafe {
        #[rustfmt::skip]
        gemm::gemm(
            m, n, k, c.as_mut_ptr(), 1, stride as isize, false, a.data.as_ptr(),
            a.col as isize, a.row as isize, b.data.as_ptr(), b.col as isize, b.row as isize,
            0.0_f32, 1.0, false, false, false, threads,
        );
    }
}
