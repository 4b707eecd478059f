//! Products of a packed matrix: the raw int8 GEMM, and the linear layer with
//! scales and bias.

use crate::activation::Activation;
use crate::activations::{PreparedActivations, Wanted};
use crate::gemm_error::GemmError;
use crate::inputs::{ExactInput, F32Input, Int8Input};
use crate::matrix::{MatrixError, TernaryMatrix, check_scales};
use crate::memory::{self, OutOfMemory};
use crate::mismatch::check_length;
use crate::output::Output;
use crate::panels::Panels;
use crate::product::compiled::{Compiled, run_raw};
use crate::product::prepare::Prepared;
use crate::product::scales::RowScales;
use crate::product::sink::{Affine, Canonical, Raw, W1A8};
use crate::rotation::Rotation;
use crate::scales::{Granularity, GroupSize, Scales};
use crate::tokens::Tokens;
use crate::view::{MatMut, MatRef};
use crate::workspace::{Quantized, Weights, Workspace};
use core::marker::PhantomData;
use core::ops::Range;

fn check_width(cols: usize, panels: &Panels) -> Result<(), GemmError> {
    match panels.cols() {
        expected if cols != expected => Err(GemmError::InputWidth { cols, expected }),
        _ => Ok(()),
    }
}

fn check_shapes(
    [tokens, cols]: [usize; 2],
    panels: &Panels,
    y: [usize; 2],
) -> Result<(), GemmError> {
    check_width(cols, panels)?;
    let expected_cols = panels.rows();
    if y != [tokens, expected_cols] {
        return Err(GemmError::OutputShape {
            rows: y[0],
            cols: y[1],
            tokens,
            expected_cols,
        });
    }
    Ok(())
}

impl Panels {
    /// The exact integer product `y[n][m] = sum_k w[m][k] * x[n][k]`, int8 in,
    /// int32 out: `x` is `[N][K]`, `y` is `[N][M]`. Equal to the mathematical
    /// sum for every input, on every instruction set and any number of threads.
    ///
    /// `x` is a [`MatRef`] of int8, or [`PreparedActivations`] without groups, whose scales
    /// are not applied. Those keep the backend that they were prepared with.
    ///
    /// # Errors
    /// If the shapes do not fit, prepared activations are f32 or for groups, the backend
    /// that was asked for is not available, a [`ParallelFor`](crate::ParallelFor) left
    /// work out, or memory runs out.
    pub fn gemm_i8(
        &self,
        x: impl ExactInput,
        y: MatMut<'_, i32>,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        check_shapes(x.shape(), self, [y.rows(), y.cols()])?;
        x.with(Wanted::default(), ws, |x, ws| {
            Ok(ws.run(|_| (self.weights(), x, Raw), [y].into_iter(), run_raw)?)
        })
    }
}

/// A linear layer on packed ternary weights:
/// `y[n][m] = scale[m] * sum_k w[m][k] * x[n][k] + bias[m]`, with scales per
/// tensor, row or group along K.
///
/// ```
/// use tritgemm::{Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};
/// let trits = MatRef::new(&[1, 0, -1, 1, 1, 1], 2, 3)?;
/// let w = TernaryMatrix::from_trits(trits, Scales::per_row(vec![0.5, 2.0]))?;
/// let layer = Linear::new(&w)?.with_bias(vec![0.0, 1.0])?;
/// let (mut y, mut ws) = ([0.0; 2], Workspace::new());
/// let x = MatRef::new(&[1.0, 2.0, 3.0], 1, 3)?;
/// layer.forward_f32(x, MatMut::new(&mut y, 1, 2)?, &mut ws)?;
/// assert_eq!(y, [-1.0, 13.0]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Linear {
    panels: Panels,
    scales: RowScales,
    bias: Option<Vec<f32>>,
    rotation: Option<Rotation>,
}

impl Linear {
    /// Packs a matrix, without bias.
    ///
    /// # Errors
    /// If `TRITGEMM_ISA` names an unavailable instruction set, or memory runs
    /// out.
    pub fn new(matrix: &TernaryMatrix) -> Result<Self, MatrixError> {
        let scales = RowScales::new(matrix.scales().try_clone()?, matrix.rows())?;
        Ok(Self::assemble(Panels::pack(matrix)?, scales))
    }

