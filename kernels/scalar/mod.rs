//! The scalar reference: what every other kernel must equal bit for bit.
//!
//! Written to be read. Each function states a definition of
//! [`crate::kernels::contract`] in the plainest code that states it; nothing here knows a vector.

mod codec;
mod few;

use crate::kernels::contract::{
    BuildCall, FewKernel, FewTile, KernelSet, ManyCall, ManyChoice, ManyKernel,
};
use crate::kernels::contract::{ENTRY, TOKENS_F32, TOKENS_I8};
use crate::kernels::many::{self, ByTable};

/// The reference kernels, available on every CPU.
pub static SCALAR: KernelSet = KernelSet {
    name: "scalar",
    tuning: None,
    features: &[],
    codec: &codec::CODEC,
    few_i8: &FewKernel {
        name: "scalar-few_i8",
        unit_strips: 1,
        table_bytes: 4,
        max_units: usize::MAX / 64,
        build: few::copy_i8,
        tiles: &[FewTile::new(1, 1, few::few_i8)],
        scaled: None,
        from_memory: None,
    },
    few_f32: &FewKernel {
        name: "scalar-few_f32",
        unit_strips: 1,
        table_bytes: 16,
        max_units: usize::MAX / 64,
        build: few::copy_f32,
        tiles: &[FewTile::new(1, 1, few::few_f32)],
        scaled: None,
        from_memory: None,
    },
    many_i8: &[ManyChoice::new(&MANY_I8, 2)],
    many_f32: &[ManyChoice::new(&MANY_F32, 2)],
};

static MANY_I8: ManyKernel<i8, i32> = ManyKernel::generic(
    "scalar-many_i8",
    [TOKENS_I8, ENTRY, 12],
    build_i8,
    [many_i8, scaled_i8],
    many::finish_i8,
    many::finish_f32,
);

static MANY_F32: ManyKernel<f32, f32> = ManyKernel::generic(
    "scalar-many_f32",
    [TOKENS_F32, ENTRY, 12],
    build_f32,
    [many_f32, scaled_f32],
    many::finish_f32,
    many::finish_f32,
);

#[inline(never)]
unsafe fn build_i8(call: &BuildCall<i8>) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { many::build_i8::<_, 1>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn build_f32(call: &BuildCall<f32>) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { many::build_f32::<_, 1>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn many_i8(call: &ManyCall) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { many::run_i8::<_, ByTable, 1, 3>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn many_f32(call: &ManyCall) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { many::run_f32::<_, ByTable, 1, 3>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn scaled_i8(call: &ManyCall) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { many::run_scaled_i8::<_, ByTable, 1, 3>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn scaled_f32(call: &ManyCall) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { many::run_scaled_f32::<_, ByTable, 1, 3>(pulp::Scalar512b, call) }
}
