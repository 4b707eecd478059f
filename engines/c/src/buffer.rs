//! The caller's pointers as slices and matrices: lengths checked, any
//! alignment, no overlap of what is read with what is written.

use crate::handle::null;
use crate::status::{Error, Status};
use core::ops::Range;
use std::borrow::Cow;
use tritgemm::{MatMut, MatRef, OutOfMemory};

/// Numbers without padding for which every pattern of bits is a value.
pub(crate) trait Number: Copy + Default {}
impl Number for i8 {}
impl Number for u8 {}
impl Number for i32 {}
impl Number for f32 {}
impl Number for half::f16 {}
impl Number for half::bf16 {}

fn size(message: String) -> Error {
    Error::new(Status::TritgemmInvalidSize, message)
}

/// Addresses of a buffer.
pub(crate) type Span = Range<usize>;

/// The addresses of `len` elements at `ptr`, if they can be.
pub(crate) fn span<T>(what: &str, ptr: *const T, len: usize) -> Result<Span, Error> {
    let start = ptr.addr();
    let bytes = len.checked_mul(size_of::<T>());
    let bytes = bytes.filter(|&bytes| bytes <= isize::MAX as usize);
    let end = bytes.and_then(|bytes| start.checked_add(bytes));
    let Some(end) = end else {
        return Err(size(format!(
            "`{what}` of {len} elements does not fit the address space"
        )));
    };
    if ptr.is_null() && len > 0 {
        return Err(null(what));
    }
    Ok(start..end)
}

fn overlapping(a: &Span, b: &Span) -> bool {
    !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
}

fn overlap(input: &str, output: &str) -> Error {
    let message = format!("`{output}` is written and overlaps `{input}`");
    Error::new(Status::TritgemmOverlap, message)
}

/// An input, copied if it is not aligned.
///
/// # Safety
/// Precondition 1 of the crate's documentation, for `'a`.
pub(crate) unsafe fn input<'a, T: Number>(
    what: &str,
    ptr: *const T,
    len: usize,
) -> Result<Cow<'a, [T]>, Error> {
    span(what, ptr, len)?;
    if len == 0 {
        return Ok(Cow::Borrowed(&[]));
    }
    if ptr.is_aligned() {
        // SAFETY: by precondition 1, not null, aligned, of a size that was checked.
        return Ok(Cow::Borrowed(unsafe {
            core::slice::from_raw_parts(ptr, len)
        }));
    }
    let mut copy = Vec::new();
    zeros(&mut copy, len)?;
    // SAFETY: by precondition 1; `copy` is new and of the same length.
    unsafe { copy_bytes(ptr, copy.as_mut_ptr(), len) };
    Ok(Cow::Owned(copy))
}

/// Makes `values` `len` zeros.
pub(crate) fn zeros<T: Number>(values: &mut Vec<T>, len: usize) -> Result<(), OutOfMemory> {
    values.clear();
    reserve(values, len)?;
    values.resize(len, T::default());
    Ok(())
}

pub(crate) fn reserve<T>(values: &mut Vec<T>, len: usize) -> Result<(), OutOfMemory> {
    let bytes = len.saturating_mul(size_of::<T>());
    let reserved = values.try_reserve_exact(len);
    reserved.map_err(|_| OutOfMemory { bytes })
}

/// A dense matrix, `[rows][cols]`, of an input that must be as long.
pub(crate) fn matrix<'a, T>(
    what: &str,
    values: &'a [T],
    rows: usize,
    cols: usize,
) -> Result<MatRef<'a, T>, Error> {
    check_len(what, values.len(), rows, cols)?;
    Ok(MatRef::new(values, rows, cols)?)
}

/// As [`matrix`], of an output.
pub(crate) fn matrix_mut<'a, T>(
    what: &str,
    values: &'a mut [T],
    rows: usize,
    cols: usize,
) -> Result<MatMut<'a, T>, Error> {
    check_len(what, values.len(), rows, cols)?;
    Ok(MatMut::new(values, rows, cols)?)
}

fn check_len(what: &str, len: usize, rows: usize, cols: usize) -> Result<(), Error> {
    match rows.checked_mul(cols) {
        Some(expected) if len == expected => Ok(()),
        Some(expected) => Err(size(format!(
            "`{what}` has length {len}, expected {expected}"
        ))),
        None => Err(size(format!(
            "`{what}` of {rows} x {cols} elements does not fit the address space"
        ))),
    }
}

