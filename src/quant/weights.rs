//! Latent weights to trits and their scales.

use crate::kernels::auto::float::Float;
use crate::kernels::auto::weights as vector;
use crate::kernels::environment::in_default;
use crate::memory;
use crate::mismatch::{check_length, check_shape};
use crate::quant::error::QuantError;
use crate::scales::Granularity;
use crate::threads::{MAX_EMPTY_ROWS, all_rows, each_row_mut};
use crate::view::{MatMut, MatRef};

/// The least alpha, which a matrix of zeros has.
pub(crate) const MIN_ALPHA: f32 = 1e-5;

/// The scales alpha of `weights` `[rows, cols]`: the mean magnitude of a whole
/// tensor, of every row or of every group of a row, at least 1e-5.
///
/// `alpha = max(mean |w|, 1e-5)`, as BitNet b1.58 defines it
/// (<https://arxiv.org/abs/2402.17764>, equation 3). Sums are in f64, in an
/// order that depends on the shape alone; a short last group is averaged over
/// the weights it has, and the mean of none is 0. The result is `[1]`,
/// `[rows]` or row-major `[rows, groups]`.
///
/// # Errors
/// If a weight is NaN or infinite (the error names the first), or memory runs
/// out.
///
/// ```
/// use tritgemm::quant::{QuantError, absmean};
/// use tritgemm::{Granularity, GroupSize, MatRef};
///
/// let mut weights = vec![0.25; 2 * 100];
/// weights[64..100].fill(-1.0);
/// let per_group = Granularity::PerGroup(GroupSize::G64);
/// let alphas = absmean(MatRef::new(&weights, 2, 100)?, per_group)?;
/// assert_eq!(alphas, [0.25, 1.0, 0.25, 0.25]);
///
/// weights[103] = f32::NAN;
/// let error = absmean(MatRef::new(&weights, 2, 100)?, per_group).unwrap_err();
/// assert!(matches!(error, QuantError::Weight { row: 1, col: 3, .. }));
/// # Ok::<(), tritgemm::Error>(())
/// ```
pub fn absmean(weights: MatRef<'_, f32>, granularity: Granularity) -> Result<Vec<f32>, QuantError> {
    let scales = scale_count(weights, granularity)?;
    if weights.cols() == 0 && scales > MAX_EMPTY_ROWS {
        let (rows, cols) = (weights.rows(), 0);
        return Err(QuantError::TooLarge { rows, cols });
    }
    let mut alphas = memory::zeroed(scales)?;
    absmean_into(weights, granularity, &mut alphas)?;
    Ok(alphas)
}

/// [`absmean`] into `alphas`.
///
/// # Errors
/// As [`absmean`], and if `alphas` has the wrong length. After an error about a
/// value, what `alphas` holds is unspecified.
pub fn absmean_into(
    weights: MatRef<'_, f32>,
    granularity: Granularity,
    alphas: &mut [f32],
) -> Result<(), QuantError> {
    in_default(|| {
        let (rows, cols) = (weights.rows(), weights.cols());
        check_length("alphas", alphas.len(), scale_count(weights, granularity)?)?;
        alphas.fill(MIN_ALPHA);
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let ones = &mut vec![(); rows];
        let finite = match granularity {
            Granularity::PerTensor => {
                // Row sums in parallel, then added in order of rows.
                let mut sums = memory::zeroed::<f64>(rows)?;
                let row = |_: usize, w: &[f32], sum: &mut [f64], (): &mut ()| {
                    sum[0] = vector::sum_of_magnitudes(&w[..cols]);
                    true
                };
                all_rows(weights.strided(), (&mut sums, 1), ones, row);
                let sum: f64 = sums.iter().sum();
                alphas[0] = alpha(sum, rows * cols);
                sum.is_finite()
            }
            Granularity::PerRow => {
                all_rows(weights.strided(), (alphas, 1), ones, |_, w, alpha, ()| {
                    row_alpha(&w[..cols]).map(|a| alpha[0] = a).is_some()
                })
            }
            Granularity::PerGroup(group) => all_rows(
                weights.strided(),
                (alphas, group.groups(cols)),
                ones,
                |_, w, alphas, ()| {
                    let mut finite = true;
                    for (w, alpha) in w[..cols].chunks(group.len()).zip(alphas) {
                        finite &= row_alpha(w).map(|a| *alpha = a).is_some();
                    }
                    finite
                },
            ),
        };
        if finite {
            Ok(())
        } else {
            Err(first_non_finite(weights))
        }
    })
}

