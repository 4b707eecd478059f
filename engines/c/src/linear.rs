//! `tritgemm_linear`.

use crate::buffer::{input, output, owned, reads_slice};
use crate::handle::{borrow, destroy, give, size};
use crate::matrix::{Matrix, scales};
use crate::panels::Panels;
use crate::prepared::{Path, Prepared, Ready};
use crate::product::{self, of_float};
use crate::status::{Error, Status, guard};
use crate::workspace::Workspace;
use core::ffi::c_void;
use tritgemm::Rotation;

/// A linear layer: y[n][m] = scale[m] * sum over k of w[m][k] * x[n][k] + bias[m], with
/// scales for the tensor, for rows or for groups along K.
pub struct Linear(pub(crate) tritgemm::Linear);

/// The bias, if there is one.
///
/// # Safety
/// Precondition 1 of the crate's documentation.
unsafe fn bias(ptr: *const f32, len: usize) -> Result<Option<Vec<f32>>, Error> {
    if ptr.is_null() && len == 0 {
        return Ok(None);
    }
    // SAFETY: the caller's precondition.
    Ok(Some(owned(unsafe { input("bias", ptr, len) }?)?))
}

/// A layer of a matrix, its scales and `bias`, M values, or NULL and 0 for none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_create(
    matrix: *const Matrix,
    bias: *const f32,
    bias_len: usize,
    out: *mut *mut Linear,
) -> Status {
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        give(out, || {
            let matrix = &borrow("matrix", matrix)?.0;
            let bias = self::bias(bias, bias_len)?;
            let layer = tritgemm::Linear::new(matrix)?;
            Ok(Linear(match bias {
                Some(bias) => layer.with_bias(bias)?,
                None => layer,
            }))
        })
    })
}

/// A layer of panels, scales (`granularity` is a tritgemm_granularity) and `bias`, M
/// values, or NULL and 0 for none. It shares the panels; scales and bias are copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_from_panels(
    panels: *const Panels,
    granularity: i32,
    scales: *const f32,
    scales_len: usize,
    bias: *const f32,
    bias_len: usize,
    out: *mut *mut Linear,
) -> Status {
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        give(out, || {
            let panels = borrow("panels", panels)?.0.clone();
            let scales = self::scales(granularity, scales, scales_len)?;
            let bias = self::bias(bias, bias_len)?;
            Ok(Linear(tritgemm::Linear::from_parts(panels, scales, bias)?))
        })
    })
}

/// The same layer with a rotated input: H (s * x) of each `block` values along K, a power of
/// two, H the Walsh-Hadamard transform in Sylvester's order over sqrt(block) and s the `signs`,
/// 1 or -1 for each of K, or NULL and 0 for none. It is applied when activations are prepared.
/// The layers share their panels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_with_rotation(
    linear: *const Linear,
    block: usize,
    signs: *const i8,
    signs_len: usize,
    out: *mut *mut Linear,
) -> Status {
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        give(out, || {
            let linear = &borrow("linear", linear)?.0;
            let given = !signs.is_null() || signs_len > 0;
            let signs = input("signs", signs, signs_len)?;
            let rotation = Rotation::new(block, given.then_some(&signs))?;
            // A copy that says so where memory runs out.
            let copy = linear.slice_rows(0..linear.out_features())?;
            Ok(Linear(copy.with_rotation(rotation)?))
        })
    })
}

/// M, the outputs, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_rows(linear: *const Linear) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(linear, |l| l.0.out_features()) }
}

/// K, the inputs, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_cols(linear: *const Linear) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(linear, |l| l.0.in_features()) }
}

/// Weights along K that share a scale: 32, 64, 128 or 256, or 0 if scales are not per group.
/// Activations that are prepared for the layer need to know.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_group(linear: *const Linear) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(linear, |l| l.0.group().map_or(0, |group| group.len())) }
}

/// Values of a block in which the layer rotates its inputs, or 0 if it does not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_rotated_block(linear: *const Linear) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(linear, |l| l.0.rotation().map_or(0, Rotation::block)) }
}

