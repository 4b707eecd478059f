//! The loop over one output tile for many tokens.
//!
//! ```text
//! for token tile                       32 int8 or 16 f32 tokens, or fewer
//!   for part of the panels             accumulators and totals stay in L2
//!     for piece of K                   a group, or what totals can hold of it
//!       for chunk of strips            its tables stay in L1 and L2
//!         build the tables
//!         acc += what bytes select     for all panels of the part
//!         fold                         where [`crate::product::folds`] says
//!       finish, emit the group's sums
//! ```
//! Where K is shared among workers, a tile is one tile of tokens by one such part, in one piece,
//! and each worker takes its chunks one by one.

use crate::kernels::call::{self, ManyPart, ManyScaling, PanelView};
use crate::kernels::contract::{BLOCK_STRIPS, Fold, PANEL_ROWS, TOKENS_I8};
use crate::kernels::element::{Element, Many};
use crate::kernels::memory::tile_set::Job;
use crate::kernels::memory::tiles::Tile;
use crate::kernels::prefetch;
use crate::memory::{Lines, OutOfMemory, reserve};
use crate::product::folds::{Folded, Running};
use crate::product::operands::Product;
use crate::product::plan::{self, groups};
use crate::product::scratch::Scratch;
use crate::product::sink::{Place, Sink, part_of};
use crate::product::stretches::{self, Outcome, TileSums};
use core::mem::size_of;
use core::ops::Range;

/// Computes one tile of `y`, whose first row is token `first_token` of the product, by the
/// kernel for many tokens of number `choice`.
pub(crate) fn run_tile<X: Folded, S: Sink<X>>(
    product: &Product<'_, X, S>,
    (choice, first_token): (usize, usize),
    y: &mut Tile<'_, S::Out>,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    let kernel = product.prepared.many(choice);
    let rows = y.cols();
    let panels = rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS);
    let part_panels = plan::panels_of_accumulators(panels.len(), kernel.entry_bytes);
    let tokens = y.rows();
    for first in tokens.clone().step_by(kernel.tokens) {
        let xt = product.prepared.tile(choice, first / kernel.tokens);
        for first_panel in panels.clone().step_by(part_panels) {
            let end = panels.end.min(first_panel + part_panels);
            let part = Part {
                tokens: first..tokens.end.min(first + kernel.tokens),
                first_token,
                panels: first_panel..end,
                row_end: rows.end.min(end * PANEL_ROWS),
            };
            let group_strips = product.prepared.group_strips();
            match group_strips < product.prepared.strips() {
                true => run_groups(product, kernel, xt, y, &part, scratch)?,
                false => run_part(product, kernel, xt, y, &part, scratch)?,
            }
        }
    }
    Ok(())
}

/// One tile of tokens by a part of the panels.
struct Part {
    /// Rows of `y`.
    tokens: Range<usize>,
    /// The token of the product that row 0 of `y` is of.
    first_token: usize,
    panels: Range<usize>,
    row_end: usize,
}

