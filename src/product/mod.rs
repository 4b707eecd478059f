//! The product: plan, prepare, run.
//!
//! | module | what it holds |
//! |---|---|
//! | [`plan`] | policy: which kernel, how K and the output are cut, what fits which cache |
//! | [`prepare`] | activations made ready: laid out for each kernel |
//! | [`layout`] | the activations of a tile of many tokens, in its kernel's order |
//! | [`tables`] | tables for few tokens, and who keeps them |
//! | [`operands`] | everything that a work item reads |
//! | [`few`] | the loop over one tile for few tokens |
//! | [`many`] | the loop over one tile for many tokens |
//! | [`folds`] | when its accumulators are folded |
//! | [`sink`] | what becomes of the sums: raw, scaled, biased |
//! | [`scratch`] | the memory that workers reuse |
//! | [`caches`] | the sizes of the CPU's caches |

mod caches;
mod few;
pub(crate) mod folds;
mod layout;
mod many;
pub(crate) mod operands;
pub(crate) mod plan;
pub(crate) mod prepare;
pub(crate) mod scratch;
pub(crate) mod sink;
mod tables;

use crate::kernels::memory::tiles::{MAX_TILES, Tile, TileGrid};
use crate::memory::OutOfMemory;
use crate::product::folds::Folded;
use crate::product::operands::Product;
use crate::product::scratch::{Scratch, Slots};
use crate::product::sink::Sink;
use crate::threads::{Stopped, Threads};
use crate::view::MatMut;

/// Computes `y[n][m]` for all tokens and rows; fails if the caller's pool left
/// some of it out, or a worker has no memory.
pub(crate) fn run<X: Folded, S: Sink<X>>(
    product: &Product<'_, X, S>,
    y: MatMut<'_, S::Out>,
    threads: &Threads,
    slots: &mut Slots,
) -> Result<(), Stopped> {
    let prepared = product.prepared;
    if prepared.k() == 0 {
        empty(&product.sink, y);
        return Ok(());
    }
    let workers = plan::workers(threads, [y.rows(), product.rows, prepared.k()]);
    slots.grow(workers)?;
    let shared = (threads, workers, &*slots);
    let mut rest = y;
    for (choice, tokens) in prepared.split().parts() {
        let (y, after) = rest.split_at_row(tokens.len());
        rest = after;
        let shape = [tokens.len(), product.rows];
        let tile = plan::many_tile(shape, prepared.many(choice).tokens, workers);
        share(y, tile, shared, |tile, scratch| {
            many::run_tile(product, (choice, tokens.start), tile, scratch)
        })?;
    }
    let tile = plan::few_tile([rest.rows(), product.rows], workers);
    share(rest, tile, shared, |tile, scratch| {
        few::run_tile(product, tile, scratch)
    })
}

/// Runs `work` for each tile of `y`, by all workers.
fn share<T: Send>(
    y: MatMut<'_, T>,
    tile: [usize; 2],
    (threads, workers, slots): (&Threads, usize, &Slots),
    work: impl Fn(&mut Tile<'_, T>, &mut Scratch) -> Result<(), OutOfMemory> + Sync,
) -> Result<(), Stopped> {
    let grid = grid(y, tile);
    threads.for_each(workers, grid.len(), |i| {
        let Some(mut tile) = grid.claim(i) else {
            return Ok(false);
        };
        slots.with(threads.worker(), |scratch| work(&mut tile, scratch))?;
        Ok(true)
    })
}

/// A product with K = 0. No kernel runs: there are no panels then, and a matrix
/// or activations of any number of rows take no memory.
fn empty<X: Folded, S: Sink<X>>(sink: &S, mut y: MatMut<'_, S::Out>) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
