//! The 2-bit encoding.

use crate::buffer::{input, matrix, matrix_mut, output, reads};
use crate::handle::put;
use crate::status::{Error, Status, choose, guard};
use tritgemm::codec;

/// What to do with what the encoding has no meaning for.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It is an error that names its row and column.
    TritgemmStrict = 0,
    /// It counts as the weight 0, and padding bits are ignored.
    TritgemmLenient = 1,
}

fn mode(number: i32) -> Result<codec::Mode, Error> {
    use codec::Mode::{Lenient, Strict};
    let all = [
        (Mode::TritgemmStrict as i32, Strict),
        (Mode::TritgemmLenient as i32, Lenient),
    ];
    choose("mode", number, &all)
}

/// Bytes that a packed matrix takes: rows * ceil(cols / 4).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_packed_size(rows: usize, cols: usize, out: *mut usize) -> Status {
    // SAFETY: precondition 3.
    guard(|| unsafe { put("out", out, codec::packed_len(rows, cols)?) })
}

/// Packs trits [rows][cols] into [rows][ceil(cols / 4)] bytes: four weights a byte, the
/// first in the top bits, -1 = 10, 0 = 00, +1 = 01, rows padded with zeros. `mode` is a
/// tritgemm_mode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_pack(
    trits: *const i8,
    trits_len: usize,
    rows: usize,
    cols: usize,
    packed: *mut u8,
    packed_len: usize,
    mode: i32,
) -> Status {
    guard(|| {
        let inputs = [reads("trits", trits, trits_len)?];
        let mode = self::mode(mode)?;
        // SAFETY: precondition 1.
        unsafe {
            let trits = input("trits", trits, trits_len)?;
            output("packed", packed, packed_len, &inputs, |packed| {
                let trits = matrix("trits", &trits, rows, cols)?;
                let packed = matrix_mut("packed", packed, rows, codec::row_bytes(cols))?;
                Ok(codec::encode(trits, packed, mode)?)
            })
        }
    })
}

/// Unpacks bytes [rows][ceil(cols / 4)] into trits [rows][cols]. `mode` is a
/// tritgemm_mode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_unpack(
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    trits: *mut i8,
    trits_len: usize,
    mode: i32,
) -> Status {
    guard(|| {
        let inputs = [reads("packed", packed, packed_len)?];
        let mode = self::mode(mode)?;
        // SAFETY: precondition 1.
        unsafe {
            let packed = input("packed", packed, packed_len)?;
            output("trits", trits, trits_len, &inputs, |trits| {
                let packed = matrix("packed", &packed, rows, codec::row_bytes(cols))?;
                let trits = matrix_mut("trits", trits, rows, cols)?;
                Ok(codec::decode(packed, trits, mode)?)
            })
        }
    })
}

/// Unpacks bytes [rows][ceil(cols / 4)] into floats [rows][cols]: +scale, -scale and
/// +0.0, with one scale a row. `mode` is a tritgemm_mode.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_unpack_f32(
    packed: *const u8,
    packed_len: usize,
    rows: usize,
    cols: usize,
    scales: *const f32,
    scales_len: usize,
    weights: *mut f32,
    weights_len: usize,
    mode: i32,
) -> Status {
    guard(|| {
        let inputs = [
            reads("packed", packed, packed_len)?,
            reads("scales", scales, scales_len)?,
        ];
        let mode = self::mode(mode)?;
        // SAFETY: precondition 1.
        unsafe {
            let packed = input("packed", packed, packed_len)?;
            let scales = input("scales", scales, scales_len)?;
            output("weights", weights, weights_len, &inputs, |weights| {
                let packed = matrix("packed", &packed, rows, codec::row_bytes(cols))?;
                let weights = matrix_mut("weights", weights, rows, cols)?;
                Ok(codec::decode_f32(packed, weights, &scales, mode)?)
            })
        }
    })
}
