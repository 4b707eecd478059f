//! Which matrices a thread has multiplied lately, and so whether the next one can still
//! be in the cache.
//!
//! By thread, not by workspace: a caller may keep a workspace for each of its matrices.

use crate::cache::CacheSizes;
use std::cell::RefCell;

/// Matrices remembered: those of three layers of a decoder.
const MATRICES: usize = 24;

/// Bytes of panels from which they are taken to be read from memory each time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Of a matrix that was not read lately, if ever: a model has many like it.
    pub(crate) alone: usize,
    /// Of one that was, together with all that were read since.
    pub(crate) together: usize,
}

/// The last matrices, each once, newest first: where its panels start and how many bytes
/// they are; none where that is 0.
#[derive(Debug)]
struct Recent([(usize, usize); MATRICES]);

impl Default for Recent {
    fn default() -> Self {
        Self([(0, 0); MATRICES])
    }
}

thread_local! {
    static RECENT: RefCell<Recent> = RefCell::default();
}

/// Notes that the calling thread is about to read `panels`, and says whether that is
/// likely to be from memory.
pub(crate) fn note(panels: &[u8]) -> bool {
    let limits = CacheSizes::detect().streamed_from();
    RECENT.with_borrow_mut(|recent| recent.streams(panels, limits))
}

impl Recent {
    /// See [`note`]. Panels that it does not know were read before all that it knows,
    /// if ever.
    fn streams(&mut self, panels: &[u8], limits: Limits) -> bool {
        // An address to compare: other panels at the same one cost speed alone.
        let this = (panels.as_ptr().addr(), panels.len());
        let found = self.0.iter().position(|&other| other == this);
        let others = &self.0[..found.unwrap_or(MATRICES)];
        let together = others
            .iter()
            .fold(this.1, |sum, other| sum.saturating_add(other.1));
        // With the list full of others there is no knowing how many more there were.
        let forgotten = found.is_none() && self.0[MATRICES - 1].1 > 0;
        self.0[..=found.unwrap_or(MATRICES - 1)].rotate_right(1);
        self.0[0] = this;
        let unknown = found.is_none() && (forgotten || this.1 >= limits.alone);
        unknown || together >= limits.together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        alone: 50,
        together: 100,
    };

    #[test]
    fn one_matrix_again_and_again_goes_by_its_size() {
        let matrix = [0; 100];
        for (bytes, streams) in [
            (49, [false; 3]),
            (50, [true, false, false]),
            (99, [true, false, false]),
            (100, [true; 3]),
        ] {
            let mut recent = Recent::default();
            let turn = [(); 3].map(|()| recent.streams(&matrix[..bytes], LIMITS));
            assert_eq!(turn, streams, "{bytes}");
        }
    }

    /// What one has just read is new to the next.
    #[test]
    fn each_thread_knows_its_own() {
        let limits = CacheSizes::detect().streamed_from();
        // Never written, so never mapped.
        let panels = vec![0; limits.together - 1];
        let twice = || (note(&panels), note(&panels));
        for _ in 0..2 {
            let streams = std::thread::scope(|s| s.spawn(twice).join());
            assert_eq!(streams.expect("no panic"), (true, false));
        }
    }

    #[test]
    fn many_small_ones_in_turn_come_from_memory() {
        let (all, mut recent) = ([0; 300], Recent::default());
        let mut pass = |matrices: usize| {
            let turn = all.chunks(30).take(matrices);
            turn.map(|m| recent.streams(m, LIMITS)).collect::<Vec<_>>()
        };
        assert_eq!(pass(3), [false; 3]);
        assert_eq!(pass(3), [false; 3]);
        assert_eq!(pass(4), [false, false, false, true]);
        assert_eq!(pass(4), [true; 4]);
        assert_eq!(pass(1), [true]);
        assert_eq!(pass(1), [false]);
    }

    /// Tiny ones, all of which would fit the cache together.
    #[test]
    fn what_is_forgotten_is_taken_for_streamed() {
        let all = [0; MATRICES + 1];
        for (matrices, streams) in [(MATRICES, false), (MATRICES + 1, true)] {
            let mut recent = Recent::default();
            let mut pass = || {
                let turn = all.chunks(1).take(matrices);
                turn.map(|m| recent.streams(m, LIMITS)).collect::<Vec<_>>()
            };
            pass();
            assert_eq!(pass(), vec![streams; matrices]);
        }
    }
}
