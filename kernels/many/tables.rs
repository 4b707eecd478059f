//! The tables: 81 signed sums of four activations for each token.

use crate::kernels::contract::{BuildCall, MANY_ENTRIES};
use crate::kernels::many::accumulator::{Accumulator, F32s, I16s};
use crate::kernels::prefetch;
use core::mem::size_of;
use pulp::Simd;

/// The activations of a tile.
trait Activations<V>: Copy {
    /// Vector `v` of row `k`, in a tile whose rows have `vectors` of them: that many
    /// times the lanes of V.
    ///
    /// # Safety
    /// `v < vectors`, and precondition 3 of [`crate::kernels::contract`] for row k.
    unsafe fn load(self, k: usize, v: usize, vectors: usize) -> V;

    /// Asks for the activations of `load(k, v, vectors)`, which need not be there.
    fn prefetch(self, k: usize, v: usize, vectors: usize);
}

impl<S: Simd> Activations<I16s<S>> for *const i8 {
    #[inline(always)]
    unsafe fn load(self, k: usize, v: usize, vectors: usize) -> I16s<S> {
        let width = size_of::<I16s<S>>() / 2;
        let mut wide = I16s::<S>(bytemuck::Zeroable::zeroed());
        let lanes: &mut [i16] = bytemuck::cast_slice_mut(core::slice::from_mut(&mut wide));
        // SAFETY: precondition 3: row k holds a value for each lane; v < vectors.
        let x = unsafe { core::slice::from_raw_parts(self.add((k * vectors + v) * width), width) };
        for (lane, &x) in lanes.iter_mut().zip(x) {
            *lane = i16::from(x);
        }
        wide
    }

    #[inline(always)]
    fn prefetch(self, k: usize, v: usize, vectors: usize) {
        let width = size_of::<I16s<S>>() / 2;
        prefetch::line(self.wrapping_add((k * vectors + v) * width));
    }
}

impl<S: Simd> Activations<F32s<S>> for *const f32 {
    #[inline(always)]
    unsafe fn load(self, k: usize, v: usize, vectors: usize) -> F32s<S> {
        let width = size_of::<F32s<S>>() / 4;
        // SAFETY: precondition 3: row k holds a value for each lane; v < vectors.
        unsafe {
            let x = self.add((k * vectors + v) * width);
            x.cast::<F32s<S>>().read_unaligned()
        }
    }

    #[inline(always)]
    fn prefetch(self, k: usize, v: usize, vectors: usize) {
        let width = size_of::<F32s<S>>() / 4;
        prefetch::line(self.wrapping_add((k * vectors + v) * width));
    }
}

/// Builds the tables of `bytes` groups.
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`] for entries of
/// `VECTORS` vectors.
#[inline(always)]
unsafe fn build<S: Simd, V: Accumulator<S>, X: Activations<V>, const VECTORS: usize>(
    simd: S,
    x: X,
    bytes: usize,
    tables: *mut u8,
) {
    let zero = V::zeroed();
    let mut table = tables.cast::<V>();
    for b in 0..bytes {
        for v in 0..VECTORS {
            let mut terms = [[zero; 3]; 4];
            for (j, term) in terms.iter_mut().enumerate() {
                // Those of the next chunk: of many tokens they come from L3, and
                // there are too few of them at a time for the CPU to see a stream.
                x.prefetch(4 * (bytes + b) + j, v, VECTORS);
                // SAFETY: precondition 3: four rows a group; v < VECTORS.
                let x = unsafe { x.load(4 * b + j, v, VECTORS) };
                *term = [zero, x, V::neg(simd, x)];
            }
            let mut low = [zero; 9];
            let mut i = 0;
            for &t2 in &terms[2] {
                for &t3 in &terms[3] {
                    low[i] = V::add(simd, t2, t3);
                    i += 1;
                }
            }
            // SAFETY: v < VECTORS, within the first entry of group b.
            let mut entry = unsafe { table.add(v) };
            for &t0 in &terms[0] {
                for &t1 in &terms[1] {
                    let high = V::add(simd, t0, t1);
                    for &low in &low {
                        // SAFETY: 81 entries a group, precondition 4.
                        unsafe { entry.write(V::add(simd, high, low)) };
                        // Wrapping: after the last entry it may be v vectors
                        // beyond one past the end of the tables.
                        entry = entry.wrapping_add(VECTORS);
                    }
                }
            }
        }
        // SAFETY: one past group b's entries; b < bytes.
        table = unsafe { table.add(MANY_ENTRIES * VECTORS) };
    }
}

macro_rules! build {
    ($name:ident, $element:ty, $vector:ident) => {
        /// See [`crate::kernels::contract::ManyKernel::build`].
        ///
        /// # Safety
        /// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
        #[inline(always)]
        pub unsafe fn $name<S: Simd, const VECTORS: usize>(simd: S, call: &BuildCall<$element>) {
            // SAFETY: the caller's preconditions, handed on unchanged.
            unsafe { build::<S, $vector<S>, _, VECTORS>(simd, call.xt, call.strips, call.tables) }
        }
    };
}
build!(build_i8, i8, I16s);
build!(build_f32, f32, F32s);
