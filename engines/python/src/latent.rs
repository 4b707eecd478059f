//! Packed weights from float ones.

use crate::arrays::Input;
use crate::errors::Error;
use crate::pool::run;
use crate::quant::{magnitudes, scales_shape, ternarize_matrix};
use crate::scales::scales_of;
use pyo3::prelude::*;
use tritgemm::quant::ternarize_into;
use tritgemm::{Granularity, GroupSize, Linear, MatMut, MatRef, TernaryMatrix};

/// A layer of trits.
fn layer(
    trits: &[i8],
    [rows, cols]: [usize; 2],
    kind: Granularity,
    scales: Vec<f32>,
) -> Result<Linear, Error> {
    let trits = MatRef::new(trits, rows, cols)?;
    let matrix = TernaryMatrix::from_trits(trits, scales_of(kind, scales))?;
    Ok(Linear::new(&matrix)?)
}

/// Of latent weights; `how` says whether they become 2:4 sparse, and whether ternary ones
/// keep their scales.
pub fn quantize(
    py: Python<'_>,
    weights: &Bound<'_, PyAny>,
    granularity: Granularity,
    how: (bool, bool),
) -> Result<Linear, Error> {
    let weights = Input::<f32>::dense("weights", "[M, K]", weights)?;
    let shape @ [rows, cols] = [weights.rows(), weights.cols()];
    let values = MatRef::new(weights.slice()?, rows, cols)?;
    run(py, (rows * cols).saturating_mul(4), |_| {
        // Both are as long as the weights vouch for.
        let mut trits = vec![0; rows * cols];
        let mut scales = vec![0.0; scales_shape(granularity, shape).iter().product()];
        ternarize_matrix(values, granularity, how, &mut trits, &mut scales)?;
        layer(&trits, shape, granularity, scales)
    })?
}

/// Of weights that are ternary already, with as few scales as that takes; none of others.
pub fn ternary(py: Python<'_>, weights: &Bound<'_, PyAny>) -> Result<Option<Linear>, Error> {
    let weights = Input::<f32>::dense("weights", "[M, K]", weights)?;
    let shape @ [rows, cols] = [weights.rows(), weights.cols()];
    let values = MatRef::new(weights.slice()?, rows, cols)?;
    run(py, rows * cols, |_| {
        let groups = [256, 128, 64, 32]
            .into_iter()
            .filter_map(GroupSize::from_len);
        let coarse = [Granularity::PerTensor, Granularity::PerRow];
        let kinds = coarse.into_iter().chain(groups.map(Granularity::PerGroup));
        let found = kinds
            .into_iter()
            .find_map(|kind| Some((kind, magnitudes(values, kind)?)));
        let Some((kind, scales)) = found else {
            return Ok(None);
        };
        // As long as the weights vouch for.
        let mut trits = vec![0; rows * cols];
        ternarize_into(values, kind, &scales, MatMut::new(&mut trits, rows, cols)?)?;
        layer(&trits, shape, kind, scales).map(Some)
    })?
}
