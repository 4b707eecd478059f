//! Disjoint output tiles: many workers, one output, no two on the same element.
//!
//! A [`TileGrid`] cuts a row-major matrix into tiles, and a [`TileSet`] several
//! matrices. Any thread may claim a tile by its number; a tile is handed out once, so a
//! work list that repeats a number cannot make two owners of one element.

use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::collections::TryReserveError;

/// Most tiles that a grid can have; the claims live inside it.
pub const MAX_TILES: usize = 64 * 64;

/// A row-major matrix cut into `down x across` tiles of `tile_rows x tile_cols`, those at
/// its ends smaller. What type its elements have, whoever keeps it knows.
#[derive(Clone, Copy, Debug)]
struct Cut {
    data: *mut (),
    stride: usize,
    rows: usize,
    cols: usize,
    tile_rows: usize,
    tile_cols: usize,
}

impl Cut {
    /// Its memory is checked here, and borrowed by whoever keeps the result.
    fn new<T>(
        data: &mut [T],
        [rows, cols]: [usize; 2],
        stride: usize,
        [tile_rows, tile_cols]: [usize; 2],
    ) -> Self {
        assert!(cols <= stride || rows <= 1, "rows of the output overlap");
        let needed = rows.checked_sub(1).map_or(Some(0), |last| {
            last.checked_mul(stride)
                .and_then(|start| start.checked_add(cols))
        });
        assert!(
            needed.is_some_and(|n| n <= data.len()),
            "the output is shorter than its shape"
        );
        assert!(tile_rows > 0 && tile_cols > 0, "empty tiles");
        let cut = Self {
            data: data.as_mut_ptr().cast(),
            stride,
            rows,
            cols,
            tile_rows,
            tile_cols,
        };
        let tiles = cut.down().checked_mul(cut.across());
        assert!(tiles.is_some_and(|n| n <= MAX_TILES), "too many tiles");
        cut
    }

    fn down(&self) -> usize {
        self.rows.div_ceil(self.tile_rows)
    }

    fn across(&self) -> usize {
        self.cols.div_ceil(self.tile_cols)
    }

    fn len(&self) -> usize {
        self.down() * self.across()
    }

    /// Tile number `index`, along the columns first.
    fn tile<'a, T>(&self, index: usize) -> Tile<'a, T> {
        let (row, col) = (
            index / self.across() * self.tile_rows,
            index % self.across() * self.tile_cols,
        );
        Tile {
            data: self.data.cast(),
            stride: self.stride,
            rows: row..self.rows.min(row + self.tile_rows),
            cols: col..self.cols.min(col + self.tile_cols),
            _data: PhantomData,
        }
    }
}

/// Whether tile number `index` had no owner so far; it has one from now on.
fn claim(claims: &[AtomicU64], index: usize) -> bool {
    let bit = 1u64 << (index % 64);
    // Relaxed: the claim orders nothing but itself; the data was handed to this thread
    // together with the claims.
    claims[index / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
}

/// A row-major matrix cut into tiles that are claimed one by one.
pub struct TileGrid<'a, T> {
    cut: Cut,
    claims: [AtomicU64; MAX_TILES / 64],
    _data: PhantomData<&'a mut [T]>,
}

// SAFETY: the grid is the exclusive borrow it was made from; `claim` gives each
// element to at most one tile, so sharing it between threads moves `&mut T`.
unsafe impl<T: Send> Sync for TileGrid<'_, T> {}
// SAFETY: as a `&mut [T]` would be.
unsafe impl<T: Send> Send for TileGrid<'_, T> {}

impl<'a, T> TileGrid<'a, T> {
    /// Cuts `rows x cols` elements of `data`, rows `stride` apart, into tiles of
    /// at most `tile_rows x tile_cols`.
    ///
    /// # Panics
    /// If the matrix does not fit `data`, a tile is empty, or there are more
    /// than [`MAX_TILES`].
    pub fn new(data: &'a mut [T], shape: [usize; 2], stride: usize, tile: [usize; 2]) -> Self {
        Self {
            cut: Cut::new(data, shape, stride, tile),
            claims: [const { AtomicU64::new(0) }; MAX_TILES / 64],
            _data: PhantomData,
        }
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        self.cut.len()
    }

