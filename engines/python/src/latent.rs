//! Packed weights from float ones, and the gradient of those.

use crate::arrays::{Input, Output};
use crate::errors::Error;
use crate::pool::run;
use crate::quant::{magnitudes, scales_shape, ternarize_matrix};
use crate::scales::scales_of;
use pyo3::prelude::*;
use tritgemm::quant::ternarize_into;
use tritgemm::{Granularity, GroupSize, Linear, MatMut, MatRef, MatrixError, TernaryMatrix};

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
    run(py, (rows * cols).saturating_mul(4), || {
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
    run(py, rows * cols, || {
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

/// Takes the gradient (float32 [M, K]) from weights beyond the clamp, |w| >= scale, in place;
/// with `sparse` from those that became 0, too.
pub fn close_gate(
    py: Python<'_>,
    layer: &Linear,
    gradient: &Bound<'_, PyAny>,
    weights: &Bound<'_, PyAny>,
    sparse: bool,
) -> Result<(), Error> {
    let [rows, cols] = [layer.out_features(), layer.in_features()];
    let weights = Input::<f32>::dense("weights", "[M, K]", weights)?;
    if [weights.rows(), weights.cols()] != [rows, cols] {
        return Err(Error::shape(format!(
            "weights: {} x {}, expected {rows} x {cols}",
            weights.rows(),
            weights.cols()
        )));
    }
    let mut gradient = Output::<f32>::given_dense(py, ("gradient", gradient), [rows, cols])?;
    gradient.check_overlap("weights", &weights)?;
    let (from, to) = (weights.slice()?, gradient.slice_mut()?);
    let scales = layer.scales().map_err(MatrixError::from)?;
    let (len, groups) = match scales.granularity() {
        Granularity::PerGroup(group) => (group.len(), group.groups(cols)),
        Granularity::PerTensor => (cols.max(1), 0),
        Granularity::PerRow => (cols.max(1), 1),
    };
    run(py, rows * cols, || {
        let mut trits = vec![0; if sparse { cols } else { 0 }];
        let pairs = to.chunks_mut(cols.max(1)).zip(from.chunks(cols.max(1)));
        for (row, (to, from)) in pairs.enumerate() {
            for (group, (to, from)) in to.chunks_mut(len).zip(from.chunks(len)).enumerate() {
                let scale = scales.values()[row * groups + group];
                for (gradient, weight) in to.iter_mut().zip(from) {
                    *gradient = if weight.abs() < scale { *gradient } else { 0.0 };
                }
            }
            if sparse {
                layer.panels().unpack_row(row, &mut trits)?;
                for (gradient, &trit) in to.iter_mut().zip(&trits) {
                    *gradient = if trit != 0 { *gradient } else { 0.0 };
                }
            }
        }
        Ok::<_, MatrixError>(())
    })??;
    Ok(())
}
