//! Preparing activations once for several matrices.

use crate::activation::Activation;
use crate::isa::IsaError;
use crate::kernels::call::Width;
use crate::memory::{self, OutOfMemory};
use crate::parallel_for::Incomplete;
use crate::product::prepare::Prepared;
use crate::quant::{self, QuantError};
use crate::scales::GroupSize;
use crate::view::MatRef;
use crate::workspace::Workspace;
use std::fmt;

/// Activations `[tokens][K]` made ready once for any number of matrices with
/// the same K: quantised, scaled, laid out.
///
/// Q, K and V, or gate and up, multiply the same input; preparing it once saves
/// the others that work. For few tokens the products need tables as well: each
/// worker builds its own in the workspace with the first of these products and
/// keeps them until the workspace multiplies something else.
///
/// A matrix with scales per group needs activations prepared for that group size.
///
/// ```
/// use tritgemm::{Linear, MatMut, MatRef, PreparedActivations, Scales, TernaryMatrix, Workspace};
/// let w = TernaryMatrix::from_trits(&[1, 0, -1, 1], 2, 2, Scales::per_tensor(1.0))?;
/// let (gate, up) = (Linear::new(&w)?, Linear::new(&w)?);
/// let mut ws = Workspace::new();
/// let x = PreparedActivations::quantize(MatRef::new(&[127.0f32, 3.0], 1, 2)?, None, &mut ws)?;
/// let mut y = [0.0; 2];
/// for layer in [&gate, &up] {
///     layer.forward_prepared(&x, MatMut::new(&mut y, 1, 2)?, &mut ws)?;
///     assert_eq!(y, [127.0, -124.0]);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PreparedActivations {
    pub(crate) group: Option<GroupSize>,
    pub(crate) inner: Inner,
}

#[derive(Debug)]
pub(crate) enum Inner {
    /// int8 values and each token's scale.
    I8(Box<Prepared<i8>>, Vec<f32>),
    /// f32 values.
    F32(Box<Prepared<f32>>),
}

