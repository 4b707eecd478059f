//! Products of several layers in one loop, into outputs of any type.

use crate::buffer::{Rows, reads_slice, span, zeros};
use crate::handle::{borrow, null};
use crate::linear::Linear;
use crate::prepared::{Path, Prepared};
use crate::product::{self, of_float};
use crate::status::{Error, Status, guard};
use crate::workspace::Workspace;
use core::ffi::c_void;
use tritgemm::{Added, GemmError, MatMut};

/// Where outputs go: rows of one of the types of tritgemm_float, `stride` elements apart.
/// They are computed in f32 and rounded once, half to even.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Output {
    /// The first row.
    pub data: *mut c_void,
    /// Elements there are.
    pub len: usize,
    /// Elements from a row to the next.
    pub stride: usize,
    /// A tritgemm_float.
    pub r#type: i32,
    /// 0, or not 0 to add them to what is there, in f32.
    pub add: i32,
}

/// Layers that share a loop.
const MOST: usize = 16;

/// The caller's array.
///
/// # Safety
/// Precondition 1 of the crate's documentation.
pub(crate) unsafe fn array<'a, T>(what: &str, ptr: *const T, len: usize) -> Result<&'a [T], Error> {
    span(what, ptr, len)?;
    match len {
        0 => Ok(&[]),
        _ if ptr.is_null() => Err(null(what)),
        _ if !ptr.is_aligned() => {
            let text = format!("`{what}` is not aligned");
            Err(Error::new(Status::TritgemmInvalidArgument, text))
        }
        // SAFETY: by precondition 1, of so many elements.
        _ => Ok(unsafe { core::slice::from_raw_parts(ptr, len) }),
    }
}

/// The forward passes of `count` layers with one K and one tritgemm_linear_group() on the
/// same prepared activations, by int8 or by f32 as they were prepared: the bits of
/// tritgemm_linear_forward_prepared(), with the rows of all layers (16 at a time) shared
/// among the threads in one loop, so that layers which are too small to be shared alone
/// are shared together. Output `i` is of `layers[i]`, with a row for each of the tokens.
/// Outputs have one type, all or none are added to, and none overlaps another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_forward_many(
    layers: *const *const Linear,
    outputs: *const Output,
    count: usize,
    x: *const Prepared,
    workspace: *mut Workspace,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let layers = array("layers", layers, count)?;
        let outputs = array("outputs", outputs, count)?;
        let ready = borrow("x", x)?.0.read("x")?;
        let Some(first) = outputs.first() else {
            return Ok(());
        };
        if outputs
            .iter()
            .any(|y| (y.r#type, y.add != 0) != (first.r#type, first.add != 0))
        {
            let text = "outputs of one call have one type, and all or none are added to";
            return Err(Error::new(Status::TritgemmInvalidArgument, text));
        }
        of_float!(first.r#type, T => {
            check_outputs::<T>(layers, outputs, ready.x.tokens())?;
            check_alike(layers)?;
            for (layers, outputs) in layers.chunks(MOST).zip(outputs.chunks(MOST)) {
                let mut some = [&borrow("layers", layers[0])?.0; MOST];
                for (one, &layer) in some.iter_mut().zip(layers) {
                    *one = &borrow("layers", layer)?.0;
                }
                let layers = &some[..layers.len()];
                let shapes = |i: usize| [ready.x.tokens(), layers[i].out_features()];
                into_outputs::<T>(outputs, shapes, workspace, |ys, ws| match (&ready.path, ys) {
                    (Path::Int8, Ys::Replaced(ys)) => tritgemm::Linear::forward_many_int8(layers, &ready.x, ys, ws),
                    (Path::Int8, Ys::Added(ys)) => tritgemm::Linear::forward_many_int8(layers, &ready.x, ys, ws),
                    (Path::F32, Ys::Replaced(ys)) => tritgemm::Linear::forward_many_f32(layers, &ready.x, ys, ws),
                    (Path::F32, Ys::Added(ys)) => tritgemm::Linear::forward_many_f32(layers, &ready.x, ys, ws),
                })?;
            }
            Ok(())
        })
    })
}

