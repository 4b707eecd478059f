//! Activations made ready for the kernels, once for any number of matrices.

use crate::isa::Backend;
use crate::kernels::call;
use crate::kernels::contract::Runnable;
use crate::kernels::element::{Element, Few, Many};
use crate::kernels::memory::tiles::TileGrid;
use crate::memory::{self, Lines, OutOfMemory, lines, reserve};
use crate::options::Family;
use crate::product::layout::{TokenRows, lay_out_tile};
use crate::product::plan::{self, Split, groups, strips};
use crate::product::tables::{FewRows, FewTables};
use crate::threads::{Stopped, Threads};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Prepared activations of one element type, in memory that is reused.
///
/// The first tokens are laid out in tiles for the kernels for many tokens, as each wants
/// them; the rest as rows that tables for few tokens are built from, group after group.
#[derive(Debug)]
pub struct Prepared<X: Element> {
    /// Another for each preparation there has been.
    id: u64,
    backend: Backend,
    tokens: usize,
    k: usize,
    group_strips: usize,
    split: Split,
    /// Tiles of many tokens.
    tiles: Lines,
    /// Few tokens, `[token][4 * row_strips]`.
    rows: Vec<X>,
    /// Strips of such a row: each group starts and ends at a multiple of [`Self::unit`].
    row_strips: usize,
    shared: FewTables,
}

impl<X: Element> Default for Prepared<X> {
    fn default() -> Self {
        Self {
            id: 0,
            backend: Backend::scalar(),
            tokens: 0,
            k: 0,
            group_strips: usize::MAX,
            split: Split::default(),
            tiles: lines(),
            rows: Vec::new(),
            row_strips: 0,
            shared: FewTables::default(),
        }
    }
}

impl<X: Element> Prepared<X> {
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    pub(crate) fn group_strips(&self) -> usize {
        self.group_strips
    }

    /// Which tokens take which kernels.
    pub(crate) fn split(&self) -> Split {
        self.split
    }

    /// Tokens that are few.
    pub(crate) fn few_tokens(&self) -> usize {
        self.tokens - self.split.many()
    }

    fn kernels(&self) -> Runnable {
        self.backend.runnable()
    }

    pub(crate) fn strips(&self) -> usize {
        strips(self.k)
    }

    /// A kernel for many tokens, by its number in the backend's list.
    pub(crate) fn many(&self, choice: usize) -> Many<X> {
        Many::new(self.kernels(), choice)
    }

    /// The kernel for few tokens; tables that are shared are those of the one for weights
    /// in the cache.
    pub(crate) fn few(&self, weights_in_cache: bool) -> Few<X> {
        Few::new(self.kernels(), self.expects_memory(weights_in_cache))
    }

    fn expects_memory(&self, weights_in_cache: bool) -> bool {
        plan::expects_memory(weights_in_cache, self.few_tokens()) && !self.shares_tables()
    }

    fn shares_tables(&self) -> bool {
        self.few_tokens() > 0
            && plan::shares_tables(
                self.few_tokens() * self.few_rows(Few::new(self.kernels(), false)).stride(),
            )
    }

    /// Activations of a tile of many tokens, chunk after chunk, `4 * tokens of a tile` for
    /// each strip: see [`ManyKernel::token_major`](crate::kernels::contract::ManyKernel).
    /// It is number `tile` of those that the kernel `choice` takes.
    pub(crate) fn tile(&self, choice: usize, tile: usize) -> &[X] {
        let before = match choice {
            0 => 0,
            _ => self.whole_tiles() * self.tile_bytes(0),
        };
        let len = self.tile_bytes(choice);
        bytemuck::cast_slice(&self.tiles[before + tile * len..][..len])
    }

    fn tile_bytes(&self, choice: usize) -> usize {
        call::lines::<X>(4 * self.strips() * self.many(choice).tokens)
    }

    fn whole_tiles(&self) -> usize {
        self.split.whole.div_ceil(self.many(0).tokens)
    }

    /// Strips that groups of few tokens' rows are padded to: whole units of every kernel
    /// that may build tables from them.
    fn unit(&self) -> usize {
        let kernel = Few::<X>::new(self.kernels(), false);
        let from_memory = Few::<X>::new(self.kernels(), true);
        kernel.unit_strips.max(from_memory.unit_strips)
    }

    /// Where the strips of a group are in a row of few tokens, from the start of a unit on,
    /// and where the next group starts.
    fn padded(&self, group: &Range<usize>, at: usize) -> (Range<usize>, usize) {
        let unit = self.unit();
        let start = at + group.start % unit;
        let end = start + group.len();
        (start..end, end.next_multiple_of(unit))
    }

    /// The places of the groups in a row of few tokens, in strips.
    pub(crate) fn places(&self) -> impl Iterator<Item = Range<usize>> + Clone {
        let mut at = 0;
        groups(self.strips(), self.group_strips).map(move |group| {
            let (place, next) = self.padded(&group, at);
            at = next;
            place
        })
    }

    /// Where the tables of a group start in a row of few tokens but for strips of the group before
    /// in its first unit, and what groups are padded to, both in strips.
    pub(crate) fn padding(&self, group: usize) -> [usize; 2] {
        let unit = self.unit();
        let place = self.places().nth(group).map_or(0, |place| place.start);
        [place - place % unit, unit]
    }

