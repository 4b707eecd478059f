//! Quantisers.

use crate::buffer::{input, matrix, matrix_mut, output, reads};
use crate::handle::put;
use crate::status::{Error, Status, choose, guard};
use tritgemm::{GroupSize, quant};

/// What a scale covers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granularity {
    /// The whole matrix: 1 scale.
    TritgemmPerTensor = 1,
    /// A row: M scales.
    TritgemmPerRow = 2,
    /// 32 weights along K: [M][ceil(K / 32)] scales.
    TritgemmPerGroup32 = 32,
    /// 64 weights along K.
    TritgemmPerGroup64 = 64,
    /// 128 weights along K.
    TritgemmPerGroup128 = 128,
    /// 256 weights along K.
    TritgemmPerGroup256 = 256,
}

pub(crate) fn granularity(number: i32) -> Result<tritgemm::Granularity, Error> {
    use tritgemm::Granularity::{PerGroup, PerRow, PerTensor};
    let groups = [
        GroupSize::G32,
        GroupSize::G64,
        GroupSize::G128,
        GroupSize::G256,
    ];
    let [a, b, c, d] = groups.map(PerGroup);
    let all = [PerTensor, PerRow, a, b, c, d].map(|kind| (self::number(kind), kind));
    choose("granularity", number, &all)
}

/// The number of a granularity.
pub(crate) fn number(granularity: tritgemm::Granularity) -> i32 {
    match granularity {
        tritgemm::Granularity::PerTensor => Granularity::TritgemmPerTensor as i32,
        tritgemm::Granularity::PerRow => Granularity::TritgemmPerRow as i32,
        tritgemm::Granularity::PerGroup(group) => group.len() as i32,
    }
}

/// Number of scales of a [rows, cols] matrix; `granularity` is a tritgemm_granularity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_scale_count(
    rows: usize,
    cols: usize,
    granularity: i32,
    out: *mut usize,
) -> Status {
    guard(|| {
        let count = self::granularity(granularity)?.scales(rows, cols);
        let too_large = quant::QuantError::TooLarge { rows, cols };
        // SAFETY: precondition 3.
        unsafe { put("out", out, count.ok_or(too_large)?) }
    })
}

/// The scales of latent weights [rows][cols]: max(mean |w|, 1e-5) of the tensor, of each
/// row or of each group (BitNet b1.58). `granularity` is a tritgemm_granularity;
/// tritgemm_scale_count() says how many scales there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_absmean(
    weights: *const f32,
    weights_len: usize,
    rows: usize,
    cols: usize,
    granularity: i32,
    scales: *mut f32,
    scales_len: usize,
) -> Status {
    guard(|| {
        let inputs = [reads("weights", weights, weights_len)?];
        let granularity = self::granularity(granularity)?;
        // SAFETY: precondition 1.
        unsafe {
            let weights = input("weights", weights, weights_len)?;
            output("scales", scales, scales_len, &inputs, |scales| {
                let weights = matrix("weights", &weights, rows, cols)?;
                Ok(quant::absmean_into(weights, granularity, scales)?)
            })
        }
    })
}

/// The trits of latent weights [rows][cols]: w / scale, clamped to -1 .. 1, rounded half
/// to even. `granularity` is a tritgemm_granularity.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_ternarize(
    weights: *const f32,
    weights_len: usize,
    rows: usize,
    cols: usize,
    granularity: i32,
    scales: *const f32,
    scales_len: usize,
    trits: *mut i8,
    trits_len: usize,
) -> Status {
    guard(|| {
        let inputs = [
            reads("weights", weights, weights_len)?,
            reads("scales", scales, scales_len)?,
        ];
        let granularity = self::granularity(granularity)?;
        // SAFETY: precondition 1.
        unsafe {
            let weights = input("weights", weights, weights_len)?;
            let scales = input("scales", scales, scales_len)?;
            output("trits", trits, trits_len, &inputs, |trits| {
                let weights = matrix("weights", &weights, rows, cols)?;
                let trits = matrix_mut("trits", trits, rows, cols)?;
                Ok(quant::ternarize_into(weights, granularity, &scales, trits)?)
            })
        }
    })
}

/// Quantises activations [tokens][features] to int8, each token by its absolute maximum;
/// `values` [tokens][features] times `token_scales` [tokens] is about `x`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_quantize_activations(
    x: *const f32,
    x_len: usize,
    tokens: usize,
    features: usize,
    values: *mut i8,
    values_len: usize,
    token_scales: *mut f32,
    token_scales_len: usize,
) -> Status {
    guard(|| {
        let first = reads("x", x, x_len)?;
        let second = reads("values", values.cast_const(), values_len)?;
        let inputs = [first, second];
        // SAFETY: precondition 1.
        unsafe {
            let x = input("x", x, x_len)?;
            output("values", values, values_len, &inputs[..1], |values| {
                output(
                    "token_scales",
                    token_scales,
                    token_scales_len,
                    &inputs,
                    |scales| {
                        let x = matrix("x", &x, tokens, features)?;
                        let values = matrix_mut("values", values, tokens, features)?;
                        Ok(quant::quantize_activations_into(x, values, scales)?)
                    },
                )
            })
        }
    })
}
