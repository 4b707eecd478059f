//! The scalar reference: what every other kernel must equal bit for bit.
//!
//! Written to be read. Each function states a definition of `DESIGN.md` in the
//! plainest code that states it; nothing here knows a vector.

mod codec;
mod row;

use super::column::{self, ByTable};
use super::contract::{BuildCall, COLUMN_ENTRIES, ColumnKernel, RowKernel, RowTile};
use super::table::{Crossovers, KernelSet};
use crate::isa::Isa;

/// int8, few tokens.
static ROW_I8: RowKernel<i8, i32> = RowKernel {
    name: "scalar-i8-row",
    unit_bytes: 1,
    table_bytes: 4,
    max_units: usize::MAX / 64,
    build: row::copy_i8,
    tiles: &[RowTile {
        panels: 1,
        tokens: 1,
        run: row::row_i8,
    }],
    symbols: &["scalar::row::row_i8"],
};

/// The reference kernels, available on every CPU.
pub static SCALAR: KernelSet = KernelSet {
    name: "scalar",
    isa: Isa::Scalar,
    features: &[],
    made_for: None,
    codec: &codec::CODEC,
    row_i8: &ROW_I8,
    streamed_i8: &ROW_I8,
    row_f32: &RowKernel {
        name: "scalar-f32-row",
        unit_bytes: 1,
        table_bytes: 16,
        max_units: usize::MAX / 64,
        build: row::copy_f32,
        tiles: &[RowTile {
            panels: 1,
            tokens: 1,
            run: row::row_f32,
        }],
        symbols: &["scalar::row::row_f32"],
    },
    column_i8: &COLUMN_I8,
    column_f32: &COLUMN_F32,
    narrow_i8: &COLUMN_I8,
    narrow_f32: &COLUMN_F32,
    crossover_i8: Crossovers::same(2, 2),
    crossover_f32: Crossovers::same(2, 2),
};

static COLUMN_I8: ColumnKernel<i8, i32> = ColumnKernel {
    name: "scalar-i8-column",
    lanes: 32,
    entry_bytes: 64,
    chunk_bytes: 12,
    by_token: false,
    unit_bytes: 1,
    table_bytes: COLUMN_ENTRIES * 64,
    build: build_i8,
    run: column_i8,
    finish: column::finish_i8,
    symbols: &[
        "scalar::build_i8",
        "scalar::column_i8",
        "column::finish::finish_i8",
    ],
};

static COLUMN_F32: ColumnKernel<f32, f32> = ColumnKernel {
    name: "scalar-f32-column",
    lanes: 16,
    entry_bytes: 64,
    chunk_bytes: 12,
    by_token: false,
    unit_bytes: 1,
    table_bytes: COLUMN_ENTRIES * 64,
    build: build_f32,
    run: column_f32,
    finish: column::finish_f32,
    symbols: &[
        "scalar::build_f32",
        "scalar::column_f32",
        "column::finish::finish_f32",
    ],
};

#[inline(never)]
unsafe fn build_i8(call: &BuildCall<i8>) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { column::build_i8::<_, 1>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn build_f32(call: &BuildCall<f32>) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { column::build_f32::<_, 1>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn column_i8(call: &super::contract::ColumnCall) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { column::run_i8::<_, ByTable, 1, 3>(pulp::Scalar512b, call) }
}

#[inline(never)]
unsafe fn column_f32(call: &super::contract::ColumnCall) {
    // SAFETY: the caller's preconditions are handed on unchanged.
    unsafe { column::run_f32::<_, ByTable, 1, 3>(pulp::Scalar512b, call) }
}
