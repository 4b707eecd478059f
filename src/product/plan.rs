//! Policy: when a product does what.
//!
//! | question | answer |
//! |---|---|
//! | which tokens go to which kernel | [`split`], by the backend's row of the registry |
//! | does one token's kernel expect weights from memory | [`expects_memory`] |
//! | is a product shared among workers, and how is it cut | [`workers`], [`many_tile`], [`few_tile`] |
//! | how is K cut | [`pieces`], [`table_units`] |
//! | how much of a cache does what may take | the budgets |
//!
//! What depends on the CPU stands in the registry, `kernels/registry.rs`, and here only in
//! the sizes of its caches.

use crate::kernels::contract::{
    BLOCK_STRIPS, FewKernel, FewTile, ManyKernel, PANEL_ROWS, Runnable,
};
use crate::kernels::element::Element;
use crate::kernels::memory::tile_set::Division;
use crate::kernels::memory::tiles::MAX_TILES;
use crate::options::Family;
use crate::product::caches::l2;
use crate::threads::Threads;
use core::ops::Range;

/// Below this many MACs a product stays on the calling thread: about 15 us of
/// work, what sharing it would have to win back.
const SERIAL_MACS: usize = 1 << 21;
/// The same where the other threads spin: about 5 us of work. f32 takes twice as long as int8.
const fn serial_macs_spinning<X>() -> usize {
    SERIAL_MACS / 3 / if size_of::<X>() > 1 { 2 } else { 1 }
}
/// Work items for each worker, so that one that starts late holds up little.
const ITEMS_PER_WORKER: usize = 4;
/// Turns of a worker at most where workers take turns at tiles.
const TURNS_PER_WORKER: usize = 16;
/// Multiply-adds of a turn at least: beside them what a turn costs is little.
const TURN_MACS: usize = 1 << 18;
/// Bytes of activations below which they are laid out on the calling thread.
const SERIAL_LAYOUT: usize = 1 << 16;
/// Bytes of panels below which a matrix is packed on the calling thread.
const SERIAL_PACKING: usize = 1 << 20;
/// Bytes of tables for few tokens up to which each worker builds its own: a line that
/// another core has just written is slow to fetch.
const OWN_TABLES: usize = 4 << 20;
/// Bytes of a tile's activations that are laid out in turn: they stay in L1. With 2 KiB,
/// which read single lines of int8 tokens, products of 512 tokens took 4 % longer.
pub(crate) const LAYOUT_SPAN: usize = 16 << 10;

/// Strips that a row of `k` weights takes.
pub(crate) fn strips(k: usize) -> usize {
    k.div_ceil(4)
}

/// Which tokens take which kernels for many tokens; those after them take the kernel for
/// few.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Split {
    /// The first tokens, in tiles of the first kernel of the list.
    pub(crate) whole: usize,
    /// The tokens after them, in one tile of the kernel of this number in the list.
    pub(crate) left: (usize, usize),
}

impl Split {
    /// Tokens that kernels for many tokens take.
    pub(crate) fn many(&self) -> usize {
        self.whole + self.left.1
    }

    /// The numbers of kernels in the list, and which tokens each takes.
    pub(crate) fn parts(&self) -> [(usize, Range<usize>); 2] {
        [(0, 0..self.whole), (self.left.0, self.whole..self.many())]
    }
}

/// Tokens fill whole tiles of the first kernel in the list. What is left over takes a
/// padded tile of the first one that it is enough for, and what exceeds that tile is few.
pub(crate) fn split<X: Element>(kernels: Runnable, family: Family, tokens: usize) -> Split {
    let choices = X::many(kernels.set());
    let rest = tokens % choices[0].kernel.tokens;
    let choice = match family {
        Family::Few => return Split::default(),
        Family::Auto => choices
            .iter()
            .position(|choice| rest >= choice.least_tokens),
        // The smallest tile that holds them.
        Family::Many => choices
            .iter()
            .rposition(|choice| rest <= choice.kernel.tokens),
    };
    match choice {
        Some(0) => Split {
            whole: tokens,
            left: (0, 0),
        },
        Some(choice) => Split {
            whole: tokens - rest,
            left: (choice, rest.min(choices[choice].kernel.tokens)),
        },
        None => Split {
            whole: tokens - rest,
            left: (0, 0),
        },
    }
}