/// Nothing is written where a later loop has a layer unlike those of the first.
///
/// # Safety
/// Precondition 2 of the crate's documentation.
unsafe fn check_alike(layers: &[*const Linear]) -> Result<(), Error> {
    // SAFETY: the caller's precondition.
    let layer = |i: usize| unsafe { borrow("layers", layers[i]) }.map(|layer| &layer.0);
    let first = layer(0)?;
    for i in 1..layers.len() {
        let layer = layer(i)?;
        let (cols, expected) = (first.in_features(), layer.in_features());
        if cols != expected {
            return Err(GemmError::InputWidth { cols, expected }.into());
        }
        if layer.group() != first.group() {
            let (prepared, matrix) = (first.group(), layer.group());
            return Err(GemmError::Group { prepared, matrix }.into());
        }
        if layer.rotation() != first.rotation() {
            let [prepared, matrix] = [first, layer].map(|l| l.rotation().map(|r| r.block()));
            return Err(GemmError::Rotation { prepared, matrix }.into());
        }
    }
    Ok(())
}

/// The rows of an output.
pub(crate) fn rows<T: product::Output>(
    y: &Output,
    shape: [usize; 2],
) -> Result<Rows<'static, T>, Error> {
    Rows::new(
        "outputs",
        (y.data.cast_const().cast(), y.len, y.stride),
        shape,
    )
}

/// All outputs can be written, apart from each other and from the weights.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
unsafe fn check_outputs<T: product::Output>(
    layers: &[*const Linear],
    outputs: &[Output],
    tokens: usize,
) -> Result<(), Error> {
    let at = |i: usize| {
        // SAFETY: the caller's preconditions.
        let layer = unsafe { borrow("layers", layers[i]) }?;
        rows::<T>(&outputs[i], [tokens, layer.0.out_features()])
    };
    for i in 0..outputs.len() {
        let y = at(i)?;
        for &layer in layers {
            // SAFETY: the caller's preconditions.
            let layer = unsafe { borrow("layers", layer) }?;
            y.check_apart_from(&reads_slice("layers", layer.0.panels().as_bytes()))?;
        }
        (0..i).try_for_each(|other| y.check_apart(&at(other)?))?;
    }
    Ok(())
}

/// Outputs of one kind.
pub(crate) enum Ys<'a, 'y, T> {
    Replaced(&'a mut [MatMut<'y, T>]),
    Added(&'a mut [Added<'y, T>]),
}

/// Runs `run` with at most [`MOST`] outputs, which were checked, in place or staged.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
pub(crate) unsafe fn into_outputs<T: product::Output>(
    outputs: &[Output],
    shape: impl Fn(usize) -> [usize; 2],
    workspace: *mut Workspace,
    run: impl FnOnce(Ys<'_, '_, T>, &mut tritgemm::Workspace) -> Result<(), GemmError>,
) -> Result<(), Error> {
    let (count, add) = (outputs.len(), outputs[0].add != 0);
    let at = |i: usize| rows::<T>(&outputs[i], shape(i));
    let staged = (0..count).try_fold(0_usize, |sum, i| {
        Ok::<_, Error>(sum.saturating_add(at(i)?.staged_len()))
    })?;
    // SAFETY: the caller's preconditions; the outputs overlap nothing.
    unsafe {
        Workspace::with(workspace, |inner| {
            let mut stage = core::mem::take(T::copies(&mut inner.stage));
            let done = (|| {
                zeros(&mut stage, staged)?;
                let (mut rest, mut ys) = (
                    &mut stage[..],
                    core::array::from_fn::<_, MOST, _>(|_| empty()),
                );
                for (i, y) in ys.iter_mut().enumerate().take(count) {
                    let (rows, [tokens, m]) = (at(i)?, shape(i));
                    let (part, after) = rest.split_at_mut(rows.staged_len());
                    rest = after;
                    *y = MatMut::new(rows.slice_mut(part, add), tokens, m)?;
                }
                match add {
                    true => run(Ys::Added(&mut ys.map(Added)[..count]), &mut inner.products)?,
                    false => run(Ys::Replaced(&mut ys[..count]), &mut inner.products)?,
                }
                let mut rest = &stage[..];
                for i in 0..count {
                    let (part, after) = rest.split_at(at(i)?.staged_len());
                    rest = after;
                    at(i)?.written(part);
                }
                Ok(())
            })();
            *T::copies(&mut inner.stage) = stage;
            done
        })
    }
}

/// No output.
fn empty<'a, T>() -> MatMut<'a, T> {
    MatMut::new(&mut [], 0, 0).expect("nothing fits anywhere")
}
