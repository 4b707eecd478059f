//! Activations made ready for the kernels, once for any number of matrices.

use crate::isa::Backend;
use crate::kernels::call::{self, Element, Source, Width};
use crate::kernels::memory::tiles::{MAX_TILES, TileGrid};
use crate::memory::{self, OutOfMemory};
use crate::parallel_for::{Stopped, Team};
use crate::product::layout::lay_out_tile;
use crate::product::tables::FewTables;
use crate::product::{segments, strips};
use crate::view::MatRef;
use crate::workspace::{Lanes, Lines, lines, reserve};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// What activations are prepared for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) backend: Backend,
    pub(crate) lanes: Lanes,
    /// The weights come from memory.
    pub(crate) streamed: bool,
}

/// Prepared activations of one element type, in memory that is reused.
///
/// The first tokens are laid out in tiles for the wide column lanes, transposed or as
/// their kernel wants them, those after them in one tile for the narrow ones; the rest
/// for row-lane tables, segment after segment in whole units.
#[derive(Debug)]
pub(crate) struct Prepared<X: Element> {
    /// Another for each preparation there has been.
    id: u64,
    backend: Backend,
    source: Source,
    tokens: usize,
    k: usize,
    group_strips: usize,
    /// Tokens that take the wide and the narrow column lanes.
    many_tokens: [usize; 2],
    xt: Lines,
    rows: Vec<X>,
    /// Table units of a token, over all segments.
    units: usize,
    shared: FewTables,
}

impl<X: Element> Default for Prepared<X> {
    fn default() -> Self {
        Self {
            id: 0,
            backend: Backend::scalar(),
            source: Source::Cache,
            tokens: 0,
            k: 0,
            group_strips: usize::MAX,
            many_tokens: [0, 0],
            xt: lines(),
            rows: Vec::new(),
            units: 0,
            shared: FewTables::default(),
        }
    }
}

/// Tokens of `tokens` that take wide and narrow column lanes: whole tiles, and
/// of the rest what is worth a tile.
fn split<X: Element>(backend: Backend, lanes: Lanes, tokens: usize) -> [usize; 2] {
    let [wide, narrow] = [Width::Wide, Width::Narrow].map(|w| X::column(backend, w).lanes);
    let rest = tokens % wide;
    let crossover = X::crossover(backend);
    match lanes {
        Lanes::Row => [0, 0],
        Lanes::Column if narrow < wide && rest <= narrow => [tokens - rest, rest],
        Lanes::Column => [tokens, 0],
        Lanes::Auto if rest >= crossover.wide => [tokens, 0],
        Lanes::Auto if narrow < wide && rest >= crossover.narrow => {
            [tokens - rest, rest.min(narrow)]
        }
        Lanes::Auto => [tokens - rest, 0],
    }
}

impl<X: Element> Prepared<X> {
    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// Which of the backend's row-lane kernels the tables are for.
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    pub(crate) fn group_strips(&self) -> usize {
        self.group_strips
    }

    /// Tokens that take column lanes of a width.
    pub(crate) fn tokens_of(&self, width: Width) -> usize {
        self.many_tokens[width as usize]
    }

    /// The first of them.
    pub(crate) fn first_token(&self, width: Width) -> usize {
        match width {
            Width::Wide => 0,
            Width::Narrow => self.many_tokens[0],
        }
    }

    /// The first token that takes row lanes; all after it do.
    pub(crate) fn first_few_token(&self) -> usize {
        self.many_tokens[0] + self.many_tokens[1]
    }

    fn strips(&self) -> usize {
        strips(self.k)
    }

    /// Activations of one column tile, chunk after chunk, `4 * lanes` for each strip:
    /// see [`ManyKernel::by_token`](crate::kernels::contract::ManyKernel).
    pub(crate) fn tile(&self, width: Width, tile: usize) -> &[X] {
        let len = self.tile_bytes(width);
        let start = match width {
            Width::Wide => tile * len,
            Width::Narrow => self.wide_tiles() * self.tile_bytes(Width::Wide) + tile * len,
        };
        bytemuck::cast_slice(&self.xt[start..][..len])
    }

    fn lanes(&self, width: Width) -> usize {
        X::column(self.backend, width).lanes
    }

    fn tile_bytes(&self, width: Width) -> usize {
        call::lines::<X>(4 * self.strips() * self.lanes(width))
    }

    fn wide_tiles(&self) -> usize {
        self.many_tokens[0].div_ceil(self.lanes(Width::Wide))
    }

