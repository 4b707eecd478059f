//! `tritgemm_prepared`.

use crate::buffer::{Rows, input, owned};
use crate::handle::{Shared, borrow, destroy, give, size};
use crate::linear::Linear;
use crate::product::{Input, Raw, of_float};
use crate::status::{Error, Status, guard};
use crate::workspace::Workspace;
use core::ffi::c_void;
use tritgemm::{GemmError, GroupSize, Grouped, MatRef, PreparedActivations};

/// Activations made ready once for any number of matrices with the same K, such as those
/// of Q, K and V or of gate and up.
pub struct Prepared(pub(crate) Shared<Ready>);

pub(crate) struct Ready {
    pub(crate) x: PreparedActivations,
    pub(crate) path: Path,
}

/// Which forward pass takes them.
pub(crate) enum Path {
    Int8,
    F32,
}

pub(crate) fn group(len: usize) -> Result<Option<GroupSize>, Error> {
    let unknown = || {
        let text = format!("group of {len}, expected 0 (none), 32, 64, 128 or 256");
        Error::new(Status::TritgemmInvalidArgument, text)
    };
    match len {
        0 => Ok(None),
        _ => GroupSize::from_len(len).map(Some).ok_or_else(unknown),
    }
}

/// Prepares `tokens` rows of `cols` values.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
unsafe fn prepare<T: Input>(
    [tokens, cols]: [usize; 2],
    x: Raw<*const T>,
    path: Path,
    workspace: *mut Workspace,
    run: impl FnOnce(MatRef<'_, T>, &mut tritgemm::Workspace) -> Result<PreparedActivations, GemmError>,
) -> Result<Prepared, Error> {
    // SAFETY: the caller's preconditions.
    let x = unsafe { with_input([tokens, cols], x, workspace, run) }?;
    Ok(Prepared(Shared::new(Ready { x, path })))
}

/// Runs `run` with `tokens` rows of `cols` values.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
pub(crate) unsafe fn with_input<T: Input, R>(
    [tokens, cols]: [usize; 2],
    x: Raw<*const T>,
    workspace: *mut Workspace,
    run: impl FnOnce(MatRef<'_, T>, &mut tritgemm::Workspace) -> Result<R, GemmError>,
) -> Result<R, Error> {
    let x = Rows::new("x", x, [tokens, cols])?;
    // SAFETY: the caller's preconditions.
    unsafe {
        Workspace::with(workspace, |inner| {
            let x = MatRef::new(x.read(T::copies(&mut inner.stage))?, tokens, cols)?;
            Ok(run(x, &mut inner.products)?)
        })
    }
}

/// Prepares for the int8 forward pass of a layer, and of any other with the same K and
/// tritgemm_linear_group(): quantises each of `tokens` rows of `x` (K values of the
/// tritgemm_float `x_type`, `x_stride` apart) to int8 by its absolute maximum, or each
/// `x_group` values of a row (32, 64, 128 or 256) by their own; 0 for the whole row. A NaN or
/// an infinity in `x` is an error, unless tritgemm_workspace_set_propagate_non_finite() says
/// otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_prepare_int8(
    linear: *const Linear,
    tokens: usize,
    x_type: i32,
    x: *const c_void,
    x_len: usize,
    x_stride: usize,
    x_group: usize,
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        give(out, || {
            let linear = &borrow("linear", linear)?.0;
            let (shape, x_group) = ([tokens, linear.in_features()], self::group(x_group)?);
            of_float!(x_type, T => {
                let x = (x.cast::<T>(), x_len, x_stride);
                prepare(shape, x, Path::Int8, workspace, |x, ws| match x_group {
                    None => linear.prepare_int8(x, ws),
                    Some(group) => linear.prepare_int8(Grouped(x, group), ws),
                })
            })
        })
    })
}

