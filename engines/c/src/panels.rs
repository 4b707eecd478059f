//! `tritgemm_panels`.

use crate::buffer::{output, reads_slice};
use crate::handle::{borrow, destroy, give, null, put, size};
use crate::matrix::Matrix;
use crate::prepared::Prepared;
use crate::product;
use crate::status::{Error, Status, guard};
use crate::workspace::Workspace;

/// A ternary matrix [M][K] as the kernels read it, without scales:
/// panel[p][strip][r] is packed byte `strip` of row 64 p + r, rows padded with zeros to
/// 64, strips to a multiple of 3. The same on every instruction set.
pub struct Panels(pub(crate) tritgemm::Panels);

/// Bytes of the caller's that stay where they are.
///
/// # Safety
/// Preconditions 1 and 5 of the crate's documentation.
pub(crate) unsafe fn lasting(
    what: &str,
    ptr: *const u8,
    len: usize,
) -> Result<&'static [u8], Error> {
    // SAFETY: precondition 1, and precondition 5 for the lifetime.
    match unsafe { crate::buffer::input(what, ptr, len) }? {
        std::borrow::Cow::Borrowed(bytes) => Ok(bytes),
        // Bytes are never copied for their alignment.
        std::borrow::Cow::Owned(_) => Err(null(what)),
    }
}

/// Bytes of the panels of a [rows, cols] matrix.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_size(rows: usize, cols: usize, out: *mut usize) -> Status {
    // SAFETY: precondition 3.
    guard(|| unsafe { put("out", out, tritgemm::Panels::byte_len(rows, cols)?) })
}

/// Lays a matrix out in panels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_pack(
    matrix: *const Matrix,
    out: *mut *mut Panels,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        give(out, || {
            Ok(Panels(tritgemm::Panels::pack(
                &borrow("matrix", matrix)?.0,
            )?))
        })
    })
}

/// Panels that are in memory already, as tritgemm_panels_bytes() gave them: used where
/// they are, without a copy. `bytes` must stay valid and unchanged until every handle
/// that was made of these panels is destroyed. Any alignment works, 64 bytes is fastest.
/// Bytes that are no panels give wrong products and nothing worse.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_from_memory(
    bytes: *const u8,
    bytes_len: usize,
    rows: usize,
    cols: usize,
    out: *mut *mut Panels,
) -> Status {
    // SAFETY: preconditions 1, 3 and 5.
    guard(|| unsafe {
        give(out, || {
            let bytes = lasting("bytes", bytes, bytes_len)?;
            Ok(Panels(tritgemm::Panels::from_bytes(bytes, rows, cols)?))
        })
    })
}

/// The bytes of the panels, which live as long as `panels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_bytes(
    panels: *const Panels,
    bytes: *mut *const u8,
    bytes_len: *mut usize,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        let all = borrow("panels", panels)?.0.as_bytes();
        put("bytes", bytes, all.as_ptr())?;
        put("bytes_len", bytes_len, all.len())
    })
}

/// M, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_rows(panels: *const Panels) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(panels, |p| p.0.rows()) }
}

/// K, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_cols(panels: *const Panels) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(panels, |p| p.0.cols()) }
}

/// Rows `begin` to `end` (exclusive), sharing the memory: a shard. `begin` must be a
/// multiple of 64, `end` one or M.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_slice_rows(
    panels: *const Panels,
    begin: usize,
    end: usize,
    out: *mut *mut Panels,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        give(out, || {
            Ok(Panels(borrow("panels", panels)?.0.slice_rows(begin..end)?))
        })
    })
}

/// The exact integer product y[n][m] = sum over k of w[m][k] * x[n][k], for `tokens` rows
/// of `x` (K values, `x_stride` apart) and of `y` (M values, `y_stride` apart).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_gemm_i8(
    panels: *const Panels,
    tokens: usize,
    x: *const i8,
    x_len: usize,
    x_stride: usize,
    y: *mut i32,
    y_len: usize,
    y_stride: usize,
    workspace: *mut Workspace,
) -> Status {
    let (x, y) = ((x, x_len, x_stride), (y, y_len, y_stride));
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let panels = &borrow("panels", panels)?.0;
        product::of_rows(panels, tokens, x, y, workspace, |x, y, ws| {
            panels.gemm_i8(x, y, ws)
        })
    })
}

/// As tritgemm_panels_gemm_i8(), with activations that were prepared as int8 and without
/// groups; their scales are not applied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_gemm_i8_prepared(
    panels: *const Panels,
    x: *const Prepared,
    y: *mut i32,
    y_len: usize,
    y_stride: usize,
    workspace: *mut Workspace,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let panels = &borrow("panels", panels)?.0;
        let x = &borrow("x", x)?.0.read("x")?.x;
        let y = (y, y_len, y_stride);
        product::of_prepared(panels, x.tokens(), y, workspace, |y, ws| {
            panels.gemm_i8(x, y, ws)
        })
    })
}

/// The weights of one row, -1, 0 or +1, into `trits`, K values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_unpack_row(
    panels: *const Panels,
    row: usize,
    trits: *mut i8,
    trits_len: usize,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let panels = &borrow("panels", panels)?.0;
        let weights = [reads_slice("panels", panels.as_bytes())];
        output("trits", trits, trits_len, &weights, |trits| {
            Ok(panels.unpack_row(row, trits)?)
        })
    })
}

/// Frees panels, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panels_destroy(panels: *mut Panels) {
    // SAFETY: precondition 2.
    unsafe { destroy(panels) }
}
