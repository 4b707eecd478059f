//! Activations: what products take, and what is prepared of them once for several matrices.

use crate::activation::Activation;
use crate::gemm_error::GemmError;
use crate::kernels::element::Element;
use crate::kernels::memory::tiles::TileGrid;
use crate::memory::{self, OutOfMemory};
use crate::mismatch::check_length;
use crate::product::layout::TokenRows;
use crate::product::plan::{self, Split};
use crate::product::prepare::Prepared;
use crate::quant::{self, QuantError};
use crate::rotation::Rotation;
use crate::scales::GroupSize;
use crate::threads::Threads;
use crate::tokens::Tokens;
use crate::tokens::sealed::Scaled;
use crate::view::{MatMut, MatRef};
use crate::workspace::{Quantized, Workspace};
/// Activations `[tokens][K]` made ready once for any number of matrices with
/// the same K: quantised, scaled, laid out.
///
/// Q, K and V, or gate and up, multiply the same input; preparing it once saves
/// the others that work. [`Linear::prepare_int8`](crate::Linear::prepare_int8) and
/// [`Linear::prepare_f32`](crate::Linear::prepare_f32) make them. For few tokens the
/// products need tables as well: each worker builds its own in the workspace with the
/// first of these products and keeps them until the workspace multiplies something else.
///
/// A matrix with scales per group needs activations prepared for that group size.
///
/// ```
/// use tritgemm::{Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};
/// let trits = MatRef::new(&[1, 0, -1, 1], 2, 2)?;
/// let w = TernaryMatrix::from_trits(trits, Scales::per_tensor(1.0))?;
/// let (gate, up) = (Linear::new(&w)?, Linear::new(&w)?);
/// let mut ws = Workspace::new();
/// let x = gate.prepare_int8(MatRef::new(&[127.0f32, 3.0], 1, 2)?, &mut ws)?;
/// let mut y = [0.0; 2];
/// for layer in [&gate, &up] {
///     layer.forward_int8(&x, MatMut::new(&mut y, 1, 2)?, &mut ws)?;
///     assert_eq!(y, [127.0, -124.0]);
/// }
/// # Ok::<(), tritgemm::Error>(())
/// ```
///
/// `default()` has no tokens and no memory yet: to be filled by
/// [`Linear::prepare_int8_into`](crate::Linear::prepare_int8_into) or
/// [`Linear::prepare_f32_into`](crate::Linear::prepare_f32_into).
#[derive(Debug, Default)]
pub struct PreparedActivations {
    group: Option<GroupSize>,
    /// What was applied to them; values that were int8 already may have been rotated anyhow.
    rotation: Option<Option<Rotation>>,
    values: Values,
}

/// What activations need to know of the matrices that they are for.
#[derive(Clone, Copy, Default, Debug)]
pub struct Wanted<'a> {
    pub(crate) group: Option<GroupSize>,
    pub(crate) rotation: Option<&'a Rotation>,
}

