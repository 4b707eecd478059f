//! Several workers on one tile of the output, each over a stretch of K.
//!
//! A tile that is cut in rows among workers has its tables built by each of them again; one
//! that is cut along K has not. Each worker adds its sums to those of the tile, and whoever
//! comes last makes outputs of them. Only exact sums may be added in any order.

use crate::kernels::contract::PANEL_ROWS;
use crate::kernels::element::Element;
use crate::kernels::memory::tile_set::Job;
use crate::kernels::memory::tiles::Tile;
use crate::kernels::prefetch;
use crate::memory::{Lines, OutOfMemory, lines, reserve};
use crate::product::sink::{Place, Sink};
use std::sync::{Mutex, PoisonError};

/// A job that goes on, unless all of it is done, and the units begun.
pub(crate) type Outcome<'s, 'a, T> = (Option<Job<'s, 'a, T>>, usize);

/// The sums of tiles whose stretches are not all done.
#[derive(Debug, Default)]
pub(crate) struct TileSums(Vec<Mutex<Sums>>);

/// The sums of a tile over the stretches that are done, `[panel][lane][row of the panel]`.
#[derive(Debug)]
struct Sums {
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
}

/// Hands in the sums of a job's units, which are done. `panel(i, sums, adds)` writes those of
/// panel `i` of the tile, `[lane][row of the panel]`, or adds them to what is there: lanes after
/// the tile's tokens do not matter. `own` is room for one panel's. Whoever is last makes outputs
/// of them, of which row 0 is token `first_token` of the product.
pub(crate) fn hand_in<X: Element, S: Sink<X>>(
    sink: &S,
    job: Job<'_, '_, S::Out>,
    [first_token, lanes]: [usize; 2],
    (all, own): (&TileSums, &mut Lines),
    mut panel: impl FnMut(usize, &mut [X::Acc], bool),
) -> Result<(), OutOfMemory> {
    let (_, _, rows) = job.place();
    let (first_panel, panels) = (rows.start / PANEL_ROWS, rows.len().div_ceil(PANEL_ROWS));
    let len = PANEL_ROWS * lanes;
    if job.is_whole() {
        let sums = reserve(own, len * size_of::<X::Acc>())?;
        let sums: &mut [X::Acc] = bytemuck::cast_slice_mut(sums);
        let mut y = job.finish().expect("nobody else began a unit of it");
        for i in 0..panels {
            panel(i, sums, false);
            emit_panel(sink, sums, first_token, first_panel + i, &mut y);
        }
        return Ok(());
    }
    // A panic leaves sums of a product that is never finished.
    let mut all = all.0[job.tile()]
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let Sums { started, bytes } = &mut *all;
    let bytes = reserve(bytes, (len * size_of::<X::Acc>()).saturating_mul(panels))?;
    let adds = core::mem::replace(started, true);
    let sums: &mut [X::Acc] = bytemuck::cast_slice_mut(bytes);
    for (i, sums) in sums.chunks_exact_mut(len).enumerate() {
        panel(i, sums, adds);
    }
    if let Some(mut y) = job.finish() {
        for (i, sums) in sums.chunks_exact(len).enumerate() {
            emit_panel(sink, sums, first_token, first_panel + i, &mut y);
        }
    }
    Ok(())
}

/// Makes outputs of a panel's sums, `[token][row of the panel]`.
fn emit_panel<X: Element, S: Sink<X>>(
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