/// The layer's panels; they share its memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_panels(
    linear: *const Linear,
    out: *mut *mut Panels,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        give(out, || {
            Ok(Panels(borrow("linear", linear)?.0.panels().clone()))
        })
    })
}

/// Rows `begin` to `end` (exclusive) as a layer of its own, sharing the panels: a shard
/// for tensor parallelism. `begin` must be a multiple of 64, `end` one or M.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_slice_rows(
    linear: *const Linear,
    begin: usize,
    end: usize,
    out: *mut *mut Linear,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        give(out, || {
            Ok(Linear(borrow("linear", linear)?.0.slice_rows(begin..end)?))
        })
    })
}

/// One row of weights times their scales, without bias, into `y`, K values: a row of an
/// embedding whose matrix is the output layer's, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_unpack_row(
    linear: *const Linear,
    row: usize,
    y: *mut f32,
    y_len: usize,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let linear = &borrow("linear", linear)?.0;
        let weights = [reads_slice("linear", linear.panels().as_bytes())];
        output("y", y, y_len, &weights, |y| Ok(linear.unpack_row(row, y)?))
    })
}

/// The W1.58A8 forward pass: quantises each of `tokens` rows of `x` (K values of the
/// tritgemm_float `x_type`, `x_stride` apart) to int8 by its absolute maximum, multiplies
/// exactly, scales and adds the bias into `y` (rows of M values, `y_stride` apart). As in
/// BitNet b1.58. A NaN or an infinity in `x` is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_forward_int8(
    linear: *const Linear,
    tokens: usize,
    x_type: i32,
    x: *const c_void,
    x_len: usize,
    x_stride: usize,
    y: *mut f32,
    y_len: usize,
    y_stride: usize,
    workspace: *mut Workspace,
) -> Status {
    let y = (y, y_len, y_stride);
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let linear = &borrow("linear", linear)?.0;
        let panels = linear.panels();
        of_float!(x_type, T => {
            let x = (x.cast::<T>(), x_len, x_stride);
            product::of_rows(panels, tokens, x, y, workspace, |x, y, ws| linear.forward_int8(x, y, ws))
        })
    })
}

/// The f32 forward pass in the canonical order of summation: the same bits on every
/// instruction set. A weight of 0 never touches its activation. Shapes as in
/// tritgemm_linear_forward_int8().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_forward_f32(
    linear: *const Linear,
    tokens: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    y: *mut f32,
    y_len: usize,
    y_stride: usize,
    workspace: *mut Workspace,
) -> Status {
    let (x, y) = ((x, x_len, x_stride), (y, y_len, y_stride));
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let linear = &borrow("linear", linear)?.0;
        product::of_rows(linear.panels(), tokens, x, y, workspace, |x, y, ws| {
            linear.forward_f32(x, y, ws)
        })
    })
}

/// The forward pass on prepared activations, by int8 or by f32 as they were prepared: the
/// bits of tritgemm_linear_forward_int8() or tritgemm_linear_forward_f32(), which take
/// plain activations alone, as C has no overloading. `y` has a row for each of the tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_forward_prepared(
    linear: *const Linear,
    x: *const Prepared,
    y: *mut f32,
    y_len: usize,
    y_stride: usize,
    workspace: *mut Workspace,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let linear = &borrow("linear", linear)?.0;
        let Ready { x, path } = &*borrow("x", x)?.0.read("x")?;
        let y = (y, y_len, y_stride);
        product::of_prepared(
            linear.panels(),
            x.tokens(),
            y,
            workspace,
            |y, ws| match path {
                Path::Int8 => linear.forward_int8(x, y, ws),
                Path::F32 => linear.forward_f32(x, y, ws),
            },
        )
    })
}

/// Frees a layer, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_destroy(linear: *mut Linear) {
    // SAFETY: precondition 2.
    unsafe { destroy(linear) }
}
