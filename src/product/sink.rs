//! What becomes of the sums.

use crate::kernels::auto::float::Float;
use crate::kernels::auto::scale;
use crate::kernels::call::{GroupScales, TokenScales};
use crate::kernels::element::Element;
use crate::product::scales::RowScales;
use core::marker::PhantomData;
use core::ops::Range;

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
    /// Whether outputs are made in memory of the worker's first.
    fn stages(&self) -> bool;
    /// The scales of a group's sums of some rows: as they are kept, or put into `room`, one
    /// value a row, which is there where the sink [needs](Self::scales_need_room) it.
    fn scales<'a>(&'a self, group: usize, rows: Range<usize>, room: &'a mut [f32]) -> &'a [f32];
    /// Whether [`Self::scales`] needs room.
    fn scales_need_room(&self) -> bool;
    /// Takes the sums of one token and group and their scales; `out` is theirs, and `staged`
    /// as long as it and the same for each of the groups, or empty if the sink does not stage.
    fn emit(
        &self,
        place: Place,
        sums: &[X::Acc],
        scales: &[f32],
        staged: &mut [f32],
        out: &mut [Self::Out],
    );
    /// The scales of rows from `first` on and of tokens in all groups: as they are kept, or of rows
    /// put into `room`, where the sink [needs](Self::scales_need_room) it.
    fn group_scales<'a>(
        &'a self,
        first: usize,
        room: &'a mut [f32],
    ) -> (GroupScales<'a>, Option<TokenScales<'a>>);
    /// The scales of some tokens in a group, one each, where sums of groups are scaled before
    /// they are handed on.
    fn token_scales(&self, group: usize, tokens: Range<usize>, scales: &mut [f32]);
    /// Takes the scaled sums over all groups of one token, from `row` on; `out` is theirs.
    fn finish(&self, row: usize, sums: &mut [f32], out: &mut [Self::Out]);
    /// Writes a whole row of sums over nothing (K = 0): +0 whatever the scale,
    /// and the bias.
    fn empty(&self, out: &mut [Self::Out]);
}

/// `len` of the staged outputs from `at` on, or none where nothing is staged.
pub(crate) fn part_of(staged: &mut [f32], at: usize, len: usize) -> &mut [f32] {
    match staged {
        [] => staged,
        _ => &mut staged[at..][..len],
    }
}

/// A float type that outputs come in. What [`Affine`] does with them is not generic, for the
/// reason that [`compiled`](super::compiled) gives.
pub trait FloatOut: Float {
    /// The same values, if they are f32.
    fn as_f32(y: &mut [Self]) -> Option<&mut [f32]>;
    /// See [`scale::store`].
    fn store(values: &[f32], y: &mut [Self]);
    /// See [`scale::add`].
    fn add(values: &[f32], y: &mut [Self]);
}

macro_rules! float_out {
    ($($float:ty, $as_f32:expr;)*) => {$(
        impl FloatOut for $float {
            fn as_f32(y: &mut [Self]) -> Option<&mut [f32]> {
                $as_f32(y)
            }

            fn store(values: &[f32], y: &mut [Self]) {
                scale::store(values, y);
            }

            fn add(values: &[f32], y: &mut [Self]) {
                scale::add(values, y);
            }
        }
    )*};
}
float_out!(f32, Some;);
#[cfg(feature = "half")]
float_out!(half::f16, |_| None; half::bf16, |_| None;);

/// Exact int32 sums.
pub(crate) struct Raw;

impl Sink<i8> for Raw {
    type Out = i32;
    fn stages(&self) -> bool {
        false
    }
    fn scales<'a>(&'a self, _: usize, _: Range<usize>, room: &'a mut [f32]) -> &'a [f32] {
        room
    }
    fn scales_need_room(&self) -> bool {
        false
    }
    fn emit(&self, _: Place, sums: &[i32], _: &[f32], _: &mut [f32], out: &mut [i32]) {
        out.copy_from_slice(sums);
    }
    fn group_scales<'a>(
        &'a self,
        _: usize,
        _: &'a mut [f32],
    ) -> (GroupScales<'a>, Option<TokenScales<'a>>) {
        unreachable!("exact sums of several groups");
    }
    fn token_scales(&self, _: usize, _: Range<usize>, _: &mut [f32]) {}
    /// Exact sums have no scales, so K is one group.
    fn finish(&self, _: usize, _: &mut [f32], _: &mut [i32]) {
        unreachable!("exact sums of several groups");
    }
    fn empty(&self, out: &mut [i32]) {
        out.fill(0);
    }
}

/// Scales and bias of a layer, and what becomes of outputs in the type `O`.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a, O> {
    pub(crate) scales: &'a RowScales,
    /// Groups of sums that share a scale.
    pub(crate) sums_per_scale: usize,
    pub(crate) bias: Option<&'a [f32]>,
    /// Outputs are added to what is there.
    pub(crate) adds: bool,
    pub(crate) out: PhantomData<fn() -> O>,
}

impl<'a, O: FloatOut> Affine<'a, O> {
    fn scales<'b>(&'b self, group: usize, rows: Range<usize>, room: &'b mut [f32]) -> &'b [f32] {
        self.scales.of_rows(group / self.sums_per_scale, rows, room)
    }

    fn group_scales<'b>(&'b self, first: usize, room: &'b mut [f32]) -> GroupScales<'b> {
        self.scales.of_groups(first, self.sums_per_scale, room)
    }

