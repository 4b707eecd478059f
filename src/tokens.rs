//! Activations that are quantised, or int8 already: how many of a token share a scale.

use crate::scales::GroupSize;
use crate::view::MatRef;

/// Activations with one int8 scale for each group along K of a token, instead of one for
/// the token: a large value then costs precision in its own group alone. Products sum each
/// group by itself, so small groups take longer.
///
/// ```
/// use tritgemm::{GroupSize, Grouped, Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};
/// let trits = MatRef::new(&[1; 64], 1, 64)?;
/// let layer = Linear::new(&TernaryMatrix::from_trits(trits, Scales::per_tensor(1.0))?)?;
/// let mut x = [0.001_f32; 64];
/// x[0] = 1000.0;
/// let (x, mut y, mut ws) = (MatRef::new(&x, 1, 64)?, [0.0], Workspace::new());
/// layer.forward_int8(x, MatMut::new(&mut y, 1, 1)?, &mut ws)?;
/// assert_eq!(y, [1000.0]); // 0.001 is nothing beside it,
/// layer.forward_int8(Grouped(x, GroupSize::G32), MatMut::new(&mut y, 1, 1)?, &mut ws)?;
/// assert_eq!(y, [1000.032]); // but not by itself.
/// # Ok::<(), tritgemm::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Grouped<'a, T>(pub MatRef<'a, T>, pub GroupSize);

/// Activations that are quantised, or int8 already: a [`MatRef`], with one scale a token,
/// or [`Grouped`]. Sealed.
pub trait Tokens<'a, T>: sealed::Tokens<'a, T> {}
impl<'a, T> Tokens<'a, T> for MatRef<'a, T> {}
impl<'a, T> Tokens<'a, T> for Grouped<'a, T> {}

impl<'a, T> sealed::Tokens<'a, T> for MatRef<'a, T> {
    fn grouped(self) -> sealed::Scaled<'a, T> {
        sealed::Scaled {
            x: self,
            group: None,
        }
    }
}

impl<'a, T> sealed::Tokens<'a, T> for Grouped<'a, T> {
    fn grouped(self) -> sealed::Scaled<'a, T> {
        sealed::Scaled {
            x: self.0,
            group: Some(self.1),
        }
    }
}

pub(crate) mod sealed {
    use super::{GroupSize, MatRef};

    /// See [`Tokens`](super::Tokens).
    pub trait Tokens<'a, T> {
        /// The activations, and what a scale covers.
        fn grouped(self) -> Scaled<'a, T>;
    }

    /// Activations, and how many of a token share a scale, if not all do.
    #[derive(Clone, Copy, Debug)]
    pub struct Scaled<'a, T> {
        pub x: MatRef<'a, T>,
        pub group: Option<GroupSize>,
    }
}
