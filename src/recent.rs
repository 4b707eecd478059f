//! Which matrices the process has multiplied lately, and so whether the next one can
//! still be in the cache.
//!
//! One list for all, as there is one last-level cache: a caller may keep a workspace for
//! each matrix, or have each product run by another thread of a pool.

use crate::cache::CacheSizes;
use std::sync::{Mutex, PoisonError};

/// Matrices remembered: those of three layers of a decoder.
const MATRICES: usize = 24;

/// Bytes of panels from which they are taken to be read from memory each time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Of one that is not remembered: a model has many like it.
    pub(crate) alone: usize,
    /// Of one and all that were read since it was, as far as they are remembered.
    pub(crate) together: usize,
}

/// The last matrices, each once, newest first: where its panels start and how many bytes
/// they are; none where that is 0.
#[derive(Debug)]
struct Recent([(usize, usize); MATRICES]);

static RECENT: Mutex<Recent> = Mutex::new(Recent::new());

/// Notes that `panels` are about to be read, and says whether that is likely to be from
/// memory.
pub(crate) fn note(panels: &[u8]) -> bool {
    let limits = CacheSizes::detect().streamed_from();
    // Any list will do.
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    recent.streams(panels, limits)
}

impl Recent {
    const fn new() -> Self {
        Self([(0, 0); MATRICES])
    }

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
    fn one_matrix_again_and_again_is_cached_up_to_another_size() {
        let matrix = [0; 100];
        for (bytes, streams) in [
            (49, [false; 3]),
            (50, [true, false, false]),
            (99, [true, false, false]),
            (100, [true; 3]),
        ] {
            let mut recent = Recent::new();
            let turn = [(); 3].map(|()| recent.streams(&matrix[..bytes], LIMITS));
            assert_eq!(turn, streams, "{bytes}");
        }
    }

    /// Whatever other tests multiply meanwhile.
    #[test]
    fn what_is_new_or_too_large_is_streamed() {
        let limits = CacheSizes::detect().streamed_from();
        // Never written, so never mapped.
        let panels = vec![0; limits.together];
        assert!(note(&panels[..limits.alone]));
        assert!(note(&panels) && note(&panels));
    }

    #[test]
    fn many_small_ones_in_turn_come_from_memory() {
        let (all, mut recent) = ([0; 300], Recent::new());
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
            let mut recent = Recent::new();
            let mut pass = || {
                let turn = all.chunks(1).take(matrices);
                turn.map(|m| recent.streams(m, LIMITS)).collect::<Vec<_>>()
            };
            pass();
            assert_eq!(pass(), vec![streams; matrices]);
        }
    }
}
