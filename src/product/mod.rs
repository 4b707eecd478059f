//! The product: plan, prepare, run.
//!
//! | module | what it decides |
//! |---|---|
//! | [`prepare`] | which tokens take which lanes; activations laid out |
//! | [`tables`] | row-lane tables and who holds them |
//! | [`row`] | the loop over one tile with row lanes |
//! | [`column`] | the loop over one tile with column lanes |
//! | [`folds`] | when its accumulators are folded |
//! | [`transpose`] | the activations of a column tile, in its kernel's order |
//! | [`sink`] | what becomes of the sums: raw, scaled, biased |

pub(crate) mod few;
mod folds;
mod layout;
pub(crate) mod many;
pub(crate) mod prepare;
pub(crate) mod sink;
pub(crate) mod tables;

use crate::kernels::call::{Element, PanelView, Width};
use crate::kernels::contract::PANEL_ROWS;
use crate::kernels::memory::tiles::{MAX_TILES, TileGrid};
use crate::parallel_for::{Stopped, Team};
use crate::view::MatMut;
use crate::workspace::Slots;
use core::ops::Range;
use prepare::Prepared;
use sink::Sink;

/// Below this many MACs a product stays on the calling thread: about 15 us of
/// work, what sharing it would have to win back.
const SERIAL_MACS: usize = 1 << 21;

/// Work items for each worker, so that one that starts late holds up little.
const ITEMS_PER_WORKER: usize = 4;

/// The weights of a product.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) view: PanelView<'a>,
    /// M: rows that exist; the last panel may be partly padding.
    pub(crate) rows: usize,
    /// Bytes of one row: [`strips`] of K.
    pub(crate) row_bytes: usize,
    /// Bytes along K that share a scale; `row_bytes` or more for one segment.
    pub(crate) group_strips: usize,
}

impl Weights<'_> {
    /// The ranges of strips that are summed by themselves, in order.
    pub(crate) fn segments(self) -> impl ExactSizeIterator<Item = Range<usize>> {
        segments(self.row_bytes, self.group_strips)
    }
}

/// Strips that a row of `k` weights takes.
pub(crate) fn strips(k: usize) -> usize {
    k.div_ceil(4)
}

/// Cuts `row_bytes` strips into segments of `group_strips`; there is always one.
pub(crate) fn segments(
    row_bytes: usize,
    group_strips: usize,
) -> impl ExactSizeIterator<Item = Range<usize>> {
    let count = row_bytes.div_ceil(group_strips.max(1)).max(1);
    (0..count).map(move |i| {
        let start = i * group_strips;
        start..row_bytes.min(start.saturating_add(group_strips))
    })
}

/// Everything a work item reads.
pub(crate) struct Product<'a, X: Element, S> {
    pub(crate) weights: Weights<'a>,
    pub(crate) prepared: &'a Prepared<X>,
    pub(crate) sink: S,
}

/// Computes `y[n][m]` for all tokens and rows; fails if the caller's pool left
/// some of it out, or a worker has no memory.
pub(crate) fn run<X: Element, S: Sink<X>>(
    product: &Product<'_, X, S>,
    y: MatMut<'_, S::Out>,
    team: &Team,
    slots: &mut Slots,
) -> Result<(), Stopped> {
    let prepared = product.prepared;
    if prepared.k() == 0 {
        empty(&product.sink, y);
        return Ok(());
    }
    let macs = product
        .weights
        .rows
        .saturating_mul(prepared.k())
        .saturating_mul(y.rows());
    let workers = if macs < SERIAL_MACS {
        1
    } else {
        team.workers()
    };
    slots.grow(workers)?;
    let slots = &*slots;
    let (wide, rest) = y.split_at_row(prepared.tokens_of(Width::Wide));
    let (narrow, by_row) = rest.split_at_row(prepared.tokens_of(Width::Narrow));

    for (by_column, width) in [(wide, Width::Wide), (narrow, Width::Narrow)] {
        let lanes = X::column(prepared.backend(), width).lanes;
        let tile = column_tile([by_column.rows(), product.weights.rows], lanes, workers);
        let grid = grid(by_column, tile);
        team.for_each(workers, grid.len(), |i| {
            let Some(mut tile) = grid.claim(i) else {
                return Ok(false);
            };
            slots.with(team.worker(), |scratch| {
                many::run_tile(product, width, &mut tile, scratch)
            })?;
            Ok(true)
        })?;
    }

    let tile = row_tile([by_row.rows(), product.weights.rows], workers);
    let grid = self::grid(by_row, tile);
    team.for_each(workers, grid.len(), |i| {
        let Some(mut tile) = grid.claim(i) else {
            return Ok(false);
        };
        slots.with(team.worker(), |scratch| {
            few::run_tile(product, &mut tile, scratch)
        })?;
        Ok(true)
    })
}