    fn bias(&self, row: usize, len: usize) -> Option<&'a [f32]> {
        self.bias.map(|bias| &bias[row..][..len])
    }

    fn finish(&self, row: usize, sums: &mut [f32], out: &mut [O]) {
        scale::add_bias(self.bias(row, sums.len()), sums);
        match O::as_f32(&mut *out) {
            Some(out) if !self.adds => out.copy_from_slice(sums),
            _ => self.store(sums, out),
        }
    }

    fn stages(&self) -> bool {
        self.adds || O::as_f32(&mut []).is_none()
    }

    /// Runs `single` where there is one group, else `fold` for each, adding up in `staged`
    /// or, where nothing is staged, in `out`.
    fn emit(
        &self,
        place: Place,
        staged: &mut [f32],
        out: &mut [O],
        single: impl FnOnce(Option<&[f32]>, &mut [f32]),
        fold: impl FnOnce(&mut [f32]),
    ) {
        let len = out.len();
        let (group, groups) = place.group;
        let (first, last) = (group == 0, group + 1 == groups);
        let y = match O::as_f32(&mut *out) {
            Some(out) if !self.adds => out,
            _ => &mut *staged,
        };
        if groups == 1 {
            single(self.bias(place.row, len), y);
        } else {
            if first {
                y.fill(0.0);
            }
            fold(y);
            if last {
                scale::add_bias(self.bias(place.row, len), y);
            }
        }
        if last && self.stages() {
            self.store(staged, out);
        }
    }

    fn store(&self, staged: &[f32], out: &mut [O]) {
        match self.adds {
            true => O::add(staged, out),
            false => O::store(staged, out),
        }
    }

    /// Value by value: nobody staged memory for a product of nothing.
    fn empty(&self, out: &mut [O]) {
        for (row, out) in out.chunks_mut(1).enumerate() {
            let mut y = [0.0];
            scale::add_bias(self.bias.map(|bias| &bias[row..=row]), &mut y);
            self.store(&y, out);
        }
    }
}

/// The W1.58A8 output: sum times the row's and the token's scale, plus bias.
pub struct W1A8<'a, O> {
    pub(crate) affine: Affine<'a, O>,
    /// `[tokens][scales_per_token]`.
    pub(crate) token_scales: &'a [f32],
    pub(crate) scales_per_token: usize,
    /// Groups of sums that share one.
    pub(crate) sums_per_scale: usize,
}

impl<O: FloatOut> Sink<i8> for W1A8<'_, O> {
    type Out = O;
    fn stages(&self) -> bool {
        self.affine.stages()
    }
    fn scales<'a>(&'a self, group: usize, rows: Range<usize>, room: &'a mut [f32]) -> &'a [f32] {
        self.affine.scales(group, rows, room)
    }
    fn scales_need_room(&self) -> bool {
        self.affine.scales.need_room()
    }
    fn emit(&self, place: Place, sums: &[i32], scales: &[f32], staged: &mut [f32], out: &mut [O]) {
        let group = place.group.0 / self.sums_per_scale;
        let token_scale = self.token_scales[place.token * self.scales_per_token + group];
        self.affine.emit(
            place,
            staged,
            out,
            |bias, y| scale::scale_i32(sums, scales, token_scale, bias, y),
            |y| scale::fold_group_i32(sums, scales, token_scale, y),
        );
    }
    fn group_scales<'a>(
        &'a self,
        first: usize,
        room: &'a mut [f32],
    ) -> (GroupScales<'a>, Option<TokenScales<'a>>) {
        let tokens = TokenScales {
            values: self.token_scales,
            stride: self.scales_per_token,
            groups_per_scale: self.sums_per_scale,
        };
        (self.affine.group_scales(first, room), Some(tokens))
    }
    fn token_scales(&self, group: usize, tokens: Range<usize>, scales: &mut [f32]) {
        let group = group / self.sums_per_scale;
        for (token, scale) in tokens.zip(scales) {
            *scale = self.token_scales[token * self.scales_per_token + group];
        }
    }
    fn finish(&self, row: usize, sums: &mut [f32], out: &mut [O]) {
        self.affine.finish(row, sums, out);
    }
    fn empty(&self, out: &mut [O]) {
        self.affine.empty(out);
    }
}

/// The f32 output: sum times the row's scale, plus bias.
pub struct Canonical<'a, O>(pub(crate) Affine<'a, O>);

impl<O: FloatOut> Sink<f32> for Canonical<'_, O> {
    type Out = O;
    fn stages(&self) -> bool {
        self.0.stages()
    }
    fn scales<'a>(&'a self, group: usize, rows: Range<usize>, room: &'a mut [f32]) -> &'a [f32] {
        self.0.scales(group, rows, room)
    }
    fn scales_need_room(&self) -> bool {
        self.0.scales.need_room()
    }
    fn emit(&self, place: Place, sums: &[f32], scales: &[f32], staged: &mut [f32], out: &mut [O]) {
        self.0.emit(
            place,
            staged,
            out,
            |bias, y| scale::scale_f32(sums, scales, bias, y),
            |y| scale::fold_group_f32(sums, scales, y),
        );
    }
    fn group_scales<'a>(
        &'a self,
        first: usize,
        room: &'a mut [f32],
    ) -> (GroupScales<'a>, Option<TokenScales<'a>>) {
        (self.0.group_scales(first, room), None)
    }
    fn token_scales(&self, _: usize, _: Range<usize>, _: &mut [f32]) {}
    fn finish(&self, row: usize, sums: &mut [f32], out: &mut [O]) {
        self.0.finish(row, sums, out);
    }
    fn empty(&self, out: &mut [O]) {
        self.0.empty(out);
    }
}
