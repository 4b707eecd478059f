//! Disjoint output tiles: many workers, one output, no two on the same element.
//!
//! A [`TileGrid`] cuts a row-major matrix into tiles. Any thread may claim a tile by its
//! number; a tile is handed out once, so a work list that repeats a number cannot make two
//! owners of one element.

use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Most tiles that a grid can have; the claims live inside it.
pub const MAX_TILES: usize = 64 * 64;

/// A row-major matrix cut into `down x across` tiles of `tile_rows x tile_cols`, those at
/// its ends smaller. What type its elements have, whoever keeps it knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    data: *mut (),
    stride: usize,
    rows: usize,
    cols: usize,
    tile_rows: usize,
    tile_cols: usize,
}

impl Cut {
    /// Its memory is checked here, and borrowed by whoever keeps the result.
    pub(super) fn new<T>(
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

    pub(super) fn len(&self) -> usize {
        self.down() * self.across()
    }

    /// Tile number `index`, along the columns first.
    pub(super) fn tile<'a, T>(&self, index: usize) -> Tile<'a, T> {
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
pub(super) fn claim(claims: &[AtomicU64], index: usize) -> bool {
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
