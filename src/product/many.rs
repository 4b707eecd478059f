//! The loop over one output tile with column lanes.
//!
//! ```text
//! for token tile                       32 int8 or 16 f32 tokens, narrow ones fewer
//!   for block of panels                accumulators and totals stay in L2
//!     for segment
//!       for chunk of strips            its tables stay in L1 and L2
//!         build the tables
//!         acc += what bytes select     for all panels of the block
//!         fold                         where [`crate::product::folds`] says
//!       finish, emit the segment's sums
//! ```

use crate::cache::CacheSizes;
use crate::isa::Backend;
use crate::kernels::call::{self, Element, ManyPart, PanelView, Width};
use crate::kernels::contract::{BLOCK_STRIPS, Fold, MANY_MAX_FOLDS, PANEL_ROWS};
use crate::kernels::memory::tiles::Tile;
use crate::kernels::prefetch;
use crate::memory::OutOfMemory;
use crate::product::Product;
use crate::product::folds::Folds;
use crate::product::sink::{At, Sink};
use crate::workspace::{Scratch, reserve};
use core::mem::size_of;
use core::ops::Range;

/// Bytes of accumulators and totals that one block of panels may take: half of
/// L2, beside a chunk's tables.
fn acc_budget() -> usize {
    CacheSizes::detect().l2 / 2
}

/// Computes one tile of `y`.
pub(crate) fn run_tile<X: Element, S: Sink<X>>(
    product: &Product<'_, X, S>,
    width: Width,
    y: &mut Tile<'_, S::Out>,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    let which = (product.prepared.backend(), width);
    let kernel = X::column(which.0, which.1);
    let rows = y.cols();
    let panels = rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS);
    let block = balanced(
        panels.len(),
        acc_budget() / (2 * PANEL_ROWS * kernel.entry_bytes),
    );
    let tokens = y.rows();
    for first_token in tokens.clone().step_by(kernel.lanes) {
        for first_panel in panels.clone().step_by(block) {
            let block = Block {
                tokens: first_token..tokens.end.min(first_token + kernel.lanes),
                panels: first_panel..panels.end.min(first_panel + block),
                row_end: rows.end,
            };
            run_block(product, which, y, &block, scratch)?;
        }
    }
    Ok(())
}

/// Panels in each of the fewest equal blocks of at most `most`.
fn balanced(panels: usize, most: usize) -> usize {
    panels.div_ceil(panels.div_ceil(most).max(1)).max(1)
}

/// One tile of tokens by one block of panels.
struct Block {
    tokens: Range<usize>,
    panels: Range<usize>,
    row_end: usize,
}

fn run_block<X: Element, S: Sink<X>>(
    product: &Product<'_, X, S>,
    which: (Backend, Width),
    y: &mut Tile<'_, S::Out>,
    block: &Block,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    let (weights, prepared) = (&product.weights, product.prepared);
    let kernel = X::column(which.0, which.1);
    // The order of some kernels' activations depends on it.
    debug_assert_eq!(prepared.group_strips(), weights.group_strips);
    let xt = prepared.tile(which.1, block.tokens.start / kernel.lanes);
    let first_token = prepared.first_token(which.1);
    let acc_len = block.panels.len() * PANEL_ROWS * kernel.entry_bytes;
    let panel_acc = PANEL_ROWS * kernel.entry_bytes;
    let panel_sums = PANEL_ROWS * kernel.lanes;
    let tables_len = kernel.tables_len(kernel.chunk_strips);
    let mut buffers = Buffers {
        tables: reserve(&mut scratch.tables, tables_len)?,
        acc: reserve(&mut scratch.acc, acc_len)?,
        total: reserve(&mut scratch.total, acc_len)?,
    };

    let segments = weights.segments();
    let count = segments.len();
    for (index, segment) in segments.enumerate() {
        // f32 totals run over the whole segment; int8 ones are emptied before
        // they can overflow, which only a very long K needs.
        let stretch = if X::FOLDS_ANYWHERE {
            MANY_MAX_FOLDS * BLOCK_STRIPS
        } else {
            usize::MAX
        };
        let one_stretch = segment.len() <= stretch;
        let kept = if one_stretch { 1 } else { block.panels.len() };
        let sums = reserve(&mut scratch.sums, kept * panel_sums * size_of::<X::Acc>())?;
        let sums: &mut [X::Acc] = bytemuck::cast_slice_mut(sums);
        let mut start = segment.start;
        while start < segment.end {
            let end = segment.end.min(start.saturating_add(stretch));
            run_stretch(which, weights.view, block, xt, start..end, &mut buffers);
            let last = end == segment.end;
            for (i, panel) in block.panels.clone().enumerate() {
                let accs = (
                    &buffers.acc[i * panel_acc..],
                    &buffers.total[i * panel_acc..],
                );
                let sums = if one_stretch {
                    &mut *sums
                } else {
                    &mut sums[i * panel_sums..]
                };
                let accumulate = start > segment.start;
                call::many_finish::<X>(
                    which,
                    block.tokens.len(),
                    accs,
                    (sums, PANEL_ROWS),
                    accumulate,
                );
                if !last {
                    continue;
                }
                let row = panel * PANEL_ROWS;
                let row_end = block.row_end.min(row + PANEL_ROWS);
                // Their rows are far apart: the CPU sees no stream of writes.
                let next = block.row_end.min(row_end + PANEL_ROWS);
                for (token, sums) in block.tokens.clone().zip(sums.chunks(PANEL_ROWS)) {
                    prefetch::output(y.row_mut(token, row_end..next));
                    let at = At {
                        segment: (index, count),
                        token: first_token + token,
                        row,
                    };
                    let out = y.row_mut(token, row..row_end);
                    product.sink.emit(at, &sums[..row_end - row], out);
                }
            }
            start = end;
        }
    }
    Ok(())
}