    /// Tokens that take row lanes.
    pub(crate) fn few_tokens(&self) -> usize {
        self.tokens - self.first_few_token()
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Row-lane table units of a token, over all segments.
    pub(crate) fn units(&self) -> usize {
        self.units
    }

    /// Activations of the `token`th token that takes row lanes, `units` of them.
    pub(crate) fn row(&self, token: usize) -> &[X] {
        let len = self.row_len();
        &self.rows[token * len..][..len]
    }

    fn row_len(&self) -> usize {
        4 * self.units * X::row(self.backend, self.source).unit_strips
    }

    /// The row-lane tables: those that all workers share, or this one's `own`.
    pub(crate) fn tables<'a>(
        &'a self,
        own: &'a mut FewTables,
    ) -> Result<&'a FewTables, OutOfMemory> {
        if FewTables::shared(self) {
            return Ok(&self.shared);
        }
        own.hold(self)?;
        Ok(own)
    }

    /// Fills in everything from `x` (`[tokens][k]`) for matrices whose scales
    /// change every `group_strips` strips; fails if the caller's pool left some
    /// of it out, or memory runs out.
    pub(crate) fn build(
        &mut self,
        x: MatRef<'_, X>,
        group_strips: usize,
        how: How,
        team: &Team,
    ) -> Result<(), Stopped> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only that they differ matters.
        self.id = 1 + IDS.fetch_add(1, Ordering::Relaxed);
        self.backend = how.backend;
        self.tokens = x.rows();
        self.k = x.cols();
        self.group_strips = group_strips;
        self.many_tokens = split::<X>(how.backend, how.lanes, x.rows());
        // The second token finds the weights in the cache.
        let streamed = how.streamed && self.few_tokens() == 1;
        self.source = if streamed {
            Source::Memory
        } else {
            Source::Cache
        };
        if x.cols() == 0 {
            return Ok(());
        }
        self.check_sizes()?;
        self.lay_out_tiles(x, team)?;
        self.lay_out(x)?;
        if FewTables::shared(self) {
            let mut shared = core::mem::take(&mut self.shared);
            let held = shared.hold_shared(self, team);
            self.shared = shared;
            held?;
        }
        Ok(())
    }

    /// Fails where what the activations take does not fit the address space.
    fn check_sizes(&self) -> Result<(), OutOfMemory> {
        let row = X::row(self.backend, self.source);
        let padded = self.strips().checked_mul(4 * size_of::<X>());
        let lanes = self.lanes(Width::Wide);
        let tile = padded.and_then(|len| len.checked_mul(lanes)?.checked_add(64));
        // One more than there are, for the narrow tile.
        let xt = tile.and_then(|len| len.checked_mul(self.wide_tiles() + 1));
        // At most one unit more a segment than strips.
        let units = self.strips().checked_mul(2);
        let table = units.and_then(|units| units.checked_mul(row.table_bytes)?.checked_add(64));
        let tables = table.and_then(|len| len.checked_mul(self.few_tokens()));
        match (xt, tables) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err(OutOfMemory { bytes: usize::MAX }),
        }
    }

    fn lay_out_tiles(&mut self, x: MatRef<'_, X>, team: &Team) -> Result<(), Stopped> {
        let lanes = self.lanes(Width::Wide);
        let (tokens, tile_bytes) = (self.many_tokens[0], self.tile_bytes(Width::Wide));
        let tiles = self.wide_tiles();
        if self.first_few_token() == 0 || tile_bytes == 0 {
            return Ok(());
        }
        let narrow_bytes = match self.many_tokens[1] {
            0 => 0,
            _ => self.tile_bytes(Width::Narrow),
        };
        let kernel = |width| X::column(self.backend, width);
        let (wide, narrow) = (kernel(Width::Wide), kernel(Width::Narrow));
        let (group_strips, rest) = (self.group_strips, tokens..self.first_few_token());
        let workers = if tiles * tile_bytes < 1 << 16 {
            1
        } else {
            team.workers()
        };
        let per_item = tiles.div_ceil(MAX_TILES.min(64 * workers)).max(1);
        let xt = reserve(&mut self.xt, tiles * tile_bytes + narrow_bytes)?;
        let (xt, xt_narrow) = xt.split_at_mut(tiles * tile_bytes);
        if narrow_bytes > 0 {
            let xt = bytemuck::cast_slice_mut(xt_narrow);
            lay_out_tile(x, rest, narrow, group_strips, xt);
        }
        let grid = TileGrid::new(xt, [tiles, tile_bytes], tile_bytes, [per_item, tile_bytes]);
        team.for_each(workers, grid.len(), |i| {
            let Some(mut item) = grid.claim(i) else {
                return Ok(false);
            };
            for tile in item.rows() {
                let xt: &mut [X] = bytemuck::cast_slice_mut(item.row_mut(tile, 0..tile_bytes));
                let first = tile * lanes;
                let tokens = first..tokens.min(first + lanes);
                lay_out_tile(x, tokens, wide, group_strips, xt);
            }
            Ok(true)
        })
    }

    fn lay_out(&mut self, x: MatRef<'_, X>) -> Result<(), OutOfMemory> {
        let unit_strips = X::row(self.backend, self.source).unit_strips;
        let strips = self.strips();
        // Whole units: activations outside of the segment count as zero.
        let units_of = |s: &Range<usize>| s.end.div_ceil(unit_strips) - s.start / unit_strips;
        self.units = segments(strips, self.group_strips)
            .map(|s| units_of(&s))
            .sum();
        let row_len = self.row_len();
        self.rows.clear();
        let len = self.few_tokens() * row_len;
        memory::resize(&mut self.rows, len, X::zeroed())?;
        let first = self.first_few_token();
        for (token, row) in self.rows.chunks_exact_mut(row_len).enumerate() {
            let x = x.row(first + token);
            let mut at = 0;
            for segment in segments(strips, self.group_strips) {
                let start = segment.start / unit_strips * unit_strips * 4;
                let (from, to) = (segment.start * 4, x.len().min(segment.end * 4));
                row[at + from - start..at + to - start].copy_from_slice(&x[from..to]);
                at += 4 * units_of(&segment) * unit_strips;
            }
        }
        Ok(())
    }
}
