//! The sizes of steps, units and tiles, and how panels and tokens are cut into tiles.

/// Strips of a unit, and its steps.
pub(super) const UNIT_STRIPS: usize = 3;
pub(super) const STEPS: usize = 4;
/// Panels and tokens of the largest tile. 3 x 3, 4 x 3, 2 x 4 and 2 x 6 are 1 to 5 %
/// slower.
pub(super) const PANELS: usize = 3;
pub(super) const TOKENS: usize = 4;

/// Cuts so many panels or tokens into tiles of at most `MOST`, of which the last has more
/// than one if it can.
pub(super) struct Tiles<const MOST: usize>(pub(super) usize);

impl<const MOST: usize> Iterator for Tiles<MOST> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let tile = self.0.min(MOST - usize::from(self.0 == MOST + 1));
        self.0 -= tile;
        // Opaque, or the compiler makes a table of jumps, which no test can follow.
        (tile > 0).then_some(core::hint::black_box(tile))
    }
}

#[cfg(test)]
mod tests {
    use super::{PANELS, TOKENS, Tiles};

    fn check<const MOST: usize>() {
        for count in 0..=33 {
            let tiles: Vec<usize> = Tiles::<MOST>(count).collect();
            assert_eq!(tiles.iter().sum::<usize>(), count);
            assert!(tiles.iter().all(|&tile| tile <= MOST), "{tiles:?}");
            assert!(tiles.last() != Some(&1) || count == 1, "{tiles:?}");
        }
    }

    #[test]
    fn nothing_is_left_alone() {
        check::<PANELS>();
        check::<TOKENS>();
    }
}
