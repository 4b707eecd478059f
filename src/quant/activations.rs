//! Per-token int8 activations.

use crate::activation::Activation;
use crate::kernels::auto::activations::MIN_ABSMAX;
use crate::kernels::auto::scale::NAN;
use crate::kernels::environment::in_default;
use crate::kernels::memory::tiles::TileGrid;
use crate::memory;
use crate::mismatch::{check_length, check_shape};
use crate::options::NonFinite;
use crate::product::plan;
use crate::quant::error::QuantError;
use crate::threads::{MAX_EMPTY_ROWS, Stopped, Threads};
use crate::view::{MatMut, MatRef};
use core::sync::atomic::{AtomicUsize, Ordering};

/// Quantises one token to int8 and returns the factor that restores it.
///
/// With `a = max(max_k |x[k]|, 1e-5)`, all in f32:
/// `q[k] = clamp(round_half_even(x[k] * (127 / a)), -128, 127)`, and the result
/// is `token_scale = a / 127`, so that `x[k]` is about `q[k] * token_scale`.
/// This is the activation quantiser of BitNet b1.58
/// (<https://arxiv.org/abs/2402.17764>, absmax per token as in section 2).
///
/// `x` and `q` hold the token's K values. It allocates nothing, stays on the
/// calling thread and runs near memory speed.
///
/// # Errors
/// If the lengths differ, or a value of `x` is NaN or infinite (the error names
/// token 0); `q` is untouched then.
///
/// ```
/// use tritgemm::quant::quantize_token;
/// let mut q = [0; 4];
/// let token_scale = quantize_token(&[1.0_f32, -2.0, 0.5, 0.0], &mut q)?;
/// assert_eq!(q, [64, -127, 32, 0]); // 63.5 and 31.75
/// assert_eq!(token_scale, 2.0 / 127.0);
/// # Ok::<(), tritgemm::quant::QuantError>(())
/// ```
pub fn quantize_token<T: Activation>(x: &[T], q: &mut [i8]) -> Result<f32, QuantError> {
    in_default(|| {
        check_length("q", q.len(), x.len())?;
        match T::quantize(x, q) {
            Some(absmax) => Ok(token_scale(absmax)),
            None => Err(first_non_finite(0, x)),
        }
    })
}

/// Quantises `x` `[tokens, features]`, token by token as
/// [`quantize_token`] does, and returns the int8 values
/// `[tokens, features]` and the token scales `[tokens]`.
///
/// # Errors
/// If a value is NaN or infinite (the error names the first), or memory runs
/// out.
///
/// ```
/// use half::f16;
/// use tritgemm::MatRef;
/// use tritgemm::quant::quantize_activations;
/// let x = [1.0, -2.0, /* next token */ 0.0, 0.0].map(f16::from_f32);
/// let (q, token_scales) = quantize_activations(MatRef::new(&x, 2, 2)?)?;
/// assert_eq!(q, [64, -127, 0, 0]);
/// assert_eq!(token_scales, [2.0 / 127.0, 1e-5 / 127.0]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
pub fn quantize_activations<T: Activation>(
    x: MatRef<'_, T>,
) -> Result<(Vec<i8>, Vec<f32>), QuantError> {
    let (tokens, features) = (x.rows(), x.cols());
    if features == 0 && tokens > MAX_EMPTY_ROWS {
        let (rows, cols) = (tokens, features);
        return Err(QuantError::TooLarge { rows, cols });
    }
    let mut q = memory::zeroed(tokens * features)?;
    let mut token_scales = memory::zeroed(tokens)?;
    let view = MatMut::dense(&mut q, tokens, features);
    quantize_activations_into(x, view, &mut token_scales)?;
    Ok((q, token_scales))
}

