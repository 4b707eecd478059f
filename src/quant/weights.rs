//! Latent weights to trits and their scales.

use super::QuantError;
use crate::kernels::auto::float::Float;
use crate::kernels::auto::weights as vector;
use crate::memory;
use crate::scales::Granularity;
use crate::threads::{MAX_EMPTY_ROWS, all_rows, each_row_mut};

/// The least alpha, which a matrix of zeros has.
pub const MIN_ALPHA: f32 = 1e-5;

/// The scales alpha of `weights` `[rows, cols]`: the mean magnitude of a whole
/// tensor, of every row or of every group of a row, at least [`MIN_ALPHA`].
///
/// `alpha = max(mean |w|, 1e-5)`, as BitNet b1.58 defines it
/// (<https://arxiv.org/abs/2402.17764>, equation 3). Sums are in f64, in an
/// order that depends on the shape alone; a short last group is averaged over
/// the weights it has, and the mean of none is 0. The result is `[1]`,
/// `[rows]` or row-major `[rows, groups]`.
///
/// # Errors
/// If `weights` does not hold `rows * cols` values, or one is NaN or infinite
/// (the error names the first).
///
/// ```
/// use tritgemm::quant::{QuantError, absmean};
/// use tritgemm::{Granularity, GroupSize};
///
/// let mut weights = vec![0.25; 2 * 100];
/// weights[64..100].fill(-1.0);
/// let alphas = absmean(&weights, 2, 100, Granularity::PerGroup(GroupSize::G64))?;
/// assert_eq!(alphas, [0.25, 1.0, 0.25, 0.25]);
///
/// weights[103] = f32::NAN;
/// let error = absmean(&weights, 2, 100, Granularity::PerTensor).unwrap_err();
/// assert!(matches!(error, QuantError::Weight { row: 1, col: 3, .. }));
/// # Ok::<(), QuantError>(())
/// ```
pub fn absmean(
    weights: &[f32],
    rows: usize,
    cols: usize,
    granularity: Granularity,
) -> Result<Vec<f32>, QuantError> {
    super::check_matrix("weights", weights.len(), rows, cols)?;
    let scales = scale_count(rows, cols, granularity)?;
    if weights.is_empty() && scales > MAX_EMPTY_ROWS {
        return Err(QuantError::TooLarge { rows, cols });
    }
    let mut alphas = memory::zeroed(scales)?;
    absmean_into(weights, rows, cols, granularity, &mut alphas)?;
    Ok(alphas)
}

/// [`absmean`] into `alphas`.
///
/// # Errors
/// As [`absmean`], and if `alphas` has the wrong length. After an error about a
/// value, what `alphas` holds is unspecified.
pub fn absmean_into(
    weights: &[f32],
    rows: usize,
    cols: usize,
    granularity: Granularity,
    alphas: &mut [f32],
) -> Result<(), QuantError> {
    super::check_matrix("weights", weights.len(), rows, cols)?;
    let scales = scale_count(rows, cols, granularity)?;
    super::check_length("alphas", alphas.len(), scales)?;
    alphas.fill(MIN_ALPHA);
    if weights.is_empty() {
        return Ok(());
    }
    let finite = match granularity {
        Granularity::PerTensor => {
            // Row sums in parallel, then added in order of rows.
            let mut sums = memory::zeroed::<f64>(rows)?;
            all_rows(
                (weights, cols),
                (&mut sums, 1),
                &mut vec![(); rows],
                |_, w, sum, ()| {
                    sum[0] = vector::sum_of_magnitudes(w);
                    true
                },
            );
            let sum: f64 = sums.iter().sum();
            alphas[0] = alpha(sum, weights.len());
            sum.is_finite()
        }
        Granularity::PerRow => all_rows(
            (weights, cols),
            (alphas, 1),
            &mut vec![(); rows],
            |_, w, alpha, ()| row_alpha(w).map(|a| alpha[0] = a).is_some(),
        ),
        Granularity::PerGroup(group) => all_rows(
            (weights, cols),
            (alphas, group.groups(cols)),
            &mut vec![(); rows],
            |_, w, alphas, ()| {
                let mut finite = true;
                for (w, alpha) in w.chunks(group.len()).zip(alphas) {
                    finite &= row_alpha(w).map(|a| *alpha = a).is_some();
                }
                finite
            },
        ),
    };
    if finite {
        Ok(())
    } else {
        Err(first_non_finite(weights, cols))
    }
}

/// The trits of `weights` `[rows, cols]`:
/// `round_half_even(clamp(w / alpha, -1, 1))`, alpha that of the weight's
/// tensor, row or group, as [`absmean`] orders them.
///
/// BitNet b1.58 (<https://arxiv.org/abs/2402.17764>, equations 1 and 2). The
/// quotient is the f32 one: a weight of exactly half its alpha becomes 0.
///
/// # Errors
/// If a length is wrong, a weight NaN or infinite (the error names the first),
/// or an alpha not a finite value above 0.
///
/// ```
/// use tritgemm::Granularity;
/// use tritgemm::quant::ternarize;
/// let weights = [0.2, 0.20001, -9.0, -0.1];
/// let trits = ternarize(&weights, 1, 4, Granularity::PerTensor, &[0.4])?;
/// assert_eq!(trits, [0, 1, -1, 0]);
/// # Ok::<(), tritgemm::quant::QuantError>(())
/// ```
pub fn ternarize(
    weights: &[f32],
    rows: usize,
    cols: usize,
    granularity: Granularity,
    alphas: &[f32],
) -> Result<Vec<i8>, QuantError> {
    super::check_matrix("weights", weights.len(), rows, cols)?;
    let mut trits = memory::zeroed(weights.len())?;
    ternarize_into(weights, rows, cols, granularity, alphas, &mut trits)?;
    Ok(trits)
}

