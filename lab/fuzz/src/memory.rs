//! Memory at an address of any alignment, allocated to the byte: what reads or
//! writes beside it runs into the sanitizer, or into the canaries before it.

use bytemuck::{Pod, cast_slice, pod_collect_to_vec};
use std::marker::PhantomData;

const CANARY: u8 = 0x5a;

/// Values at a chosen distance from where an allocation starts, up to its end.
pub struct Memory<T> {
    data: Vec<u8>,
    start: usize,
    _of: PhantomData<T>,
}

impl<T: Pod> Memory<T> {
    /// A copy of `values`, `at` bytes modulo 16 after the start.
    pub fn new(values: &[T], at: u8) -> Self {
        let (start, bytes) = (usize::from(at % 16), cast_slice(values));
        // Whole, not byte by byte: the fuzzer looks into loops.
        let mut data = Vec::with_capacity(start + bytes.len());
        data.resize(start, CANARY);
        data.extend_from_slice(bytes);
        Self {
            data,
            start,
            _of: PhantomData,
        }
    }

    /// Where it is.
    pub fn ptr(&self) -> *const T {
        self.data[self.start..].as_ptr().cast()
    }

    /// Where it is, to be written.
    pub fn ptr_mut(&mut self) -> *mut T {
        self.data[self.start..].as_mut_ptr().cast()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        (self.data.len() - self.start) / size_of::<T>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values, after checking that nothing before them was written.
    pub fn values(&self) -> Vec<T> {
        let (before, inside) = self.data.split_at(self.start);
        assert_eq!(before, &[CANARY; 16][..self.start], "before it");
        pod_collect_to_vec(inside)
    }
}
