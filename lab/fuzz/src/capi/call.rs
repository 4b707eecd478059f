//! The arguments of a call, one of which may be wrong, and what must come of it.

use super::outcome::{Reason, agree, failed};
use crate::memory::Memory;
use arbitrary::Arbitrary;
use bytemuck::{Pod, cast_slice};
use std::ptr::{dangling_mut, null, null_mut};
use tritgemm::{MatMut, MatRef};
use tritgemm_capi::Status;

/// One argument that is not what it should be.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Slip {
    arg: u8,
    how: How,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum How {
    Null,
    /// A length beyond the address space; the address of no handle.
    Beyond,
    Length(i8),
    Stride(i8),
    StrideBeyond,
}

/// A call in the making. Arguments are passed in the order of its signature.
pub struct Call {
    slip: Option<Slip>,
    arg: u8,
    /// Errors that the arguments ask for; any of them will do.
    wrong: Vec<(Status, String)>,
}

impl Call {
    /// With what goes wrong.
    pub fn new(slip: Option<Slip>) -> Self {
        Self {
            slip,
            arg: 0,
            wrong: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<How> {
        let arg = self.arg;
        self.arg += 1;
        self.slip.filter(|s| s.arg % 8 == arg).map(|s| s.how)
    }

    /// An error that the call must return, with these words in its message.
    pub fn wrong(&mut self, status: Status, part: impl Into<String>) {
        self.wrong.push((status, part.into()));
    }

    /// Whether arguments are as they should be.
    pub fn is_right(&self) -> bool {
        self.wrong.is_empty()
    }

    /// A handle; there may be none.
    pub fn handle<H>(&mut self, name: &str, handle: Option<*mut H>) -> *mut H {
        match (self.next(), handle) {
            (Some(How::Null), _) | (_, None) => {
                self.wrong(Status::TritgemmNullPointer, format!("`{name}` is NULL"));
                null_mut()
            }
            (Some(How::Beyond), Some(handle)) if align_of::<H>() > 1 => {
                let text = format!("`{name}` is no handle");
                self.wrong(Status::TritgemmNullPointer, text);
                handle.wrapping_byte_add(1)
            }
            (_, Some(handle)) => handle,
        }
    }

    /// Where a result goes.
    pub fn out<T>(&mut self, name: &str, out: &mut T) -> *mut T {
        match self.next() {
            Some(How::Null) => {
                self.wrong(Status::TritgemmNullPointer, format!("`{name}` is NULL"));
                null_mut()
            }
            _ => out,
        }
    }

    /// Where a handle goes.
    pub fn slot<H>(&mut self, slot: &mut Slot<H>) -> *mut *mut H {
        let out = self.out("out", &mut slot.handle);
        slot.given = !out.is_null();
        out
    }

    /// A buffer with its length, in or out; longer or shorter if that slips.
    pub fn buffer<T: Pod>(&mut self, name: &'static str, mut values: Vec<T>, at: u8) -> Buffer<T> {
        let how = self.next();
        if let Some(How::Length(by)) = how {
            let len = values.len().saturating_add_signed(by.into());
            values.resize(len, T::zeroed());
        }
        let buffer = Buffer::new(name, values, at);
        self.spoil(buffer, how)
    }

    /// A buffer that is not there: NULL and 0.
    pub fn none<T: Pod>(&mut self, name: &'static str) -> Buffer<T> {
        self.arg += 1;
        let mut none = Buffer::new(name, Vec::new(), 0);
        none.null = true;
        none
    }

    fn spoil<T: Pod>(&mut self, mut buffer: Buffer<T>, how: Option<How>) -> Buffer<T> {
        let name = buffer.name;
        match how {
            Some(How::Null) if buffer.len > 0 => {
                self.wrong(Status::TritgemmNullPointer, format!("`{name}` is NULL"));
                buffer.null = true;
            }
            // Empty ones may be.
            Some(How::Null) => buffer.null = true,
            Some(How::Beyond) => {
                let text = format!("`{name}` of {} elements does not fit", usize::MAX);
                self.wrong(Status::TritgemmInvalidSize, text);
                buffer.len = usize::MAX;
            }
            _ => {}
        }
        buffer
    }

    /// Rows with their length and stride: `values`, dense as long as there are
    /// any, `rows` of `cols` as the call is told.
    pub fn rows<T: Pod>(
        &mut self,
        name: &'static str,
        values: &[T],
        [rows, cols]: [usize; 2],
        (gap, between): (u8, T),
        at: u8,
    ) -> Rows<T> {
        let how = self.next();
        let mut stride = cols + usize::from(gap % 5);
        let mut spread = Vec::with_capacity(values.len() + values.len() / cols.max(1) * 4);
        for row in values.chunks(cols.max(1)) {
            // Nothing after the last row.
            if !spread.is_empty() {
                spread.resize(spread.len() + stride - cols, between);
            }
            spread.extend_from_slice(row);
        }
        match how {
            Some(How::Length(by)) => {
                let len = spread.len().saturating_add_signed(by.into());
                spread.resize(len, between);
            }
            Some(How::Stride(by)) => stride = stride.saturating_add_signed(by.into()),
            Some(How::StrideBeyond) => stride = usize::MAX,
            _ => {}
        }
        let right = self.is_right();
        let buffer = self.spoil(Buffer::new(name, spread, at), how);
        if right && self.is_right() {
            self.check_rows(&buffer, [rows, cols], stride);
        }
        let shape = [rows, cols];
        Rows {
            buffer,
            shape,
            stride,
        }
    }

    /// By the header: rows of `cols` elements, `stride` apart, inside of the buffer.
    fn check_rows<T: Pod>(&mut self, buffer: &Buffer<T>, [rows, cols]: [usize; 2], stride: usize) {
        let (name, wide) = (buffer.name, |n: usize| n as u128);
        let needed = match rows.min(cols) {
            0 => 0,
            _ => wide(rows - 1) * wide(stride) + wide(cols),
        };
        if stride < cols {
            self.wrong(
                Status::TritgemmInvalidSize,
                format!("`{name}` has a stride of {stride}"),
            );
        } else if needed > wide(buffer.len) {
            self.wrong(
                Status::TritgemmInvalidSize,
                format!("`{name}` has {} elements, too few", buffer.len),
            );
        }
    }

    /// One of the errors that the arguments ask for, or what the Rust interface
    /// does with them; its value.
    #[track_caller]
    pub fn check<T, E: Reason>(
        self,
        status: Status,
        want: impl FnOnce() -> Result<T, E>,
    ) -> Option<T> {
        if self.is_right() {
            return agree(status, want());
        }
        let text = failed(status);
        let expected = |(s, part): &(Status, String)| *s == status && text.contains(part);
        assert!(
            self.wrong.iter().any(expected),
            "{status:?}, `{text}`: expected one of {:?}",
            self.wrong
        );
        None
    }
}

/// Room for a new handle.
pub struct Slot<H> {
    handle: *mut H,
    given: bool,
}

impl<H> Slot<H> {
    /// With something in it that is none.
    pub fn new() -> Self {
        Self {
            handle: dangling_mut(),
            given: true,
        }
    }

    /// What a call that worked put there.
    #[track_caller]
    pub fn made(self) -> *mut H {
        assert!(!self.handle.is_null() && self.handle != dangling_mut());
        self.handle
    }

    /// A call that failed leaves none.
    #[track_caller]
    pub fn unmade(self) {
        let left = if self.given {
            null_mut()
        } else {
            dangling_mut()
        };
        assert_eq!(self.handle, left);
    }
}

impl<H> Default for Slot<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// A buffer as an argument.
pub struct Buffer<T> {
    name: &'static str,
    memory: Memory<T>,
    null: bool,
    len: usize,
    before: Vec<T>,
}

impl<T: Pod> Buffer<T> {
    fn new(name: &'static str, values: Vec<T>, at: u8) -> Self {
        Self {
            name,
            memory: Memory::new(&values, at),
            null: false,
            len: values.len(),
            before: values,
        }
    }

    /// To be read.
    pub fn ptr(&self) -> *const T {
        if self.null { null() } else { self.memory.ptr() }
    }

    /// To be written.
    pub fn ptr_mut(&mut self) -> *mut T {
        if self.null {
            null_mut()
        } else {
            self.memory.ptr_mut()
        }
    }

    /// The length that goes with it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it held before the call.
    pub fn before(&self) -> &[T] {
        &self.before
    }

    /// The memory, where it lasts.
    pub fn into_memory(self) -> Memory<T> {
        self.memory
    }

    /// It holds `want` now, bit for bit.
    #[track_caller]
    pub fn holds(&self, want: &[T]) {
        let got = self.memory.values();
        let (got, want): (&[u8], &[u8]) = (cast_slice(&got), cast_slice(want));
        if got != want {
            let at = got.iter().zip(want).position(|(a, b)| a != b);
            let element = at.map(|at| at / size_of::<T>());
            panic!(
                "`{}`: {} bytes, {} expected, element {element:?} differs",
                self.name,
                got.len(),
                want.len()
            );
        }
    }

    /// Nothing wrote to it.
    #[track_caller]
    pub fn untouched(&self) {
        self.holds(&self.before);
    }
}

/// Rows as an argument.
pub struct Rows<T> {
    buffer: Buffer<T>,
    shape: [usize; 2],
    stride: usize,
}

impl<T: Pod> Rows<T> {
    /// Pointer, length and stride, to be read.
    pub fn input(&self) -> (*const T, usize, usize) {
        (self.buffer.ptr(), self.buffer.len, self.stride)
    }

    /// Pointer, length and stride, to be written.
    pub fn output(&mut self) -> (*mut T, usize, usize) {
        (self.buffer.ptr_mut(), self.buffer.len, self.stride)
    }

    /// What the call reads.
    pub fn view(&self) -> MatRef<'_, T> {
        self.view_of(&self.buffer.before)
    }

    /// The same, of another type.
    pub fn map<U>(&self, f: impl FnMut(&T) -> U) -> Vec<U> {
        self.buffer.before.iter().map(f).collect()
    }

    /// `values`, made by [`map`](Self::map), as the call reads them.
    pub fn view_of<'a, U>(&self, values: &'a [U]) -> MatRef<'a, U> {
        let [rows, cols] = self.shape;
        let view = MatRef::with_stride(values, rows, cols, self.model_stride());
        view.expect("as checked")
    }

    /// What was there before the call, to be written to.
    pub fn canvas(&self) -> Vec<T> {
        self.buffer.before.clone()
    }

    /// `canvas` as the call writes it.
    pub fn view_mut<'a>(&self, canvas: &'a mut [T]) -> MatMut<'a, T> {
        let [rows, cols] = self.shape;
        let view = MatMut::with_stride(canvas, rows, cols, self.model_stride());
        view.expect("as checked")
    }

    /// Where rows are empty, Rust wants them dense to have any number of them.
    fn model_stride(&self) -> usize {
        match self.shape[1] {
            0 => 0,
            _ => self.stride,
        }
    }

    /// It holds `canvas`, what lies between rows included.
    #[track_caller]
    pub fn holds(&self, canvas: &[T]) {
        self.buffer.holds(canvas);
    }

    /// Nothing wrote to it.
    #[track_caller]
    pub fn untouched(&self) {
        self.buffer.untouched();
    }

    /// Nothing wrote between the rows; what they hold is not defined.
    #[track_caller]
    pub fn holds_between(&self) {
        let [rows, cols] = self.shape;
        let mut now = self.buffer.memory.values();
        // Rows without a value may be any number.
        for row in (0..rows).take_while(|_| cols > 0) {
            let range = row * self.stride..row * self.stride + cols;
            now[range.clone()].copy_from_slice(&self.buffer.before[range]);
        }
        let (now, before): (&[u8], &[u8]) = (cast_slice(&now), cast_slice(&self.buffer.before));
        assert!(now == before, "between the rows of `{}`", self.buffer.name);
    }
}
