//! Panels and layers: made, borrowed, shared, cut.

use super::World;
use super::call::{Call, Slip, Slot};
use super::handle::{Kept, Origin, keep, pick};
use super::matrix::{kind, scales};
use super::shape::Cut;
use crate::fill::{Fill, Style};
use crate::panel_file::is_legal;
use arbitrary::Arbitrary;
use std::ptr::{null, null_mut};
use std::rc::Rc;
use tritgemm::{Linear, MatrixError, Panels};
use tritgemm_capi as c;

type KeptPanels = Kept<c::Panels, Panels>;
type KeptLinear = Kept<c::Linear, Linear>;

/// Panels or a layer to be made; the first number says of which.
#[derive(Arbitrary, Debug)]
pub enum Make {
    /// Panels of a matrix.
    Pack(u8, Option<Slip>),
    /// The same bytes, at an address of any alignment, some of them others.
    Borrow(u8, Borrowed),
    /// Rows of panels.
    CutPanels(u8, [Cut; 2], Option<Slip>),
    /// A layer of a matrix.
    Create(u8, Bias, Option<Slip>),
    /// A layer of panels.
    FromPanels(u8, u8, (Fill, Style), Bias, Option<Slip>),
    /// The panels of a layer.
    Panels(u8, Option<Slip>),
    /// Rows of a layer.
    CutLinear(u8, [Cut; 2], Option<Slip>),
}

/// Bytes of the caller's.
#[derive(Arbitrary, Debug)]
pub struct Borrowed {
    at: u8,
    change: Option<(u16, u8)>,
    shape: Option<[usize; 2]>,
    slip: Option<Slip>,
}

/// A bias, most of the time.
#[derive(Arbitrary, Debug)]
pub struct Bias {
    values: Option<(Fill, Style)>,
    at: u8,
}

impl Bias {
    /// As an argument; `None` is NULL and 0.
    fn buffer(&self, rows: usize, call: &mut Call) -> (super::call::Buffer<f32>, Option<Vec<f32>>) {
        // A matrix of no columns may have any number of rows.
        let values = self.values.as_ref().filter(|_| rows <= 1 << 16);
        let values = values.map(|(fill, style)| fill.floats(rows, *style));
        let buffer = match values {
            Some(values) => call.buffer("bias", values, self.at),
            None => call.none("bias"),
        };
        let values = (!buffer.ptr().is_null()).then(|| buffer.before().to_vec());
        (buffer, values)
    }
}

impl Make {
    /// Panels and a layer of the first matrix, without further ado.
    pub fn all(world: &mut World) {
        if !world.matrices.is_empty() {
            Make::Pack(0, None).run(world);
            let (values, at) = (None, 0);
            Make::Create(0, Bias { values, at }, None).run(world);
        }
    }

    /// Makes it.
    pub fn run(&self, world: &mut World) {
        match self {
            Make::Pack(which, slip) => pack(world, *which, *slip),
            Make::Borrow(which, how) => borrow(world, *which, how),
            Make::CutPanels(which, cuts, slip) => cut_panels(world, *which, *cuts, *slip),
            Make::Create(which, bias, slip) => create(world, *which, bias, *slip),
            Make::FromPanels(which, kind, scales, bias, slip) => {
                from_panels(world, *which, *kind, scales, bias, *slip);
            }
            Make::Panels(which, slip) => panels(world, *which, *slip),
            Make::CutLinear(which, cuts, slip) => cut_linear(world, *which, *cuts, *slip),
        }
    }
}

fn pack(world: &mut World, which: u8, slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let matrix = pick(&world.matrices, which);
    let handle = call.handle("matrix", matrix.map(Kept::handle));
    let out = call.slot(&mut slot);
    // SAFETY: a handle that lives, or none; an out pointer.
    let status = unsafe { c::tritgemm_panels_pack(handle, out) };
    let model = call.check(status, || Panels::pack(&matrix.expect("a matrix").model));
    keep_panels(world, slot, model, &Origin::default());
}

