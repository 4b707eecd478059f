//! `tritgemm_prepared`.

use crate::buffer::{Number, Rows, input, owned};
use crate::handle::{borrow, destroy, give};
use crate::status::{Error, Status, guard, guard_value};
use crate::workspace::{Stage, Workspace};
use half::{bf16, f16};
use tritgemm::{GroupSize, MatRef, PreparedActivations};

/// Activations made ready once for any number of matrices with the same K, such as those
/// of Q, K and V or of gate and up.
pub struct Prepared(pub(crate) PreparedActivations);

fn group(len: usize) -> Result<Option<GroupSize>, Error> {
    let unknown = || {
        let text = format!("group of {len}, expected 0 (none), 64, 128 or 256");
        Error::new(Status::TritgemmInvalidArgument, text)
    };
    match len {
        0 => Ok(None),
        _ => GroupSize::from_len(len).map(Some).ok_or_else(unknown),
    }
}

/// Prepares `tokens` rows of `features` values.
///
/// # Safety
/// Preconditions 1, 2 and 3 of the crate's documentation.
unsafe fn prepare<T: Number>(
    [tokens, features, group]: [usize; 3],
    x: (*const T, usize, usize),
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
    stage: fn(&mut Stage) -> &mut Vec<T>,
    run: impl FnOnce(
        MatRef<'_, T>,
        Option<GroupSize>,
        &mut tritgemm::Workspace,
    ) -> Result<PreparedActivations, Error>,
) -> Result<(), Error> {
    // SAFETY: the caller's preconditions.
    unsafe {
        give(out, || {
            let group = self::group(group)?;
            let x = Rows::new("x", x, [tokens, features])?;
            Workspace::with(workspace, |inner| {
                let x = MatRef::new(x.read(stage(&mut inner.stage))?, tokens, features)?;
                Ok(Prepared(run(x, group, &mut inner.products)?))
            })
        })
    }
}

/// For the W1.58A8 path: quantises each of `tokens` rows of `x` (`features` = K values,
/// `x_stride` apart) to int8 by its absolute maximum. `group` is that of the layers
/// (tritgemm_linear_group()), 0 if their scales are not per group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepare(
    tokens: usize,
    features: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    group: usize,
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    let (shape, x) = ([tokens, features, group], (x, x_len, x_stride));
    let stage: fn(&mut Stage) -> &mut Vec<f32> = |stage| &mut stage.x_f32;
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        prepare(shape, x, workspace, out, stage, |x, group, ws| {
            Ok(PreparedActivations::quantize(x, group, ws)?)
        })
    })
}

/// As tritgemm_prepare(), `x` in the bits of IEEE half precision (f16).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepare_f16(
    tokens: usize,
    features: usize,
    x: *const u16,
    x_len: usize,
    x_stride: usize,
    group: usize,
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    let (shape, x) = (
        [tokens, features, group],
        (x.cast::<f16>(), x_len, x_stride),
    );
    let stage: fn(&mut Stage) -> &mut Vec<f16> = |stage| &mut stage.x_f16;
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        prepare(shape, x, workspace, out, stage, |x, group, ws| {
            Ok(PreparedActivations::quantize(x, group, ws)?)
        })
    })
}

/// As tritgemm_prepare(), `x` in the bits of bfloat16.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepare_bf16(
    tokens: usize,
    features: usize,
    x: *const u16,
    x_len: usize,
    x_stride: usize,
    group: usize,
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    let (shape, x) = (
        [tokens, features, group],
        (x.cast::<bf16>(), x_len, x_stride),
    );
    let stage: fn(&mut Stage) -> &mut Vec<bf16> = |stage| &mut stage.x_bf16;
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        prepare(shape, x, workspace, out, stage, |x, group, ws| {
            Ok(PreparedActivations::quantize(x, group, ws)?)
        })
    })
}

/// For the W1.58A8 path with activations that are int8 already; `token_scales`, one a
/// token, turn them back into floats. Otherwise as tritgemm_prepare().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepare_i8(
    tokens: usize,
    features: usize,
    x: *const i8,
    x_len: usize,
    x_stride: usize,
    token_scales: *const f32,
    token_scales_len: usize,
    group: usize,
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    let (shape, x) = ([tokens, features, group], (x, x_len, x_stride));
    let stage: fn(&mut Stage) -> &mut Vec<i8> = |stage| &mut stage.x_i8;
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        prepare(shape, x, workspace, out, stage, |x, group, ws| {
            let token_scales = input("token_scales", token_scales, token_scales_len);
            let token_scales = owned(token_scales?)?;
            Ok(PreparedActivations::int8(x, token_scales, group, ws)?)
        })
    })
}

/// For the f32 path. A NaN or an infinity stays what it is. Otherwise as
/// tritgemm_prepare().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepare_f32(
    tokens: usize,
    features: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    group: usize,
    workspace: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    let (shape, x) = ([tokens, features, group], (x, x_len, x_stride));
    let stage: fn(&mut Stage) -> &mut Vec<f32> = |stage| &mut stage.x_f32;
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        prepare(shape, x, workspace, out, stage, |x, group, ws| {
            Ok(PreparedActivations::float(x, group, ws)?)
        })
    })
}

/// Tokens, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepared_tokens(prepared: *const Prepared) -> usize {
    guard_value(0, || {
        // SAFETY: precondition 2.
        unsafe { borrow("prepared", prepared) }.map_or(0, |p| p.0.tokens())
    })
}

/// K, the values of a token, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepared_cols(prepared: *const Prepared) -> usize {
    guard_value(0, || {
        // SAFETY: precondition 2.
        unsafe { borrow("prepared", prepared) }.map_or(0, |p| p.0.cols())
    })
}

/// Frees prepared activations, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_prepared_destroy(prepared: *mut Prepared) {
    // SAFETY: precondition 2.
    unsafe { destroy(prepared) }
}
