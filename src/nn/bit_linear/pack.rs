//! Latent weights to packed ones, and when.

use super::BitLinear;
use crate::isa::Backend;
use crate::kernels::auto::weights::{sparsify_2_4, ternarize, threshold};
use crate::kernels::call::encode_row;
use crate::linear::Linear;
use crate::matrix::{MatrixError, TernaryMatrix};
use crate::memory;
use crate::nn::error::LayerError;
use crate::panels::Panels;
use crate::quant::{self, QuantError};
use crate::scales::Scales;
use crate::threads::{Threads, all_rows};
use crate::view::MatRef;

/// The weights as they were at one version.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) version: u64,
    pub(super) bias_is_current: bool,
    pub(super) matrix: TernaryMatrix,
    pub(super) linear: Linear,
    /// `[K][M]`, without scales: the backward pass makes it when it needs it.
    #[cfg(feature = "train")]
    pub(super) transposed: Option<Linear>,
}

impl BitLinear {
    /// The packed weights, made anew if they are out of date.
    pub(super) fn packed_now(&mut self) -> Result<&mut Packed, LayerError> {
        let packed = match self.packed.take() {
            Some(packed) if packed.version == self.version => match &self.bias {
                Some(bias) if !packed.bias_is_current => Packed {
                    linear: packed.linear.with_bias(memory::copied(bias)?)?,
                    bias_is_current: true,
                    ..packed
                },
                _ => packed,
            },
            _ => self.pack()?,
        };
        Ok(self.packed.insert(packed))
    }

    fn pack(&self) -> Result<Packed, LayerError> {
        let backend = Backend::active()?;
        let (rows, cols) = (self.rows, self.cols);
        let (bytes, alphas) = pack_rows(&self.weight, rows, cols, self.sparse, backend)?;
        let matrix = TernaryMatrix::from_packed(bytes, rows, cols, Scales::per_row(alphas))?;
        let panels =
            Panels::pack_with(backend, &Threads::Rayon, &matrix).map_err(MatrixError::from)?;
        let bias = self.bias.as_deref().map(memory::copied).transpose()?;
        Ok(Packed {
            version: self.version,
            bias_is_current: true,
            linear: Linear::from_parts(panels, matrix.scales().try_clone()?, bias)?,
            matrix,
            #[cfg(feature = "train")]
            transposed: None,
        })
    }
}

/// Weights that are quantised at a time: their trits stay in the L1 cache.
const SPAN: usize = 2048;

/// The packed rows `[rows][ceil(cols / 4)]` and alphas `[rows]` of latent
/// weights, with 2:4 sparsity of the trits if asked for.
fn pack_rows(
    weights: &[f32],
    rows: usize,
    cols: usize,
    sparse: bool,
    backend: Backend,
) -> Result<(Vec<u8>, Vec<f32>), QuantError> {
    let row_bytes = cols.div_ceil(4);
    let mut packed = memory::zeroed(rows * row_bytes)?;
    let mut alphas = memory::filled(quant::MIN_ALPHA, rows)?;
    let row = |_: usize, weights: &[f32], packed: &mut [u8], alpha: &mut f32| {
        let Some(row_alpha) = quant::row_alpha(weights) else {
            return false;
        };
        *alpha = row_alpha;
        let mut trits = [0; SPAN];
        for (weights, packed) in weights.chunks(SPAN).zip(packed.chunks_mut(SPAN / 4)) {
            let trits = &mut trits[..weights.len()];
            ternarize(weights, threshold(row_alpha), trits);
            if sparse {
                sparsify_2_4(trits);
            }
            encode_row(backend.runnable(), trits, packed);
        }
        true
    };
    if all_rows((weights, cols), (&mut packed, row_bytes), &mut alphas, row) {
        Ok((packed, alphas))
    } else {
        Err(quant::first_non_finite(MatRef::dense(weights, rows, cols)))
    }
}
