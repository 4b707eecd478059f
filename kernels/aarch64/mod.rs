//! AArch64: NEON, which every AArch64 CPU has.
//!
//! Baseline instructions only: `tbl` look-ups, additions and subtractions, no
//! dot-product or matrix extension, so the same code serves a Cortex-A53 and a
//! server. The heads of the files count instructions; cycles there are
//! llvm-mca's (`benches/neon_mca.sh`), not measurements.

mod codec;
mod few_f32;
mod few_i8;
mod many;
#[cfg(test)]
mod tests;

use super::registry::{Crossovers, KernelSet};
use crate::isa::Isa;
use core::arch::aarch64::*;
use core::arch::asm;

/// NEON, without the optional dot-product or matrix instructions.
pub static NEON: KernelSet = KernelSet {
    name: "neon",
    isa: Isa::Neon,
    features: &[],
    made_for: None,
    codec: &codec::CODEC,
    few_i8: &few_i8::FEW_I8,
    streamed_i8: &few_i8::FEW_I8,
    few_f32: &few_f32::FEW_F32,
    many_i8: &many::MANY_I8,
    many_f32: &many::MANY_F32,
    narrow_i8: &many::MANY_I8,
    narrow_f32: &many::MANY_F32,
    // Where llvm-mca's cycles of the two lanes meet on a neoverse-n1 (7 and 3 on
    // a neoverse-v1); to be replaced by measurements.
    crossover_i8: Crossovers::same(12, 12),
    crossover_f32: Crossovers::same(5, 5),
};

/// A register of constants.
#[inline]
#[target_feature(enable = "neon")]
fn lanes_u8(lanes: [u8; 16]) -> uint8x16_t {
    // SAFETY: the array is 16 bytes.
    unsafe { vld1q_u8(lanes.as_ptr()) }
}

/// A register of constants.
#[inline]
#[target_feature(enable = "neon")]
fn lanes_s16(lanes: [i16; 8]) -> int16x8_t {
    // SAFETY: the array is 16 bytes.
    unsafe { vld1q_s16(lanes.as_ptr()) }
}

/// A register of constants.
#[inline]
#[target_feature(enable = "neon")]
fn lanes_u32(lanes: [u32; 4]) -> uint32x4_t {
    // SAFETY: the array is 16 bytes.
    unsafe { vld1q_u32(lanes.as_ptr()) }
}

/// `pointer + stride`, opaque to the compiler: it would turn a chain of equal
/// steps into multiplications of the stride. Not dereferenced here, so it may
/// leave the allocation.
#[inline(always)]
#[allow(
    clippy::pointers_in_nomem_asm_block,
    reason = "the pointer is passed through, not followed"
)]
fn step<T>(pointer: *mut T, stride: usize) -> *mut T {
    let mut next = pointer.wrapping_add(stride);
    if !cfg!(miri) {
        // SAFETY: no instruction; the operand stays what it is.
        unsafe {
            asm!(
                "// {}",
                inout(reg) next,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
    next
}
