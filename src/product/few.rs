//! The loop over one output tile with row lanes.
//!
//! ```text
//! for block of panels                  sums stay in L2
//!   for segment, for chunk along K     the chunk's tables stay in L2
//!     for group of panels              they stay in L1 / L2 ...
//!       for group of tokens            ... while the tokens pass over them
//!         sums[token][row] += kernel
//!     emit the segment's sums
//! ```
//! With one token there is nothing to keep: panels stream by once, in one
//! chunk as long as the kernel allows. The panels of a group of the widest tile are then
//! not neighbours but `panels / width` apart, and the next group takes the one after each:
//! as many streams, each of which goes on where it ended. (With scales by group it does
//! so within a panel alone.)

use crate::cache::CacheSizes;
use crate::isa::Backend;
use crate::kernels::call::{self, Element, FewPart, Source};
use crate::kernels::contract::{BLOCK_STRIPS, FewKernel, PANEL_ROWS};
use crate::kernels::memory::tiles::Tile;
use crate::kernels::registry::Cpu;
use crate::memory::OutOfMemory;
use crate::product::Product;
use crate::product::sink::{At, Sink};
use crate::workspace::{Scratch, reserve};
use core::mem::size_of;

/// Bytes of tables, over all tokens, that one chunk along K may take: half of
/// L2, beside the panels that pass through it.
fn table_budget() -> usize {
    CacheSizes::detect().l2 / 2
}

/// Bytes of sums that one block of panels may take.
fn sums_budget() -> usize {
    CacheSizes::detect().l2 / 8
}

/// Computes one tile of `y`.
pub(crate) fn run_tile<X: Element, S: Sink<X>>(
    product: &Product<'_, X, S>,
    y: &mut Tile<'_, S::Out>,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    let (weights, prepared) = (&product.weights, product.prepared);
    let which = (prepared.backend(), prepared.source());
    let kernel = X::row(which.0, which.1);
    let Scratch {
        few_tables, sums, ..
    } = scratch;
    let few_tables = prepared.tables(few_tables)?;
    let (tokens, rows) = (y.rows(), y.cols());
    let panels = rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS);
    let chunk = chunk_units(kernel, tokens.len());
    // Saturated, it is more than can be reserved below.
    let panel_sums = (PANEL_ROWS * size_of::<X::Acc>()).saturating_mul(tokens.len());
    let block = (sums_budget() / panel_sums).max(4) & !3;
    let segments = weights.segments();
    let count = segments.len();

    for first_panel in panels.clone().step_by(block) {
        let block_panels = block.min(panels.end - first_panel);
        let sums_stride = block_panels * PANEL_ROWS;
        let sums = reserve(sums, panel_sums.saturating_mul(block_panels))?;
        let sums: &mut [X::Acc] = bytemuck::cast_slice_mut(sums);
        let mut table_unit = 0;
        for (index, segment) in weights.segments().enumerate() {
            let first = segment.start / kernel.unit_strips;
            let units = segment.end.div_ceil(kernel.unit_strips) - first;
            for done in (0..units).step_by(chunk) {
                let part = FewPart {
                    view: weights.view,
                    panel: first_panel,
                    apart: 1,
                    start: (first + done) * kernel.unit_strips,
                    units: chunk.min(units - done),
                    next: first_panel,
                    again: false,
                    cpu: Cpu::get(),
                };
                let at = (table_unit + done) * kernel.table_bytes;
                let tables = |token: usize| few_tables.from(tokens.start + token, at);
                let shape = [block_panels, tokens.len()];
                run_chunk::<X>(which, part, shape, tables, sums, done > 0);
            }
            table_unit += units;
            let row = first_panel * PANEL_ROWS;
            let end = rows.end.min(row + sums_stride);
            for (t, sums) in sums.chunks(sums_stride).enumerate() {
                let token = prepared.first_few_token() + tokens.start + t;
                let at = At {
                    segment: (index, count),
                    token,
                    row,
                };
                product.sink.emit(
                    at,
                    &sums[..end - row],
                    y.row_mut(tokens.start + t, row..end),
                );
            }
        }
    }
    Ok(())
}

/// Units along K between two passes over the panels.
fn chunk_units<X, Acc>(kernel: &FewKernel<X, Acc>, tokens: usize) -> usize {
    // Chunks end on a block boundary of the canonical order.
    let block = BLOCK_STRIPS / kernel.unit_strips;
    let wanted = if tokens == 1 {
        usize::MAX
    } else {
        table_budget() / (kernel.table_bytes * tokens)
    };
    let chunk = wanted.clamp(block, kernel.max_units.max(block));
    chunk - chunk % block
}

/// One chunk along K: all panels of the block by all tokens, in kernel tiles.
fn run_chunk<'t, X: Element>(
    which: (Backend, Source),
    mut part: FewPart<'_>,
    [panels, tokens]: [usize; 2],
    tables: impl Fn(usize) -> (&'t [u8], usize),
    sums: &mut [X::Acc],
    accumulate: bool,
) {
    let shapes = X::row(which.0, which.1).tiles;
    let stride = panels * PANEL_ROWS;
    let (first_panel, mut panel) = (part.panel, 0);
    // Each panel of a wide tile goes on where it ended: streams of reads that begin with
    // every tile anew wait for memory each time.
    let best = shapes.iter().position(|s| s.tokens == 1);
    if let (1, Some(tile)) = (tokens, best) {
        let width = shapes[tile].panels;
        part.apart = panels / width;
        for i in 0..part.apart {
            part.panel = first_panel + i;
            part.next = if i + 1 < part.apart {
                part.panel + 1
            } else {
                // Where the streams of a part of the same size begin.
                first_panel + width * part.apart
            };
            let out = &mut sums[i * PANEL_ROWS..];
            call::few_run::<X>(which, tile, &part, tables(0), (out, stride), accumulate);
        }
        panel = part.apart * width;
        part.apart = 1;
    }
    while panel < panels {
        let width = shapes
            .iter()
            .find(|s| s.panels <= panels - panel && s.tokens <= tokens)
            .map_or(1, |s| s.panels);
        part.panel = first_panel + panel;
        part.next = part.panel + width;
        let mut token = 0;
        while token < tokens {
            part.again = token > 0;
            let tile = shapes
                .iter()
                .position(|s| s.panels == width && s.tokens <= tokens - token)
                .expect("every width has a shape for one token");
            let out = &mut sums[token * stride + panel * PANEL_ROWS..];
            call::few_run::<X>(which, tile, &part, tables(token), (out, stride), accumulate);
            token += shapes[tile].tokens;
        }
        panel += width;
    }
}
