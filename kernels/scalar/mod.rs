//! The scalar reference: what every other kernel must equal bit for bit.
//!
//! Written to be read. Each function states a definition of `DESIGN.md` in the
//! plainest code that states it; nothing here knows a vector.

mod codec;
mod few;

use super::contract::{BuildCall, FewKernel, FewTile, MANY_ENTRIES, ManyKernel};
use super::many::{self, ByTable};
use super::registry::{Crossovers, KernelSet};
use crate::isa::Isa;

/// int8, few tokens.
static FEW_I8: FewKernel<i8, i32> = FewKernel {
    name: "scalar-few_i8",
    unit_strips: 1,
    table_bytes: 4,
    max_units: usize::MAX / 64,
    build: few::copy_i8,
    tiles: &[FewTile {
        panels: 1,
        tokens: 1,
        run: few::few_i8,
    }],
    symbols: &["scalar::few::few_i8"],
};

/// The reference kernels, available on every CPU.
pub static SCALAR: KernelSet = KernelSet {
    name: "scalar",
    isa: Isa::Scalar,
    features: &[],
    made_for: None,
    codec: &codec::CODEC,
    few_i8: &FEW_I8,
    streamed_i8: &FEW_I8,
    few_f32: &FewKernel {
        name: "scalar-few_f32",
        unit_strips: 1,
        table_bytes: 16,
        max_units: usize::MAX / 64,
        build: few::copy_f32,
        tiles: &[FewTile {
            panels: 1,
            tokens: 1,
            run: few::few_f32,
        }],
        symbols: &["scalar::few::few_f32"],
    },
    many_i8: &MANY_I8,
    many_f32: &MANY_F32,
    narrow_i8: &MANY_I8,
    narrow_f32: &MANY_F32,
    crossover_i8: Crossovers::same(2, 2),
    crossover_f32: Crossovers::same(2, 2),
};

static MANY_I8: ManyKernel<i8, i32> = ManyKernel {
    name: "scalar-many_i8",
    lanes: 32,
    entry_bytes: 64,
    chunk_strips: 12,
    by_token: false,
    unit_strips: 1,
    table_bytes: MANY_ENTRIES * 64,
    build: build_i8,
    run: many_i8,
    finish: many::finish_i8,
    symbols: &[
        "scalar::build_i8",
        "scalar::many_i8",
        "many::finish::finish_i8",
    ],
};

static MANY_F32: ManyKernel<f32, f32> = ManyKernel {
    name: "scalar-many_f32",
    lanes: 16,
    entry_bytes: 64,
    chunk_strips: 12,
    by_token: false,
    unit_strips: 1,
    table_bytes: MANY_ENTRIES * 64,
    build: build_f32,
    run: many_f32,
    finish: many::finish_f32,
    symbols: &[
        "scalar::build_f32",
        "scalar::many_f32",
        "many::finish::finish_f32",
    ],
};

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
unsafe fn many_i8(call: &super::contract::ManyCall) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { many::run_i8::<_, ByTable, 1, 3>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn many_f32(call: &super::contract::ManyCall) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { many::run_f32::<_, ByTable, 1, 3>(pulp::Scalar512b, call) }
}
