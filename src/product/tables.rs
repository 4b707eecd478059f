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

/// Activations that tables are built from.
pub(crate) struct FewRows<'a, X: Element> {
    /// The preparation they belong to, and whether `kernel` expects weights from memory:
    /// what tells tables apart.
    pub(crate) key: (u64, bool),
    pub(crate) kernel: Few<X>,
    /// `[tokens][4 * units * unit_strips]`.
    pub(crate) rows: &'a [X],
    pub(crate) tokens: usize,
    /// Table units of a token.
    pub(crate) units: usize,
}

impl<X: Element> FewRows<'_, X> {
    /// Bytes of one token's tables, in whole cache lines.
    pub(crate) fn stride(&self) -> usize {
        (self.units * self.kernel.table_bytes).next_multiple_of(64)
    }

    fn build(&self, token: usize, tables: &mut [u8]) {
        let len = self.rows.len() / self.tokens;
        call::few_build(
            self.kernel,
            &self.rows[token * len..][..len],
            self.units,
            tables,
        );
    }
}

/// The tables of some tokens.
#[derive(Debug)]
pub(crate) struct FewTables {
    bytes: Lines,
    /// Bytes from a token's tables to the next token's.
    stride: usize,
    /// What they were built from; `None` before that.
    key: Option<(u64, bool)>,
}

impl Default for FewTables {
    fn default() -> Self {
        Self {
            bytes: lines(),
            stride: 0,
            key: None,
        }
    }
}

impl FewTables {
    /// Tables from `offset` bytes into those of token `token` on, and the bytes between
    /// tokens.
    pub(crate) fn from(&self, token: usize, offset: usize) -> (&[u8], usize) {
        (&self.bytes[token * self.stride + offset..], self.stride)
    }

    /// Builds the tables of `rows` unless they are there.
    pub(crate) fn build<X: Element>(&mut self, rows: &FewRows<'_, X>) -> Result<(), OutOfMemory> {
        if self.key != Some(rows.key) {
            let bytes = self.start(rows)?;
            for (token, tables) in bytes.chunks_mut(rows.stride()).enumerate() {
                rows.build(token, tables);
            }
            self.key = Some(rows.key);
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
                rows.build(token, item.row_mut(token, 0..stride));
            }
            Ok(true)
        })?;
        self.key = Some(rows.key);
        Ok(())
    }

    /// Memory for the tables of `rows`, which are not there yet.
    fn start<X: Element>(&mut self, rows: &FewRows<'_, X>) -> Result<&mut [u8], OutOfMemory> {
        self.key = None;
        self.stride = rows.stride();
        reserve(&mut self.bytes, rows.tokens * self.stride)
    }
}