    /// From panels, their scales and an optional bias.
    ///
    /// # Errors
    /// If the numbers of scales or of bias values do not fit the panels, or a
    /// scale is not finite.
    pub fn from_parts(
        panels: Panels,
        scales: Scales,
        bias: Option<Vec<f32>>,
    ) -> Result<Self, MatrixError> {
        check_scales(&scales, panels.rows(), panels.cols())?;
        let scales = RowScales::new(scales, panels.rows())?;
        let layer = Self::assemble(panels, scales);
        match bias {
            Some(bias) => layer.with_bias(bias),
            None => Ok(layer),
        }
    }

    fn assemble(panels: Panels, scales: RowScales) -> Self {
        Self {
            panels,
            scales,
            bias: None,
            rotation: None,
        }
    }

    /// Adds a bias, one value a row.
    ///
    /// # Errors
    /// If there are more or fewer.
    pub fn with_bias(mut self, bias: Vec<f32>) -> Result<Self, MatrixError> {
        check_length("bias", bias.len(), self.panels.rows())?;
        self.bias = Some(bias);
        Ok(self)
    }

    /// Makes the layer rotate its inputs when they are prepared.
    ///
    /// # Errors
    /// If K is not whole blocks, or there are more or fewer signs.
    pub fn with_rotation(mut self, rotation: Rotation) -> Result<Self, MatrixError> {
        rotation.check(self.in_features())?;
        self.rotation = Some(rotation);
        Ok(self)
    }

    /// How inputs are rotated, if they are.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// K, the inputs.
    pub fn in_features(&self) -> usize {
        self.panels.cols()
    }

    /// M, the outputs.
    pub fn out_features(&self) -> usize {
        self.panels.rows()
    }

    /// The packed weights.
    pub fn panels(&self) -> &Panels {
        &self.panels
    }

