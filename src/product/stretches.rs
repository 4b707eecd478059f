//! Several workers on one tile of the output, each over a stretch of K.
//!
//! A tile that is cut in rows among workers has its tables built by each of them again; one
//! that is cut along K has not. Each worker adds its sums to those of the tile, and whoever
//! comes last makes outputs of them. Only exact sums may be added in any order.

use crate::kernels::contract::PANEL_ROWS;
use crate::kernels::element::Element;
use crate::kernels::memory::tiles::{Job, Tile};
use crate::kernels::prefetch;
use crate::memory::{Lines, OutOfMemory, lines, reserve};
use crate::product::sink::{Place, Sink};
use bytemuck::Pod;
use core::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A job that goes on, unless all of it is done, and the units begun.
pub(crate) type Outcome<'s, 'a, T> = (Option<Job<'s, 'a, T>>, usize);

/// The sums of tiles whose stretches are not all done.
#[derive(Debug, Default)]
pub(crate) struct TileSums(Vec<Mutex<Sums>>);

/// The sums of a tile over the stretches that are done, `[panel][token][row of the panel]`.
#[derive(Debug)]
pub(crate) struct Sums {
    started: bool,
    bytes: Lines,
}

impl Default for Sums {
    fn default() -> Self {
        let bytes = lines();
        Self {
            started: false,
            bytes,
        }
    }
}

impl TileSums {
    /// Has at least `tiles`, none of them started, afterwards.
    pub(crate) fn start(&mut self, tiles: usize) -> Result<(), OutOfMemory> {
        let more = tiles.saturating_sub(self.0.len());
        self.0.try_reserve_exact(more).map_err(|_| OutOfMemory {
            bytes: tiles.saturating_mul(size_of::<Mutex<Sums>>()),
        })?;
        self.0.extend((0..more).map(|_| Mutex::default()));
        for sums in &mut self.0[..tiles] {
            let sums = sums.get_mut().unwrap_or_else(PoisonError::into_inner);
            sums.started = false;
        }
        Ok(())
    }

    /// Those of one tile.
    pub(crate) fn of(&self, tile: usize) -> &Mutex<Sums> {
        &self.0[tile]
    }
}

/// What nobody else adds to meanwhile.
pub(crate) fn locked(sums: &Mutex<Sums>) -> MutexGuard<'_, Sums> {
    // A panic leaves sums of a product that is never finished.
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sums {
    /// Sums of `[tokens, rows]`, zeros at first.
    pub(crate) fn values<T: Pod>(
        &mut self,
        [tokens, rows]: [usize; 2],
    ) -> Result<&mut [T], OutOfMemory> {
        let row = (PANEL_ROWS * size_of::<T>()).saturating_mul(rows.div_ceil(PANEL_ROWS));
        let bytes = reserve(&mut self.bytes, row.saturating_mul(tokens))?;
        if !core::mem::replace(&mut self.started, true) {
            bytes.fill(0);
        }
        Ok(bytemuck::cast_slice_mut(bytes))
    }
}

/// Adds `more` to `sums`.
pub(crate) fn add<T: Copy + AddAssign>(sums: &mut [T], more: &[T]) {
    for (sum, &more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}

/// Makes outputs of a tile's sums over all of K. Row 0 of the output is token `first_token` of
/// the product.
pub(crate) fn emit<X: Element, S: Sink<X>>(
    sink: &S,
    sums: &[X::Acc],
    first_token: usize,
    y: &mut Tile<'_, S::Out>,
) {
    let (tokens, first_panel) = (y.rows().len(), y.cols().start / PANEL_ROWS);
    for (i, sums) in sums.chunks_exact(PANEL_ROWS * tokens).enumerate() {
        emit_panel(sink, sums, first_token, first_panel + i, y);
    }
}

/// Makes outputs of a panel's sums, `[token][row of the panel]`, as [`emit`].
pub(crate) fn emit_panel<X: Element, S: Sink<X>>(
    sink: &S,
    sums: &[X::Acc],
    first_token: usize,
    panel: usize,
    y: &mut Tile<'_, S::Out>,
) {
    let row = panel * PANEL_ROWS;
    let rows = row..y.cols().end.min(row + PANEL_ROWS);
    // Rows of the output are far apart: the CPU sees no stream of writes.
    let next = rows.end..y.cols().end.min(rows.end + PANEL_ROWS);
    let (mut room, mut staged) = ([0.0; PANEL_ROWS], [0.0; PANEL_ROWS]);
    let scales = sink.scales(0, rows.clone(), &mut room[..rows.len()]);
    let staged: &mut [f32] = match sink.stages() {
        true => &mut staged[..rows.len()],
        false => &mut [],
    };
    for (token, sums) in y.rows().zip(sums.chunks_exact(PANEL_ROWS)) {
        prefetch::output(y.row_mut(token, next.clone()));
        let place = Place {
            group: (0, 1),
            token: first_token + token,
            row,
        };
        let out = y.row_mut(token, rows.clone());
        sink.emit(place, &sums[..rows.len()], scales, staged, out);
    }
}