fn borrow(world: &mut World, which: u8, how: &Borrowed) {
    let Some(kept) = pick(&world.panels, which) else {
        return;
    };
    let (mut call, mut slot) = (Call::new(how.slip), Slot::new());
    let mut bytes = kept.model.as_bytes().to_vec();
    if let Some((at, value)) = how.change.filter(|_| !bytes.is_empty()) {
        let at = usize::from(at) % bytes.len();
        bytes[at] = value;
    }
    let [rows, cols] = how.shape.unwrap_or([kept.model.rows(), kept.model.cols()]);
    let bytes = call.buffer("bytes", bytes, how.at);
    let out = call.slot(&mut slot);
    // SAFETY: a buffer that is kept for as long as the handle, an out pointer.
    let status =
        unsafe { c::tritgemm_panels_from_memory(bytes.ptr(), bytes.len(), rows, cols, out) };
    let model = call.check(status, || {
        Panels::from_bytes(bytes.before().to_vec(), rows, cols)
    });
    let legal = model.as_ref().is_some_and(is_legal);
    let lent = Some(Rc::new(bytes.into_memory()));
    keep_panels(world, slot, model, &Origin { lent, legal });
}

fn cut_panels(world: &mut World, which: u8, cuts: [Cut; 2], slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let kept = pick(&world.panels, which);
    let handle = call.handle("panels", kept.map(Kept::handle));
    let [begin, end] = cuts.map(|cut| cut.of(kept.map_or(0, |kept| kept.model.rows())));
    let out = call.slot(&mut slot);
    // SAFETY: a handle that lives, or none; an out pointer.
    let status = unsafe { c::tritgemm_panels_slice_rows(handle, begin, end, out) };
    let model = call.check(status, || {
        kept.expect("panels").model.slice_rows(begin..end)
    });
    let origin = kept.map(|kept| kept.origin.clone()).unwrap_or_default();
    keep_panels(world, slot, model, &origin);
}

fn panels(world: &mut World, which: u8, slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let kept = pick(&world.linears, which);
    let handle = call.handle("linear", kept.map(Kept::handle));
    let out = call.slot(&mut slot);
    // SAFETY: a handle that lives, or none; an out pointer.
    let status = unsafe { c::tritgemm_linear_panels(handle, out) };
    let model = call.check(status, || {
        Ok::<_, MatrixError>(kept.expect("a layer").model.panels().clone())
    });
    let origin = kept.map(|kept| kept.origin.clone()).unwrap_or_default();
    keep_panels(world, slot, model, &origin);
}

fn create(world: &mut World, which: u8, bias: &Bias, slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let kept = pick(&world.matrices, which);
    let handle = call.handle("matrix", kept.map(Kept::handle));
    let (buffer, bias) = bias.buffer(kept.map_or(0, |kept| kept.model.rows()), &mut call);
    let out = call.slot(&mut slot);
    // SAFETY: a handle that lives, or none; a buffer with its length, an out pointer.
    let status = unsafe { c::tritgemm_linear_create(handle, buffer.ptr(), buffer.len(), out) };
    let model = call.check(status, || {
        let layer = Linear::new(&kept.expect("a matrix").model)?;
        match bias {
            Some(bias) => layer.with_bias(bias),
            None => Ok(layer),
        }
    });
    keep_linear(world, slot, model, &Origin::default());
}

fn from_panels(
    world: &mut World,
    which: u8,
    number: u8,
    (fill, style): &(Fill, Style),
    bias: &Bias,
    slip: Option<Slip>,
) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let kept = pick(&world.panels, which);
    let handle = call.handle("panels", kept.map(Kept::handle));
    let (rows, cols) = kept.map_or((0, 0), |kept| (kept.model.rows(), kept.model.cols()));
    let (number, granularity) = kind(number, &mut call);
    let count = granularity.and_then(|g| g.scales(rows, cols));
    let count = count.filter(|&count| count <= 1 << 16).unwrap_or(1);
    let values = call.buffer("scales", fill.floats(count, *style), 0);
    let scales = match call.is_right() {
        true => scales(granularity, values.before(), &mut call),
        false => None,
    };
    let (buffer, bias) = bias.buffer(rows, &mut call);
    let out = call.slot(&mut slot);
    // SAFETY: a handle that lives, or none; buffers with their lengths, an out pointer.
    let status = unsafe {
        let (s, s_len) = (values.ptr(), values.len());
        let (b, b_len) = (buffer.ptr(), buffer.len());
        c::tritgemm_linear_from_panels(handle, number, s, s_len, b, b_len, out)
    };
    let model = call.check(status, || {
        let panels = kept.expect("panels").model.clone();
        Linear::from_parts(panels, scales.expect("scales"), bias)
    });
    let origin = kept.map(|kept| kept.origin.clone()).unwrap_or_default();
    keep_linear(world, slot, model, &origin);
}