/// Whether the kernel for few tokens is to expect its weights from memory: for one token
/// alone, as a second one finds them in the cache.
pub(crate) fn expects_memory(weights_in_cache: bool, few_tokens: usize) -> bool {
    !weights_in_cache && few_tokens == 1
}

/// Strips of a chunk of a kernel for many tokens: a part of a unit more where a group is one
/// chunk then.
pub(crate) fn chunk_strips<X, Acc>(kernel: &ManyKernel<X, Acc>, group_strips: usize) -> usize {
    match group_strips <= kernel.most_strips() {
        true => group_strips.max(kernel.chunk_strips),
        false => kernel.chunk_strips,
    }
}

/// Cuts `strips` strips into groups of `group_strips`; there is always one.
pub(crate) fn groups(
    strips: usize,
    group_strips: usize,
) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    let count = strips.div_ceil(group_strips.max(1)).max(1);
    (0..count).map(move |i| {
        let start = i * group_strips;
        start..strips.min(start.saturating_add(group_strips))
    })
}

/// Table units along K between two passes of several tokens over the panels: their tables
/// stay in L2, and blocks of the canonical order whole. One token passes once.
pub(crate) fn table_units<X, Acc>(kernel: &FewKernel<X, Acc>, tokens: usize) -> usize {
    let block = BLOCK_STRIPS / kernel.unit_strips;
    let wanted = if tokens == 1 {
        usize::MAX
    } else {
        table_budget() / (kernel.table_bytes * tokens)
    };
    let units = wanted.max(block);
    units - units % block
}

/// Groups of so many strips along K between two passes of several tokens over the panels.
pub(crate) fn table_groups<X, Acc>(
    kernel: &FewKernel<X, Acc>,
    tokens: usize,
    group_strips: usize,
) -> usize {
    // A group may start and end within a unit.
    let units = group_strips.div_ceil(kernel.unit_strips) + 1;
    (table_units(kernel, tokens) / units).max(1)
}

/// Bytes of tables for few tokens that are used between two passes over the panels: half
/// of L2, beside the panels that pass through it.
fn table_budget() -> usize {
    l2() / 2
}

/// Panels whose sums for few tokens stay in an eighth of L2, when each panel's take so
/// many bytes: a multiple of four, the largest tile.
pub(crate) fn panels_of_sums(panel_bytes: usize) -> usize {
    (l2() / 8 / panel_bytes).max(4) & !3
}

/// Panels in each of the fewest equal parts whose accumulators and totals for many tokens
/// stay in half of L2, beside a chunk's tables.
pub(crate) fn panels_of_accumulators(panels: usize, entry_bytes: usize) -> usize {
    let most = l2() / 2 / (2 * PANEL_ROWS * entry_bytes);
    panels.div_ceil(panels.div_ceil(most).max(1)).max(1)
}

/// Whether tables for few tokens of so many bytes are built once for all workers, since
/// one of its own for each would take much memory.
pub(crate) fn shares_tables(bytes: usize) -> bool {
    bytes > OWN_TABLES
}

/// Multiply-adds of a product of `[tokens, rows, k]`.
pub(crate) fn macs([tokens, rows, k]: [usize; 3]) -> usize {
    rows.saturating_mul(k).saturating_mul(tokens)
}

/// Workers of so many multiply-adds of activations `X`.
pub(crate) fn workers<X>(threads: &Threads, macs: usize) -> usize {
    let least = match threads.spin() {
        true => serial_macs_spinning::<X>(),
        false => SERIAL_MACS,
    };
    if macs < least { 1 } else { threads.workers() }
}