struct Buffers<'a> {
    tables: &'a mut [u8],
    acc: &'a mut [u8],
    total: &'a mut [u8],
}

/// The chunk that starts `start` strips into a matrix, one of `strips` or their end.
/// Blocks, from the first of them on, need not be whole chunks of `chunk_strips`: the last
/// chunk of a block may be shorter.
fn chunk(strips: &Range<usize>, chunk_strips: usize, start: usize) -> Range<usize> {
    let in_block = (start - strips.start) % BLOCK_STRIPS;
    let len = chunk_strips.min(BLOCK_STRIPS - in_block);
    start..strips.end.min(start + len)
}

/// Sums over `strips`, not empty, into the accumulators and totals.
fn run_stretch<X: Element>(
    which: (Backend, Width),
    view: PanelView<'_>,
    block: &Block,
    xt: &[X],
    strips: Range<usize>,
    buffers: &mut Buffers<'_>,
) {
    let kernel = X::column(which.0, which.1);
    let xt =
        |chunk: &Range<usize>| &xt[4 * chunk.start * kernel.lanes..4 * chunk.end * kernel.lanes];
    let chunk = |start| chunk(&strips, kernel.chunk_strips, start);
    let mut folds = Folds::start(kernel, block.tokens.len(), xt(&chunk(strips.start)));
    let (mut first, mut total) = (true, Fold::Start);
    let mut now = chunk(strips.start);
    while !now.is_empty() {
        let next = chunk(now.end);
        call::many_build(
            which,
            xt(&now),
            [now.len(), block.tokens.len()],
            buffers.tables,
        );
        let ends = folds.after(now.end - strips.start, xt(&next));
        let part = ManyPart {
            view,
            panels: block.panels.clone(),
            start: now.start,
            bytes: now.len(),
            tokens: block.tokens.len(),
        };
        let accs = (&mut *buffers.acc, &mut *buffers.total);
        let fold = if ends { total } else { Fold::Keep };
        call::many_run::<X>(which, &part, buffers.tables, accs, (first, fold));
        // An int8 accumulator keeps its low part over a fold.
        first = ends && !X::FOLDS_ANYWHERE;
        if ends {
            total = Fold::Add;
        }
        now = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_where_blocks_do() {
        for (chunk_strips, strips, ends) in [
            (8, 0..61, vec![8, 16, 24, 32, 40, 48, 56, 60, 61]),
            (8, 7..70, vec![15, 23, 31, 39, 47, 55, 63, 67, 70]),
            (12, 5..68, vec![17, 29, 41, 53, 65, 68]),
            (30, 60..120, vec![90, 120]),
            (8, 0..3, vec![3]),
        ] {
            let mut cut = Vec::new();
            let mut now = chunk(&strips, chunk_strips, strips.start);
            while !now.is_empty() {
                cut.push(now.end);
                now = chunk(&strips, chunk_strips, now.end);
            }
            assert_eq!(cut, ends, "{strips:?} by {chunk_strips}");
        }
    }
}
