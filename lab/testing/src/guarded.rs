//! Memory between two pages that nobody may touch.
//!
//! ```text
//! | no access | ....... values | no access |    Place::end(0)
//! | no access | values ....... | no access |    Place::start(0)
//! ```
//! A load or store that leaves the values on the side of the guard ends the
//! process with a fault; what is written on the other side, or into the gap
//! that an alignment asks for, is found by [`Guarded::take`].

use bytemuck::Pod;
use mmap_rs::{MmapMut, MmapNone, MmapOptions};
use std::marker::PhantomData;
use std::ops::Range;

/// What the pages hold where no value is.
const CANARY: u8 = 0xa5;

/// Where values lie: `gap` bytes (less than 64) from one of the guards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    at_end: bool,
    gap: usize,
}

impl Place {
    /// The last value ends `gap` bytes before the guard.
    pub fn end(gap: usize) -> Self {
        Self { at_end: true, gap }
    }

    /// The first value starts `gap` bytes after the guard.
    pub fn start(gap: usize) -> Self {
        Self { at_end: false, gap }
    }

    /// Against either guard.
    pub fn tight() -> [Self; 2] {
        [Self::end(0), Self::start(0)]
    }

    /// Against either guard, and at every distance below 64: at every alignment
    /// that the element type allows.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..64).flat_map(|gap| [Self::end(gap), Self::start(gap)])
    }

    /// Against the same guard.
    pub fn tight_side(self) -> Self {
        Self { gap: 0, ..self }
    }

    /// The place of operand `i` of several: the same side, and another gap
    /// unless it is 0, so that operands are not aligned alike.
    pub fn of_operand(self, i: usize) -> Self {
        let gap = self.gap * (2 * i + 1) % 64;
        Self { gap, ..self }
    }
}

/// Values of type `T` beside a guard page.
pub struct Guarded<T> {
    pages: MmapMut,
    /// In bytes of `pages`.
    values: Range<usize>,
    // Unmapped with the rest.
    _guards: [MmapNone; 2],
    _element: PhantomData<T>,
}

impl<T: Pod> Guarded<T> {
    /// A copy of `values` at `place`; the gap is rounded down to what `T` can
    /// be aligned to.
    pub fn new(values: &[T], place: Place) -> Self {
        let mut guarded = Self::filled(values.len(), place);
        guarded.get_mut().copy_from_slice(values);
        guarded
    }

    /// `len` values of canaries at `place`: memory for an output.
    pub fn filled(len: usize, place: Place) -> Self {
        let page = MmapOptions::page_size();
        let (bytes, gap) = (len * size_of::<T>(), place.gap & !(align_of::<T>() - 1));
        let size = (bytes + gap).next_multiple_of(page).max(page);
        let (mut pages, guards) = between_guards(size, page);
        pages.as_mut_slice().fill(CANARY);
        let start = match place.at_end {
            true => size - gap - bytes,
            false => gap,
        };
        Self {
            pages,
            values: start..start + bytes,
            _guards: guards,
            _element: PhantomData,
        }
    }

    pub fn get(&self) -> &[T] {
        bytemuck::cast_slice(&self.pages.as_slice()[self.values.clone()])
    }

    pub fn get_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.pages.as_mut_slice()[self.values.clone()])
    }

    /// The values, for as long as the process lives.
    pub fn leak(self) -> &'static [T] {
        Box::leak(Box::new(self)).get()
    }

    /// The values of an output, after a look at what lies around them.
    #[track_caller]
    pub fn take(self, what: &dyn std::fmt::Debug) -> Vec<T> {
        let pages = self.pages.as_slice();
        let around = [&pages[..self.values.start], &pages[self.values.end..]];
        for (side, bytes) in ["before", "after"].iter().zip(around) {
            let untouched = bytes.iter().all(|&byte| byte == CANARY);
            assert!(untouched, "wrote {side} the output: {what:?}");
        }
        self.get().to_vec()
    }
}

/// `size` bytes of memory, with a page before and one after that nobody may
/// touch.
fn between_guards(size: usize, page: usize) -> (MmapMut, [MmapNone; 2]) {
    let map = MmapOptions::new(size + 2 * page).expect("a size");
    let mut before = map.map_mut().expect("memory");
    let mut pages = before.split_off(page).expect("at a page");
    let after = pages.split_off(size).expect("at a page");
    let guard = |map: MmapMut| map.make_none().map_err(|(_, e)| e).expect("a guard");
    (pages, [guard(before), guard(after)])
}
