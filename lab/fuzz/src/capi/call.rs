//! Steps of a program, and calls in the making.

use super::{GRANULARITIES, HANDLES, LARGE, MACS, Weights};
use crate::fill::{Fill, Style};
use crate::memory::Memory;
use arbitrary::Arbitrary;
use bytemuck::{Pod, cast_slice};
use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};
use tritgemm_capi::{self as c, Status};

#[derive(Arbitrary, Clone, Copy, PartialEq, Debug)]
pub enum Op {
    Workspace,
    Pin,
    Threads,
    Matrix,
    Panels,
    PanelsOfLinear,
    PanelsOfFile,
    SlicePanels,
    LendPanels,
    Linear,
    LinearOfPanels,
    LinearOfFile,
    SliceLinear,
    Prepare,
    PrepareAgain,
    Gemm,
    Forward,
    GemmPrepared,
    ForwardPrepared,
    ForwardMany,
    Experts,
    Routed,
    Route,
    ForwardExperts,
    Overlap,
    Save,
    Open,
    SaveModel,
    OpenModel,
    LinearOfModel,
    Destroy,
}

/// One call; the fields are what calls need of sizes, values and choices.
#[derive(Arbitrary, Debug)]
pub struct Step {
    pub op: Op,
    pub on: u8,
    pub choice: u8,
    pub workspace: u8,
    /// Whether an argument is wrong, which, and how.
    pub wrong: [u8; 3],
    pub at: [u8; 2],
    pub gaps: [u8; 2],
    pub size: [u16; 2],
    pub tokens: u8,
    pub fill: Fill,
    pub style: Style,
}

impl Step {
    pub fn granularity(&self) -> i32 {
        GRANULARITIES[usize::from(self.choice) % GRANULARITIES.len()]
    }

    /// As many scales as the granularity wants, and whether all are legal.
    pub fn scales(&self, rows: usize, cols: usize) -> (Vec<f32>, bool) {
        let count = match self.granularity() {
            1 => 1,
            2 => rows,
            group => rows * cols.div_ceil(group as usize),
        };
        let scales = self.fill.floats(count, self.style);
        let legal = scales.iter().all(|s| s.is_finite());
        (scales, legal)
    }

    /// Rows and columns of a matrix: a large one now and then.
    pub fn shape(&self) -> [usize; 2] {
        let [rows, cols] = self.size.map(usize::from);
        if rows % 32 == 0 {
            return [LARGE + rows / 32 % LARGE, 64 + cols % 65];
        }
        let cols = cols % 301;
        [(rows % 201).min(4096 / cols.max(1)), cols]
    }

    /// Values of a token that share a scale; 0 for all.
    pub fn x_group(&self) -> usize {
        [0, 32, 64, 128, 256][usize::from(self.size[1]) % 5]
    }

    /// Tokens, rows and columns of a product that does not take too long.
    pub fn product<H>(&self, kept: Option<&Kept<H, Weights>>) -> [usize; 3] {
        self.product_of(kept.map(|kept| &kept.model))
    }

    pub fn product_of(&self, weights: Option<&Weights>) -> [usize; 3] {
        let (m, k) = weights.map_or((0, 0), |weights| (weights.m, weights.k));
        let most = MACS[usize::from(m >= LARGE)] / m.max(1) / k.max(1);
        [usize::from(self.tokens).min(most), m, k]
    }

    pub fn bias(&self, rows: usize) -> Option<Vec<f32>> {
        self.workspace
            .is_multiple_of(2)
            .then(|| self.fill.floats(rows, self.style))
    }
}

/// A call in the making. Arguments are passed in the order of its signature, and
/// the one that the step says is spoilt, if it can be.
pub struct Call {
    pub spoilt: Option<(u8, u8)>,
    pub argument: u8,
    pub wrong: bool,
    /// Room for a handle, from some byte on, if it is given to the function.
    pub room: [u8; 24],
    pub at: usize,
    pub given: bool,
}