    /// Tile number `index`, unless it does not exist or was claimed before.
    /// Tiles are numbered along the columns first.
    pub fn claim(&self, index: usize) -> Option<Tile<'_, T>> {
        (index < self.len() && claim(&self.claims, index)).then(|| self.cut.tile(index))
    }
}

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
    /// Jobs that they are given to at first.
    pub jobs: usize,
}

impl Division {
    /// A tile is one job.
    pub const WHOLE: Self = Self { units: 1, jobs: 1 };
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
    /// Somebody is at it.
    runs: bool,
}

impl Rest {
    fn word(self) -> u64 {
        let (tile, start, end) = (self.tile as u64, self.start as u64, self.end as u64);
        u64::from(self.runs) << 60 | tile << 40 | start << 20 | end
    }

    fn of(word: u64) -> Self {
        let field = |shift: u32| (word >> shift) as usize & MAX_UNITS;
        Self {
            tile: field(40),
            start: field(20),
            end: field(0),
            runs: word >> 60 != 0,
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

    /// Adds a matrix, as [`TileGrid::new`] takes it.
    ///
    /// # Errors
    /// If there is no memory for it, or there are more than [`MAX_UNITS`] tiles.
    ///
    /// # Panics
    /// As [`TileGrid::new`], if there are turns already, a tile has no jobs or fewer units
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
        let Division { units, jobs } = division;
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
            begun,
        } = paused;
        if id != self.id {
            return None;
        }
        let job = Job {
            set: self,
            job,
            tile,
            begun,
        };
        job.mark(true);
        Some(job)
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
            begun: 0,
        }
    }

    /// Begins a given job. Nobody else may have or get this number.
    fn given(&self, job: usize) -> Job<'_, 'a, T> {
        let matrices = &self.store.matrices;
        let matrix = matrices[matrices.partition_point(|m| m.job <= job) - 1];
        let (index, Division { units, jobs }) = (job - matrix.job, matrix.division);
        let at = |i: usize| units * i / jobs;
        let rest = Rest {
            tile: matrix.tile + index / jobs,
            start: at(index % jobs),
            end: at(index % jobs + 1),
            runs: true,
        };
        self.begin(job, rest)
    }
}

/// A worker's turn.
pub struct Turn<'s, 'a, T> {
    set: &'s TileSet<'a, T>,
    turn: usize,
    /// It had its job.
    begun: bool,
}

impl<'s, 'a, T> Turn<'s, 'a, T> {
    /// The next given job; else half of the rest of the job that has most left, of one that
    /// runs only if that is an eighth of its tile or more. The job before must be finished.
    ///
    /// Where no tile is divided a turn has the job of its number.
    pub fn next_job(&mut self) -> Option<Job<'s, 'a, T>> {
        let set = self.set;
        if !set.divides {
            let own = !core::mem::replace(&mut self.begun, true) && self.turn < set.jobs;
            return own.then(|| set.given(self.turn));
        }
        if set.store.begun.load(Ordering::Relaxed) < set.jobs {
            let job = set.store.begun.fetch_add(1, Ordering::Relaxed);
            if job < set.jobs {
                return Some(set.given(job));
            }
        }
        loop {
            let mut most: Option<(usize, Rest)> = None;
            for job in 0..set.jobs + set.turns {
                let rest = set.rest(job);
                let least = match rest.runs {
                    true => set.matrix(rest.tile).1.division.units.div_ceil(8).max(2),
                    false => 1,
                };
                if rest.len() >= least && most.is_none_or(|(_, most)| rest.len() > most.len()) {
                    most = Some((job, rest));
                }
            }
            let (job, rest) = most?;
            let middle = rest.start + rest.len() / 2;
            let left = Rest {
                end: middle,
                ..rest
            };
            if set.replace(job, rest, left) {
                let (start, runs) = (middle, true);
                let taken = Rest {
                    start,
                    runs,
                    ..rest
                };
                return Some(set.begin(set.jobs + self.turn, taken));
            }
        }
    }
}

/// A job that somebody goes on with later.
#[derive(Debug)]
pub struct Paused {
    id: u64,
    job: usize,
    tile: usize,
    begun: usize,
}

/// Units of one tile's work. Each is begun by one job only.
pub struct Job<'s, 'a, T> {
    set: &'s TileSet<'a, T>,
    job: usize,
    tile: usize,
    /// Units begun.
    begun: usize,
}