impl Wanted<'_> {
    /// Activations for this are activations for the other.
    pub(crate) fn check(self, other: Wanted<'_>) -> Result<(), GemmError> {
        let (prepared, matrix) = (self.group, other.group);
        if prepared != matrix {
            return Err(GemmError::Group { prepared, matrix });
        }
        if self.rotation != other.rotation {
            let [prepared, matrix] =
                [self.rotation, other.rotation].map(|r| r.map(Rotation::block));
            return Err(GemmError::Rotation { prepared, matrix });
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
enum Values {
    #[default]
    None,
    Int8(Box<Quantized>),
    F32(Box<Prepared<f32>>),
}

impl Values {
    fn is_not(&self, expected: &'static str) -> GemmError {
        let prepared = match self {
            Values::None => "nothing",
            Values::Int8(_) => "int8",
            Values::F32(_) => "f32",
        };
        GemmError::PreparedType { prepared, expected }
    }
}

impl PreparedActivations {
    /// For the W1.58A8 path with activations that are int8 already, and rotated already where
    /// the matrices want that. `token_scales` turn them back into floats: one a token, or of
    /// [`Grouped`](crate::Grouped) ones `[tokens][groups]`. `group` is the group size of the
    /// matrices' scales, if they have one.
    ///
    /// # Errors
    /// If there is another number of scales, the backend that was asked for is not
    /// available, a [`ParallelFor`](crate::ParallelFor) left work out, or memory runs out.
    pub fn from_int8<'x>(
        x: impl Tokens<'x, i8>,
        token_scales: Vec<f32>,
        group: Option<GroupSize>,
        ws: &mut Workspace,
    ) -> Result<Self, GemmError> {
        let x = x.grouped();
        let groups = x.group.map_or(1, |group| group.groups(x.x.cols()));
        check_length(
            "token_scales",
            token_scales.len(),
            x.x.rows().saturating_mul(groups),
        )?;
        let mut quantized = Box::<Quantized>::default();
        build(&mut quantized.prepared, x.x, [group, x.group], ws)?;
        quantized.token_scales = token_scales;
        quantized.group = x.group;
        Ok(Self {
            group,
            rotation: None,
            values: Values::Int8(quantized),
        })
    }

    /// Quantises `x` into the memory there is. Without tokens after an error.
    pub(crate) fn quantize<T: Activation>(
        &mut self,
        x: Scaled<'_, T>,
        wanted: Wanted<'_>,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        let mut quantized = match core::mem::take(&mut self.values) {
            Values::Int8(quantized) => quantized,
            _ => Box::default(),
        };
        quantize(x, wanted, &mut quantized, ws)?;
        *self = Self {
            group: wanted.group,
            rotation: Some(wanted.rotation.cloned()),
            values: Values::Int8(quantized),
        };
        Ok(())
    }

    /// As [`Self::quantize`], of f32 as they are.
    pub(crate) fn float(
        &mut self,
        x: MatRef<'_, f32>,
        wanted: Wanted<'_>,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        let mut prepared = match core::mem::take(&mut self.values) {
            Values::F32(prepared) => prepared,
            _ => Box::default(),
        };
        build_f32(&mut prepared, x, wanted, ws)?;
        *self = Self {
            group: wanted.group,
            rotation: Some(wanted.rotation.cloned()),
            values: Values::F32(prepared),
        };
        Ok(())
    }

    /// Number of tokens (N).
    pub fn tokens(&self) -> usize {
        match &self.values {
            Values::Int8(quantized) => quantized.prepared.tokens(),
            Values::F32(prepared) => prepared.tokens(),
            Values::None => 0,
        }
    }

    /// Activations of a token (K).
    pub fn cols(&self) -> usize {
        match &self.values {
            Values::Int8(quantized) => quantized.prepared.k(),
            Values::F32(prepared) => prepared.k(),
            Values::None => 0,
        }
    }

    /// The group size of the matrices that they were prepared for, if those have one.
    pub fn group(&self) -> Option<GroupSize> {
        self.group
    }

    pub(crate) fn split(&self) -> Split {
        match &self.values {
            Values::Int8(quantized) => quantized.prepared.split(),
            Values::F32(prepared) => prepared.split(),
            Values::None => Split::default(),
        }
    }

    fn check(&self, matrix: Wanted<'_>) -> Result<(), GemmError> {
        let prepared = Wanted {
            group: self.group,
            rotation: match &self.rotation {
                Some(rotation) => rotation.as_ref(),
                None => matrix.rotation,
            },
        };
        prepared.check(matrix)
    }

    pub(crate) fn int8(&self, matrix: Wanted<'_>) -> Result<&Quantized, GemmError> {
        self.check(matrix)?;
        match &self.values {
            Values::Int8(quantized) => Ok(quantized),
            other => Err(other.is_not("int8")),
        }
    }

    /// What has one sum a row, whatever its scales.
    pub(crate) fn exact(&self) -> Result<&Prepared<i8>, GemmError> {
        let any = Wanted {
            group: None,
            rotation: self.rotation.as_ref().and_then(Option::as_ref),
        };
        let quantized = self.int8(any)?;
        match quantized.group {
            None => Ok(&quantized.prepared),
            prepared => Err(GemmError::Group {
                prepared,
                matrix: None,
            }),
        }
    }

    pub(crate) fn f32(&self, matrix: Wanted<'_>) -> Result<&Prepared<f32>, GemmError> {
        self.check(matrix)?;
        match &self.values {
            Values::F32(prepared) => Ok(prepared),
            other => Err(other.is_not("f32")),
        }
    }
}

/// Makes activations ready for groups of two kinds: those of the matrices' scales, and their
/// own. Sums are cut where either ends.
fn build<X: Element>(
    prepared: &mut Prepared<X>,
    x: MatRef<'_, X>,
    groups: [Option<GroupSize>; 2],
    ws: &Workspace,
) -> Result<(), GemmError> {
    let how = (ws.options().family, ws.options().workers());
    let (x, strips) = (TokenRows::all(x), group_strips(groups));
    Ok(prepared.build(x, strips, ws.backend()?, how)?)
}

/// Strips of the smaller of two groups: the sizes are powers of two.
pub(crate) fn group_strips(groups: [Option<GroupSize>; 2]) -> usize {
    let lens = groups.into_iter().flatten().map(GroupSize::len);
    lens.min().map_or(usize::MAX, |len| len / 4)
}

/// Values that are int8 already, for raw sums.
pub(crate) fn build_i8(
    prepared: &mut Prepared<i8>,
    x: MatRef<'_, i8>,
    matrix: Wanted<'_>,
    ws: &mut Workspace,
) -> Result<(), GemmError> {
    build(prepared, x, [matrix.group, None], ws)
}

