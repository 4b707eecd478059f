//! Tables for few tokens, and who keeps them.
//!
//! Tables are many times larger than the activations they come from and quickly
//! built, so each worker builds its own. A line that another core has just
//! written is slow to fetch, and slowest between cores that share no cache:
//! there two threads with tables from one of them were no faster than one.
//! Only tables that would take much memory in every worker are shared.

use crate::kernels::call;
use crate::kernels::element::{Element, Few};
use crate::kernels::memory::tiles::TileGrid;
use crate::memory::{Lines, OutOfMemory, lines, reserve};
use crate::product::plan;
use crate::threads::{Stopped, Threads};
use core::ops::Range;

/// Activations that tables are built from.
pub(crate) struct FewRows<'a, X: Element> {
    /// The preparation they belong to, and whether `kernel` expects weights from memory:
    /// what tells tables apart.
    pub(crate) key: (u64, bool),
    pub(crate) kernel: Few<X>,
    /// `[tokens][4 * units * unit_strips]`.
    pub(crate) rows: &'a [X],
    pub(crate) tokens: usize,
    /// Table units of a token, and those of them that are not padding alone.
    pub(crate) units: usize,
    pub(crate) real_units: usize,
}

impl<X: Element> FewRows<'_, X> {
    /// Bytes of one token's tables, in whole cache lines.
    pub(crate) fn stride(&self) -> usize {
        (self.units * self.kernel.table_bytes).next_multiple_of(64)
    }

    /// Builds the tables of some units of a token among all of its tables.
    fn build(&self, token: usize, units: Range<usize>, tables: &mut [u8]) {
        let len = self.rows.len() / self.tokens;
        let unit = 4 * self.kernel.unit_strips;
        let row = &self.rows[token * len..][..len];
        call::few_build(
            self.kernel,
            &row[units.start * unit..units.end * unit],
            units.len(),
            &mut tables[units.start * self.kernel.table_bytes..],
        );
    }
}

/// The tables of some tokens.
#[derive(Debug)]
pub(crate) struct FewTables {
    bytes: Lines,
    /// Bytes from a token's tables to the next token's.
    stride: usize,
    /// What they are built from, and into how many parts K is cut; `None` before that.
    key: Option<((u64, bool), usize)>,
    /// A bit for each part whose tables are there.
    built: u32,
}

impl Default for FewTables {
    fn default() -> Self {
        Self {
            bytes: lines(),
            stride: 0,
            key: None,
            built: 0,
        }
    }
}

impl FewTables {
    /// Tables from `offset` bytes into those of token `token` on, and the bytes between
    /// tokens.
    pub(crate) fn from(&self, token: usize, offset: usize) -> (&[u8], usize) {
        (&self.bytes[token * self.stride + offset..], self.stride)
    }

    /// Builds the tables of `rows` over some of the `count` parts of K, unless they are there.
    pub(crate) fn build<X: Element>(
        &mut self,
        rows: &FewRows<'_, X>,
        (parts, count): (Range<usize>, usize),
    ) -> Result<(), OutOfMemory> {
        let key = Some((rows.key, count));
        if self.key != key {
            self.start(rows)?;
            self.key = key;
        }
        for part in parts {
            if self.built & 1 << part != 0 {
                continue;
            }
            // The last one has what pads the rows as well.
            let mut units = plan::part(rows.real_units, part..part + 1, count);
            if part + 1 == count {
                units.end = rows.units;
            }
            let tables = self.bytes.chunks_mut(self.stride);
            for (token, tables) in tables.take(rows.tokens).enumerate() {
                rows.build(token, units.clone(), tables);
            }
            self.built |= 1 << part;
        }
        Ok(())
    }

    /// Builds them by all workers.
    pub(crate) fn build_shared<X: Element>(
        &mut self,
        rows: &FewRows<'_, X>,
        threads: &Threads,
    ) -> Result<(), Stopped> {
        let (tokens, stride, workers) = (rows.tokens, rows.stride(), threads.workers());
        let bytes = self.start(rows)?;
        let tile = [plan::per_item(tokens, workers), stride];
        let grid = TileGrid::new(bytes, [tokens, stride], stride, tile);
        threads.for_each(workers, grid.len(), |i| {
            let Some(mut item) = grid.claim(i) else {
                return Ok(false);
            };
            for token in item.rows() {
                rows.build(token, 0..rows.units, item.row_mut(token, 0..stride));
            }
            Ok(true)
        })?;
        self.key = Some((rows.key, 1));
        self.built = 1;
        Ok(())
    }

    /// Memory for the tables of `rows`, which are not there yet.
    fn start<X: Element>(&mut self, rows: &FewRows<'_, X>) -> Result<&mut [u8], OutOfMemory> {
        (self.key, self.built) = (None, 0);
        self.stride = rows.stride();
        reserve(&mut self.bytes, rows.tokens * self.stride)
    }
}
