//! Sets of output tiles whose work is divided, and handed over from slow workers to idle ones.
//!
//! A [`TileSet`] is several matrices cut into tiles. Any thread may take part, by the number of
//! a turn; each unit of work is begun once, and each tile has one owner in the end.
//!
//! - A *unit* is the smallest part of a tile's work. The units of a tile are numbered: those of
//!   a part of K follow each other, and then come those of the next.
//! - A *stretch* is units that follow each other.
//! - A *job* is a stretch that one worker works on, from its first unit on. A set gives the units
//!   of its tiles to jobs at first; whoever has no job takes the second half of what another has
//!   left, which is a new job.
//! - A *turn* is a while of some worker's work on its job, and then on others. There are so many
//!   turns, and each is taken once. A job that is not at its end is *paused* then.

mod jobs;

pub use crate::kernels::memory::tile_set::jobs::{Job, Paused, Turn};

use crate::kernels::memory::tiles::{Cut, claim};
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::collections::TryReserveError;

/// Memory that sets of tiles reuse.
#[derive(Debug, Default)]
pub struct TileStore {
    matrices: Vec<Matrix>,
    /// A bit for each turn.
    claims: Vec<AtomicU64>,
    /// What each job still has to do: a [`Rest`]. First those given, then one for each turn.
    rests: Vec<AtomicU64>,
    /// Given jobs that have begun.
    begun: AtomicUsize,
    /// Units of each tile that are done.
    done: Vec<AtomicUsize>,
}

/// One of the matrices of a set.
#[derive(Clone, Copy, Debug)]
struct Matrix {
    cut: Cut,
    /// The numbers of its first tile and its first job.
    tile: usize,
    job: usize,
    division: Division,
}

/// How the work of a tile is divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Division {
    /// Units of work of a tile, of which any worker may do any.
    pub units: usize,
    /// How many of them each part of K has.
    pub across: usize,
    /// Jobs that they are given to at first.
    pub jobs: usize,
    /// Units that a job has left at least when some of them are worth taking.
    pub least_shared: usize,
}

impl Division {
    /// A tile is one job.
    pub const WHOLE: Self = Self {
        units: 1,
        across: 1,
        jobs: 1,
        least_shared: 1,
    };
}

// SAFETY: it is memory for the pointers of a `TileSet`, which borrows it; on its own it
// follows none of them.
unsafe impl Sync for TileStore {}
// SAFETY: likewise.
unsafe impl Send for TileStore {}

/// A set has no room for its tiles.
#[derive(Clone, Copy, Debug)]
pub struct NoRoom;

impl From<TryReserveError> for NoRoom {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

/// Most tiles of a set, and most units of a tile.
pub const MAX_UNITS: usize = (1 << 20) - 1;

/// Units of a tile that a job has not begun yet. A word, so that it changes as a whole: each
/// unit is begun once.
#[derive(Clone, Copy)]
struct Rest {
    tile: usize,
    start: usize,
    end: usize,
    /// Somebody is at it, or has paused it.
    owned: bool,
}

impl Rest {
    fn word(self) -> u64 {
        let (tile, start, end) = (self.tile as u64, self.start as u64, self.end as u64);
        u64::from(self.owned) << 60 | tile << 40 | start << 20 | end
    }

    fn of(word: u64) -> Self {
        let field = |shift: u32| (word >> shift) as usize & MAX_UNITS;
        Self {
            tile: field(40),
            start: field(20),
            end: field(0),
            owned: word >> 60 != 0,
        }
    }

    fn len(self) -> usize {
        self.end - self.start
    }
}

/// Row-major matrices cut into tiles, numbered through all of them. The units of a tile's work
/// are given to jobs; who has none takes half of what another has left. Whoever finishes the
/// last unit gets the tile.
///
/// Workers have turns, each of which does some of the work.
pub struct TileSet<'a, T> {
    store: &'a mut TileStore,
    /// Another for each set there has been.
    id: u64,
    tiles: usize,
    jobs: usize,
    turns: usize,
    /// Some tile has several units.
    divides: bool,
    _data: PhantomData<&'a mut [T]>,
}

// SAFETY: as for a `TileGrid`.
unsafe impl<T: Send> Sync for TileSet<'_, T> {}
// SAFETY: as a `&mut [T]` would be.
unsafe impl<T: Send> Send for TileSet<'_, T> {}

impl<'a, T> TileSet<'a, T> {
    /// A set of no matrices.
    pub fn new(store: &'a mut TileStore) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        store.matrices.clear();
        store.claims.clear();
        store.rests.clear();
        store.begun = AtomicUsize::new(0);
        store.done.clear();
        Self {
            store,
            // Relaxed: only that they differ matters.
            id: IDS.fetch_add(1, Ordering::Relaxed),
            tiles: 0,
            jobs: 0,
            turns: 0,
            divides: false,
            _data: PhantomData,
        }
    }

    /// Adds a matrix, as [`TileGrid::new`](crate::kernels::memory::tiles::TileGrid::new) takes it.
    ///
    /// # Errors
    /// If there is no memory for it, or there are more than [`MAX_UNITS`] tiles.
    ///
    /// # Panics
    /// As there, if there are turns already, a tile has no jobs or fewer units
    /// than jobs, or more than [`MAX_UNITS`] units.
    pub fn push(
        &mut self,
        data: &'a mut [T],
        shape: [usize; 2],
        stride: usize,
        tile: [usize; 2],
        division: Division,
    ) -> Result<(), NoRoom> {
        let cut = Cut::new(data, shape, stride, tile);
        let tiles = self.tiles + cut.len();
        assert!(self.turns == 0, "matrices come before turns");
        let Division { units, jobs, .. } = division;
        assert!((1..=units).contains(&jobs), "units for each job");
        assert!(units <= MAX_UNITS, "too many units");
        if tiles > MAX_UNITS {
            return Err(NoRoom);
        }
        let TileStore { matrices, done, .. } = &mut *self.store;
        matrices.try_reserve(1)?;
        done.try_reserve(tiles - done.len())?;
        done.resize_with(tiles, AtomicUsize::default);
        matrices.push(Matrix {
            cut,
            tile: self.tiles,
            job: self.jobs,
            division,
        });
        self.divides |= units > 1 && cut.len() > 0;
        self.jobs += cut.len() * jobs;
        self.tiles = tiles;
        Ok(())
    }

