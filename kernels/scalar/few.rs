//! Few tokens, by definition: decode each weight, add, subtract or skip.

use crate::kernels::contract::{BLOCK_STRIPS, FewCall, PANEL_ROWS};

/// The int8 "tables" of the reference are the activations themselves.
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
pub unsafe fn copy_i8(x: *const i8, units: usize, tables: *mut u8) {
    // SAFETY: preconditions 3 and 4: both hold 4 bytes a unit; 7: disjoint.
    unsafe { core::ptr::copy_nonoverlapping(x.cast::<u8>(), tables, units * 4) }
}

/// As [`copy_i8`], for f32.
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`crate::kernels::contract`].
pub unsafe fn copy_f32(x: *const f32, units: usize, tables: *mut u8) {
    // SAFETY: preconditions 3 and 4: both hold 16 bytes a unit; 7: disjoint.
    unsafe { core::ptr::copy_nonoverlapping(x.cast::<u8>(), tables, units * 16) }
}

/// The two bits of weight `j` (0..4) of a byte: the first weight is on top.
#[inline(always)]
fn code(byte: u8, j: u32) -> u8 {
    (byte >> (6 - 2 * j)) & 0b11
}

#[inline(always)]
fn term_i32(byte: u8, j: u32, x: i8) -> i32 {
    match code(byte, j) {
        0b01 => i32::from(x),
        0b10 => -i32::from(x),
        _ => 0,
    }
}

#[inline(always)]
fn term_f32(byte: u8, j: u32, x: f32) -> f32 {
    match code(byte, j) {
        0b01 => x,
        0b10 => -x,
        _ => 0.0,
    }
}

/// `out[r] (+)= sum over bytes and weights of ±x`, exact in int32.
///
/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[inline(never)]
pub unsafe fn few_i8(call: &FewCall<i32>) {
    // SAFETY: precondition 5: 64 initialised (if accumulating) i32 of one panel.
    let out = unsafe { core::slice::from_raw_parts_mut(call.out, PANEL_ROWS) };
    let mut sums = [0i32; PANEL_ROWS];
    for unit in 0..call.units {
        // SAFETY: preconditions 2 and 4: unit < units; tables are 64-aligned.
        let (rows, x) = unsafe {
            (
                &*call
                    .panels
                    .add(unit * PANEL_ROWS)
                    .cast::<[u8; PANEL_ROWS]>(),
                *call.tables.add(unit * 4).cast::<[i8; 4]>(),
            )
        };
        for (sum, &byte) in sums.iter_mut().zip(rows) {
            *sum += term_i32(byte, 0, x[0])
                + term_i32(byte, 1, x[1])
                + term_i32(byte, 2, x[2])
                + term_i32(byte, 3, x[3]);
        }
    }
    for (out, &sum) in out.iter_mut().zip(&sums) {
        *out = if call.accumulate { *out + sum } else { sum };
    }
}

/// `out[r] (+)= sum over blocks of the block sums`, in the canonical order.
///
/// # Safety
/// Preconditions 1, 2, 4, 5, 7 and 8 of [`crate::kernels::contract`].
#[inline(never)]
pub unsafe fn few_f32(call: &FewCall<f32>) {
    // SAFETY: precondition 5: 64 initialised (if accumulating) f32 of one panel.
    let out = unsafe { core::slice::from_raw_parts_mut(call.out, PANEL_ROWS) };
    let mut totals = [0f32; PANEL_ROWS];
    if call.accumulate {
        totals.copy_from_slice(out);
    }
    let mut start = 0;
    while start < call.units {
        let end = call.units.min(start + BLOCK_STRIPS);
        let mut block = [0f32; PANEL_ROWS];
        for unit in start..end {
            // SAFETY: preconditions 2 and 4: unit < units; tables are 64-aligned.
            let (rows, x) = unsafe {
                (
                    &*call
                        .panels
                        .add(unit * PANEL_ROWS)
                        .cast::<[u8; PANEL_ROWS]>(),
                    *call.tables.add(unit * 16).cast::<[f32; 4]>(),
                )
            };
            for (sum, &byte) in block.iter_mut().zip(rows) {
                *sum += (term_f32(byte, 0, x[0]) + term_f32(byte, 1, x[1]))
                    + (term_f32(byte, 2, x[2]) + term_f32(byte, 3, x[3]));
            }
        }
        for (total, &sum) in totals.iter_mut().zip(&block) {
            *total += sum;
        }
        start = end;
    }
    out.copy_from_slice(&totals);
}