/// An input to keep: its own copy.
pub(crate) fn owned<T: Number>(values: Cow<'_, [T]>) -> Result<Vec<T>, OutOfMemory> {
    match values {
        Cow::Owned(values) => Ok(values),
        Cow::Borrowed(values) => {
            let mut copy = Vec::new();
            reserve(&mut copy, values.len())?;
            copy.extend_from_slice(values);
            Ok(copy)
        }
    }
}

/// Copies `len` numbers between places of any alignment.
///
/// # Safety
/// Both are valid for `len` elements and do not overlap.
unsafe fn copy_bytes<T: Number>(from: *const T, to: *mut T, len: usize) {
    // SAFETY: the caller's word; bytes are always aligned.
    unsafe {
        core::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), len * size_of::<T>());
    }
}

/// Runs `write` with an output as a slice, or with a copy that is written back
/// if it worked. `inputs` must not overlap it.
///
/// # Safety
/// Precondition 1 of the crate's documentation.
pub(crate) unsafe fn output<T: Number>(
    what: &str,
    ptr: *mut T,
    len: usize,
    inputs: &[(&str, Span)],
    write: impl FnOnce(&mut [T]) -> Result<(), Error>,
) -> Result<(), Error> {
    let written = span(what, ptr, len)?;
    for (input, read) in inputs {
        if overlapping(read, &written) {
            return Err(overlap(input, what));
        }
    }
    if len == 0 {
        return write(&mut []);
    }
    if ptr.is_aligned() {
        // SAFETY: by precondition 1, not null, aligned, of a size that was
        // checked; it overlaps no input.
        return write(unsafe { core::slice::from_raw_parts_mut(ptr, len) });
    }
    let mut copy = Vec::new();
    zeros(&mut copy, len)?;
    write(&mut copy)?;
    // SAFETY: by precondition 1; `copy` is of the same length.
    unsafe { copy_bytes(copy.as_ptr(), ptr, len) };
    Ok(())
}

/// The addresses of an input, to be kept apart from outputs.
pub(crate) fn reads<T>(what: &str, ptr: *const T, len: usize) -> Result<(&str, Span), Error> {
    Ok((what, span(what, ptr, len)?))
}

/// The addresses of a slice.
pub(crate) fn reads_slice<'a, T>(what: &'a str, slice: &[T]) -> (&'a str, Span) {
    let range = slice.as_ptr_range();
    (what, range.start.addr()..range.end.addr())
}

/// Rows of the caller's, `stride` elements apart.
pub(crate) struct Rows<'n, T> {
    what: &'n str,
    ptr: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    span: Span,
}

impl<'n, T: Number> Rows<'n, T> {
    /// Checks the shape against the length.
    pub(crate) fn new(
        what: &'n str,
        (ptr, len, stride): (*const T, usize, usize),
        [rows, cols]: [usize; 2],
    ) -> Result<Self, Error> {
        span(what, ptr, len)?;
        if stride < cols {
            return Err(size(format!(
                "`{what}` has a stride of {stride}, less than the {cols} elements of a row"
            )));
        }
        let needed = match rows.checked_sub(1) {
            None => Some(0),
            Some(_) if cols == 0 => Some(0),
            Some(last) => last.checked_mul(stride).and_then(|n| n.checked_add(cols)),
        };
        let Some(needed) = needed.filter(|&needed| needed <= len) else {
            return Err(size(format!(
                "`{what}` has {len} elements, too few for {rows} rows of {cols} at a stride of {stride}"
            )));
        };
        Ok(Self {
            what,
            ptr: ptr.cast_mut(),
            rows,
            cols,
            stride,
            span: span(what, ptr, needed)?,
        })
    }

    /// Elements without those between the rows.
    fn len(&self) -> usize {
        // Less than the length that was checked.
        self.rows * self.cols
    }

    /// Whether the rows are a slice as they are.
    fn in_place(&self) -> bool {
        self.ptr.is_aligned() && (self.rows <= 1 || self.stride == self.cols)
    }

    fn row(&self, row: usize) -> *mut T {
        // Stays in the span that was checked; used only where the row is not empty.
        self.ptr.wrapping_add(row * self.stride)
    }

