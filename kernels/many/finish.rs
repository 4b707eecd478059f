//! From accumulators and totals to sums, by portable code: for kernels whose
//! vectors have one 128-bit lane, whose accumulators are in the order of the rows.

use crate::kernels::contract::{FinishCall, PANEL_ROWS};
use crate::kernels::contract::{TOKENS_F32, TOKENS_I8};

macro_rules! finish {
    ($name:ident, $sum:ty, $stored:ty, $tokens:expr, |$acc:ident, $total:ident| $value:expr) => {
        /// See [`crate::kernels::contract::ManyKernel::finish`].
        ///
        /// # Safety
        /// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
        #[inline(never)]
        pub unsafe fn $name(call: &FinishCall<$sum>) {
            let acc = call.acc.cast::<[$stored; $tokens]>();
            let total = call.total.cast::<[$stored; $tokens]>();
            let mut out = call.out;
            for t in 0..$tokens {
                for r in 0..PANEL_ROWS {
                    // SAFETY: preconditions 5 and 6: 64 rows, all tokens of a tile.
                    unsafe {
                        let ($acc, $total) = ((*acc.add(r))[t], (*total.add(r))[t]);
                        let (sum, out): ($sum, _) = ($value, out.add(r));
                        out.write(if call.accumulate {
                            out.read() + sum
                        } else {
                            sum
                        });
                    }
                }
                // Not dereferenced after the last token.
                out = out.wrapping_add(call.out_stride);
            }
        }
    };
}
// By shift and addition: 256 times the total.
finish!(finish_i8, i32, i16, TOKENS_I8, |acc, total| (i32::from(
    total
) << 8)
    + i32::from(acc));
finish!(finish_f32, f32, f32, TOKENS_F32, |_acc, total| total);