/// The trits of `weights` `[rows, cols]`:
/// `round_half_even(clamp(w / alpha, -1, 1))`, alpha that of the weight's
/// tensor, row or group, as [`absmean`] orders them.
///
/// BitNet b1.58 (<https://arxiv.org/abs/2402.17764>, equations 1 and 2). The
/// quotient is the f32 one: a weight of exactly half its alpha becomes 0.
///
/// # Errors
/// If the number of alphas is wrong, a weight NaN or infinite (the error names
/// the first), an alpha not a finite value above 0, or memory runs out.
///
/// ```
/// use tritgemm::quant::ternarize;
/// use tritgemm::{Granularity, MatRef};
/// let weights = MatRef::new(&[0.2, 0.20001, -9.0, -0.1], 1, 4)?;
/// let trits = ternarize(weights, Granularity::PerTensor, &[0.4])?;
/// assert_eq!(trits, [0, 1, -1, 0]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
pub fn ternarize(
    weights: MatRef<'_, f32>,
    granularity: Granularity,
    alphas: &[f32],
) -> Result<Vec<i8>, QuantError> {
    let (rows, cols) = (weights.rows(), weights.cols());
    let mut trits = memory::zeroed(rows * cols)?;
    let view = MatMut::dense(&mut trits, rows, cols);
    ternarize_into(weights, granularity, alphas, view)?;
    Ok(trits)
}

/// [`ternarize`] into `trits` `[rows, cols]`.
///
/// # Errors
/// As [`ternarize`], and if `trits` has another shape. After an error about
/// a weight, what `trits` holds is unspecified.
pub fn ternarize_into(
    weights: MatRef<'_, f32>,
    granularity: Granularity,
    alphas: &[f32],
    mut trits: MatMut<'_, i8>,
) -> Result<(), QuantError> {
    in_default(|| {
        let (rows, cols) = (weights.rows(), weights.cols());
        check_shape("trits", [trits.rows(), trits.cols()], [rows, cols])?;
        check_length("alphas", alphas.len(), scale_count(weights, granularity)?)?;
        if let Some((index, &value)) = alphas
            .iter()
            .enumerate()
            .find(|(_, a)| !(a.is_finite() && **a > 0.0))
        {
            return Err(QuantError::Alpha { index, value });
        }
        if cols == 0 {
            return Ok(());
        }
        let group = match granularity {
            Granularity::PerTensor | Granularity::PerRow => cols,
            Granularity::PerGroup(group) => group.len(),
        };
        let finite = all_rows(
            weights.strided(),
            trits.strided(),
            &mut vec![(); rows],
            |row, w, trits, ()| {
                let (w, trits) = (&w[..cols], &mut trits[..cols]);
                let alphas = match granularity {
                    Granularity::PerTensor => alphas,
                    Granularity::PerRow => &alphas[row..=row],
                    Granularity::PerGroup(group) => {
                        let groups = group.groups(cols);
                        &alphas[row * groups..(row + 1) * groups]
                    }
                };
                let finite = vector::largest_magnitude(w) < f32::INFINITY_BITS;
                for ((w, trits), &alpha) in w.chunks(group).zip(trits.chunks_mut(group)).zip(alphas)
                {
                    vector::ternarize(w, vector::threshold(alpha), trits);
                }
                finite
            },
        );
        if finite {
            Ok(())
        } else {
            Err(first_non_finite(weights))
        }
    })
}

