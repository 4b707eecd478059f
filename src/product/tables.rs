//! Row-lane tables, and who holds them.
//!
//! Tables are many times larger than the activations they come from and quickly
//! built, so each worker builds its own. A line that another core has just
//! written is slow to fetch, and slowest between cores that share no cache:
//! there two threads with tables from one of them were no faster than one.
//! Only tables that would take much memory in every worker are shared.

use crate::kernels::call::{self, Element};
use crate::kernels::memory::tiles::{MAX_TILES, TileGrid};
use crate::memory::OutOfMemory;
use crate::parallel_for::{Stopped, Team};
use crate::product::prepare::Prepared;
use crate::workspace::{Lines, lines, reserve};

/// Bytes of tables up to which each worker has its own.
const PRIVATE: usize = 4 << 20;

/// The row-lane tables of some tokens.
#[derive(Debug)]
pub(crate) struct FewTables {
    bytes: Lines,
    /// Bytes from a token's tables to the next token's.
    stride: usize,
    /// Which preparation they belong to; 0 for none.
    of: u64,
}

impl Default for FewTables {
    fn default() -> Self {
        Self {
            bytes: lines(),
            stride: 0,
            of: 0,
        }
    }
}

impl FewTables {
    /// Tables from `at` bytes into those of token `token` on, counted from the
    /// first that takes row lanes, and the bytes between tokens.
    pub(crate) fn from(&self, token: usize, at: usize) -> (&[u8], usize) {
        (&self.bytes[token * self.stride + at..], self.stride)
    }

    /// Whether to share the tables of `prepared`.
    pub(crate) fn shared<X: Element>(prepared: &Prepared<X>) -> bool {
        prepared.few_tokens() * stride(prepared) > PRIVATE
    }

    /// Builds the tables of `prepared` unless they are there.
    pub(crate) fn hold<X: Element>(&mut self, prepared: &Prepared<X>) -> Result<(), OutOfMemory> {
        if self.of != prepared.id() {
            let bytes = self.start(prepared)?;
            for (token, tables) in bytes.chunks_mut(stride(prepared)).enumerate() {
                build(prepared, token, tables);
            }
            self.of = prepared.id();
        }
        Ok(())
    }

    /// As `hold`, on all workers.
    pub(crate) fn hold_shared<X: Element>(
        &mut self,
        prepared: &Prepared<X>,
        team: &Team,
    ) -> Result<(), Stopped> {
        let (tokens, stride) = (prepared.few_tokens(), stride(prepared));
        let bytes = self.start(prepared)?;
        let workers = team.workers();
        let per_item = tokens.div_ceil(MAX_TILES.min(64 * workers)).max(1);
        let grid = TileGrid::new(bytes, [tokens, stride], stride, [per_item, stride]);
        team.for_each(workers, grid.len(), |i| {
            let Some(mut item) = grid.claim(i) else {
                return Ok(false);
            };
            for token in item.rows() {
                build(prepared, token, item.row_mut(token, 0..stride));
            }
            Ok(true)
        })?;
        self.of = prepared.id();
        Ok(())
    }

    /// Room for the tables of `prepared`, which are not there yet.
    fn start<X: Element>(&mut self, prepared: &Prepared<X>) -> Result<&mut [u8], OutOfMemory> {
        self.of = 0;
        self.stride = stride(prepared);
        reserve(&mut self.bytes, prepared.few_tokens() * self.stride)
    }
}

/// Bytes of one token's tables, in whole cache lines.
fn stride<X: Element>(prepared: &Prepared<X>) -> usize {
    let kernel = X::row(prepared.backend(), prepared.source());
    (prepared.units() * kernel.table_bytes).next_multiple_of(64)
}

fn build<X: Element>(prepared: &Prepared<X>, token: usize, tables: &mut [u8]) {
    let which = (prepared.backend(), prepared.source());
    call::few_build(which, prepared.row(token), prepared.units(), tables);
}