/// Computes a part whose scales change along K: the sums of a group are scaled and added up in
/// the kernel's own order, and put in rows' order at the end.
fn run_groups<X: Folded, S: Sink<X>>(
    product: &Product<'_, X, S>,
    kernel: Many<X>,
    xt: &[X],
    y: &mut Tile<'_, S::Out>,
    part: &Part,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    let (strips, group_strips) = (product.prepared.strips(), product.prepared.group_strips());
    let panel_sums = PANEL_ROWS * kernel.tokens;
    let tokens = part.tokens.len();
    let Scratch {
        tables,
        acc,
        total,
        sums: transposed,
        staged: sums,
        scales,
        ..
    } = scratch;
    let mut buffers = Buffers::new(kernel, part.panels.len(), [tables, acc, total])?;
    let sums = reserve(sums, part.panels.len() * panel_sums * size_of::<f32>())?;
    let sums: &mut [f32] = bytemuck::cast_slice_mut(sums);
    let transposed = reserve(transposed, panel_sums * size_of::<f32>())?;
    let transposed: &mut [f32] = bytemuck::cast_slice_mut(transposed);
    let rows = part.panels.start * PANEL_ROWS..part.row_end;
    let padded = part.panels.len() * PANEL_ROWS;
    let scales = reserve(scales, 2 * padded * size_of::<f32>())?;
    let (scales, room) = bytemuck::cast_slice_mut(scales).split_at_mut(padded);
    scales.fill(0.0);
    let mut token_scales = [0.0; TOKENS_I8];
    let tokens_of_product =
        part.first_token + part.tokens.start..part.first_token + part.tokens.end;

    for (group, range) in groups(strips, group_strips).enumerate() {
        let sink = &product.sink;
        sink.token_scales(group, tokens_of_product.clone(), &mut token_scales);
        let room = &mut room[..rows.len()];
        scales[..rows.len()].copy_from_slice(sink.scales(group, rows.clone(), room));
        let scaling = ManyScaling {
            scales,
            token_scales: &token_scales,
            sums,
            first: group == 0,
        };
        let chunks = chunks(range, plan::chunk_strips(&kernel, group_strips));
        let work = (product.view, part, Some(scaling));
        run_chunks(kernel, work, xt, None, (chunks, usize::MAX), &mut buffers);
    }
    for (i, panel) in part.panels.clone().enumerate() {
        let sums = &sums[i * panel_sums..][..panel_sums];
        call::many_finish_groups(kernel, tokens, sums, (transposed, PANEL_ROWS));
        let rows = panel * PANEL_ROWS..part.row_end.min((panel + 1) * PANEL_ROWS);
        for (t, sums) in transposed.chunks_mut(PANEL_ROWS).take(tokens).enumerate() {
            let out = y.row_mut(part.tokens.start + t, rows.clone());
            product
                .sink
                .finish(rows.start, &mut sums[..rows.len()], out);
        }
    }
    Ok(())
}

/// Computes a part whose scales are the same along K.
fn run_part<X: Folded, S: Sink<X>>(
    product: &Product<'_, X, S>,
    kernel: Many<X>,
    xt: &[X],
    y: &mut Tile<'_, S::Out>,
    part: &Part,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    let strips = product.prepared.strips();
    let panel_acc = PANEL_ROWS * kernel.entry_bytes;
    let panel_sums = PANEL_ROWS * kernel.tokens;
    let Scratch {
        tables,
        acc,
        total,
        sums,
        staged,
        ..
    } = scratch;
    let mut buffers = Buffers::new(kernel, part.panels.len(), [tables, acc, total])?;
    // f32 totals run over all of K; int8 ones are emptied before they can overflow, which only
    // a very long K needs. The panels' sums then wait for its end.
    let waiting = strips > X::MOST_STRIPS;
    let kept = if waiting { part.panels.len() } else { 1 };
    let sums = reserve(sums, kept * panel_sums * size_of::<X::Acc>())?;
    let sums: &mut [X::Acc] = bytemuck::cast_slice_mut(sums);
    let staged: &mut [f32] = match product.sink.stages() {
        true => {
            let len = PANEL_ROWS * part.tokens.len() * size_of::<f32>();
            bytemuck::cast_slice_mut(reserve(staged, len)?)
        }
        false => &mut [],
    };

    for piece in groups(strips, X::MOST_STRIPS) {
        let (starts, ends) = (piece.start == 0, piece.end == strips);
        let chunks = (chunks(piece, kernel.chunk_strips), usize::MAX);
        let work = (product.view, part, None);
        run_chunks(kernel, work, xt, None, chunks, &mut buffers);
        for (i, panel) in part.panels.clone().enumerate() {
            let accs = (
                &buffers.acc[i * panel_acc..],
                &buffers.total[i * panel_acc..],
            );
            let sums = &mut sums[if waiting { i * panel_sums } else { 0 }..];
            let out = (&mut *sums, PANEL_ROWS);
            call::many_finish(kernel, part.tokens.len(), accs, out, !starts);
            if ends {
                emit_panel(&product.sink, part, panel, sums, staged, y);
            }
        }
    }
    Ok(())
}