/// Makes `weights` `[rows, cols]` 2:4 sparse in place: of every four
/// consecutive weights of a row the two of smallest magnitude become 0, the
/// earlier first where magnitudes are equal. A short last group counts as
/// filled up with zeros.
///
/// The pattern of Mishra et al., "Accelerating Sparse Deep Neural Networks"
/// (<https://arxiv.org/abs/2104.08378>, section 3).
///
/// # Errors
/// If a weight is NaN or infinite (the error names the first); `weights` is
/// unchanged then.
///
/// ```
/// use tritgemm::MatMut;
/// use tritgemm::quant::sparsify_2_4;
/// let mut weights = [0.1, -0.4, 0.3, 0.2, /* a group of three */ 0.5, 0.5, 0.5];
/// sparsify_2_4(MatMut::new(&mut weights, 1, 7)?)?;
/// assert_eq!(weights, [0.0, -0.4, 0.3, 0.0, 0.0, 0.5, 0.5]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
pub fn sparsify_2_4(mut weights: MatMut<'_, f32>) -> Result<(), QuantError> {
    let all = weights.as_ref();
    let infinite = |row| vector::largest_magnitude(all.row(row)) >= f32::INFINITY_BITS;
    if all.cols() > 0 && (0..all.rows()).any(infinite) {
        return Err(first_non_finite(all));
    }
    sparsify(&mut weights, vector::sparsify_2_4);
    Ok(())
}

/// Makes trits `[rows, cols]` 2:4 sparse in place, as [`sparsify_2_4`] does
/// weights. Magnitudes of trits are often equal, so mostly the position
/// decides: later ones stay.
///
/// A `BitLinear` with 2:4 sparsity applies it here, after [`ternarize`].
///
/// ```
/// use tritgemm::MatMut;
/// use tritgemm::quant::sparsify_trits_2_4;
/// let mut trits = [-1, 1, 1, 0];
/// sparsify_trits_2_4(MatMut::new(&mut trits, 1, 4)?);
/// assert_eq!(trits, [0, 1, 1, 0]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
pub fn sparsify_trits_2_4(mut trits: MatMut<'_, i8>) {
    sparsify(&mut trits, vector::sparsify_2_4);
}

fn sparsify<T: Send>(values: &mut MatMut<'_, T>, row: impl Fn(&mut [T]) + Send + Sync) {
    let cols = values.cols();
    let (values, stride) = values.strided();
    each_row_mut(values, stride, |_, values| row(&mut values[..cols]));
}

/// Alpha of some weights; `None` if one is not finite.
pub(crate) fn row_alpha(weights: &[f32]) -> Option<f32> {
    let sum = vector::sum_of_magnitudes(weights);
    sum.is_finite().then(|| alpha(sum, weights.len()))
}

fn alpha(sum: f64, count: usize) -> f32 {
    // Of no weights the mean is 0 / 1.
    ((sum / count.max(1) as f64) as f32).max(MIN_ALPHA)
}

fn scale_count(weights: MatRef<'_, f32>, granularity: Granularity) -> Result<usize, QuantError> {
    let (rows, cols) = (weights.rows(), weights.cols());
    granularity
        .scales(rows, cols)
        .ok_or(QuantError::TooLarge { rows, cols })
}

/// The error about the first weight that is not finite: only called when a
/// vectorised pass has met one.
#[cold]
pub(crate) fn first_non_finite(weights: MatRef<'_, f32>) -> QuantError {
    let in_row = |row| {
        let found = weights.row(row).iter().position(|w| !w.is_finite());
        found.map(|col| (row, col, weights.row(row)[col]))
    };
    let found = (0..weights.rows()).find_map(in_row);
    let (row, col, value) = found.unwrap_or((0, 0, f32::NAN));
    QuantError::Weight { row, col, value }
}
