//! From accumulators and totals to sums, by portable code: for kernels whose
//! vectors have one 128-bit lane, whose accumulators are in the order of the rows.

use crate::kernels::contract::{FinishCall, PANEL_ROWS};
use crate::kernels::contract::{TOKENS_F32, TOKENS_I8};

/// The portable [`crate::kernels::contract::ManyKernel::finish`] for int8:
/// `out[t][r] (+)= 256 * total[r][t] + acc[r][t]`, by shift and addition.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[inline(never)]
pub unsafe fn finish_i8(call: &FinishCall<i32>) {
    let acc = call.acc.cast::<[i16; TOKENS_I8]>();
    let total = call.total.cast::<[i16; TOKENS_I8]>();
    let mut column = call.out;
    for t in 0..TOKENS_I8 {
        for r in 0..PANEL_ROWS {
            // SAFETY: preconditions 5 and 6: 64 rows, TOKENS_I8 tokens.
            unsafe {
                let (low, high) = ((*acc.add(r))[t], (*total.add(r))[t]);
                let sum = (i32::from(high) << 8) + i32::from(low);
                let out = column.add(r);
                out.write(if call.accumulate {
                    out.read() + sum
                } else {
                    sum
                });
            }
        }
        // Not dereferenced after the last token.
        column = column.wrapping_add(call.out_stride);
    }
}

/// The portable [`crate::kernels::contract::ManyKernel::finish`] for f32:
/// `out[t][r] (+)= total[r][t]`.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[inline(never)]
pub unsafe fn finish_f32(call: &FinishCall<f32>) {
    let total = call.total.cast::<[f32; TOKENS_F32]>();
    let mut column = call.out;
    for t in 0..TOKENS_F32 {
        for r in 0..PANEL_ROWS {
            // SAFETY: preconditions 5 and 6: 64 rows, TOKENS_F32 tokens.
            unsafe {
                let sum = (*total.add(r))[t];
                let out = column.add(r);
                out.write(if call.accumulate {
                    out.read() + sum
                } else {
                    sum
                });
            }
        }
        // Not dereferenced after the last token.
        column = column.wrapping_add(call.out_stride);
    }
}