impl Call {
    pub fn new(step: &Step) -> Self {
        let [whether, which, how] = step.wrong;
        Self {
            spoilt: (whether % 4 == 0).then_some((which % 8, how)),
            argument: 0,
            wrong: false,
            room: [0x5a; 24],
            at: usize::from(step.at[0] % 16),
            given: false,
        }
    }

    /// How this argument is spoilt.
    pub fn spoils(&mut self) -> Option<u8> {
        self.argument += 1;
        let (which, how) = self.spoilt?;
        (which + 1 == self.argument).then_some(how)
    }

    pub fn wrong_if(&mut self, wrong: bool) {
        self.wrong |= wrong;
    }

    /// A handle: one that lives, NULL, or one byte into it.
    pub fn handle<H, M>(&mut self, kept: Option<&Kept<H, M>>) -> *mut H {
        let how = self.spoils();
        self.wrong_if(how.is_some() || kept.is_none());
        match (how, kept) {
            (None, Some(kept)) => kept.handle,
            (Some(how), Some(kept)) if how % 2 == 1 => kept.handle.wrapping_byte_add(1),
            _ => null_mut(),
        }
    }

    /// A number that stands for something, or one that does not.
    pub fn choice(&mut self, number: i32) -> i32 {
        let how = self.spoils();
        self.wrong_if(how.is_some());
        how.map_or(number, |how| [-1, 1000, i32::MIN][usize::from(how % 3)])
    }

    /// The group of int8 activations as an argument, and what it stands for.
    pub fn x_group(&mut self, step: &Step, int8: bool) -> (usize, Option<usize>) {
        if !int8 {
            return (0, None);
        }
        let group = step.x_group();
        let given = self.choice(group as i32) as usize;
        (given, (group > 0).then_some(group))
    }

    /// A string, or NULL.
    pub fn text(&mut self, text: &CStr) -> *const c_char {
        let how = self.spoils();
        self.wrong_if(how.is_some());
        how.map_or(text.as_ptr(), |_| null())
    }

    /// Some things one after the other, NULL, or one byte into them.
    pub fn array<T>(&mut self, all: &[T]) -> *const T {
        let how = self.spoils().filter(|_| !all.is_empty());
        self.wrong_if(how.is_some());
        match how {
            None => all.as_ptr(),
            Some(how) if how % 2 == 1 => all.as_ptr().wrapping_byte_add(1),
            Some(_) => null(),
        }
    }

    /// Where a handle goes, or NULL.
    pub fn out<H>(&mut self) -> *mut *mut H {
        self.given = self.spoils().is_none();
        self.wrong_if(!self.given);
        match self.given {
            true => self.room[self.at..].as_mut_ptr().cast(),
            false => null_mut(),
        }
    }

    /// Values with their number: of so many, any other number is wrong.
    pub fn buffer<T: Pod>(&mut self, values: &[T], at: u8) -> Buffer<T> {
        let mut values = values.to_vec();
        let how = self.spoils().filter(|_| !values.is_empty());
        if how.is_some_and(|how| how % 3 == 2) {
            values.push(T::zeroed());
            self.wrong = true;
        }
        let shape = [1, values.len()];
        self.spoil(Buffer::new(values, shape, shape[1], at), how)
    }

    /// Rows with the length of their buffer and their stride: the activations of a
    /// step (0), or its output (1).
    pub fn rows<T: Pod>(
        &mut self,
        (step, which): (&Step, usize),
        dense: &[T],
        [rows, cols]: [usize; 2],
        between: T,
    ) -> Buffer<T> {
        let (gap, at) = (step.gaps[which], step.at[which]);
        let mut stride = cols + usize::from(gap % 5);
        let mut values = Vec::new();
        for row in dense.chunks(cols.max(1)) {
            // Nothing after the last row.
            values.resize(values.len().next_multiple_of(stride.max(1)), between);
            values.extend_from_slice(row);
        }
        let how = self.spoils().filter(|_| !values.is_empty());
        match how.map(|how| how % 6) {
            Some(2) => drop(values.pop()),
            Some(5) => stride = cols - 1,
            _ => {}
        }
        self.wrong_if(how.is_some_and(|how| how % 3 == 2));
        self.spoil(Buffer::new(values, [rows, cols], stride, at), how)
    }