/// [`quantize_activations`] into `q` `[tokens, features]` and `token_scales`
/// `[tokens]`.
///
/// # Errors
/// If a value is NaN or infinite, `q` has another shape than `x`, or
/// `token_scales` the wrong length. After an error about a value, what `q` and
/// `token_scales` hold is unspecified.
pub fn quantize_activations_into<T: Activation>(
    x: MatRef<'_, T>,
    q: MatMut<'_, i8>,
    token_scales: &mut [f32],
) -> Result<(), QuantError> {
    in_default(|| {
        let (tokens, features) = (x.rows(), x.cols());
        check_shape("q", [q.rows(), q.cols()], [tokens, features])?;
        check_length("token_scales", token_scales.len(), tokens)?;
        token_scales.fill(token_scale(0.0));
        if tokens == 0 || features == 0 {
            return Ok(());
        }
        let how = (&Threads::Rayon, NonFinite::Error);
        match quantize_tokens(x, q, (token_scales, features), how) {
            Ok(()) => Ok(()),
            Err(TokensError::Quant(e)) => Err(e),
            Err(TokensError::Stopped(_)) => unreachable!("rayon leaves no item out"),
        }
    })
}

/// Why tokens were not all quantised.
pub(crate) enum TokensError {
    Quant(QuantError),
    Stopped(Stopped),
}

from_variants!(TokensError: Quant(QuantError), Stopped(Stopped));

/// Quantises every token of `x`, which has some values, into `q` of the same shape and
/// `token_scales`, one for each `group` values of a token, by all workers.
pub(crate) fn quantize_tokens<T: Activation>(
    x: MatRef<'_, T>,
    mut q: MatMut<'_, i8>,
    (token_scales, group): (&mut [f32], usize),
    (threads, non_finite): (&Threads, NonFinite),
) -> Result<(), TokensError> {
    let (tokens, k) = (x.rows(), x.cols());
    let workers = plan::layout_workers(threads, tokens * k);
    let per_item = plan::per_item(tokens, workers);
    let (q, stride) = q.strided();
    let q = TileGrid::new(q, [tokens, k], stride, [per_item, k]);
    let groups_of_token = k.div_ceil(group);
    let shape = [tokens, groups_of_token];
    let scales = TileGrid::new(token_scales, shape, shape[1], [per_item, shape[1]]);
    let not_finite = AtomicUsize::new(usize::MAX);
    threads.for_each(workers, q.len(), |i| {
        let Some(mut q) = q.claim(i) else {
            return Ok(false);
        };
        // Whoever has the values has the scales: no one else asks for them.
        let Some(mut scales) = scales.claim(i) else {
            return Ok(false);
        };
        for token in q.rows() {
            let groups = x
                .row(token)
                .chunks(group)
                .zip(q.row_mut(token, 0..k).chunks_mut(group));
            for ((x, q), scale) in groups.zip(scales.row_mut(token, 0..groups_of_token)) {
                *scale = match (T::quantize(x, q), non_finite) {
                    (Some(absmax), _) => token_scale(absmax),
                    (None, NonFinite::Propagate) => {
                        q.fill(0);
                        NAN
                    }
                    // Relaxed: `for_each` returns after its items, which orders them.
                    (None, NonFinite::Error) => {
                        not_finite.fetch_min(token, Ordering::Relaxed);
                        NAN
                    }
                };
            }
        }
        Ok(true)
    })?;
    match not_finite.into_inner() {
        usize::MAX => Ok(()),
        token => Err(first_non_finite(token, x.row(token)).into()),
    }
}

fn token_scale(absmax: f32) -> f32 {
    absmax.max(MIN_ABSMAX) / 127.0
}

/// The error about a token, if it has a value that is not finite.
pub(crate) fn non_finite<T: Activation>(token: usize, x: &[T]) -> Option<QuantError> {
    let finite = x.iter().all(|v| v.to_wide().is_finite());
    (!finite).then(|| first_non_finite(token, x))
}

/// The error about the first value of a token that is not finite: only called when a
/// vectorised pass has met one.
#[cold]
fn first_non_finite<T: Activation>(token: usize, x: &[T]) -> QuantError {
    let mut wide = x.iter().map(|v| v.to_wide()).enumerate();
    let (index, value) = wide.find(|(_, v)| !v.is_finite()).unwrap_or((0, f32::NAN));
    QuantError::Activation {
        token,
        index,
        value,
    }
}
