//! How panels and tokens are cut into tiles.

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
    use super::Tiles;

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
        check::<3>();
        check::<4>();
    }
}