    /// A copy of the scales, in the order of [`Scales`]. The layer itself keeps them in the
    /// order of its outputs, in f16 where they are per group and f16 holds each of them exactly.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn scales(&self) -> Result<Scales, OutOfMemory> {
        self.scales.to_scales()
    }

    pub(crate) fn row_scales(&self) -> &RowScales {
        &self.scales
    }

    /// What one scale covers.
    pub fn granularity(&self) -> Granularity {
        self.scales.granularity()
    }

    /// The bias.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// The group size of the scales, if they are per group.
    pub fn group(&self) -> Option<GroupSize> {
        self.scales.group()
    }

    /// Rows `range` as a layer of its own, sharing the packed weights: see
    /// [`Panels::slice_rows`].
    ///
    /// # Errors
    /// If the range does not start at a multiple of 64, ends neither at one nor
    /// at the last row, or leaves the matrix; or if memory runs out.
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Linear, MatrixError> {
        let panels = self.panels.slice_rows(range.clone())?;
        let scales = self.scales.slice_rows(range.clone())?;
        let bias = self.bias.as_ref().map(|bias| memory::copied(&bias[range]));
        Ok(Self {
            bias: bias.transpose()?,
            rotation: self.rotation.clone(),
            ..Self::assemble(panels, scales)
        })
    }

    /// One row of weights times their scales, without bias, into `y`, K values: a row of an
    /// embedding whose matrix is the output layer's, too. Of a layer that rotates its input the
    /// row is rotated: [`Rotation::invert`] turns it back.
    ///
    /// # Errors
    /// If there is no such row, or `y` has another length.
    ///
    /// ```
    /// use tritgemm::{Linear, MatRef, Scales, TernaryMatrix};
    /// let trits = MatRef::new(&[1, 0, -1, 1], 2, 2)?;
    /// let head = Linear::new(&TernaryMatrix::from_trits(trits, Scales::per_tensor(0.5))?)?;
    /// let mut embedding = [0.0; 2];
    /// head.unpack_row(1, &mut embedding)?;
    /// assert_eq!(embedding, [-0.5, 0.5]);
    /// # Ok::<(), tritgemm::Error>(())
    /// ```
    pub fn unpack_row(&self, row: usize, y: &mut [f32]) -> Result<(), MatrixError> {
        check_length("y", y.len(), self.in_features())?;
        let weights = self.panels.row_trits(row)?;
        for (col, (y, trit)) in y.iter_mut().zip(weights).enumerate() {
            *y = match trit {
                0 => 0.0,
                1 => self.scales.at(row, col),
                _ => -self.scales.at(row, col),
            };
        }
        Ok(())
    }

    /// Activations `[tokens][K]` (f32, f16 or bf16) quantised to int8, each token by its
    /// absolute maximum or, of [`Grouped`](crate::Grouped) ones, each group of a token by its
    /// own, and made ready once for this layer and for any other of the same K,
    /// [`group`](Self::group) and [`rotation`](Self::rotation).
    ///
    /// # Errors
    /// If an activation is NaN or infinite, the backend that was asked for is not
    /// available, a [`ParallelFor`](crate::ParallelFor) left work out, or memory runs out.
    pub fn prepare_int8<'x, T: Activation>(
        &self,
        x: impl Tokens<'x, T>,
        ws: &mut Workspace,
    ) -> Result<PreparedActivations, GemmError> {
        let mut prepared = PreparedActivations::default();
        self.prepare_int8_into(x, &mut prepared, ws)?;
        Ok(prepared)
    }

    /// As [`prepare_int8`](Self::prepare_int8), in the memory of activations that were
    /// prepared before: nothing is allocated where it is enough. Where `x` has another
    /// width those stay as they are; after any other error they have no tokens.
    ///
    /// # Errors
    /// As [`prepare_int8`](Self::prepare_int8).
    pub fn prepare_int8_into<'x, T: Activation>(
        &self,
        x: impl Tokens<'x, T>,
        prepared: &mut PreparedActivations,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        let x = x.grouped();
        check_width(x.x.cols(), &self.panels)?;
        prepared.quantize(x, self.wanted(), ws)
    }

    /// As [`prepare_int8`](Self::prepare_int8), for the f32 path: nothing is quantised. A
    /// NaN or an infinity stays what it is, and reaches only outputs whose weight for it is
    /// not 0.
    ///
    /// # Errors
    /// If the backend that was asked for is not available, a
    /// [`ParallelFor`](crate::ParallelFor) left work out, or memory runs out.
    pub fn prepare_f32(
        &self,
        x: MatRef<'_, f32>,
        ws: &mut Workspace,
    ) -> Result<PreparedActivations, GemmError> {
        let mut prepared = PreparedActivations::default();
        self.prepare_f32_into(x, &mut prepared, ws)?;
        Ok(prepared)
    }

    /// As [`prepare_f32`](Self::prepare_f32), in the memory of activations that were
    /// prepared before: nothing is allocated where it is enough. Where `x` has another
    /// width those stay as they are; after any other error they have no tokens.
    ///
    /// # Errors
    /// As [`prepare_f32`](Self::prepare_f32).
    pub fn prepare_f32_into(
        &self,
        x: MatRef<'_, f32>,
        prepared: &mut PreparedActivations,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        check_width(x.cols(), &self.panels)?;
        prepared.float(x, self.wanted(), ws)
    }

    /// The W1.58A8 forward pass: quantises each token of `x` (`[N][K]`, f32,
    /// f16 or bf16) to int8 by its absolute maximum, multiplies exactly, scales
    /// and adds the bias into `y` (`[N][M]`). As in BitNet b1.58,
    /// arXiv:2402.17764.
    ///
    /// `x` is a [`MatRef`], [`Grouped`](crate::Grouped), or [`PreparedActivations`] of int8,
    /// which keep the backend that they were prepared with.
    ///
    /// # Errors
    /// If the shapes or the group sizes do not fit, prepared activations are f32, an
    /// activation is NaN or infinite, the backend that was asked for is not available, a
    /// [`ParallelFor`](crate::ParallelFor) left work out, or memory runs out.
    pub fn forward_int8<O: Output>(
        &self,
        x: impl Int8Input,
        y: O,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        Self::forward_many_int8(&[self], x, &mut [y], ws)
    }

    /// [`forward_int8`](Self::forward_int8) of several layers on one input, such as Q, K
    /// and V or gate and up: the same bits, with the activations quantised once and the
    /// rows of all layers shared among the threads in one loop. `ys[i]` is the output of
    /// `layers[i]`.
    ///
    /// # Errors
    /// As [`forward_int8`](Self::forward_int8), or if there are more or fewer outputs than
    /// layers, or the layers differ in K, in their groups or in their rotation.
    pub fn forward_many_int8<O: Output>(
        layers: &[&Linear],
        x: impl Int8Input,
        ys: &mut [O],
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        let Some(wanted) = check_layers(layers, x.shape(), ys)? else {
            return Ok(());
        };
        x.with(wanted, ws, |x, ws| {
            let operands = |i: usize| layers[i].int8_operands::<O>(x);
            Ok(ws.run(operands, ys.iter_mut().map(O::matrix), O::Element::run_int8)?)
        })
    }

    /// The f32 forward pass in the canonical order of summation: the same bits
    /// on every instruction set, for any number of tokens at once and any
    /// number of threads. A weight of 0 never touches its activation, so a NaN
    /// there does not spread, except over its block where the layer rotates its input; a NaN
    /// in an f32 `y` is always `0x7fc00000`.
    ///
    /// `x` is a [`MatRef`], or [`PreparedActivations`] of f32, which keep the backend that
    /// they were prepared with.
    ///
    /// # Errors
    /// If the shapes or the group sizes do not fit, prepared activations are int8, the
    /// backend that was asked for is not available, a
    /// [`ParallelFor`](crate::ParallelFor) left work out, or memory runs out.
    pub fn forward_f32<O: Output>(
        &self,
        x: impl F32Input,
        y: O,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        Self::forward_many_f32(&[self], x, &mut [y], ws)
    }

    /// [`forward_f32`](Self::forward_f32) of several layers on one input: see
    /// [`forward_many_int8`](Self::forward_many_int8).
    ///
    /// # Errors
    /// As [`forward_f32`](Self::forward_f32), or if there are more or fewer outputs than
    /// layers, or the layers differ in K, in their groups or in their rotation.
    pub fn forward_many_f32<O: Output>(
        layers: &[&Linear],
        x: impl F32Input,
        ys: &mut [O],
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        let Some(wanted) = check_layers(layers, x.shape(), ys)? else {
            return Ok(());
        };
        x.with(wanted, ws, |x, ws| {
            let operands = |i: usize| layers[i].f32_operands::<O>(x);
            Ok(ws.run(operands, ys.iter_mut().map(O::matrix), O::Element::run_f32)?)
        })
    }

    /// What activations need to know of the layer.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        Wanted {
            group: self.group(),
            rotation: self.rotation(),
        }
    }

    /// What an int8 product into an output is of.
    pub(crate) fn int8_operands<'a, O: Output>(
        &'a self,
        x: &'a Quantized,
    ) -> (Weights<'a>, &'a Prepared<i8>, W1A8<'a, O::Element>) {
        let sink = W1A8 {
            affine: self.affine::<O>(x.prepared.group_strips()),
            token_scales: &x.token_scales,
            scales_per_token: x.group.map_or(1, |group| group.groups(x.prepared.k())),
            sums_per_scale: sums_per_scale(x.group, x.prepared.group_strips()),
        };
        (self.panels.weights(), &x.prepared, sink)
    }

    /// As [`Self::int8_operands`], of f32.
    pub(crate) fn f32_operands<'a, O: Output>(
        &'a self,
        x: &'a Prepared<f32>,
    ) -> (Weights<'a>, &'a Prepared<f32>, Canonical<'a, O::Element>) {
        (
            self.panels.weights(),
            x,
            Canonical(self.affine::<O>(x.group_strips())),
        )
    }

    fn affine<O: Output>(&self, group_strips: usize) -> Affine<'_, O::Element> {
        Affine {
            scales: &self.scales,
            sums_per_scale: sums_per_scale(self.group(), group_strips),
            bias: self.bias(),
            adds: O::ADDS,
            out: PhantomData,
        }
    }
}

/// How many groups of so many strips, which are summed apart, share a scale: those in its
/// group, or all.
fn sums_per_scale(group: Option<GroupSize>, group_strips: usize) -> usize {
    group.map_or(usize::MAX, |group| (group.len() / 4 / group_strips).max(1))
}

/// What activations need to know of all layers, if there are layers.
fn check_layers<'a, O: Output>(
    layers: &[&'a Linear],
    x: [usize; 2],
    ys: &[O],
) -> Result<Option<Wanted<'a>>, GemmError> {
    check_length("outputs", ys.len(), layers.len())?;
    for (layer, y) in layers.iter().zip(ys) {
        check_shapes(x, &layer.panels, y.shape())?;
        layers[0].wanted().check(layer.wanted())?;
    }
    Ok(layers.first().map(|layer| layer.wanted()))
}