/// [`ternarize`] into `trits` `[rows, cols]`.
///
/// # Errors
/// As [`ternarize`], and if `trits` has the wrong length. After an error about
/// a weight, what `trits` holds is unspecified.
pub fn ternarize_into(
    weights: &[f32],
    rows: usize,
    cols: usize,
    granularity: Granularity,
    alphas: &[f32],
    trits: &mut [i8],
) -> Result<(), QuantError> {
    let values = super::check_matrix("weights", weights.len(), rows, cols)?;
    super::check_length("trits", trits.len(), values)?;
    let scales = scale_count(rows, cols, granularity)?;
    super::check_length("alphas", alphas.len(), scales)?;
    if let Some((index, &value)) = alphas
        .iter()
        .enumerate()
        .find(|(_, a)| !(a.is_finite() && **a > 0.0))
    {
        return Err(QuantError::Alpha { index, value });
    }
    let group = match granularity {
        Granularity::PerTensor | Granularity::PerRow => cols,
        Granularity::PerGroup(group) => group.len(),
    };
    let finite = all_rows(
        (weights, cols),
        (trits, cols),
        &mut vec![(); rows],
        |row, w, trits, ()| {
            let alphas = match granularity {
                Granularity::PerTensor => alphas,
                Granularity::PerRow => &alphas[row..=row],
                Granularity::PerGroup(group) => {
                    let groups = group.groups(cols);
                    &alphas[row * groups..(row + 1) * groups]
                }
            };
            let finite = vector::largest_magnitude(w) < f32::INFINITY_BITS;
            for ((w, trits), &alpha) in w.chunks(group).zip(trits.chunks_mut(group)).zip(alphas) {
                vector::ternarize(w, vector::threshold(alpha), trits);
            }
            finite
        },
    );
    if finite {
        Ok(())
    } else {
        Err(first_non_finite(weights, cols))
    }
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
/// If `weights` does not hold `rows * cols` values, or one is NaN or infinite
/// (the error names the first); `weights` is unchanged then.
///
/// ```
/// use tritgemm::quant::sparsify_2_4;
/// let mut weights = [0.1, -0.4, 0.3, 0.2, /* a group of three */ 0.5, 0.5, 0.5];
/// sparsify_2_4(&mut weights, 1, 7)?;
/// assert_eq!(weights, [0.0, -0.4, 0.3, 0.0, 0.0, 0.5, 0.5]);
/// # Ok::<(), tritgemm::quant::QuantError>(())
/// ```
pub fn sparsify_2_4(weights: &mut [f32], rows: usize, cols: usize) -> Result<(), QuantError> {
    super::check_matrix("weights", weights.len(), rows, cols)?;
    if vector::largest_magnitude(weights) >= f32::INFINITY_BITS {
        return Err(first_non_finite(weights, cols));
    }
    each_row_mut(weights, cols, |_, row| vector::sparsify_2_4(row));
    Ok(())
}

/// Makes trits `[rows, cols]` 2:4 sparse in place, as [`sparsify_2_4`] does
/// weights. Magnitudes of trits are often equal, so mostly the position
/// decides: later ones stay.
///
/// A `BitLinear` with 2:4 sparsity applies it here, after [`ternarize`].
///
/// # Errors
/// If `trits` does not hold `rows * cols` values.
///
/// ```
/// use tritgemm::quant::sparsify_trits_2_4;
/// let mut trits = [-1, 1, 1, 0];
/// sparsify_trits_2_4(&mut trits, 1, 4)?;
/// assert_eq!(trits, [0, 1, 1, 0]);
/// # Ok::<(), tritgemm::quant::QuantError>(())
/// ```
pub fn sparsify_trits_2_4(trits: &mut [i8], rows: usize, cols: usize) -> Result<(), QuantError> {
    super::check_matrix("trits", trits.len(), rows, cols)?;
    each_row_mut(trits, cols, |_, row| vector::sparsify_2_4(row));
    Ok(())
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

fn scale_count(rows: usize, cols: usize, granularity: Granularity) -> Result<usize, QuantError> {
    granularity
        .scales(rows, cols)
        .ok_or(QuantError::TooLarge { rows, cols })
}

/// The error about the first weight that is not finite: only called when a
/// vectorised pass has met one.
#[cold]
pub(crate) fn first_non_finite(weights: &[f32], cols: usize) -> QuantError {
    let mut values = weights.iter().copied().enumerate();
    let (at, value) = values
        .find(|(_, w)| !w.is_finite())
        .unwrap_or((0, f32::NAN));
    QuantError::Weight {
        row: at / cols,
        col: at % cols,
        value,
    }
}
