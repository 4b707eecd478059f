//! Row-major matrix views with explicit strides, the edge of the API.

use std::fmt;

/// Why a slice is not the matrix it was said to be.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ViewError {
    /// The slice is shorter than the shape and stride need.
    Length {
        /// Rows of the view.
        rows: usize,
        /// Columns of the view.
        cols: usize,
        /// Elements from a row to the next.
        stride: usize,
        /// Elements that the slice has.
        len: usize,
        /// Elements that it needs.
        expected: usize,
    },
    /// Rows would overlap.
    Stride {
        /// Columns of the view.
        cols: usize,
        /// Elements from a row to the next.
        stride: usize,
    },
    /// The shape does not fit the address space.
    TooLarge {
        /// Rows of the view.
        rows: usize,
        /// Columns of the view.
        cols: usize,
        /// Elements from a row to the next.
        stride: usize,
    },
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length {
                rows,
                cols,
                stride,
                len,
                expected,
            } => write!(
                f,
                "{rows} x {cols} elements at a stride of {stride} need {expected}, the slice has {len}"
            ),
            Self::Stride { cols, stride } => write!(
                f,
                "a stride of {stride} is smaller than the {cols} columns of a row"
            ),
            Self::TooLarge { rows, cols, stride } => write!(
                f,
                "{rows} x {cols} elements at a stride of {stride} do not fit the address space"
            ),
        }
    }
}

impl std::error::Error for ViewError {}

fn check(len: usize, rows: usize, cols: usize, stride: usize) -> Result<(), ViewError> {
    if stride < cols {
        return Err(ViewError::Stride { cols, stride });
    }
    let expected = match rows.checked_sub(1) {
        None => 0,
        Some(last) => last
            .checked_mul(stride)
            .and_then(|start| start.checked_add(cols))
            .ok_or(ViewError::TooLarge { rows, cols, stride })?,
    };
    if len < expected {
        return Err(ViewError::Length {
            rows,
            cols,
            stride,
            len,
            expected,
        });
    }
    Ok(())
}

/// Elements from the first of a view to its last; the view was checked.
fn strided_len(rows: usize, cols: usize, stride: usize) -> usize {
    match rows {
        0 => 0,
        _ if cols == 0 => 0,
        rows => (rows - 1) * stride + cols,
    }
}

/// A borrowed row-major matrix: `rows` rows of `cols` elements, `stride` apart.
///
/// ```
/// use tritgemm::MatRef;
/// let data = [1, 2, 3, 0, 4, 5, 6, 0];
/// let x = MatRef::with_stride(&data, 2, 3, 4)?;
/// assert_eq!(x.row(1), [4, 5, 6]);
/// # Ok::<(), tritgemm::ViewError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, T> MatRef<'a, T> {
    /// The slice itself.
    #[cfg(feature = "train")]
    pub(crate) fn data(&self) -> &'a [T] {
        self.data
    }

    /// A slice whose chunks of the stride are the rows, each with what lies
    /// between it and the next, and the stride. Without columns it is empty.
    pub(crate) fn strided(&self) -> (&'a [T], usize) {
        let len = strided_len(self.rows, self.cols, self.stride);
        (&self.data[..len], self.stride)
    }

    /// Row `row`, `cols` elements.
    ///
    /// # Panics
    /// If `row` is not a row of the view.
    pub fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.rows, "row {row} of a view of {} rows", self.rows);
        &self.data[row * self.stride..][..self.cols]
    }
}

/// A mutably borrowed row-major matrix: `rows` rows of `cols` elements,
/// `stride` apart. Elements between the rows are never touched.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// Row `row`, `cols` elements.
    ///
    /// # Panics
    /// If `row` is not a row of the view.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of a view of {} rows", self.rows);
        &mut self.data[row * self.stride..][..self.cols]
    }

    /// The same matrix, borrowed for a while.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }

    /// The same matrix, not to be changed.
    pub(crate) fn as_ref(&self) -> MatRef<'_, T> {
        MatRef {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
        }
    }

    /// As [`MatRef::strided`].
    pub(crate) fn strided(&mut self) -> (&mut [T], usize) {
        let len = strided_len(self.rows, self.cols, self.stride);
        (&mut self.data[..len], self.stride)
    }

    /// The rows before `row`, and the rest.
    pub(crate) fn split_at_row(self, row: usize) -> (MatMut<'a, T>, MatMut<'a, T>) {
        let Self { data, rows, .. } = self;
        let start = match row < rows {
            true => row * self.stride,
            false => data.len(),
        };
        let (head, tail) = data.split_at_mut(start);
        let part = |data, rows| MatMut {
            data,
            rows,
            cols: self.cols,
            stride: self.stride,
        };
        (
            part(head, row.min(rows)),
            part(tail, rows.saturating_sub(row)),
        )
    }

    /// The slice itself.
    pub(crate) fn into_data(self) -> &'a mut [T] {
        self.data
    }
}

/// What views of both kinds have.
macro_rules! view {
    ($view:ident, $data:ty) => {
        impl<'a, T> $view<'a, T> {
            /// A dense view: the stride is `cols`.
            ///
            /// # Errors
            /// If `data` is shorter than `rows * cols`.
            pub fn new(data: $data, rows: usize, cols: usize) -> Result<Self, ViewError> {
                Self::with_stride(data, rows, cols, cols)
            }

            /// A view whose rows start `stride` elements apart.
            ///
            /// # Errors
            /// If `stride < cols` or `data` is too short.
            pub fn with_stride(
                data: $data,
                rows: usize,
                cols: usize,
                stride: usize,
            ) -> Result<Self, ViewError> {
                check(data.len(), rows, cols, stride)?;
                Ok(Self {
                    data,
                    rows,
                    cols,
                    stride,
                })
            }

            /// Number of rows.
            pub fn rows(&self) -> usize {
                self.rows
            }

            /// Number of columns.
            pub fn cols(&self) -> usize {
                self.cols
            }

            /// Elements from a row to the next.
            pub fn stride(&self) -> usize {
                self.stride
            }

            /// A dense view of a buffer that was sized for it.
            pub(crate) fn dense(data: $data, rows: usize, cols: usize) -> Self {
                Self::new(data, rows, cols).expect("sized for the shape")
            }
        }
    };
}
view!(MatRef, &'a [T]);
view!(MatMut, &'a mut [T]);
