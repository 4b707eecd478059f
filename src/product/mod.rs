//! The product: plan, prepare, run.
//!
//! | module | what it holds |
//! |---|---|
//! | [`plan`] | policy: which kernel, how K and the output are cut, what fits which cache |
//! | [`prepare`] | activations made ready: laid out for each kernel |
//! | [`layout`] | the activations of a tile of many tokens, in its kernel's order |
//! | [`tables`] | tables for few tokens, and who keeps them |
//! | [`compiled`] | the loop, compiled for each type of output |
//! | [`operands`] | everything that a work item reads |
//! | [`few`] | the loop over one tile for few tokens |
//! | [`many`] | the loop over one tile for many tokens |
//! | [`stretches`] | several workers on one tile, each over a part of K |
//! | [`folds`] | when its accumulators are folded |
//! | [`sink`] | what becomes of the sums: raw, scaled, biased |
//! | [`scales`] | the scales of a layer, in the order that outputs take them |
//! | [`scratch`] | the memory that workers reuse |
//! | [`caches`] | the sizes of the CPU's caches |

mod caches;
pub(crate) mod compiled;
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
pub(crate) mod stretches;
mod tables;

use crate::kernels::memory::tile_set::{Division, Job, NoRoom, TileSet, TileStore, Turn};
use crate::kernels::memory::tiles::MAX_TILES;
use crate::memory::OutOfMemory;
use crate::product::folds::Folded;
use crate::product::operands::Product;
use crate::product::plan::Share;
use crate::product::prepare::Prepared;
use crate::product::scratch::{Scratch, Slots};
use crate::product::sink::Sink;
use crate::product::stretches::TileSums;
use crate::threads::{Stopped, Threads};
use crate::view::MatMut;
use core::sync::atomic::{AtomicUsize, Ordering};

/// What products run in.
pub struct Room<'a> {
    pub(crate) threads: &'a Threads,
    pub(crate) slots: &'a mut Slots,
    pub(crate) tiles: &'a mut TileStore,
    pub(crate) sums: &'a mut TileSums,
}

/// Products by their numbers.
pub(crate) type Products<'p, P> = &'p (dyn Fn(usize) -> P + Sync);

/// The output of each.
pub(crate) type Outputs<'p, 'y, T> = &'p mut dyn ExactSizeIterator<Item = MatMut<'y, T>>;

/// [`run`], compiled.
pub(crate) type Run<P, T> =
    fn(Products<'_, P>, Outputs<'_, '_, T>, Room<'_>) -> Result<(), Stopped>;