    /// Gives workers so many turns, after all matrices.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn set_turns(&mut self, turns: usize) -> Result<(), NoRoom> {
        let TileStore { claims, rests, .. } = &mut *self.store;
        let (words, jobs) = (turns.div_ceil(64), self.jobs + turns);
        claims.try_reserve(words)?;
        claims.resize_with(words, AtomicU64::default);
        rests.try_reserve(jobs)?;
        rests.resize_with(jobs, AtomicU64::default);
        self.turns = turns;
        Ok(())
    }

    /// Number of tiles.
    pub fn tiles(&self) -> usize {
        self.tiles
    }

    /// Whether some tile has several units.
    pub fn divides(&self) -> bool {
        self.divides
    }

    /// Number of jobs that are given.
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    /// Whether turn number `turn` exists and was not taken so far; it is from now on.
    pub fn turn(&self, turn: usize) -> Option<Turn<'_, 'a, T>> {
        let free = turn < self.turns && claim(&self.store.claims, turn);
        free.then_some(Turn {
            set: self,
            turn,
            begun: false,
        })
    }

    /// A job that was paused, if it is of this set.
    pub fn resume(&self, paused: Paused) -> Option<Job<'_, 'a, T>> {
        let Paused {
            id,
            job,
            tile,
            first,
            begun,
        } = paused;
        if id != self.id {
            return None;
        }
        Some(Job {
            set: self,
            job,
            tile,
            first,
            begun,
        })
    }

    /// The matrix that a tile is of, with its number.
    fn matrix(&self, tile: usize) -> (usize, &Matrix) {
        // The last that starts there or before: those without tiles start where it does.
        let matrices = &self.store.matrices;
        let matrix = matrices.partition_point(|m| m.tile <= tile) - 1;
        (matrix, &matrices[matrix])
    }

    fn rest(&self, job: usize) -> Rest {
        // Relaxed, here and below: only that a word changes as a whole matters. What is
        // computed of a unit is handed over by `done`.
        Rest::of(self.store.rests[job].load(Ordering::Relaxed))
    }

    /// Replaces what a job has left, if that is still `rest`.
    fn replace(&self, job: usize, rest: Rest, by: Rest) -> bool {
        let (rest, by) = (rest.word(), by.word());
        self.store.rests[job]
            .compare_exchange(rest, by, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    fn begin(&self, job: usize, rest: Rest) -> Job<'_, 'a, T> {
        self.store.rests[job].store(rest.word(), Ordering::Relaxed);
        Job {
            set: self,
            job,
            tile: rest.tile,
            first: rest.start,
            begun: 0,
        }
    }

    /// Whether somebody without a job should take half of what this one has left: all that
    /// nobody has; of a given job that has begun at most twice as much, since its worker is slow,
    /// two units or more; else what is worth it.
    fn is_worth_taking(&self, job: usize, rest: Rest) -> bool {
        if !rest.owned || rest.len() < 2 {
            return rest.len() > 0 && !rest.owned;
        }
        let begun = match job < self.jobs {
            true => rest.start - self.given_rest(job).start,
            false => usize::MAX,
        };
        let least = self.matrix(rest.tile).1.division.least_shared;
        rest.len() >= least.min(begun / 2)
    }

    /// What a given job has at first.
    fn given_rest(&self, job: usize) -> Rest {
        let matrices = &self.store.matrices;
        let matrix = matrices[matrices.partition_point(|m| m.job <= job) - 1];
        let (index, Division { units, jobs, .. }) = (job - matrix.job, matrix.division);
        let at = |i: usize| units * i / jobs;
        Rest {
            tile: matrix.tile + index / jobs,
            start: at(index % jobs),
            end: at(index % jobs + 1),
            owned: true,
        }
    }

    /// Begins a given job. Nobody else may have or get this number.
    fn given(&self, job: usize) -> Job<'_, 'a, T> {
        self.begin(job, self.given_rest(job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a tile has 20 bits in a [`Rest`].
    #[test]
    fn a_set_refuses_more_tiles_than_it_can_number() {
        const SIDE: usize = 64;
        let mut ys = vec![0_u8; 257 * SIDE * SIDE];
        let mut store = TileStore::default();
        let mut set = TileSet::new(&mut store);
        for (i, y) in ys.chunks_exact_mut(SIDE * SIDE).enumerate() {
            // Half as many tiles of the last one, which do have numbers.
            let tile = [1, if i < 256 { 1 } else { 2 }];
            let pushed = set.push(y, [SIDE; 2], SIDE, tile, Division::WHOLE);
            // All but one of number 255's would have one.
            assert_eq!(pushed.is_err(), i == 255, "matrix {i}");
        }
        assert_eq!(set.tiles(), 255 * 4096 + 2048);
        set.set_turns(set.jobs()).expect("little memory");
        let job = set
            .turn(set.jobs() - 1)
            .and_then(|mut turn| turn.next_job());
        let (matrix, rows, cols) = job.expect("the last").place();
        assert_eq!((matrix, rows, cols), (255, 63..64, 62..64));
    }
}
