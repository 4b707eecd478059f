//! AArch64: NEON, which every AArch64 CPU has.

use super::table::KernelSet;
use crate::isa::Isa;

/// NEON, without the optional dot-product or matrix instructions.
pub static NEON: KernelSet = KernelSet {
    name: "neon",
    isa: Isa::Neon,
    features: &[],
    codec: super::scalar::SCALAR.codec,
    row_i8: super::scalar::SCALAR.row_i8,
    row_f32: super::scalar::SCALAR.row_f32,
    column_i8: super::scalar::SCALAR.column_i8,
    column_f32: super::scalar::SCALAR.column_f32,
    crossover_i8: 9,
    crossover_f32: 5,
};