/// Computes `y[n][m]` of all tokens and rows of products, which have one K, in one loop. Fails
/// if the caller's pool left some of it out, or a worker has no memory.
fn run<X: Folded, S: Sink<X>>(
    product: Products<'_, Product<'_, X, S>>,
    ys: Outputs<'_, '_, S::Out>,
    room: Room<'_>,
) -> Result<(), Stopped> {
    let macs = |p: &Product<'_, X, S>| plan::macs([p.prepared.tokens(), p.rows, p.prepared.k()]);
    let all_macs = (0..ys.len()).fold(0_usize, |sum, i| sum.saturating_add(macs(&product(i))));
    let workers = plan::workers::<X>(room.threads, all_macs);
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
        let share = Share {
            workers,
            part,
            splits_k: workers > 1 && splits_k(prepared),
        };
        let mut rest = y;
        for (choice, tokens) in prepared.split().parts() {
            let (y, after) = rest.split_at_row(tokens.len());
            rest = after;
            let shape = [tokens.len(), product.rows];
            let kernel = prepared.many(choice);
            let tile = plan::many_tile(shape, &kernel, prepared.strips(), share);
            push(&mut tiles, y, tile)?;
        }
        let shape = [rest.rows(), product.rows];
        let tile = plan::few_tile(shape, &product.few, prepared.strips(), share);
        push(&mut tiles, rest, tile)?;
    }
    // Where tiles are divided a worker has more turns than its part of the work takes, so that
    // somebody has one left when another is late.
    let (turns, more) = match tiles.divides() {
        true => (plan::turns(workers, all_macs), workers),
        false => (tiles.jobs(), 0),
    };
    // The last one is the caller's own.
    tiles.set_turns(turns + more + 1).map_err(no_tiles)?;
    if tiles.divides() {
        room.sums.start(tiles.tiles())?;
    }
    let work = Work {
        product,
        tiles: &tiles,
        sums: room.sums,
    };
    let left = &Left(AtomicUsize::new(all_macs)).0;
    room.threads.for_each(workers, turns + more, |number| {
        // A pool may ask for more than there are, and the last turn is not for it.
        let exists = number < turns + more;
        let Some(mut turn) = exists.then(|| tiles.turn(number)).flatten() else {
            return Ok(false);
        };
        let took_all = slots.with(room.threads.worker(), |scratch, is_kept| {
            // Relaxed: a guide to the length of turns.
            let macs = plan::turn(workers, all_macs, left.load(Ordering::Relaxed));
            let done = work.turn(&mut turn, macs, scratch)?;
            let less = |left: usize| Some(left.saturating_sub(done));
            let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            if !is_kept {
                work.resume(scratch, 0)?;
            }
            Ok(done >= macs)
        })?;
        if !took_all && more > 0 {
            slots.first_free(|scratch| work.finish(scratch))?;
        }
        Ok(true)
    })?;
    if more > 0 {
        // What nobody was left to do, if anything.
        let mut last = tiles.turn(turns + more).expect("nobody else's");
        while slots.first_free(|scratch| work.resume(scratch, usize::MAX))? {}
        slots.with(0, |scratch, _| work.turn(&mut last, usize::MAX, scratch))?;
    }
    Ok(())
}

/// A job that goes on, and how many of its multiply-adds were done.
type Progress<'l, 't, T> = (Option<Job<'l, 't, T>>, usize);

/// What is left of a loop, in cache lines of its own: all workers write to it, and read what is
/// beside it on the stack.
#[repr(align(128))]
struct Left(AtomicUsize);

/// The work of a loop.
struct Work<'l, 't, 'a, X: Folded, S: Sink<X>> {
    product: Products<'l, Product<'a, X, S>>,
    tiles: &'l TileSet<'t, S::Out>,
    sums: &'l TileSums,
}