impl<'s, T> Job<'s, '_, T> {
    /// The tile's number.
    pub fn tile(&self) -> usize {
        self.tile
    }

    /// The number of the tile's matrix, and its rows and columns there.
    pub fn place(&self) -> (usize, Range<usize>, Range<usize>) {
        let (number, matrix) = self.set.matrix(self.tile);
        let tile: Tile<'_, T> = matrix.cut.tile(self.tile - matrix.tile);
        (number, tile.rows, tile.cols)
    }

    /// How the tile's work is divided.
    pub fn division(&self) -> Division {
        self.set.matrix(self.tile).1.division
    }

    /// Units begun so far.
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// At most `count` units more, at least one, if any are left. They follow those before.
    pub fn next_units(&mut self, count: usize) -> Option<Range<usize>> {
        loop {
            let rest = self.rest()?;
            let start = rest.start + count.clamp(1, rest.len());
            if self.set.replace(self.job, rest, Rest { start, ..rest }) {
                self.begun += start - rest.start;
                return Some(rest.start..start);
            }
        }
    }

    /// Whether it has units left.
    pub fn goes_on(&self) -> bool {
        self.rest().is_some()
    }

    /// What is left, unless its turn has another job by now.
    fn rest(&self) -> Option<Rest> {
        let rest = self.set.rest(self.job);
        (rest.tile == self.tile && rest.len() > 0).then_some(rest)
    }

    /// Whether it began all units of the tile.
    pub fn is_whole(&self) -> bool {
        self.begun == self.division().units
    }

    fn mark(&self, runs: bool) {
        while let Some(rest) = self.rest() {
            if self.set.replace(self.job, rest, Rest { runs, ..rest }) {
                return;
            }
        }
    }

    /// Leaves it to whoever resumes it. Anybody may take all it has left meanwhile.
    pub fn pause(self) -> Paused {
        self.mark(false);
        Paused {
            id: self.set.id,
            job: self.job,
            tile: self.tile,
            begun: self.begun,
        }
    }

    /// Says that the units begun are done; those left are for others. Whoever is last gets the
    /// tile.
    pub fn finish(self) -> Option<Tile<'s, T>> {
        self.mark(false);
        let (_, matrix) = self.set.matrix(self.tile);
        // Acquire what the others released: they come before whoever is last.
        let before = self.set.store.done[self.tile].fetch_add(self.begun, Ordering::AcqRel);
        let all = before + self.begun == matrix.division.units;
        // A job that began nothing is not the one that finished the last.
        (all && self.begun > 0).then(|| matrix.cut.tile(self.tile - matrix.tile))
    }
}