/// Hands on a panel's sums over all of K.
fn emit_panel<X: Element, S: Sink<X>>(
    sink: &S,
    part: &Part,
    panel: usize,
    sums: &[X::Acc],
    staged: &mut [f32],
    y: &mut Tile<'_, S::Out>,
) {
    let row = panel * PANEL_ROWS;
    let row_end = part.row_end.min(row + PANEL_ROWS);
    let mut room = [0.0; PANEL_ROWS];
    let rows = row..row_end;
    let room = &mut room[..rows.len()];
    let scales = sink.scales(0, rows, room);
    // Their rows are far apart: the CPU sees no stream of writes.
    let next = part.row_end.min(row_end + PANEL_ROWS);
    for (t, sums) in sums.chunks(PANEL_ROWS).take(part.tokens.len()).enumerate() {
        let token = part.tokens.start + t;
        prefetch::output(y.row_mut(token, row_end..next));
        let place = Place {
            group: (0, 1),
            token: part.first_token + token,
            row,
        };
        let out = y.row_mut(token, row..row_end);
        let staged = part_of(staged, t * PANEL_ROWS, row_end - row);
        sink.emit(place, &sums[..row_end - row], scales, staged, out);
    }
}

/// Goes on with `job` by `count` of its units, which are chunks, or by none but those already
/// begun. Returns it if it goes on after that, else all is
/// done, and how many units it began.
pub(crate) fn run_job<'s, 'a, X: Folded, S: Sink<X>>(
    product: &Product<'_, X, S>,
    (choice, first_token): (usize, usize),
    (mut job, count): (Job<'s, 'a, S::Out>, usize),
    sums: &TileSums,
    scratch: &mut Scratch,
) -> Result<Outcome<'s, 'a, S::Out>, OutOfMemory> {
    let kernel = product.prepared.many(choice);
    let (_, tokens, rows) = job.place();
    let part = Part {
        tokens: tokens.clone(),
        first_token,
        panels: rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS),
        row_end: rows.end,
    };
    let xt = product.prepared.tile(choice, tokens.start / kernel.tokens);
    let panel_acc = PANEL_ROWS * kernel.entry_bytes;
    let Scratch {
        tables, acc, total, ..
    } = scratch;
    let mut buffers = Buffers::new(kernel, part.panels.len(), [tables, acc, total])?;

    let (strips, chunk) = (product.prepared.strips(), kernel.chunk_strips);
    let before = job.begun().len();
    let chunks = core::iter::from_fn(|| {
        let units = (count > 0).then(|| job.next_units(1))??;
        Some(units.start * chunk..strips.min(units.end * chunk))
    });
    let (work, chunks) = ((product.view, &part, None), (chunks, count.max(1)));
    let running = scratch.running.take();
    let mut running = run_chunks(kernel, work, xt, running, chunks, &mut buffers);
    if running.is_some() && !job.goes_on() {
        let none = (core::iter::empty(), 1);
        let work = (product.view, &part, None);
        running = run_chunks(kernel, work, xt, running, none, &mut buffers);
    }
    scratch.running = running;
    let done = job.begun().len() - before;
    if scratch.running.is_some() {
        return Ok((Some(job), done));
    }
    if job.begun().is_empty() {
        return Ok((None, 0));
    }
    let panel = |i: usize, sums: &mut [X::Acc], adds| {
        let accs = (
            &buffers.acc[i * panel_acc..],
            &buffers.total[i * panel_acc..],
        );
        call::many_finish(kernel, tokens.len(), accs, (sums, PANEL_ROWS), adds);
    };
    let sums = (sums, &mut scratch.sums);
    let tokens = [first_token, kernel.tokens];
    stretches::hand_in(&product.sink, job, tokens, sums, panel)?;
    Ok((None, done))
}

