//! Outputs: what forward passes write, in which type, and whether they replace or add.

use crate::activation::Activation;
use crate::view::MatMut;

/// What a forward pass writes: a [`MatMut`] of f32, f16 or bf16, whose values it replaces,
/// or [`Added`], to whose values it adds. Sealed.
///
/// Outputs are computed in f32. A 16-bit one is rounded once, half to even, at the end.
pub trait Output: sealed::Target {}

/// An output that a forward pass adds to, such as the residual of a transformer block:
/// `y += product`, one addition in f32 of the bits that the same pass writes into a
/// [`MatMut`] of f32.
///
/// ```
/// use tritgemm::{Added, Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};
/// let trits = MatRef::new(&[1, 0, -1, 1], 2, 2)?;
/// let layer = Linear::new(&TernaryMatrix::from_trits(trits, Scales::per_tensor(1.0))?)?;
/// let (mut residual, mut ws) = ([10.0, 20.0], Workspace::new());
/// let x = MatRef::new(&[1.0, 3.0], 1, 2)?;
/// layer.forward_f32(x, Added(MatMut::new(&mut residual, 1, 2)?), &mut ws)?;
/// assert_eq!(residual, [11.0, 22.0]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
#[derive(Debug)]
pub struct Added<'a, T>(pub MatMut<'a, T>);

impl<T: Activation> Output for MatMut<'_, T> {}
impl<T: Activation> Output for Added<'_, T> {}

pub(crate) mod sealed {
    use super::{Activation, MatMut};

    /// Where outputs go.
    pub trait Target {
        /// Their type.
        type Element: Activation;
        /// Whether they are added to what is there.
        const ADDS: bool;
        /// `[tokens, M]`.
        fn shape(&self) -> [usize; 2];
        /// The matrix, for one product.
        fn matrix(&mut self) -> MatMut<'_, Self::Element>;
    }
}

impl<T: Activation> sealed::Target for MatMut<'_, T> {
    type Element = T;
    const ADDS: bool = false;

    fn shape(&self) -> [usize; 2] {
        [self.rows(), self.cols()]
    }

    fn matrix(&mut self) -> MatMut<'_, T> {
        self.reborrow()
    }
}

impl<T: Activation> sealed::Target for Added<'_, T> {
    type Element = T;
    const ADDS: bool = true;

    fn shape(&self) -> [usize; 2] {
        self.0.shape()
    }

    fn matrix(&mut self) -> MatMut<'_, T> {
        self.0.reborrow()
    }
}