    /// Whether elements of the rows, not of what lies between them, are the
    /// other's as well.
    fn overlaps<U>(&self, other: &Rows<'_, U>) -> bool {
        if !overlapping(&self.span, &other.span) {
            return false;
        }
        let stride = self.stride * size_of::<T>();
        if stride != other.stride * size_of::<U>() || stride == 0 {
            return true;
        }
        // Columns of one larger matrix, each its own.
        let widths = [self.cols * size_of::<T>(), other.cols * size_of::<U>()];
        let (ours, theirs) = (self.span.start, other.span.start);
        let distance = match theirs.checked_sub(ours) {
            Some(ahead) => ahead % stride,
            None => (stride - (ours - theirs) % stride) % stride,
        };
        distance < widths[0] || distance + widths[1] > stride
    }

    /// The rows, dense: in place, or copied into `stage`.
    ///
    /// # Safety
    /// Precondition 1 of the crate's documentation, for `'a`.
    pub(crate) unsafe fn read<'a>(&self, stage: &'a mut Vec<T>) -> Result<&'a [T], Error> {
        let len = self.len();
        if len == 0 {
            return Ok(&[]);
        }
        if self.in_place() {
            // SAFETY: by precondition 1: checked by `new`, aligned, dense.
            return Ok(unsafe { core::slice::from_raw_parts(self.ptr, len) });
        }
        zeros(stage, len)?;
        for (row, to) in stage.chunks_exact_mut(self.cols).enumerate() {
            // SAFETY: by precondition 1: `new` checked that every row is inside.
            unsafe { copy_bytes(self.row(row).cast_const(), to.as_mut_ptr(), self.cols) };
        }
        Ok(stage)
    }

    /// Fails if the rows, which are written, overlap `other`.
    pub(crate) fn check_apart<U>(&self, other: &Rows<'_, U>) -> Result<(), Error> {
        match self.overlaps(other) {
            true => Err(overlap(other.what, self.what)),
            false => Ok(()),
        }
    }

    /// Fails if the rows, which are written, overlap what is read.
    pub(crate) fn check_apart_from(&self, (what, read): &(&str, Span)) -> Result<(), Error> {
        match overlapping(read, &self.span) {
            true => Err(overlap(what, self.what)),
            false => Ok(()),
        }
    }

    /// Elements that need memory to be written in, if the rows are not a slice.
    pub(crate) fn staged_len(&self) -> usize {
        if self.in_place() { 0 } else { self.len() }
    }

    /// The rows, dense, to be written: in place, or `stage`, of [`Self::staged_len`], which
    /// has them if they are to be kept.
    ///
    /// # Safety
    /// Precondition 1 of the crate's documentation, for `'a`; nothing else that is read or
    /// written meanwhile overlaps them.
    pub(crate) unsafe fn slice_mut<'a>(&self, stage: &'a mut [T], kept: bool) -> &'a mut [T] {
        let len = self.len();
        if len == 0 {
            return &mut [];
        }
        if self.in_place() {
            // SAFETY: by precondition 1: checked by `new`, aligned, dense.
            return unsafe { core::slice::from_raw_parts_mut(self.ptr, len) };
        }
        if kept {
            for (row, to) in stage.chunks_exact_mut(self.cols).enumerate() {
                // SAFETY: by precondition 1: `new` checked that every row is inside.
                unsafe { copy_bytes(self.row(row).cast_const(), to.as_mut_ptr(), self.cols) };
            }
        }
        stage
    }

    /// Writes back what was written into the memory of [`Self::slice_mut`].
    ///
    /// # Safety
    /// As there.
    pub(crate) unsafe fn written(&self, stage: &[T]) {
        if self.staged_len() > 0 {
            for (row, from) in stage.chunks_exact(self.cols).enumerate() {
                // SAFETY: by precondition 1: `new` checked that every row is inside.
                unsafe { copy_bytes(from.as_ptr(), self.row(row), self.cols) };
            }
        }
    }

    /// Runs `write` with the rows, dense: in place, or through `stage`. They
    /// must not overlap `input`, nor what is in `others`.
    ///
    /// # Safety
    /// Precondition 1 of the crate's documentation.
    pub(crate) unsafe fn write<U: Number>(
        &self,
        stage: &mut Vec<T>,
        input: Option<&Rows<'_, U>>,
        others: &[(&str, Span)],
        write: impl FnOnce(&mut [T]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        input.map_or(Ok(()), |input| self.check_apart(input))?;
        others
            .iter()
            .try_for_each(|other| self.check_apart_from(other))?;
        zeros(stage, self.staged_len())?;
        // SAFETY: the caller's; they overlap nothing that is read.
        unsafe {
            write(self.slice_mut(stage, false))?;
            self.written(stage);
        }
        Ok(())
    }
}