/// As tritgemm_linear_prepare_int8(), in the memory of `prepared`, which may have been for
/// any other activations: from the second time on nothing is allocated where it is enough.
/// While another call uses them it fails with TRITGEMM_BUSY. After an error of
/// `x` itself they have no tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_prepare_int8_into(
    linear: *const Linear,
    tokens: usize,
    x_type: i32,
    x: *const c_void,
    x_len: usize,
    x_stride: usize,
    x_group: usize,
    workspace: *mut Workspace,
    prepared: *mut Prepared,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let linear = &borrow("linear", linear)?.0;
        let (shape, x_group) = ([tokens, linear.in_features()], self::group(x_group)?);
        let ready = &mut *borrow("prepared", prepared)?.0.write("prepared")?;
        of_float!(x_type, T => {
            let x = (x.cast::<T>(), x_len, x_stride);
            with_input(shape, x, workspace, |x, ws| {
                ready.path = Path::Int8;
                match x_group {
                    None => linear.prepare_int8_into(x, &mut ready.x, ws),
                    Some(group) => linear.prepare_int8_into(Grouped(x, group), &mut ready.x, ws),
                }
            })
        })
    })
}

/// As tritgemm_linear_prepare_int8_into(), for the f32 forward pass.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_prepare_f32_into(
    linear: *const Linear,
    tokens: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    workspace: *mut Workspace,
    prepared: *mut Prepared,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let linear = &borrow("linear", linear)?.0;
        let (shape, x) = ([tokens, linear.in_features()], (x, x_len, x_stride));
        let ready = &mut *borrow("prepared", prepared)?.0.write("prepared")?;
        with_input(shape, x, workspace, |x, ws| {
            ready.path = Path::F32;
            linear.prepare_f32_into(x, &mut ready.x, ws)
        })
    })
}

/// Prepares for the f32 forward pass. A NaN or an infinity stays what it is. Otherwise as
/// tritgemm_linear_prepare_int8().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_prepare_f32(
    linear: *const Linear,
    tokens: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        give(out, || {
            let linear = &borrow("linear", linear)?.0;
            let (shape, x) = ([tokens, linear.in_features()], (x, x_len, x_stride));
            prepare(shape, x, Path::F32, workspace, |x, ws| {
                linear.prepare_f32(x, ws)
            })
        })
    })
}

/// Prepares activations that are int8 already, `tokens` rows of `cols` = K values,
/// `x_stride` apart; `token_scales`, one for each `x_group` values of a token or, if that is 0,
/// one a token, turn them back into floats. `group` is the tritgemm_linear_group() of the
/// layers that they are for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepared_from_int8(
    tokens: usize,
    cols: usize,
    x: *const i8,
    x_len: usize,
    x_stride: usize,
    x_group: usize,
    token_scales: *const f32,
    token_scales_len: usize,
    group: usize,
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    let (shape, x) = ([tokens, cols], (x, x_len, x_stride));
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        give(out, || {
            let (group, x_group) = (self::group(group)?, self::group(x_group)?);
            let token_scales = input("token_scales", token_scales, token_scales_len);
            let token_scales = owned(token_scales?)?;
            prepare(shape, x, Path::Int8, workspace, |x, ws| match x_group {
                None => PreparedActivations::from_int8(x, token_scales, group, ws),
                Some(own) => {
                    let x = Grouped(x, own);
                    PreparedActivations::from_int8(x, token_scales, group, ws)
                }
            })
        })
    })
}

/// Tokens, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepared_tokens(prepared: *const Prepared) -> usize {
    // SAFETY: precondition 2.
    unsafe {
        size(prepared, |p| {
            p.0.read("prepared").map_or(0, |ready| ready.x.tokens())
        })
    }
}

/// K, the values of a token, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepared_cols(prepared: *const Prepared) -> usize {
    // SAFETY: precondition 2.
    unsafe {
        size(prepared, |p| {
            p.0.read("prepared").map_or(0, |ready| ready.x.cols())
        })
    }
}

/// Frees prepared activations, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepared_destroy(prepared: *mut Prepared) {
    // SAFETY: precondition 2.
    unsafe { destroy(prepared) }
}
