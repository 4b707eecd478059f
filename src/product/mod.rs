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
//! | [`scales`] | the scales of a layer, in the order that outputs take them |
//! | [`scratch`] | the memory that workers reuse |
//! | [`caches`] | the sizes of the CPU's caches |

mod caches;
mod few;
pub(crate) mod folds;
pub(crate) mod layout;
mod many;
pub(crate) mod operands;
pub(crate) mod plan;
pub(crate) mod prepare;
pub(crate) mod scales;
pub(crate) mod scratch;
pub(crate) mod sink;
mod tables;

use crate::kernels::memory::tiles::{MAX_TILES, TileSet, TileStore};
use crate::memory::OutOfMemory;
use crate::product::folds::Folded;
use crate::product::operands::Product;
use crate::product::plan::Share;
use crate::product::scratch::Slots;
use crate::product::sink::Sink;
use crate::threads::{Stopped, Threads};
use crate::view::MatMut;

/// What products run in.
pub(crate) struct Room<'a> {
    pub(crate) threads: &'a Threads,
    pub(crate) slots: &'a mut Slots,
    pub(crate) tiles: &'a mut TileStore,
}

/// Computes `y[n][m]` of all tokens and rows of products, which have one K, in one loop. Fails
/// if the caller's pool left some of it out, or a worker has no memory.
pub(crate) fn run<'a, 'y, X: Folded, S: Sink<X>>(
    product: impl Fn(usize) -> Product<'a, X, S> + Sync,
    ys: impl ExactSizeIterator<Item = MatMut<'y, S::Out>>,
    room: Room<'_>,
) -> Result<(), Stopped>
where
    S::Out: 'y,
{
    let macs = |p: &Product<'a, X, S>| plan::macs([p.prepared.tokens(), p.rows, p.prepared.k()]);
    let all_macs = (0..ys.len()).fold(0_usize, |sum, i| sum.saturating_add(macs(&product(i))));
    let workers = plan::workers(room.threads, all_macs);
    room.slots.grow(workers)?;
    let slots = &*room.slots;
    let mut tiles = TileSet::new(room.tiles);
    for (i, y) in ys.enumerate() {
        let product = product(i);
        let prepared = product.prepared;
        if prepared.k() == 0 {
            empty(&product.sink, y);
            continue;
        }
        let part = macs(&product) as f64 / all_macs as f64;
        let share = Share { workers, part };
        let mut rest = y;
        for (choice, tokens) in prepared.split().parts() {
            let (y, after) = rest.split_at_row(tokens.len());
            rest = after;
            let shape = [tokens.len(), product.rows];
            let tile = plan::many_tile(shape, prepared.many(choice).tokens, share);
            push(&mut tiles, y, tile)?;
        }
        let tile = plan::few_tile([rest.rows(), product.rows], share);
        push(&mut tiles, rest, tile)?;
    }
    room.threads.for_each(workers, tiles.len(), |item| {
        // Three matrices of tiles a product: of two kernels for many tokens, and of few.
        let Some((matrix, mut tile)) = tiles.claim(item) else {
            return Ok(false);
        };
        let product = product(matrix / 3);
        let parts = product.prepared.split().parts();
        slots.with(room.threads.worker(), |scratch| {
            match parts.get(matrix % 3) {
                Some(&(choice, ref tokens)) => {
                    many::run_tile(&product, (choice, tokens.start), &mut tile, scratch)
                }
                None => few::run_tile(&product, &mut tile, scratch),
            }
        })?;
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

/// Adds `y` to the set, in larger tiles where there would be too many.
fn push<'y, T>(
    tiles: &mut TileSet<'y, T>,
    y: MatMut<'y, T>,
    tile: [usize; 2],
) -> Result<(), OutOfMemory> {
    let (shape, stride) = ([y.rows(), y.cols()], y.stride());
    let tile = fewer_tiles(shape, tile);
    let pushed = tiles.push(y.into_data(), shape, stride, tile);
    pushed.map_err(|_| OutOfMemory {
        bytes: MAX_TILES / 8,
    })
}

/// The tile grows, tokens first, until a matrix has no more than [`MAX_TILES`].
fn fewer_tiles(shape: [usize; 2], [mut tile_tokens, mut tile_rows]: [usize; 2]) -> [usize; 2] {
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
    [tile_tokens, tile_rows]
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
            let mut store = TileStore::default();
            let mut tiles = TileSet::new(&mut store);
            push(&mut tiles, view, [1, 1]).expect("little memory");
            assert!((1..=MAX_TILES).contains(&tiles.len()), "{shape:?}");
            for tile in 0..tiles.len() {
                let (_, mut tile) = tiles.claim(tile).expect("not claimed yet");
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
