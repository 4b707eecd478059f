//! `tritgemm_prepared`.

use crate::buffer::{Rows, input, owned};
use crate::handle::{Shared, borrow, destroy, give, size};
use crate::linear::Linear;
use crate::product::{Float, Input, Raw, of_float};
use crate::status::{Error, Status, guard};
use crate::workspace::Workspace;
use core::ffi::c_void;
use tritgemm::{GemmError, GroupSize, Grouped, MatRef, PreparedActivations};

/// Activations made ready once for any number of matrices with the same K, such as those
/// of Q, K and V or of gate and up.
pub struct Prepared(pub(crate) Shared<Ready>);

#[derive(Default)]
pub(crate) struct Ready {
    pub(crate) x: PreparedActivations,
    pub(crate) path: Path,
}

/// Which forward pass takes them.
#[derive(Default)]
pub(crate) enum Path {
    #[default]
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

/// The caller's rows, of a tritgemm_float, to be made ready.
pub(crate) struct Activations {
    pub(crate) tokens: usize,
    pub(crate) x_type: i32,
    pub(crate) x: Raw<*const c_void>,
    /// Of a scale, with int8; 0 for a token's.
    pub(crate) x_group: usize,
    pub(crate) path: Path,
}

impl Activations {
    pub(crate) fn int8(tokens: usize, x_type: i32, x: Raw<*const c_void>, x_group: usize) -> Self {
        let path = Path::Int8;
        Self {
            tokens,
            x_type,
            x,
            x_group,
            path,
        }
    }

    pub(crate) fn f32(tokens: usize, (x, len, stride): Raw<*const f32>) -> Self {
        let (x, x_type) = ((x.cast(), len, stride), Float::TritgemmF32 as i32);
        Self {
            path: Path::F32,
            ..Self::int8(tokens, x_type, x, 0)
        }
    }
}

/// Prepares [`Activations`] of `$cols` values, seen as `$x`, in a workspace, as `$int8` or as
/// `$f32` does. Its caller is owed preconditions 1 and 2 of the crate's documentation.
macro_rules! prepare {
    ($activations:expr, $cols:expr, $workspace:expr, |$x:ident, $ws:ident| $int8:expr, $f32:expr) => {{
        let (it, shape) = (&$activations, [$activations.tokens, $cols]);
        let (data, len, stride) = it.x;
        match (&it.path, $crate::prepared::group(it.x_group)?) {
            (Path::F32, _) => {
                let x = (data.cast::<f32>(), len, stride);
                $crate::prepared::with_input(shape, x, $workspace, |$x, $ws| $f32)
            }
            (Path::Int8, group) => of_float!(it.x_type, T => {
                let x = (data.cast::<T>(), len, stride);
                $crate::prepared::with_input(shape, x, $workspace, |$x, $ws| match group {
                    None => $int8,
                    Some(group) => {
                        let $x = tritgemm::Grouped($x, group);
                        $int8
                    }
                })
            }),
        }
    }};
}
pub(crate) use prepare;

/// Makes activations ready for a layer.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
unsafe fn fill(
    ready: &mut Ready,
    linear: *const Linear,
    activations: Activations,
    workspace: *mut Workspace,
) -> Result<(), Error> {
    // SAFETY: the caller's preconditions.
    unsafe {
        let linear = &borrow("linear", linear)?.0;
        prepare!(
            activations,
            linear.in_features(),
            workspace,
            |x, ws| {
                ready.path = Path::Int8;
                linear.prepare_int8_into(x, &mut ready.x, ws)
            },
            {
                ready.path = Path::F32;
                linear.prepare_f32_into(x, &mut ready.x, ws)
            }
        )
    }
}

/// Activations that were made ready for a layer.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
unsafe fn new(
    linear: *const Linear,
    activations: Activations,
    workspace: *mut Workspace,
) -> Result<Prepared, Error> {
    let mut ready = Ready::default();
    // SAFETY: the caller's preconditions.
    unsafe { fill(&mut ready, linear, activations, workspace) }?;
    Ok(Prepared(Shared::new(ready)))
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
    let x = Activations::int8(tokens, x_type, (x, x_len, x_stride), x_group);
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe { give(out, || new(linear, x, workspace)) })
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
    let x = Activations::int8(tokens, x_type, (x, x_len, x_stride), x_group);
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let mut ready = borrow("prepared", prepared)?.0.write("prepared")?;
        fill(&mut ready, linear, x, workspace)
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
    let x = Activations::f32(tokens, (x, x_len, x_stride));
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let mut ready = borrow("prepared", prepared)?.0.write("prepared")?;
        fill(&mut ready, linear, x, workspace)
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
    let x = Activations::f32(tokens, (x, x_len, x_stride));
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe { give(out, || new(linear, x, workspace)) })
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
            let x = with_input(shape, x, workspace, |x, ws| match x_group {
                None => PreparedActivations::from_int8(x, token_scales, group, ws),
                Some(own) => {
                    let x = Grouped(x, own);
                    PreparedActivations::from_int8(x, token_scales, group, ws)
                }
            })?;
            let path = Path::Int8;
            Ok(Prepared(Shared::new(Ready { x, path })))
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
