//! What becomes of the sums.

use crate::kernels::auto::scale;
use crate::kernels::element::Element;

/// Where sums belong.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Group along K, of how many.
    pub(crate) group: (usize, usize),
    /// Token.
    pub(crate) token: usize,
    /// First row.
    pub(crate) row: usize,
}

/// Receives the sums of each group, in order, `sums[i]` of row `place.row + i`.
pub(crate) trait Sink<X: Element>: Sync + Send {
    /// Element of the output.
    type Out: Send;
    /// Takes the sums of one token and group; `out` is theirs.
    fn emit(&self, place: Place, sums: &[X::Acc], out: &mut [Self::Out]);
    /// Writes a whole row of sums over nothing (K = 0): +0 whatever the scale,
    /// and the bias.
    fn empty(&self, out: &mut [Self::Out]);
}

/// Exact int32 sums.
pub(crate) struct Raw;

impl Sink<i8> for Raw {
    type Out = i32;
    fn emit(&self, _: Place, sums: &[i32], out: &mut [i32]) {
        out.copy_from_slice(sums);
    }
    fn empty(&self, out: &mut [i32]) {
        out.fill(0);
    }
}

/// Scales and bias of a layer: `scales[group * rows + row]`.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) rows: usize,
    pub(crate) scales: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
}

impl<'a> Affine<'a> {
    fn scales(&self, place: Place, len: usize) -> &'a [f32] {
        &self.scales[place.group.0 * self.rows + place.row..][..len]
    }

    fn bias(&self, place: Place, len: usize) -> Option<&'a [f32]> {
        self.bias.map(|bias| &bias[place.row..][..len])
    }

    /// Runs `single` where there is one group, else `fold` for each, adding
    /// up in `out`.
    fn emit(
        &self,
        place: Place,
        out: &mut [f32],
        single: impl FnOnce(&[f32], Option<&[f32]>, &mut [f32]),
        fold: impl FnOnce(&[f32], &mut [f32]),
    ) {
        let scales = self.scales(place, out.len());
        let (group, groups) = place.group;
        if groups == 1 {
            return single(scales, self.bias(place, out.len()), out);
        }
        if group == 0 {
            out.fill(0.0);
        }
        fold(scales, out);
        if group + 1 == groups {
            scale::add_bias(self.bias(place, out.len()), out);
        }
    }

    fn empty(&self, out: &mut [f32]) {
        out.fill(0.0);
        scale::add_bias(self.bias, out);
    }
}

/// The W1.58A8 output: sum times the row's and the token's scale, plus bias.
pub(crate) struct W1A8<'a> {
    pub(crate) affine: Affine<'a>,
    pub(crate) token_scales: &'a [f32],
}

impl Sink<i8> for W1A8<'_> {
    type Out = f32;
    fn emit(&self, place: Place, sums: &[i32], out: &mut [f32]) {
        let token_scale = self.token_scales[place.token];
        self.affine.emit(
            place,
            out,
            |scales, bias, out| scale::scale_i32(sums, scales, token_scale, bias, out),
            |scales, out| scale::fold_group_i32(sums, scales, token_scale, out),
        );
    }
    fn empty(&self, out: &mut [f32]) {
        self.affine.empty(out);
    }
}

/// The f32 output: sum times the row's scale, plus bias.
pub(crate) struct Canonical<'a>(pub(crate) Affine<'a>);

impl Sink<f32> for Canonical<'_> {
    type Out = f32;
    fn emit(&self, place: Place, sums: &[f32], out: &mut [f32]) {
        self.0.emit(
            place,
            out,
            |scales, bias, out| scale::scale_f32(sums, scales, bias, out),
            |scales, out| scale::fold_group_f32(sums, scales, out),
        );
    }
    fn empty(&self, out: &mut [f32]) {
        self.0.empty(out);
    }
}