fn cut_linear(world: &mut World, which: u8, cuts: [Cut; 2], slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let kept = pick(&world.linears, which);
    let handle = call.handle("linear", kept.map(Kept::handle));
    let [begin, end] = cuts.map(|cut| cut.of(kept.map_or(0, |kept| kept.model.out_features())));
    let out = call.slot(&mut slot);
    // SAFETY: a handle that lives, or none; an out pointer.
    let status = unsafe { c::tritgemm_linear_slice_rows(handle, begin, end, out) };
    let model = call.check(status, || {
        kept.expect("a layer").model.slice_rows(begin..end)
    });
    let origin = kept.map(|kept| kept.origin.clone()).unwrap_or_default();
    keep_linear(world, slot, model, &origin);
}

/// Keeps panels that were made, after a look at what they say of themselves.
pub fn keep_panels(
    world: &mut World,
    slot: Slot<c::Panels>,
    model: Option<Panels>,
    origin: &Origin,
) {
    let Some(model) = model else {
        return slot.unmade();
    };
    let made: KeptPanels = Kept::new(slot.made(), c::tritgemm_panels_destroy, model, origin);
    let (handle, model) = (made.handle(), &made.model);
    let shape = [model.rows(), model.cols()];
    // SAFETY: a handle that lives, out pointers; what it lends lives as long.
    unsafe {
        assert_eq!(
            [
                c::tritgemm_panels_rows(handle),
                c::tritgemm_panels_cols(handle)
            ],
            shape
        );
        let (mut bytes, mut len) = (null(), 0);
        c::tritgemm_panels_bytes(handle, &mut bytes, &mut len);
        assert!(std::slice::from_raw_parts(bytes, len) == model.as_bytes());
        if let Some(lent) = origin.lent.as_ref().filter(|_| len > 0) {
            let end = lent.ptr().wrapping_add(lent.len());
            assert!(bytes >= lent.ptr() && bytes < end, "a copy");
        }
    }
    keep(&mut world.panels, made);
}

/// The same for a layer.
pub fn keep_linear(
    world: &mut World,
    slot: Slot<c::Linear>,
    model: Option<Linear>,
    origin: &Origin,
) {
    let Some(model) = model else {
        return slot.unmade();
    };
    let made: KeptLinear = Kept::new(slot.made(), c::tritgemm_linear_destroy, model, origin);
    let (handle, model) = (made.handle(), &made.model);
    let shape = [model.out_features(), model.in_features()];
    let group = model.group().map_or(0, |group| group.len());
    // SAFETY: a handle that lives.
    unsafe {
        let got = [
            c::tritgemm_linear_rows(handle),
            c::tritgemm_linear_cols(handle),
        ];
        assert_eq!(got, shape);
        assert_eq!(c::tritgemm_linear_group(handle), group);
    }
    keep(&mut world.linears, made);
}

/// Where a layer's panels are, and how many bytes.
pub fn address(linear: &KeptLinear) -> (*const u8, usize) {
    let (mut panels, mut bytes, mut len) = (null_mut(), null(), 0);
    // SAFETY: a handle that lives, out pointers; the layer keeps the bytes.
    unsafe {
        c::tritgemm_linear_panels(linear.handle(), &mut panels);
        c::tritgemm_panels_bytes(panels, &mut bytes, &mut len);
        c::tritgemm_panels_destroy(panels);
    }
    (bytes, len)
}