/// f32 as they are, but for a rotation.
pub(crate) fn build_f32(
    prepared: &mut Prepared<f32>,
    x: MatRef<'_, f32>,
    matrix: Wanted<'_>,
    ws: &mut Workspace,
) -> Result<(), GemmError> {
    rotated(x, matrix.rotation, ws, |x, ws| {
        build(prepared, x, [matrix.group, None], ws)
    })
}

/// Runs `product` on `x`, rotated if it is to be.
pub(crate) fn rotated(
    x: MatRef<'_, f32>,
    rotation: Option<&Rotation>,
    ws: &mut Workspace,
    product: impl FnOnce(MatRef<'_, f32>, &mut Workspace) -> Result<(), GemmError>,
) -> Result<(), GemmError> {
    let Some(rotation) = rotation else {
        return product(x, ws);
    };
    let mut values = core::mem::take(&mut ws.rotated);
    let done = rotate(x, rotation, &mut values, ws.options().workers())
        .and_then(|()| product(MatRef::dense(&values, x.rows(), x.cols()), ws));
    ws.rotated = values;
    done
}

/// Rotates every token into `values`, by all workers.
fn rotate<T: Activation>(
    x: MatRef<'_, T>,
    rotation: &Rotation,
    values: &mut Vec<f32>,
    threads: &Threads,
) -> Result<(), GemmError> {
    let (tokens, k) = (x.rows(), x.cols());
    let len = tokens
        .checked_mul(k)
        .ok_or(OutOfMemory { bytes: usize::MAX })?;
    memory::resize(values, len, 0.0)?;
    let workers = plan::layout_workers(threads, size_of_val(&values[..]));
    let tile = [plan::per_item(tokens, workers), k.max(1)];
    let grid = TileGrid::new(values, [tokens, k], k, tile);
    threads.for_each(workers, grid.len(), |i| {
        let Some(mut tile) = grid.claim(i) else {
            return Ok(false);
        };
        for token in tile.rows() {
            rotation.rotate(x.row(token), tile.row_mut(token, 0..k));
        }
        Ok(true)
    })?;
    Ok(())
}

/// Quantises every token and makes the values ready.
pub(crate) fn quantize<T: Activation>(
    x: Scaled<'_, T>,
    matrix: Wanted<'_>,
    quantized: &mut Quantized,
    ws: &mut Workspace,
) -> Result<(), GemmError> {
    let mut values = core::mem::take(&mut ws.values);
    let Quantized {
        prepared,
        token_scales,
        group,
    } = quantized;
    *group = x.group;
    let done = quantize_rows(x, matrix.rotation, (&mut values, token_scales), ws).and_then(|()| {
        let values = MatRef::dense(&values, x.x.rows(), x.x.cols());
        build(prepared, values, [matrix.group, x.group], ws)
    });
    ws.values = values;
    done
}

/// An error about rotated values as one about the input `x` that they are of, if that has a value
/// that is not finite; sums of finite ones may not be either.
fn in_input<T: Activation>(error: GemmError, x: MatRef<'_, T>) -> GemmError {
    match error {
        GemmError::Quant(QuantError::Activation { token, .. }) => {
            quant::non_finite(token, x.row(token)).map_or(error, GemmError::Quant)
        }
        error => error,
    }
}

/// Quantises every token into `values`, which are dense, with its scales.
pub(crate) fn quantize_rows<T: Activation>(
    Scaled { x, group }: Scaled<'_, T>,
    rotation: Option<&Rotation>,
    (values, token_scales): (&mut Vec<i8>, &mut Vec<f32>),
    ws: &mut Workspace,
) -> Result<(), GemmError> {
    if let Some(rotation) = rotation {
        let mut turned = core::mem::take(&mut ws.rotated);
        let done = rotate(x, rotation, &mut turned, ws.options().workers()).and_then(|()| {
            let x = MatRef::dense(&turned, x.rows(), x.cols());
            quantize_rows(Scaled { x, group }, None, (values, token_scales), ws)
        });
        ws.rotated = turned;
        return done.map_err(|error| in_input(error, x));
    }
    let (tokens, k) = (x.rows(), x.cols());
    let len = tokens
        .checked_mul(k)
        .ok_or(OutOfMemory { bytes: usize::MAX })?;
    memory::resize(values, len, 0)?;
    let group = group.map_or(k.max(1), GroupSize::len);
    // Without K there is nothing to scale, for however many tokens.
    memory::resize(token_scales, tokens.saturating_mul(k.div_ceil(group)), 0.0)?;
    if k > 0 {
        let q = MatMut::dense(values, tokens, k);
        let how = (ws.options().workers(), ws.options().non_finite);
        quant::quantize_tokens(x, q, (token_scales, group), how)?;
    }
    Ok(())
}
