//! The memory that products reuse: one set of buffers a worker.

use crate::memory::{Lines, OutOfMemory, lines};
use crate::product::tables::FewTables;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One worker's buffers.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) tables: Lines,
    pub(crate) few_tables: FewTables,
    pub(crate) acc: Lines,
    pub(crate) total: Lines,
    pub(crate) sums: Lines,
    /// Scales that are kept otherwise than outputs take them.
    pub(crate) scales: Lines,
    /// Outputs that are not yet in the caller's type.
    pub(crate) staged: Lines,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            tables: lines(),
            few_tables: FewTables::default(),
            acc: lines(),
            total: lines(),
            sums: lines(),
            scales: lines(),
            staged: lines(),
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
    /// there be more workers than slots, the surplus gets memory of its own.
    pub(crate) fn with<R>(&self, hint: usize, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let slots = self
            .0
            .iter()
            .cycle()
            .skip(hint % self.0.len().max(1))
            .take(self.0.len());
        for slot in slots {
            // Scratch has no invariant that a panic could have broken.
            let free: Option<MutexGuard<'_, Scratch>> = match slot.try_lock() {
                Ok(guard) => Some(guard),
                Err(std::sync::TryLockError::Poisoned(e)) => Some(PoisonError::into_inner(e)),
                Err(std::sync::TryLockError::WouldBlock) => None,
            };
            if let Some(mut scratch) = free {
                return work(&mut scratch);
            }
        }
        work(&mut Scratch::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// The lengths that successive uses leave and find.
    fn lengths(slots: &Slots, hint: usize) -> usize {
        slots.with(hint, |scratch| {
            reserve(&mut scratch.sums, 64).expect("little memory");
            scratch.sums.len()
        })
    }

    #[test]
    fn more_threads_than_slots_have_scratch_all_the_same() {
        let mut slots = Slots::default();
        slots.grow(2).expect("little memory");
        let inner = slots.with(0, |_| slots.with(0, |_| lengths(&slots, 0)));
        assert_eq!(inner, 64);
        // What the surplus allocated is gone.
        for hint in 0..2 {
            slots.with(hint, |scratch| assert!(scratch.sums.is_empty()));
        }
        assert_eq!(lengths(&Slots::default(), 7), 64);
    }

    #[test]
    fn scratch_outlives_a_panic() {
        let mut slots = Slots::default();
        slots.grow(1).expect("little memory");
        lengths(&slots, 0);
        let panicking = || slots.with(0, |_| panic!("with scratch in hand"));
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
        slots.with(0, |scratch| assert_eq!(scratch.sums.len(), 64));
    }
}