/// Workers that lay out so many bytes of activations.
pub(crate) fn layout_workers(threads: &Threads, bytes: usize) -> usize {
    if bytes < SERIAL_LAYOUT {
        1
    } else {
        threads.workers()
    }
}

/// Items of equal work, tokens or tiles of them, that one work item of `workers` takes.
pub(crate) fn per_item(items: usize, workers: usize) -> usize {
    items.div_ceil(MAX_TILES.min(64 * workers)).max(1)
}

/// Workers that pack panels of so many bytes, and the panels of one work item.
pub(crate) fn packing(threads: &Threads, bytes: usize, panels: usize) -> (usize, usize) {
    let workers = if bytes < SERIAL_PACKING {
        1
    } else {
        threads.workers()
    };
    let items = if workers > 1 {
        MAX_TILES.min(8 * workers)
    } else {
        1
    };
    (workers, panels.div_ceil(items))
}

/// Turns of `workers` in a loop of so many multiply-adds whose tiles are divided.
pub(crate) fn turns(workers: usize, macs: usize) -> usize {
    (macs / TURN_MACS).clamp(workers, TURNS_PER_WORKER * workers)
}

/// Multiply-adds of a turn when `left` of `macs` are: a sixth of a worker's part, so that one
/// that is slow or late holds up little; towards the end half of its part of what is left, so
/// that all end together.
pub(crate) fn turn(workers: usize, macs: usize, left: usize) -> usize {
    let least = (macs / turns(workers, macs)).max(1);
    (left / (2 * workers)).min(macs / (6 * workers)).max(least)
}

/// The workers that share a loop, and the part of its work that one product is, above 0
/// and at most 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) workers: usize,
    pub(crate) part: f64,
    /// Workers may share a tile along K.
    pub(crate) splits_k: bool,
}

impl Share {
    /// Work items of the product: [`ITEMS_PER_WORKER`] for each worker that it would have
    /// by its part.
    fn items(self) -> usize {
        let items = (ITEMS_PER_WORKER * self.workers) as f64 * self.part;
        (items.ceil() as usize).max(1)
    }

    /// How a tile is cut so that each of the workers has an item, where there are `tiles`
    /// tiles: parts of its rows, and of K. Either costs about as much: rows' parts build
    /// tables again, and K's add up sums.
    fn cuts(self, tiles: usize) -> [usize; 2] {
        let items = (self.workers as f64 * self.part / tiles as f64).ceil() as usize;
        let of_k = items.isqrt().max(1);
        [items.div_ceil(of_k).max(1), of_k]
    }
}

/// Workers up to which products of few tokens are shared by rows alone: each builds all tables,
/// which with more of them takes longer than adding up sums.
const FEW_WORKERS: usize = 2;
/// Parts that K is cut into where workers share tiles of few tokens, or some more: a worker
/// builds the tables of one at a time.
const K_PARTS: usize = 8;
/// Parts at most, whose tables are told apart.
const MOST_K_PARTS: usize = 32;

/// Panels of a unit of work on few tokens: those of the kernel's largest tile.
pub(crate) fn few_unit_panels<X, Acc>(kernel: &FewKernel<X, Acc>, tokens: usize) -> usize {
    let fits = |tile: &&FewTile<Acc>| tile.tokens <= tokens.max(1);
    kernel.tiles.iter().find(fits).map_or(1, |tile| tile.panels)
}

/// The part of a tile for many tokens that a job has left at least when half of that is taken:
/// adding up the sums of one more job takes some 5 % of the tile's time.
const SHARED_PART: usize = 8;

/// Parts `parts` of the `count` that `len` is cut into.
pub(crate) fn part(len: usize, parts: Range<usize>, count: usize) -> Range<usize> {
    len * parts.start / count..len * parts.end / count
}

