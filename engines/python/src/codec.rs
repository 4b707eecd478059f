//! `pack` and `unpack`: trits and the 2-bit encoding.

use crate::arrays::{Input, Output};
use crate::errors::Error;
use crate::pool::run;
use pyo3::prelude::*;
use tritgemm::codec::{self, Mode};
use tritgemm::{MatMut, MatRef};

fn mode(strict: bool) -> Mode {
    if strict { Mode::Strict } else { Mode::Lenient }
}

/// Packs trits (int8 [M, K], values -1, 0, 1) four a byte (uint8 [M, ceil(K/4)]).
///
/// The first of four weights takes the top bits; -1 is 10, 0 is 00, +1 is 01.
/// Another value raises EncodingError naming its place, or counts as 0 if not
/// `strict`.
#[pyfunction]
#[pyo3(signature = (trits, *, strict = true, out = None))]
pub fn pack<'py>(
    py: Python<'py>,
    trits: &Bound<'py, PyAny>,
    strict: bool,
    out: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    let trits = Input::<i8>::dense("trits", "[M, K]", trits)?;
    let (rows, cols) = (trits.rows(), trits.cols());
    let mut packed = Output::<u8>::dense(py, out, [rows, codec::row_bytes(cols)])?;
    packed.check_overlap("trits", &trits)?;
    let from = MatRef::new(trits.slice()?, rows, cols)?;
    let to = MatMut::new(packed.slice_mut()?, rows, codec::row_bytes(cols))?;
    run(py, rows * cols, || codec::encode(from, to, mode(strict)))??;
    Ok(packed.into_object())
}

/// Unpacks weights (uint8 [M, ceil(k/4)]) into trits (int8 [M, k]).
///
/// A code 11 or padding bits that are not zero raise EncodingError naming the
/// place; if not `strict` such a weight counts as 0 and padding is ignored.
#[pyfunction]
#[pyo3(signature = (packed, k, *, strict = true, out = None))]
pub fn unpack<'py>(
    py: Python<'py>,
    packed: &Bound<'py, PyAny>,
    k: usize,
    strict: bool,
    out: Option<&Bound<'py, PyAny>>,
) -> Result<Bound<'py, PyAny>, Error> {
    let packed = Input::<u8>::dense("packed", "[M, ceil(k/4)]", packed)?;
    check_width(&packed, k)?;
    let rows = packed.rows();
    let mut trits = Output::<i8>::dense(py, out, [rows, k])?;
    trits.check_overlap("packed", &packed)?;
    let from = MatRef::new(packed.slice()?, rows, packed.cols())?;
    let to = MatMut::new(trits.slice_mut()?, rows, k)?;
    run(py, rows * k, || codec::decode(from, to, mode(strict)))??;
    Ok(trits.into_object())
}

/// Checks that packed rows are as wide as K weights are.
pub fn check_width(packed: &Input<'_, u8>, k: usize) -> Result<(), Error> {
    let (cols, expected) = (packed.cols(), codec::row_bytes(k));
    if cols == expected {
        return Ok(());
    }
    let hint = match cols == k {
        true => {
            "; [ceil(M/4), K] is the layout of Hugging Face BitNet, which Packed.from_hf and \
             PackedLinear.from_hf read"
        }
        false => "",
    };
    Err(Error::shape(format!(
        "packed: rows of {cols} bytes, expected {expected} for k = {k}{hint}"
    )))
}