/// Why activations could not be prepared.
#[non_exhaustive]
#[derive(Clone, PartialEq, Debug)]
pub enum PrepareError {
    /// The activations could not be quantised.
    Quant(QuantError),
    /// The instruction set asked for is not available.
    Isa(IsaError),
    /// The caller's threads left work out.
    Incomplete(Incomplete),
    /// Not one scale a token.
    TokenScales {
        /// Tokens.
        tokens: usize,
        /// Scales given.
        len: usize,
    },
    /// Memory ran out.
    Memory(OutOfMemory),
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quant(e) => e.fmt(f),
            Self::Isa(e) => e.fmt(f),
            Self::Incomplete(e) => e.fmt(f),
            Self::TokenScales { tokens, len } => {
                write!(f, "{len} token scales for {tokens} tokens")
            }
            Self::Memory(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for PrepareError {}

from_variants!(PrepareError: Quant(QuantError), Isa(IsaError), Incomplete(Incomplete), Memory(OutOfMemory));

impl PreparedActivations {
    /// For the W1.58A8 path: each token is quantised to int8 by its absolute
    /// maximum. `group` is the group size of the matrices' scales, if they
    /// have one.
    ///
    /// # Errors
    /// If an activation is NaN or infinite, the instruction set that was asked
    /// for is not available, or a [`ParallelFor`](crate::ParallelFor) left work
    /// out.
    pub fn quantize<T: Activation>(
        x: MatRef<'_, T>,
        group: Option<GroupSize>,
        ws: &mut Workspace,
    ) -> Result<Self, PrepareError> {
        let mut values = Vec::new();
        let mut scales = Vec::new();
        quantize_into(x, &mut values, &mut scales)?;
        let x = dense(&values, x.rows(), x.cols());
        Self::i8(x, scales, group, ws)
    }

    /// For the W1.58A8 path with activations that are int8 already;
    /// `token_scales` turn them back into floats (one a token).
    ///
    /// # Errors
    /// If there is not one scale a token, the instruction set that was asked for
    /// is not available, or a [`ParallelFor`](crate::ParallelFor) left work out.
    pub fn int8(
        x: MatRef<'_, i8>,
        token_scales: Vec<f32>,
        group: Option<GroupSize>,
        ws: &mut Workspace,
    ) -> Result<Self, PrepareError> {
        let (tokens, len) = (x.rows(), token_scales.len());
        if len != tokens {
            return Err(PrepareError::TokenScales { tokens, len });
        }
        Self::i8(x, token_scales, group, ws)
    }

    /// For the f32 path. A NaN or an infinity stays what it is, and reaches
    /// only outputs whose weight for it is not 0.
    ///
    /// # Errors
    /// If the instruction set that was asked for is not available, or a
    /// [`ParallelFor`](crate::ParallelFor) left work out.
    pub fn float(
        x: MatRef<'_, f32>,
        group: Option<GroupSize>,
        ws: &mut Workspace,
    ) -> Result<Self, PrepareError> {
        let mut prepared = Box::<Prepared<f32>>::default();
        let how = ws.how(None)?;
        prepared.build(x, group_strips(group), how, &ws.team())?;
        Ok(Self {
            group,
            inner: Inner::F32(prepared),
        })
    }

    fn i8(
        x: MatRef<'_, i8>,
        scales: Vec<f32>,
        group: Option<GroupSize>,
        ws: &mut Workspace,
    ) -> Result<Self, PrepareError> {
        let mut prepared = Box::<Prepared<i8>>::default();
        let how = ws.how(None)?;
        prepared.build(x, group_strips(group), how, &ws.team())?;
        Ok(Self {
            group,
            inner: Inner::I8(prepared, scales),
        })
    }

    /// Number of tokens (N).
    pub fn tokens(&self) -> usize {
        match &self.inner {
            Inner::I8(prepared, _) => prepared.tokens(),
            Inner::F32(prepared) => prepared.tokens(),
        }
    }

    /// Activations of a token (K).
    pub fn cols(&self) -> usize {
        match &self.inner {
            Inner::I8(prepared, _) => prepared.k(),
            Inner::F32(prepared) => prepared.k(),
        }
    }

    /// Tokens that the column lanes multiply, the first ones; the row lanes
    /// take the others. For reports: the results do not depend on it.
    pub fn many_tokens(&self) -> usize {
        match &self.inner {
            Inner::I8(prepared, _) => prepared.first_few_token(),
            Inner::F32(prepared) => prepared.first_few_token(),
        }
    }

    /// Tokens, the last ones of [`many_tokens`](Self::many_tokens), that a
    /// narrower kernel multiplies. For reports: the results do not depend on it.
    pub fn narrow_tokens(&self) -> usize {
        match &self.inner {
            Inner::I8(prepared, _) => prepared.tokens_of(Width::Narrow),
            Inner::F32(prepared) => prepared.tokens_of(Width::Narrow),
        }
    }
}

/// Strips that share a scale; all of them without groups.
pub(crate) fn group_strips(group: Option<GroupSize>) -> usize {
    group.map_or(usize::MAX, |group| group.len() / 4)
}

/// A dense view of a buffer that was sized for it.
pub(crate) fn dense<T>(data: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::new(data, rows, cols).expect("sized for the shape")
}

/// Quantises every token of `x` into `values` (`[tokens][K]`, dense) and
/// `scales`.
pub(crate) fn quantize_into<T: Activation>(
    x: MatRef<'_, T>,
    values: &mut Vec<i8>,
    scales: &mut Vec<f32>,
) -> Result<(), QuantError> {
    let (tokens, k) = (x.rows(), x.cols());
    let len = tokens
        .checked_mul(k)
        .ok_or(OutOfMemory { bytes: usize::MAX })?;
    memory::resize(values, len, 0)?;
    scales.clear();
    if k == 0 {
        // Nothing to scale, for however many tokens.
        return Ok(());
    }
    scales.try_reserve_exact(tokens).map_err(|_| OutOfMemory {
        bytes: tokens.saturating_mul(size_of::<f32>()),
    })?;
    for token in 0..tokens {
        let scale = quant::quantize_token(x.row(token), &mut values[token * k..][..k])
            .map_err(|e| e.of_token(token))?;
        scales.push(scale);
    }
    Ok(())
}