/// A product with K = 0. No kernel runs: there are no panels then, and a matrix
/// or activations of any number of rows take no memory.
fn empty<X: Element, S: Sink<X>>(sink: &S, mut y: MatMut<'_, S::Out>) {
    if y.cols() > 0 {
        for token in 0..y.rows() {
            sink.empty(y.row_mut(token));
        }
    }
}

fn grid<T>(y: MatMut<'_, T>, [mut tile_tokens, mut tile_rows]: [usize; 2]) -> TileGrid<'_, T> {
    let (shape, stride) = ([y.rows(), y.cols()], y.stride());
    while shape[0]
        .div_ceil(tile_tokens)
        .saturating_mul(shape[1].div_ceil(tile_rows))
        > MAX_TILES
    {
        if shape[0] > tile_tokens {
            tile_tokens = tile_tokens.saturating_mul(2);
        } else {
            tile_rows = tile_rows.saturating_mul(2);
        }
    }
    TileGrid::new(y.into_data(), shape, stride, [tile_tokens, tile_rows])
}

/// Column lanes split tokens first: each token tile builds its tables once,
/// and a split of the rows would build them again.
fn column_tile([tokens, rows]: [usize; 2], lanes: usize, workers: usize) -> [usize; 2] {
    let tiles = tokens.div_ceil(lanes);
    if workers <= 1 || tiles == 0 {
        return [tokens.max(1), rows.max(1)];
    }
    if tiles >= 2 * workers {
        return [
            tiles.div_ceil(ITEMS_PER_WORKER * workers).max(1) * lanes,
            rows.max(1),
        ];
    }
    let parts = column_parts(tiles, workers);
    [lanes, panel_rows(rows, parts)]
}

/// Parts along the rows that `tiles` tiles are cut into for `workers`: few, as
/// each builds the tables again, but such that the workers end together.
fn column_parts(tiles: usize, workers: usize) -> usize {
    /// Time of a tile's tables over that of a tile of 4096 rows without them, as
    /// measured with the column lanes.
    const TABLES: f64 = 1.0 / 8.0;
    let time = |parts: usize| {
        let rounds = (tiles * parts).div_ceil(workers);
        rounds as f64 * (TABLES + 1.0 / parts as f64)
    };
    let fastest = (1..=workers).min_by(|&a, &b| time(a).total_cmp(&time(b)));
    fastest.unwrap_or(1)
}

/// Row lanes split rows: all tokens pass over the panels of a tile.
fn row_tile([tokens, rows]: [usize; 2], workers: usize) -> [usize; 2] {
    let parts = if workers <= 1 {
        1
    } else {
        ITEMS_PER_WORKER * workers
    };
    [tokens.max(1), panel_rows(rows, parts)]
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

    /// No worker idles, and none builds tables more often than that takes.
    #[test]
    fn few_column_tiles_are_cut_for_the_workers() {
        for (tiles, workers, parts) in [(1, 2, 2), (2, 2, 1), (3, 2, 2), (1, 16, 16), (2, 16, 8)] {
            assert_eq!(column_parts(tiles, workers), parts, "{tiles}, {workers}");
        }
    }

    /// Tiles grow, tokens first, until a grid can hold them: a pool may have
    /// more threads than there are claims.
    #[test]
    fn a_grid_never_has_too_many_tiles() {
        for shape in [[5000, 2], [3, 5000], [90, 91], [1, 1]] {
            let mut y = vec![0_u8; shape[0] * shape[1]];
            let view = MatMut::new(&mut y, shape[0], shape[1]).expect("dense");
            let grid = grid(view, [1, 1]);
            assert!((1..=MAX_TILES).contains(&grid.len()), "{shape:?}");
            for tile in 0..grid.len() {
                let mut tile = grid.claim(tile).expect("not claimed yet");
                for row in tile.rows() {
                    tile.row_mut(row, tile.cols())
                        .iter_mut()
                        .for_each(|v| *v += 1);
                }
            }
            assert!(y.iter().all(|&v| v == 1), "{shape:?}");
        }
    }
}