/// The tile of `[tokens, rows]` for many tokens, and how its work is divided. Tokens are cut
/// first: each tile of tokens builds its tables once, and a cut of the rows would build them
/// again.
pub(crate) fn many_tile<X, Acc>(
    [tokens, rows]: [usize; 2],
    kernel: &ManyKernel<X, Acc>,
    strips: usize,
    share: Share,
) -> ([usize; 2], Division) {
    let whole = Division::WHOLE;
    let tiles = tokens.div_ceil(kernel.tokens);
    if share.workers <= 1 || tiles == 0 {
        return ([tokens.max(1), rows.max(1)], whole);
    }
    if share.splits_k {
        let [row_parts, jobs] = share.cuts(tiles);
        let panels = rows.div_ceil(PANEL_ROWS).max(1);
        let most = panels_of_accumulators(panels, kernel.entry_bytes);
        let rows = panel_rows(rows, row_parts).min(most * PANEL_ROWS);
        let units = strips.div_ceil(kernel.chunk_strips);
        let division = Division {
            units,
            across: 1,
            jobs: jobs.min(units),
            least_shared: units.div_ceil(SHARED_PART),
        };
        return ([kernel.tokens, rows], division);
    }
    // As many tiles as if the whole loop were products like this one.
    let alike = (tiles as f64 / share.part).round() as usize;
    if alike >= 2 * share.workers {
        // Rounded down: items of several products would not be alike otherwise.
        let per_item = (tiles / share.items()).max(1);
        return ([per_item * kernel.tokens, rows.max(1)], whole);
    }
    let rows = panel_rows(rows, row_parts(alike, share.workers));
    ([kernel.tokens, rows], whole)
}

/// Parts along the rows that `tiles` tiles are cut into for `workers`: few, as
/// each builds the tables again, but such that the workers end together.
fn row_parts(tiles: usize, workers: usize) -> usize {
    /// Time of a tile's tables over that of a tile of 4096 rows without them, as
    /// measured.
    const TABLES: f64 = 1.0 / 8.0;
    let time = |parts: usize| {
        let rounds = (tiles * parts).div_ceil(workers);
        rounds as f64 * (TABLES + 1.0 / parts as f64)
    };
    let fastest = (1..=workers).min_by(|&a, &b| time(a).total_cmp(&time(b)));
    fastest.unwrap_or(1)
}

/// The tile of `[tokens, rows]` for few tokens, all of which pass over its panels, and how its
/// work is divided.
pub(crate) fn few_tile<X, Acc>(
    [tokens, rows]: [usize; 2],
    kernel: &FewKernel<X, Acc>,
    strips: usize,
    share: Share,
) -> ([usize; 2], Division) {
    let most_parts = MOST_K_PARTS.min(strips / kernel.unit_strips);
    if share.splits_k && share.workers > FEW_WORKERS && most_parts > 1 {
        let [row_parts, of_k] = share.cuts(1);
        let panel_bytes = PANEL_ROWS * size_of::<Acc>() * tokens.max(1);
        let most = panels_of_sums(panel_bytes) * PANEL_ROWS;
        let tile_rows = panel_rows(rows, row_parts).min(most);
        let width = few_unit_panels(kernel, tokens);
        let across = tile_rows.div_ceil(PANEL_ROWS).div_ceil(width);
        let jobs = of_k.min(most_parts);
        let k_parts = jobs * K_PARTS.div_ceil(jobs);
        let division = Division {
            units: k_parts.min(most_parts) * across,
            across,
            jobs,
            least_shared: 2,
        };
        return ([tokens.max(1), tile_rows], division);
    }
    ([tokens.max(1), few_rows(rows, share)], Division::WHOLE)
}

/// Rows of a work item of few tokens. A product that is alone in its loop has items of so many
/// panels, between half of a worker's share and all, that workers who take one after the other
/// end soonest; among others, whose items fill what it leaves, it has the longest. Beyond 4 they
/// are a multiple of it, which is what a kernel's tile has.
fn few_rows(rows: usize, share: Share) -> usize {
    let parts = if share.workers <= 1 { 1 } else { share.items() };
    let longest = panel_rows(rows, parts);
    let (panels, most) = (rows.div_ceil(PANEL_ROWS), longest / PANEL_ROWS);
    if parts == 1 || most <= 4 || share.part < 1.0 {
        return longest;
    }
    let time = |item: &usize| panels.div_ceil(*item).div_ceil(share.workers) * item;
    // Of several the largest, which has the longest streams.
    let items = (most / 8..=most / 4).rev().map(|fours| 4 * fours);
    items.min_by_key(time).unwrap_or(most) * PANEL_ROWS
}