impl<'l, 't, X: Folded, S: Sink<X>> Work<'l, 't, '_, X, S> {
    /// A worker's turn: about so many multiply-adds. Returns how many there were.
    fn turn(
        &self,
        turn: &mut Turn<'l, 't, S::Out>,
        macs: usize,
        scratch: &mut Scratch,
    ) -> Result<usize, OutOfMemory> {
        let mut all = 0_usize;
        while all < macs {
            let Some(job) = self.paused(scratch).or_else(|| turn.next_job()) else {
                break;
            };
            let (mut job, done) = self.run(job, macs - all, scratch)?;
            all = all.saturating_add(done);
            // What nobody would take is done at once: those who find nothing to do use up the
            // turns that it would need.
            if let Some(rest) = job.take_if(|job| !job.is_shared()) {
                let (_, done) = self.run(rest, usize::MAX, scratch)?;
                all = all.saturating_add(done);
            }
            scratch.paused = job.map(Job::pause);
        }
        Ok(all)
    }

    /// The job that is paused in `scratch`.
    fn paused(&self, scratch: &mut Scratch) -> Option<Job<'l, 't, S::Out>> {
        let paused = scratch.paused.take();
        let job = paused.and_then(|paused| self.tiles.resume(paused));
        if job.is_none() {
            // What an error or a panic left.
            scratch.running = None;
        }
        job
    }

    /// Goes on with the job that is paused in `scratch` by about so many multiply-adds. Returns
    /// whether there was one.
    fn resume(&self, scratch: &mut Scratch, macs: usize) -> Result<bool, OutOfMemory> {
        match self.paused(scratch) {
            Some(job) => self.run(job, macs, scratch).map(|_| true),
            None => Ok(false),
        }
    }

    /// Finishes the job that is paused in `scratch` if it has no units left. Returns whether
    /// there was such a job.
    fn finish(&self, scratch: &mut Scratch) -> Result<bool, OutOfMemory> {
        match self.paused(scratch) {
            Some(job) if !job.goes_on() => self.run(job, 0, scratch).map(|_| true),
            job => {
                scratch.paused = job.map(Job::pause);
                Ok(false)
            }
        }
    }

    /// Goes on with a job by about so many multiply-adds, or by none but what is begun.
    fn run(
        &self,
        job: Job<'l, 't, S::Out>,
        macs: usize,
        scratch: &mut Scratch,
    ) -> Result<Progress<'l, 't, S::Out>, OutOfMemory> {
        // Three matrices of tiles a product: of two kernels for many tokens, and of few.
        let (matrix, tokens, rows) = job.place();
        let product = (self.product)(matrix / 3);
        let kernel = product.prepared.split().parts().into_iter().nth(matrix % 3);
        let kernel = kernel.map(|(choice, tokens)| (choice, tokens.start));
        let units = job.division().units;
        let unit = plan::macs([tokens.len(), rows.len(), product.prepared.k()]) / units;
        if job.division() == Division::WHOLE {
            run_whole(&product, kernel, job, scratch)?;
            return Ok((None, unit));
        }
        let count = macs.div_ceil(unit.max(1));
        let (job, done) = match kernel {
            Some(kernel) => many::run_job(&product, kernel, (job, count), self.sums, scratch),
            None => few::run_job(&product, (job, count), self.sums, scratch),
        }?;
        Ok((job, done * unit))
    }
}

/// Whether K may be shared among workers: not where the order of sums shows, as it does of
/// floats and of groups, whose scaled sums are added up.
fn splits_k<X: Folded>(prepared: &Prepared<X>) -> bool {
    X::EXACT && prepared.group_strips() >= prepared.strips() && prepared.strips() <= X::MOST_STRIPS
}

/// Computes a whole tile by a kernel for many tokens, of which the number and the first token
/// are given, or by the one for few.
fn run_whole<X: Folded, S: Sink<X>>(
    product: &Product<'_, X, S>,
    kernel: Option<(usize, usize)>,
    mut job: Job<'_, '_, S::Out>,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    job.next_units(usize::MAX);
    let mut y = job.finish().expect("nobody else began a unit of it");
    match kernel {
        Some(kernel) => many::run_tile(product, kernel, &mut y, scratch),
        None => few::run_tile(product, &mut y, scratch),
    }
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
    (tile, division): ([usize; 2], Division),
) -> Result<(), OutOfMemory> {
    let (shape, stride) = ([y.rows(), y.cols()], y.stride());
    let larger = fewer_tiles(shape, tile);
    // A larger one is not made for being divided.
    let division = if larger == tile {
        division
    } else {
        Division::WHOLE
    };
    tiles
        .push(y.into_data(), shape, stride, larger, division)
        .map_err(no_tiles)
}

fn no_tiles(_: NoRoom) -> OutOfMemory {
    OutOfMemory {
        bytes: MAX_TILES / 8,
    }
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
            push(&mut tiles, view, ([1, 1], Division::WHOLE)).expect("little memory");
            assert!((1..=MAX_TILES).contains(&tiles.tiles()), "{shape:?}");
            tiles.set_turns(tiles.jobs()).expect("little memory");
            for turn in 0..tiles.jobs() {
                let job = tiles.turn(turn).and_then(|mut turn| turn.next_job());
                let mut job = job.expect("not taken yet");
                job.next_units(1);
                let mut tile = job.finish().expect("the only one");
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
