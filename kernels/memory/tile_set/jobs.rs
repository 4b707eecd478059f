//! Turns of workers, and the jobs that they work on: see [`tile_set`](super).

use crate::kernels::memory::tile_set::{Division, Rest, TileSet};
use crate::kernels::memory::tiles::Tile;
use core::ops::Range;
use core::sync::atomic::Ordering;

/// A worker's turn.
pub struct Turn<'s, 'a, T> {
    pub(super) set: &'s TileSet<'a, T>,
    pub(super) turn: usize,
    /// It had its job.
    pub(super) begun: bool,
}

impl<'s, 'a, T> Turn<'s, 'a, T> {
    /// The next given job; else half of the rest of the job that has most left, of one that
    /// somebody has only if that is worth it. The job before must be finished.
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
                if set.is_worth_taking(job, rest)
                    && most.is_none_or(|(_, most)| rest.len() > most.len())
                {
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
                let taken = Rest {
                    start: middle,
                    owned: true,
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
    pub(super) id: u64,
    pub(super) job: usize,
    pub(super) tile: usize,
    pub(super) first: usize,
    pub(super) begun: usize,
}

/// Units of one tile's work. Each is begun by one job only.
pub struct Job<'s, 'a, T> {
    pub(super) set: &'s TileSet<'a, T>,
    pub(super) job: usize,
    pub(super) tile: usize,
    /// Its first unit, and the number of those begun, which follow each other.
    pub(super) first: usize,
    pub(super) begun: usize,
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
        (number, tile.rows(), tile.cols())
    }

    /// How the tile's work is divided.
    pub fn division(&self) -> Division {
        self.set.matrix(self.tile).1.division
    }

    /// Units begun so far, which follow each other.
    pub fn begun(&self) -> Range<usize> {
        self.first..self.first + self.begun
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

    /// Whether somebody without a job would take some of what it has left.
    pub fn is_shared(&self) -> bool {
        let rest = self.rest();
        rest.is_some_and(|rest| self.set.is_worth_taking(self.job, rest))
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

    /// Leaves it to whoever resumes it.
    pub fn pause(self) -> Paused {
        Paused {
            id: self.set.id,
            job: self.job,
            tile: self.tile,
            first: self.first,
            begun: self.begun,
        }
    }

    /// Says that the units begun are done; those left are for others. Whoever is last gets the
    /// tile.
    pub fn finish(self) -> Option<Tile<'s, T>> {
        while let Some(rest) = self.rest() {
            let left = Rest {
                owned: false,
                ..rest
            };
            if self.set.replace(self.job, rest, left) {
                break;
            }
        }
        let (_, matrix) = self.set.matrix(self.tile);
        // Acquire what the others released: they come before whoever is last.
        let before = self.set.store.done[self.tile].fetch_add(self.begun, Ordering::AcqRel);
        let all = before + self.begun == matrix.division.units;
        // A job that began nothing is not the one that finished the last.
        (all && self.begun > 0).then(|| matrix.cut.tile(self.tile - matrix.tile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::memory::tile_set::TileStore;

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
            let set = set(
                &mut y,
                &mut store,
                Division {
                    units: 10,
                    across: 1,
                    least_shared: 2,
                    jobs,
                },
            );
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
        let set = set(
            &mut y,
            &mut store,
            Division {
                units: 10,
                across: 1,
                least_shared: 2,
                jobs: 1,
            },
        );
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
        // What is left of a job that is finished is anybody's, be it one unit.
        assert!(jobs.remove(0).finish().is_none());
        let mut last = next(22).expect("a unit is left");
        assert_eq!(last.next_units(10), Some(2..3));
        assert!(last.finish().is_none(), "one job never was");
    }

    /// Little is taken from who is fast, and any two units from who is slow.
    #[test]
    fn what_is_taken_depends_on_what_was_done() {
        for (begun, is_taken) in [(1, true), (5, true), (7, true), (8, false), (9, false)] {
            let (mut y, mut store) = ([0; 36], TileStore::default());
            let division = Division {
                units: 10,
                across: 1,
                jobs: 1,
                least_shared: 5,
            };
            let set = set(&mut y, &mut store, division);
            let jobs = (0..4).map(|i| set.turn(i).and_then(|mut turn| turn.next_job()));
            let mut jobs: Vec<_> = jobs.map(|job| job.expect("given")).collect();
            for job in &mut jobs[1..] {
                assert_eq!(job.next_units(10), Some(0..10));
            }
            assert_eq!(jobs[0].next_units(begun), Some(0..begun));
            assert_eq!(jobs[0].is_shared(), is_taken, "{begun} of 10 units");
            let taken = set.turn(4).and_then(|mut turn| turn.next_job());
            assert_eq!(taken.is_some(), is_taken, "{begun} of 10 units");
        }
    }

    /// Nothing is gone on with in another set, though it has the same matrix.
    #[test]
    fn a_paused_job_is_of_one_set() {
        let (mut y, mut store) = ([0; 36], TileStore::default());
        let division = Division {
            units: 10,
            across: 1,
            least_shared: 2,
            jobs: 2,
        };
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