    fn few_rows(&self, kernel: Few<X>) -> FewRows<'_, X> {
        FewRows {
            key: (self.id, false),
            kernel,
            rows: &self.rows,
            tokens: self.few_tokens(),
            units: self.row_strips / kernel.unit_strips,
            real_units: self.strips().div_ceil(kernel.unit_strips),
        }
    }

    /// The tables for few tokens, over some of the `count` parts of K at least: those that all
    /// workers share, or this worker's.
    pub(crate) fn tables<'a>(
        &'a self,
        weights_in_cache: bool,
        parts: (Range<usize>, usize),
        of_worker: &'a mut FewTables,
    ) -> Result<&'a FewTables, OutOfMemory> {
        if self.shares_tables() {
            return Ok(&self.shared);
        }
        let mut rows = self.few_rows(self.few(weights_in_cache));
        rows.key.1 = self.expects_memory(weights_in_cache);
        of_worker.build(&rows, parts)?;
        Ok(of_worker)
    }

    /// Fills in everything from `x` (`[tokens][k]`) for matrices whose scales
    /// change every `group_strips` strips; fails if the caller's pool left some
    /// of it out, or memory runs out.
    pub(crate) fn build(
        &mut self,
        x: TokenRows<'_, X>,
        group_strips: usize,
        backend: Backend,
        (family, threads): (Family, &Threads),
    ) -> Result<(), Stopped> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only that they differ matters.
        self.id = 1 + IDS.fetch_add(1, Ordering::Relaxed);
        self.backend = backend;
        self.tokens = x.rows();
        self.k = x.cols();
        self.group_strips = match group_strips < self.strips() {
            true => group_strips,
            false => usize::MAX,
        };
        self.split = plan::split::<X>(self.kernels(), family, x.rows());
        if x.cols() == 0 {
            return Ok(());
        }
        self.check_sizes()?;
        self.lay_out_tiles(x, threads)?;
        self.lay_out_rows(x)?;
        if self.shares_tables() {
            let mut shared = core::mem::take(&mut self.shared);
            let rows = self.few_rows(Few::new(self.kernels(), false));
            let built = shared.build_shared(&rows, threads);
            self.shared = shared;
            built?;
        }
        Ok(())
    }

    /// Fails where what the activations take does not fit the address space.
    fn check_sizes(&self) -> Result<(), OutOfMemory> {
        let padded = self.strips().checked_mul(4 * size_of::<X>());
        let tile = padded.and_then(|len| len.checked_mul(self.many(0).tokens)?.checked_add(64));
        // One more than there are, for the tile of what is left over.
        let tiles = tile.and_then(|len| len.checked_mul(self.whole_tiles() + 1));
        // At most twice a unit less one strip more a group than strips, and groups have
        // more strips than units.
        let units = self.strips().checked_mul(2);
        let table_bytes = [false, true].map(|m| Few::<X>::new(self.kernels(), m).table_bytes);
        let table_bytes = table_bytes[0].max(table_bytes[1]);
        let table = units.and_then(|units| units.checked_mul(table_bytes)?.checked_add(64));
        let tables = table.and_then(|len| len.checked_mul(self.few_tokens()));
        match (tiles, tables) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err(OutOfMemory { bytes: usize::MAX }),
        }
    }

    fn lay_out_tiles(&mut self, x: TokenRows<'_, X>, threads: &Threads) -> Result<(), Stopped> {
        let (tiles, tile_bytes, group_strips) =
            (self.whole_tiles(), self.tile_bytes(0), self.group_strips);
        let [(_, whole), (choice, left)] = self.split.parts();
        if self.split.many() == 0 {
            return Ok(());
        }
        let left_bytes = if left.is_empty() {
            0
        } else {
            self.tile_bytes(choice)
        };
        let (kernel, left_kernel) = (self.many(0), self.many(choice));
        let all = reserve(&mut self.tiles, tiles * tile_bytes + left_bytes)?;
        let (all, left_tile) = all.split_at_mut(tiles * tile_bytes);
        if left_bytes > 0 {
            let tile = bytemuck::cast_slice_mut(left_tile);
            lay_out_tile(x, left, &left_kernel, group_strips, tile);
        }
        let workers = plan::layout_workers(threads, all.len());
        let item = [plan::per_item(tiles, workers), tile_bytes];
        let grid = TileGrid::new(all, [tiles, tile_bytes], tile_bytes, item);
        threads.for_each(workers, grid.len(), |i| {
            let Some(mut item) = grid.claim(i) else {
                return Ok(false);
            };
            for tile in item.rows() {
                let first = tile * kernel.tokens;
                let tokens = first..whole.end.min(first + kernel.tokens);
                let to = bytemuck::cast_slice_mut(item.row_mut(tile, 0..tile_bytes));
                lay_out_tile(x, tokens, &kernel, group_strips, to);
            }
            Ok(true)
        })
    }

    /// Rows of few tokens. Strips that pad a group to whole units count as zero.
    fn lay_out_rows(&mut self, x: TokenRows<'_, X>) -> Result<(), OutOfMemory> {
        let (strips, unit) = (self.strips(), self.unit());
        let end = self.places().last().map_or(0, |place| place.end);
        self.row_strips = end.next_multiple_of(unit);
        let row_len = 4 * self.row_strips;
        let mut rows = core::mem::take(&mut self.rows);
        rows.clear();
        memory::resize(&mut rows, self.few_tokens() * row_len, X::zeroed())?;
        let first = self.split.many();
        for (token, row) in rows.chunks_exact_mut(row_len).enumerate() {
            let x = x.row(first + token);
            for (group, place) in groups(strips, self.group_strips).zip(self.places()) {
                let from = &x[4 * group.start..x.len().min(4 * group.end)];
                row[4 * place.start..][..from.len()].copy_from_slice(from);
            }
        }
        self.rows = rows;
        Ok(())
    }
}
