//! Which matrices a workspace has multiplied lately, and so whether the next one can
//! still be in the cache.

/// Matrices remembered: those of two layers of a decoder.
const MATRICES: usize = 16;

/// The last matrices, each once, newest first: where its panels start and how many bytes
/// they are; none where that is 0.
#[derive(Debug, Default)]
pub(crate) struct Recent([(usize, usize); MATRICES]);

impl Recent {
    /// Notes that `panels` are about to be read, and says whether that is likely to be
    /// from memory: if together with all that was read since they last were they do not
    /// fit `cache` bytes. Of panels it does not know it takes them to have been read
    /// before all others.
    pub(crate) fn streams(&mut self, panels: &[u8], cache: usize) -> bool {
        // An address to compare: other panels at the same one cost speed alone.
        let this = (panels.as_ptr().addr(), panels.len());
        let found = self.0.iter().position(|&other| other == this);
        let since = found.unwrap_or(MATRICES - 1) + 1;
        let others = &self.0[..found.unwrap_or(MATRICES)];
        let bytes = others
            .iter()
            .fold(this.1, |sum, other| sum.saturating_add(other.1));
        self.0[..since].rotate_right(1);
        self.0[0] = this;
        bytes >= cache
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: usize = 100;

    #[test]
    fn a_small_matrix_again_and_again_is_in_the_cache() {
        let mut recent = Recent::default();
        for _ in 0..3 {
            assert!(!recent.streams(&[0; 99], CACHE));
        }
        assert!(recent.streams(&[0; 100], CACHE), "larger than the cache");
    }

    #[test]
    fn many_small_ones_in_turn_come_from_memory() {
        let (all, mut recent) = ([0; 300], Recent::default());
        let mut pass = |matrices: usize| {
            let turn = all.chunks(30).take(matrices);
            turn.map(|m| recent.streams(m, CACHE)).collect::<Vec<_>>()
        };
        assert_eq!(pass(3), [false; 3]);
        assert_eq!(pass(3), [false; 3]);
        assert_eq!(pass(4), [false, false, false, true]);
        assert_eq!(pass(4), [true; 4]);
        assert_eq!(pass(1), [true]);
        assert_eq!(pass(1), [false]);
    }

    /// What has fallen out of the list is older than everything in it.
    #[test]
    fn the_oldest_are_forgotten() {
        let (all, mut recent) = ([0; 400], Recent::default());
        for _ in 0..2 {
            for matrix in all.chunks(20) {
                recent.streams(matrix, CACHE);
            }
        }
        assert!(recent.0.iter().all(|m| m.1 == 20));
        assert!(recent.streams(&all[..20], CACHE));
        assert!(!recent.streams(&all[..20], CACHE));
        assert!(
            recent.streams(&[0; 20], usize::MIN),
            "nothing fits no cache"
        );
    }
}
