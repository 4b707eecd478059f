//! The two activation types, and handles of the kernels for them.

use crate::kernels::auto::transpose::{SQUARE, square_f32, square_i8};
use crate::kernels::contract::{FewKernel, KernelSet, ManyChoice, ManyKernel, Runnable};
use bytemuck::Pod;
use core::ops::{AddAssign, Deref};

/// An activation type that kernels exist for: `i8` or `f32`.
pub trait Element: Pod + Send + Sync {
    /// What its products are summed in.
    type Acc: Pod + Send + Sync + AddAssign;
    /// Sums are exact, in whatever order.
    const EXACT: bool;
    /// The kernel of a set for few tokens.
    fn few(set: &'static KernelSet) -> &'static FewKernel<Self, Self::Acc>;
    /// The kernels of a set for many tokens, the largest tile first.
    fn many(set: &'static KernelSet) -> &'static [ManyChoice<Self, Self::Acc>];
    /// A square of activations, transposed.
    fn transposed(square: [[Self; SQUARE]; SQUARE]) -> [[Self; SQUARE]; SQUARE];
}

impl Element for i8 {
    type Acc = i32;
    const EXACT: bool = true;
    fn few(set: &'static KernelSet) -> &'static FewKernel<i8, i32> {
        set.few_i8
    }
    fn many(set: &'static KernelSet) -> &'static [ManyChoice<i8, i32>] {
        set.many_i8
    }
    #[inline]
    fn transposed(square: [[i8; SQUARE]; SQUARE]) -> [[i8; SQUARE]; SQUARE] {
        square_i8(square)
    }
}

impl Element for f32 {
    type Acc = f32;
    const EXACT: bool = false;
    fn few(set: &'static KernelSet) -> &'static FewKernel<f32, f32> {
        set.few_f32
    }
    fn many(set: &'static KernelSet) -> &'static [ManyChoice<f32, f32>] {
        set.many_f32
    }
    #[inline]
    fn transposed(square: [[f32; SQUARE]; SQUARE]) -> [[f32; SQUARE]; SQUARE] {
        square_f32(square)
    }
}

/// A kernel for few tokens that this CPU can run: the proof of precondition 1.
#[derive(Clone, Copy)]
pub struct Few<X: Element>(&'static FewKernel<X, X::Acc>);

impl<X: Element> Few<X> {
    /// The kernel of a set; for weights from memory the one that is faster then.
    pub fn new(kernels: Runnable, from_memory: bool) -> Self {
        let kernel = X::few(kernels.set());
        Self(kernel.from_memory.filter(|_| from_memory).unwrap_or(kernel))
    }
}

impl<X: Element> Deref for Few<X> {
    type Target = FewKernel<X, X::Acc>;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

/// A kernel for many tokens that this CPU can run: the proof of precondition 1.
#[derive(Clone, Copy)]
pub struct Many<X: Element>(&'static ManyKernel<X, X::Acc>);

impl<X: Element> Many<X> {
    /// Number `choice` of a set's list.
    pub fn new(kernels: Runnable, choice: usize) -> Self {
        Self(X::many(kernels.set())[choice].kernel)
    }
}

impl<X: Element> Deref for Many<X> {
    type Target = ManyKernel<X, X::Acc>;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}
