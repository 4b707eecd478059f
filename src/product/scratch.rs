//! The memory that products reuse: one set of buffers a worker.

use crate::kernels::memory::tile_set::Paused;
use crate::memory::{Lines, OutOfMemory, lines};
use crate::product::folds::Running;
use crate::product::tables::FewTables;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// One worker's buffers.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) tables: Lines,
    pub(crate) few_tables: FewTables,
    pub(crate) acc: Lines,
    pub(crate) total: Lines,
    pub(crate) sums: Lines,
    /// Sums of one panel, on their way to outputs.
    pub(crate) panel_sums: Lines,
    /// Scales that are kept otherwise than outputs take them.
    pub(crate) scales: Lines,
    /// Outputs that are not yet in the caller's type.
    pub(crate) staged: Lines,
    /// A job to go on with, and where it is in a tile for many tokens.
    pub(crate) paused: Option<Paused>,
    pub(crate) running: Option<Running>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            tables: lines(),
            few_tables: FewTables::default(),
            acc: lines(),
            total: lines(),
            sums: lines(),
            panel_sums: lines(),
            scales: lines(),
            staged: lines(),
            paused: None,
            running: None,
        }
    }
}

/// One [`Scratch`] per worker.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<Mutex<Scratch>>);

impl Slots {
    /// Has at least `workers` slots afterwards.
    pub(crate) fn grow(&mut self, workers: usize) -> Result<(), OutOfMemory> {
        let more = workers.saturating_sub(self.0.len());
        self.0.try_reserve_exact(more).map_err(|_| OutOfMemory {
            bytes: workers.saturating_mul(size_of::<Mutex<Scratch>>()),
        })?;
        self.0.extend((0..more).map(|_| Mutex::default()));
        Ok(())
    }

    /// Runs `work` with a slot nobody else uses; `hint` is tried first. Should
    /// there be more workers than slots, the surplus gets memory of its own, which is not kept.
    pub(crate) fn with<R>(&self, hint: usize, work: impl FnOnce(&mut Scratch, bool) -> R) -> R {
        let slots = self
            .0
            .iter()
            .cycle()
            .skip(hint % self.0.len().max(1))
            .take(self.0.len());
        for slot in slots {
            if let Some(mut scratch) = free(slot) {
                return work(&mut scratch, true);
            }
        }
        work(&mut Scratch::default(), false)
    }

    /// Runs `work` with slots that nobody uses, one after the other, until it says that it did
    /// something. Returns whether it did.
    pub(crate) fn first_free<E>(
        &self,
        mut work: impl FnMut(&mut Scratch) -> Result<bool, E>,
    ) -> Result<bool, E> {
        for mut scratch in self.0.iter().filter_map(free) {
            if work(&mut scratch)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The slot, if nobody uses it.
fn free(slot: &Mutex<Scratch>) -> Option<MutexGuard<'_, Scratch>> {
    // A panic leaves memory of any contents, and jobs of a product that is not finished.
    match slot.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(e)) => Some(PoisonError::into_inner(e)),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// The lengths that successive uses leave and find.
    fn lengths(slots: &Slots, hint: usize) -> usize {
        slots.with(hint, |scratch, _| {
            reserve(&mut scratch.sums, 64).expect("little memory");
            scratch.sums.len()
        })
    }

    #[test]
    fn more_threads_than_slots_have_scratch_all_the_same() {
        let mut slots = Slots::default();
        slots.grow(2).expect("little memory");
        let inner = slots.with(0, |_, _| slots.with(0, |_, _| lengths(&slots, 0)));
        assert_eq!(inner, 64);
        // What the surplus allocated is gone.
        for hint in 0..2 {
            slots.with(hint, |scratch, _| assert!(scratch.sums.is_empty()));
        }
        assert_eq!(lengths(&Slots::default(), 7), 64);
    }

    #[test]
    fn scratch_outlives_a_panic() {
        let mut slots = Slots::default();
        slots.grow(1).expect("little memory");
        lengths(&slots, 0);
        let panicking = || slots.with(0, |_, _| panic!("with scratch in hand"));
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        slots.with(0, |scratch, _| assert_eq!(scratch.sums.len(), 64));
    }
}