struct Buffers<'a> {
    tables: &'a mut [u8],
    acc: &'a mut [u8],
    total: &'a mut [u8],
}

impl<'a> Buffers<'a> {
    /// For a part of so many panels.
    fn new<X: Element>(
        kernel: Many<X>,
        panels: usize,
        [tables, acc, total]: [&'a mut Lines; 3],
    ) -> Result<Self, OutOfMemory> {
        let len = panels * PANEL_ROWS * kernel.entry_bytes;
        Ok(Self {
            tables: reserve(tables, kernel.tables_len(kernel.most_strips()))?,
            acc: reserve(acc, len)?,
            total: reserve(total, len)?,
        })
    }
}

/// The chunk that starts `start` strips into a matrix, one of `strips` or their end.
/// Blocks, from the first of them on, need not be whole chunks of `chunk_strips`: the last
/// chunk of a block may be shorter.
fn chunk(strips: &Range<usize>, chunk_strips: usize, start: usize) -> Range<usize> {
    let in_block = (start - strips.start) % BLOCK_STRIPS;
    let len = chunk_strips.min(BLOCK_STRIPS - in_block);
    start..strips.end.min(start + len)
}

/// The chunks of a piece.
fn chunks(strips: Range<usize>, chunk_strips: usize) -> impl Iterator<Item = Range<usize>> {
    let mut next = chunk(&strips, chunk_strips, strips.start);
    core::iter::from_fn(move || {
        let now = next.clone();
        next = chunk(&strips, chunk_strips, now.end);
        (!now.is_empty()).then_some(now)
    })
}

/// Sums over at most so many chunks of a part, which follow each other and those of `running`,
/// into the accumulators and totals, or at the end where the `scaling` says. Returns what is
/// still to be done.
fn run_chunks<X: Folded>(
    kernel: Many<X>,
    (view, part, mut scaling): (PanelView<'_>, &Part, Option<ManyScaling<'_>>),
    xt: &[X],
    running: Option<Running>,
    (mut chunks, count): (impl Iterator<Item = Range<usize>>, usize),
    buffers: &mut Buffers<'_>,
) -> Option<Running> {
    let tokens = part.tokens.len();
    let xt =
        |chunk: &Range<usize>| &xt[4 * chunk.start * kernel.tokens..4 * chunk.end * kernel.tokens];
    let (start, mut now, mut held, mut first, mut total) = match running {
        Some(r) => (r.start, r.now, X::taken_up(r.held), r.first, r.total),
        None => {
            let now = chunks.next()?;
            let held = X::start(&kernel, tokens, xt(&now));
            (now.start, now, held, true, Fold::Start)
        }
    };
    for _ in 0..count {
        let next = chunks.next();
        call::many_build(kernel, xt(&now), [now.len(), tokens], buffers.tables);
        let ends = X::folds_after(&mut held, now.end - start, next.as_ref().map_or(&[], xt));
        let call = ManyPart {
            view,
            panels: part.panels.clone(),
            start: now.start,
            strips: now.len(),
            tokens,
        };
        let accs = (&mut *buffers.acc, &mut *buffers.total);
        let scaling = scaling.take_if(|_| next.is_none());
        let fold = match (ends, scaling.is_some()) {
            (_, true) if total == Fold::Start => Fold::Scale,
            (_, true) => Fold::ScaleTotals,
            (true, false) => total,
            (false, false) => Fold::Keep,
        };
        let folds = (first, fold);
        call::many_run(kernel, &call, buffers.tables, accs, folds, scaling);
        // An int8 accumulator keeps its low part over a fold.
        first = ends && X::STARTS_ANEW;
        if ends {
            total = Fold::Add;
        }
        now = next?;
    }
    let held = X::put_by(held);
    Some(Running {
        start,
        now,
        held,
        first,
        total,
    })
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
            let cut: Vec<_> = chunks(strips.clone(), chunk_strips)
                .map(|c| c.end)
                .collect();
            assert_eq!(cut, ends, "{strips:?} by {chunk_strips}");
        }
    }
}
