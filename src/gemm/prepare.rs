//! Activations made ready for the kernels, once for any number of matrices.

use super::transpose::transpose;
use super::{segments, strips};
use crate::isa::Backend;
use crate::kernels::call::{self, Element, Source};
use crate::kernels::tiles::TileGrid;
use crate::memory::{self, OutOfMemory};
use crate::parallel_for::{Stopped, Team};
use crate::view::MatRef;
use crate::workspace::{Lanes, Lines, lines, reserve};

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
/// The first `column_tokens` tokens are transposed, `xt[tile][4 * strip + j][lane]`,
/// for the column lanes; the rest have row-lane tables, segment after segment.
#[derive(Debug)]
pub(crate) struct Prepared<X: Element> {
    backend: Backend,
    source: Source,
    tokens: usize,
    k: usize,
    group_bytes: usize,
    column_tokens: usize,
    xt: Lines,
    tables: Lines,
    table_stride: usize,
    row: Vec<X>,
}

impl<X: Element> Default for Prepared<X> {
    fn default() -> Self {
        Self {
            backend: Backend::scalar(),
            source: Source::Cache,
            tokens: 0,
            k: 0,
            group_bytes: usize::MAX,
            column_tokens: 0,
            xt: lines(),
            tables: lines(),
            table_stride: 0,
            row: Vec::new(),
        }
    }
}

/// Tokens of `tokens` that take the column lanes: whole tiles, and the rest
/// too where it is worth a tile.
fn column_tokens<X: Element>(backend: Backend, lanes: Lanes, tokens: usize) -> usize {
    match lanes {
        Lanes::Row => 0,
        Lanes::Column => tokens,
        Lanes::Auto => {
            let rest = tokens % X::column(backend).lanes;
            if rest >= X::crossover(backend) {
                tokens
            } else {
                tokens - rest
            }
        }
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

    pub(crate) fn group_bytes(&self) -> usize {
        self.group_bytes
    }

    /// Tokens that take the column lanes, the first ones.
    pub(crate) fn column_tokens(&self) -> usize {
        self.column_tokens
    }

    fn strips(&self) -> usize {
        strips(self.k)
    }

    /// Activations of one column tile, `[4 * strips][lanes]`.
    pub(crate) fn tile(&self, tile: usize) -> &[X] {
        let len = self.tile_bytes();
        bytemuck::cast_slice(&self.xt[tile * len..][..len])
    }

    fn tile_bytes(&self) -> usize {
        call::lines::<X>(4 * self.strips() * X::column(self.backend).lanes)
    }

    /// Row-lane tables from unit `unit` of token `token` on (counted from the
    /// first token after the column tokens), and the bytes between tokens.
    pub(crate) fn tables(&self, token: usize, unit: usize) -> (&[u8], usize) {
        let start =
            token * self.table_stride + unit * X::row(self.backend, self.source).table_bytes;
        (&self.tables[start..], self.table_stride)
    }

    /// Fills in everything from `x` (`[tokens][k]`) for matrices whose scales
    /// change every `group_bytes` strips; fails if the caller's pool left some
    /// of it out, or memory runs out.
    pub(crate) fn build(
        &mut self,
        x: MatRef<'_, X>,
        group_bytes: usize,
        how: How,
        team: &Team,
    ) -> Result<(), Stopped> {
        self.backend = how.backend;
        self.tokens = x.rows();
        self.k = x.cols();
        self.group_bytes = group_bytes;
        self.column_tokens = column_tokens::<X>(how.backend, how.lanes, x.rows());
        // The second token finds the weights in the cache.
        let streamed = how.streamed && x.rows() - self.column_tokens == 1;
        self.source = if streamed {
            Source::Memory
        } else {
            Source::Cache
        };
        if x.cols() == 0 {
            return Ok(());
        }
        self.check_sizes()?;
        self.transpose(x, team)?;
        self.build_tables(x)?;
        Ok(())
    }

    /// Fails where what the activations take does not fit the address space.
    fn check_sizes(&self) -> Result<(), OutOfMemory> {
        let column = X::column(self.backend);
        let row = X::row(self.backend, self.source);
        let padded = self.strips().checked_mul(4 * size_of::<X>());
        let tile = padded.and_then(|len| len.checked_mul(column.lanes)?.checked_add(64));
        let tiles = self.column_tokens.div_ceil(column.lanes);
        let xt = tile.and_then(|len| len.checked_mul(tiles));
        // At most one unit more a segment than strips.
        let units = self.strips().checked_mul(2);
        let table = units.and_then(|units| units.checked_mul(row.table_bytes)?.checked_add(64));
        let tables = table.and_then(|len| len.checked_mul(self.tokens - self.column_tokens));
        match (xt, tables) {
            (Some(_), Some(_)) => Ok(()),
            _ => Err(OutOfMemory { bytes: usize::MAX }),
        }
    }

    fn transpose(&mut self, x: MatRef<'_, X>, team: &Team) -> Result<(), Stopped> {
        let lanes = X::column(self.backend).lanes;
        let (tokens, tile_bytes) = (self.column_tokens, self.tile_bytes());
        let tiles = tokens.div_ceil(lanes);
        if tiles == 0 || tile_bytes == 0 {
            return Ok(());
        }
        let workers = if tiles * tile_bytes < 1 << 16 {
            1
        } else {
            team.workers()
        };
        let per_item = tiles.div_ceil(64 * workers);
        let xt = reserve(&mut self.xt, tiles * tile_bytes)?;
        let grid = TileGrid::new(xt, [tiles, tile_bytes], tile_bytes, [per_item, tile_bytes]);
        team.for_each(workers, grid.len(), |i| {
            let Some(mut item) = grid.claim(i) else {
                return Ok(false);
            };
            for tile in item.rows() {
                let xt: &mut [X] = bytemuck::cast_slice_mut(item.row_mut(tile, 0..tile_bytes));
                let first = tile * lanes;
                transpose(x, first..tokens.min(first + lanes), lanes, xt);
            }
            Ok(true)
        })
    }

    fn build_tables(&mut self, x: MatRef<'_, X>) -> Result<(), OutOfMemory> {
        let which = (self.backend, self.source);
        let kernel = X::row(which.0, which.1);
        let strips = self.strips();
        let unit_bytes = kernel.unit_bytes;
        let units_of = |start: usize, end: usize| end.div_ceil(unit_bytes) - start / unit_bytes;
        let units: usize = segments(strips, self.group_bytes)
            .map(|s| units_of(s.start, s.end))
            .sum();
        self.table_stride = (units * kernel.table_bytes).next_multiple_of(64);
        let rows = self.tokens - self.column_tokens;
        reserve(&mut self.tables, rows * self.table_stride)?;
        for token in 0..rows {
            let x = x.row(self.column_tokens + token);
            let mut first_unit = 0;
            for segment in segments(strips, self.group_bytes) {
                let units = units_of(segment.start, segment.end);
                // Whole units: activations outside of the segment count as zero.
                let start = segment.start / unit_bytes * unit_bytes * 4;
                self.row.clear();
                memory::resize(&mut self.row, units * unit_bytes * 4, X::zeroed())?;
                let (from, to) = (segment.start * 4, x.len().min(segment.end * 4));
                self.row[from - start..to - start].copy_from_slice(&x[from..to]);
                let at = token * self.table_stride + first_unit * kernel.table_bytes;
                let tables = &mut self.tables[at..];
                call::row_build(which, &self.row, units, tables);
                first_unit += units;
            }
        }
        Ok(())
    }
}
