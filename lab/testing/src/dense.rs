//! The codec on dense matrices of `[rows, cols]` weights.

use crate::{view, view_mut};
use tritgemm::Backend;
use tritgemm::codec::{CodecError, Mode, row_bytes};

/// [`Backend::encode`].
pub fn encode(
    backend: Backend,
    trits: &[i8],
    [rows, cols]: [usize; 2],
    packed: &mut [u8],
    mode: Mode,
) -> Result<(), CodecError> {
    let packed = view_mut(packed, rows, row_bytes(cols));
    backend.encode(view(trits, rows, cols), packed, mode)
}

/// [`Backend::decode`].
pub fn decode(
    backend: Backend,
    packed: &[u8],
    [rows, cols]: [usize; 2],
    trits: &mut [i8],
    mode: Mode,
) -> Result<(), CodecError> {
    let packed = view(packed, rows, row_bytes(cols));
    backend.decode(packed, view_mut(trits, rows, cols), mode)
}

/// [`Backend::decode_f32`].
pub fn decode_f32(
    backend: Backend,
    packed: &[u8],
    weights: (&mut [f32], [usize; 2]),
    scales: &[f32],
    mode: Mode,
) -> Result<(), CodecError> {
    let (weights, [rows, cols]) = weights;
    let packed = view(packed, rows, row_bytes(cols));
    backend.decode_f32(packed, view_mut(weights, rows, cols), scales, mode)
}