/// Rows of each of `parts` parts, in multiples of 4 panels where that leaves
/// enough parts.
fn panel_rows(rows: usize, parts: usize) -> usize {
    let panels = rows.div_ceil(PANEL_ROWS).div_ceil(parts).max(1);
    let panels = if panels > 4 {
        panels.next_multiple_of(4)
    } else {
        panels
    };
    panels * PANEL_ROWS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Backend;

    /// No worker idles, and none builds tables more often than that takes.
    #[test]
    fn few_tiles_of_many_tokens_are_cut_for_the_workers() {
        for (tiles, workers, parts) in [(1, 2, 2), (2, 2, 1), (3, 2, 2), (1, 16, 16), (2, 16, 8)] {
            assert_eq!(row_parts(tiles, workers), parts, "{tiles}, {workers}");
        }
    }

    /// Items are whole tiles of 4 panels, and workers end together where they can.
    #[test]
    fn few_tokens_are_cut_for_the_workers() {
        for (panels, workers, part, item) in [
            (40, 2, 1.0, 4),
            (54, 2, 1.0, 4),
            (64, 2, 1.0, 8),
            (108, 2, 1.0, 8),
            (172, 2, 1.0, 24),
            (40, 2, 0.5, 12),
            (108, 2, 0.5, 28),
            (40, 4, 1.0, 3),
            (42, 1, 1.0, 44),
            (0, 2, 1.0, 1),
        ] {
            let share = Share {
                workers,
                part,
                splits_k: false,
            };
            let rows = few_rows(panels * PANEL_ROWS, share);
            assert_eq!(rows, item * PANEL_ROWS, "{panels} by {workers}, {part}");
        }
    }

    #[test]
    fn groups_cover_the_strips() {
        for (strips, group) in [(61, usize::MAX), (61, 16), (61, 7), (64, 16), (3, 2)] {
            let mut end = 0;
            for range in groups(strips, group) {
                assert_eq!(range.start, end, "{strips} {group}");
                assert!((1..=group).contains(&range.len()));
                assert!(range.len() == group || range.end == strips);
                end = range.end;
            }
            assert_eq!(end, strips);
        }
        assert_eq!(groups(0, usize::MAX).len(), 1);
    }

    /// Every token is computed once, whatever the family and the row.
    #[test]
    fn a_split_takes_each_token_once() {
        for backend in Backend::available() {
            let choices = <i8 as Element>::many(backend.runnable().set());
            for tokens in 0..=100 {
                let auto = split::<i8>(backend.runnable(), Family::Auto, tokens);
                let many = split::<i8>(backend.runnable(), Family::Many, tokens);
                assert_eq!(
                    split::<i8>(backend.runnable(), Family::Few, tokens).many(),
                    0
                );
                assert_eq!(many.many(), tokens);
                assert!(auto.many() <= tokens);
                for split in [auto, many] {
                    let [(first, whole), (_, left)] = split.parts();
                    assert_eq!((first, whole.start, whole.end), (0, 0, left.start));
                    assert!(left.len() <= choices[split.left.0].kernel.tokens);
                }
                let rest = tokens - auto.many();
                assert!(
                    rest < choices[0].least_tokens,
                    "{tokens} on {}",
                    backend.name()
                );
            }
        }
    }

    /// One token reads weights from memory unless told otherwise; several find them in
    /// the cache.
    #[test]
    fn one_token_expects_memory() {
        assert!(expects_memory(false, 1));
        assert!(!expects_memory(true, 1) && !expects_memory(false, 2));
    }
}
