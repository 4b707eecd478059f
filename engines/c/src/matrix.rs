//! `tritgemm_matrix`.

use crate::buffer::{input, matrix, owned};
use crate::handle::{borrow, destroy, give, put, size};
use crate::quant::{granularity, number};
use crate::status::{Error, Status, guard};
use tritgemm::{Scales, TernaryMatrix};

/// A ternary matrix [M][K] in packed rows, with its scales.
pub struct Matrix(pub(crate) TernaryMatrix);

/// Scales from the caller's buffer, not checked against a shape yet.
///
/// # Safety
/// Precondition 1 of the crate's documentation.
pub(crate) unsafe fn scales(kind: i32, ptr: *const f32, len: usize) -> Result<Scales, Error> {
    let kind = granularity(kind)?;
    // SAFETY: the caller's precondition.
    let values = owned(unsafe { input("scales", ptr, len) }?)?;
    with_granularity(kind, values)
}

/// Scales of a granularity.
pub(crate) fn with_granularity(
    granularity: tritgemm::Granularity,
    values: Vec<f32>,
) -> Result<Scales, Error> {
    Ok(match granularity {
        tritgemm::Granularity::PerTensor => match values[..] {
            [scale] => Scales::per_tensor(scale),
            _ => {
                let len = values.len();
                let text = format!("`scales` has length {len}, expected 1 for the tensor");
                return Err(Error::new(Status::TritgemmInvalidSize, text));
            }
        },
        tritgemm::Granularity::PerRow => Scales::per_row(values),
        tritgemm::Granularity::PerGroup(size) => Scales::per_group(size, values),
    })
}

/// A matrix of trits -1, 0, +1, [rows][cols]. `granularity` is a tritgemm_granularity,
/// tritgemm_scale_count() says how many scales it takes. Everything is copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_matrix_from_trits(
    trits: *const i8,
    trits_len: usize,
    rows: usize,
    cols: usize,
    granularity: i32,
    scales: *const f32,
    scales_len: usize,
    out: *mut *mut Matrix,
) -> Status {
    // SAFETY: preconditions 1 and 3.
    guard(|| unsafe {
        give(out, || {
            let trits = input("trits", trits, trits_len)?;
            let scales = self::scales(granularity, scales, scales_len)?;
            let trits = matrix("trits", &trits, rows, cols)?;
            Ok(Matrix(TernaryMatrix::from_trits(trits, scales)?))
        })
    })
}

/// A matrix of packed bytes [rows][ceil(cols / 4)]; a code 11 or padding that is not zero
/// is an error. Otherwise as tritgemm_matrix_from_trits().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_matrix_from_packed(
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    granularity: i32,
    scales: *const f32,
    scales_len: usize,
    out: *mut *mut Matrix,
) -> Status {
    // SAFETY: preconditions 1 and 3.
    guard(|| unsafe {
        give(out, || {
            let packed = owned(input("packed", packed, packed_len)?)?;
            let scales = self::scales(granularity, scales, scales_len)?;
            Ok(Matrix(TernaryMatrix::from_packed(
                packed, rows, cols, scales,
            )?))
        })
    })
}

/// The matrix nearest to latent weights [rows][cols]: absmean scales, then trits, as
/// tritgemm_absmean() and tritgemm_ternarize(). `granularity` is a tritgemm_granularity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_matrix_quantize(
    weights: *const f32,
    weights_len: usize,
    rows: usize,
    cols: usize,
    granularity: i32,
    out: *mut *mut Matrix,
) -> Status {
    // SAFETY: preconditions 1 and 3.
    guard(|| unsafe {
        give(out, || {
            let weights = input("weights", weights, weights_len)?;
            let granularity = self::granularity(granularity)?;
            let weights = matrix("weights", &weights, rows, cols)?;
            Ok(Matrix(TernaryMatrix::quantize(weights, granularity)?))
        })
    })
}

/// M, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_matrix_rows(matrix: *const Matrix) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(matrix, |m| m.0.rows()) }
}

/// K, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_matrix_cols(matrix: *const Matrix) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(matrix, |m| m.0.cols()) }
}

/// The packed bytes [M][ceil(K / 4)], which live as long as the matrix.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_matrix_packed(
    matrix: *const Matrix,
    packed: *mut *const u8,
    packed_len: *mut usize,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        let bytes = borrow("matrix", matrix)?.0.packed();
        put("packed", packed, bytes.as_ptr())?;
        put("packed_len", packed_len, bytes.len())
    })
}

/// The scales, which live as long as the matrix, and what each covers (a
/// tritgemm_granularity).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_matrix_scales(
    matrix: *const Matrix,
    granularity: *mut i32,
    scales: *mut *const f32,
    scales_len: *mut usize,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        let all = borrow("matrix", matrix)?.0.scales();
        put("granularity", granularity, number(all.granularity()))?;
        put("scales", scales, all.values().as_ptr())?;
        put("scales_len", scales_len, all.values().len())
    })
}

/// Frees a matrix, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_matrix_destroy(matrix: *mut Matrix) {
    // SAFETY: precondition 2.
    unsafe { destroy(matrix) }
}