    /// NULL, or a length beyond the address space.
    pub fn spoil<T: Pod>(&mut self, mut buffer: Buffer<T>, how: Option<u8>) -> Buffer<T> {
        self.wrong_if(how.is_some());
        match how.map(|how| how % 3) {
            Some(0) => buffer.ptr = null_mut(),
            Some(1) => buffer.len = usize::MAX,
            _ => {}
        }
        buffer
    }

    /// The call ended as it must; whether it worked.
    #[track_caller]
    pub fn done(&self, status: Status) -> bool {
        // SAFETY: this thread's message, copied at once.
        let text = unsafe { CStr::from_ptr(c::tritgemm_last_error()) }.to_owned();
        let worked = status == Status::TritgemmOk;
        assert_eq!(worked, !self.wrong, "{status:?}: {text:?}");
        assert_ne!(status, Status::TritgemmInternal, "{text:?}");
        assert!(worked || !text.is_empty(), "{status:?} without a message");
        worked
    }

    /// Keeps what a call made; one that failed made nothing.
    #[track_caller]
    pub fn keep<H, M>(
        self,
        status: Status,
        all: &mut Vec<Kept<H, M>>,
        destroy: unsafe extern "C" fn(*mut H),
        model: Option<M>,
    ) {
        let Self {
            room, at, given, ..
        } = self;
        let address = usize::from_ne_bytes(*room[at..].first_chunk().expect("room"));
        if !self.done(status) {
            return assert!(if given {
                address == 0
            } else {
                room == [0x5a; 24]
            });
        }
        assert_ne!(address, 0);
        let handle = std::ptr::with_exposed_provenance_mut(address);
        let model = model.expect("right arguments");
        if all.len() == HANDLES {
            all.swap_remove(0);
        }
        all.push(Kept {
            handle,
            destroy,
            model,
        });
    }
}

/// A buffer as an argument.
pub struct Buffer<T> {
    pub memory: Memory<T>,
    pub before: Vec<T>,
    pub ptr: *mut T,
    pub len: usize,
    pub shape: [usize; 2],
    pub stride: usize,
}

impl<T: Pod> Buffer<T> {
    pub fn new(before: Vec<T>, shape: [usize; 2], stride: usize, at: u8) -> Self {
        let mut memory = Memory::new(&before, at);
        let (ptr, len) = (memory.ptr_mut(), before.len());
        Self {
            memory,
            before,
            ptr,
            len,
            shape,
            stride,
        }
    }

    /// It holds `rows` now, or anything for none, and between them what it held.
    #[track_caller]
    pub fn holds(&self, rows: Option<&[T]>) {
        let (got, mut want) = (self.memory.values(), self.before.clone());
        let [count, cols] = self.shape;
        for row in (0..count).filter(|_| cols > 0) {
            let place = row * self.stride..row * self.stride + cols;
            let rows = rows.map_or(&got[place.clone()], |rows| &rows[row * cols..][..cols]);
            want[place].copy_from_slice(rows);
        }
        let (got, want): (&[u8], &[u8]) = (cast_slice(&got), cast_slice(&want));
        let differs = got.iter().zip(want).position(|(a, b)| a != b);
        assert_eq!(differs, None, "byte of {count} rows of {cols}");
    }

    #[track_caller]
    pub fn untouched(&self) {
        let got = self.memory.values();
        assert!(cast_slice::<T, u8>(&got) == cast_slice::<T, u8>(&self.before));
    }
}

/// A handle, destroyed when this goes, and what it stands for, which goes later.
pub struct Kept<H, M> {
    pub handle: *mut H,
    pub destroy: unsafe extern "C" fn(*mut H),
    pub model: M,
}

impl<H, M> Drop for Kept<H, M> {
    fn drop(&mut self) {
        // SAFETY: it is the owner and goes away.
        unsafe { (self.destroy)(self.handle) }
    }
}

pub fn pick<T>(all: &[T], which: u8) -> Option<&T> {
    all.get(usize::from(which) % all.len().max(1))
}