/// One claimed tile.
pub struct Tile<'a, T> {
    data: *mut T,
    stride: usize,
    rows: Range<usize>,
    cols: Range<usize>,
    _data: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    /// Rows of the whole matrix that the tile covers.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Columns of the whole matrix that the tile covers.
    pub fn cols(&self) -> Range<usize> {
        self.cols.clone()
    }

    /// Elements of row `row` (of the whole matrix) in columns `cols` (of the
    /// whole matrix).
    ///
    /// # Panics
    /// If they are not all in the tile.
    pub fn row_mut(&mut self, row: usize, cols: Range<usize>) -> &mut [T] {
        assert!(self.rows.contains(&row), "row outside the tile");
        assert!(
            self.cols.start <= cols.start && cols.start <= cols.end && cols.end <= self.cols.end,
            "columns outside the tile"
        );
        // SAFETY: within the matrix `Cut::new` checked, in a tile that
        // `claim` gave to this one owner; the borrow of `self` keeps slices of
        // one tile apart.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.data.add(row * self.stride + cols.start),
                cols.len(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set of one matrix of 6 x 6 in tiles of 4 x 3, each of so many units.
    fn set<'a>(y: &'a mut [u32], store: &'a mut TileStore, division: Division) -> TileSet<'a, u32> {
        let mut set = TileSet::new(store);
        set.push(y, [6, 6], 6, [4, 3], division)
            .expect("little memory");
        set.set_turns(40).expect("little memory");
        set
    }

    /// Notes the units of `range` of a job's tile, each for the first time.
    fn note(seen: &mut [[bool; 10]; 4], tile: usize, range: Range<usize>) {
        for unit in range {
            assert!(!core::mem::replace(&mut seen[tile][unit], true));
        }
    }

    /// Jobs that pause, go on and are taken from do each unit of each tile once, and one of
    /// them gets the tile.
    #[test]
    fn every_unit_is_begun_once() {
        for (jobs, at_a_time) in [(1, 1), (3, 2), (10, 4), (2, 10)] {
            let (mut y, mut store) = ([0; 36], TileStore::default());
            let set = set(&mut y, &mut store, Division { units: 10, jobs });
            let (mut seen, mut tiles) = ([[false; 10]; 4], Vec::new());
            let mut paused: Vec<Paused> = Vec::new();
            for number in 0..40 {
                let mut turn = set.turn(number).expect("a turn");
                assert!(set.turn(number).is_none(), "taken");
                let Some(mut job) = turn.next_job() else {
                    break;
                };
                let tile = job.tile();
                if let Some(units) = job.next_units(at_a_time) {
                    note(&mut seen, tile, units);
                }
                match number % 3 {
                    0 => tiles.extend(job.finish().map(|_| tile)),
                    _ => paused.push(job.pause()),
                }
            }
            // What was finished before its end is left for others, and so is what is paused.
            for paused in paused {
                let mut job = set.resume(paused).expect("of this set");
                let tile = job.tile();
                while let Some(units) = job.next_units(at_a_time) {
                    note(&mut seen, tile, units);
                }
                tiles.extend(job.finish().map(|_| tile));
            }
            let begun = seen.as_flattened().iter().filter(|&&seen| seen).count();
            let whole = (0..4).filter(|&tile| seen[tile] == [true; 10]);
            tiles.sort_unstable();
            assert!(tiles.iter().copied().eq(whole), "{tiles:?} of {seen:?}");
            assert!(begun >= 30, "{begun} units");
        }
    }

    /// Whoever has no job takes half of what another has left.
    #[test]
    fn half_of_the_rest_is_taken() {
        let (mut y, mut store) = ([0; 36], TileStore::default());
        let set = set(&mut y, &mut store, Division { units: 10, jobs: 1 });
        let next = |number| set.turn(number).and_then(|mut turn| turn.next_job());
        let mut jobs: Vec<_> = (0..4).map(|i| next(i).expect("given")).collect();
        for job in &mut jobs[1..] {
            assert_eq!(job.next_units(10), Some(0..10));
        }
        assert_eq!(jobs[0].next_units(2), Some(0..2));
        for taken in [6..10, 4..6] {
            let mut job = next(taken.start).expect("units are left");
            assert_eq!((job.tile(), job.next_units(10)), (0, Some(taken)));
            assert!(job.finish().is_none(), "others have units of it");
        }
        assert!(next(20).map(|mut job| job.next_units(10)) == Some(Some(3..4)));
        assert!(next(21).is_none(), "one unit is left to whoever is at it");
        assert!(jobs[1].is_whole() && !jobs[0].is_whole());
        let second = jobs.remove(1).finish().expect("nobody else's");
        assert_eq!((second.rows(), second.cols()), (0..4, 3..6));
        // Paused, it may be taken whole.
        let paused = jobs.remove(0).pause();
        assert!(next(22).map(|mut job| job.next_units(10)) == Some(Some(2..3)));
        let mut first = set.resume(paused).expect("of this set");
        assert_eq!(first.next_units(1), None);
    }

    /// Nothing is gone on with in another set, though it has the same matrix.
    #[test]
    fn a_paused_job_is_of_one_set() {
        let (mut y, mut store) = ([0; 36], TileStore::default());
        let division = Division { units: 10, jobs: 2 };
        let paused = {
            let first = set(&mut y, &mut store, division);
            let job = first.turn(0).and_then(|mut turn| turn.next_job());
            job.expect("given").pause()
        };
        let second = set(&mut y, &mut store, division);
        assert!(second.resume(paused).is_none());
    }

    /// Without a division the number of a turn is that of its tile.
    #[test]
    fn a_whole_tile_is_one_turn() {
        let (mut y, mut store) = ([0; 36], TileStore::default());
        let set = set(&mut y, &mut store, Division::WHOLE);
        for number in [3, 0, 2, 1] {
            let mut turn = set.turn(number).expect("a turn");
            let mut job = turn.next_job().expect("its tile");
            assert_eq!((job.tile(), job.next_units(1)), (number, Some(0..1)));
            assert!(turn.next_job().is_none());
            assert!(job.finish().is_some());
        }
        assert!(set.turn(4).expect("a turn").next_job().is_none());
    }
}
