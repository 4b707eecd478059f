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
mod registers;

use crate::kernels::contract::{KernelSet, ManyChoice};

/// NEON, without the optional dot-product or matrix instructions.
pub static NEON: KernelSet = KernelSet {
    name: "neon",
    tuning: None,
    features: &[],
    codec: &codec::CODEC,
    few_i8: &few_i8::FEW_I8,
    few_f32: &few_f32::FEW_F32,
    // Where llvm-mca's cycles of both families meet on a neoverse-n1 (7 and 3 on a
    // neoverse-v1); to be replaced by measurements.
    many_i8: &[ManyChoice::new(&many::MANY_I8, 12)],
    many_f32: &[ManyChoice::new(&many::MANY_F32, 5)],
};
