//! A value that other threads borrow until a call of its owner ends.
//!
//! The place that they find it in outlives the value, so the value's lifetime is forgotten
//! there. One word of state keeps what the lifetime had promised:
//!
//! ```text
//!            lend                 close            the last borrower leaves
//!   EMPTY ---------> LENT | OPEN -------> LENT ----------------------------> EMPTY
//!                     + borrowers          + borrowers
//! ```
//!
//! 1. The owner writes the value before it opens: a borrower that came in sees it.
//! 2. Borrowers come in while it is open, and each is counted before it looks.
//! 3. `lend` closes and waits until no borrower is left, however it ends.
//!
//! Nobody has to come: an owner waits for those that are inside, and for no others.

use crate::kernels::threads::sync::{AtomicUsize, Ordering, UnsafeCell, Wait};
use core::fmt;
use core::marker::PhantomData;
use core::ptr;

/// What can be lent: a type for every lifetime. Borrowers get a copy each.
pub trait Lendable {
    type For<'a>: Copy + Send;
}

/// Nothing is lent.
const EMPTY: usize = 0;
/// Something is lent: its owner's call has not ended.
const LENT: usize = 1;
/// Borrowers may come in.
const OPEN: usize = 2;
/// Each borrower that is inside.
const BORROWER: usize = 4;

/// The place where a value is lent.
pub struct Lent<K: Lendable> {
    state: AtomicUsize,
    /// Where the owner's call has it: a `K::For` of a lifetime that lasts until that call ends.
    value: UnsafeCell<*const ()>,
    _value: PhantomData<K>,
}

// SAFETY: what goes through it from one thread to others are copies of a `K::For`, which is
// `Send` for every lifetime. The cell is written by one owner at a time, while nobody is inside.
unsafe impl<K: Lendable> Sync for Lent<K> {}
// SAFETY: likewise. It cannot move while something is lent, which borrows it.
unsafe impl<K: Lendable> Send for Lent<K> {}

impl<K: Lendable> Default for Lent<K> {
    fn default() -> Self {
        Self {
            state: AtomicUsize::new(EMPTY),
            value: UnsafeCell::new(ptr::null()),
            _value: PhantomData,
        }
    }
}

impl<K: Lendable> fmt::Debug for Lent<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent")
    }
}

impl<K: Lendable> Lent<K> {
    /// Lends `value` while `during` runs, and returns when no borrower has it any more, also
    /// if `during` panics. `None`, and `during` does not run, if something is lent already.
    pub fn lend<'a, R>(&self, value: K::For<'a>, during: impl FnOnce() -> R) -> Option<R> {
        // Acquire: the borrowers of the owner before this one have read the cell.
        let empty = self
            .state
            .compare_exchange(EMPTY, LENT, Ordering::Acquire, Ordering::Relaxed);
        if empty.is_err() {
            return None;
        }
        let place = (&raw const value).cast::<()>();
        // SAFETY: only the owner writes it, which this call has just become, and nobody is
        // inside to read it.
        self.value.with_mut(|cell| unsafe { *cell = place });
        // Dropped before `value` is, however `during` ends.
        let _end = End(self);
        // Release: a borrower sees what the cell holds.
        self.state.fetch_or(OPEN, Ordering::Release);
        Some(during())
    }

    /// Runs `with` on what is lent; `None`, if nothing is or it is closed.
    ///
    /// `with` takes it for any lifetime, so it cannot keep it for longer than it runs.
    pub fn borrow<R>(&self, with: impl for<'b> FnOnce(K::For<'b>) -> R) -> Option<R> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & OPEN != 0 {
            let inside = state + BORROWER;
            // Acquire: pairs with the owner's opening. All changes since then were made in
            // place, so it does not matter whose this one follows.
            match self.state.compare_exchange_weak(
                state,
                inside,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    let _inside = Inside(self);
                    // SAFETY: this borrower came in while it was open, so the owner has
                    // written the cell, and writes it no more before this one has left.
                    let place = self.value.with(|cell| unsafe { *cell });
                    // SAFETY: it points to a `K::For` of the owner's call, which waits for
                    // this borrower before it ends. Its lifetime is one of those that `with`
                    // is made for.
                    let value = unsafe { *place.cast::<K::For<'_>>() };
                    return Some(with(value));
                }
                Err(now) => state = now,
            }
        }
        None
    }

    /// Lets no more borrowers in, until something is lent again.
    pub fn close(&self) {
        // Relaxed: it orders nothing.
        self.state.fetch_and(!OPEN, Ordering::Relaxed);
    }
}

/// The end of an owner's call.
struct End<'l, K: Lendable>(&'l Lent<K>);

impl<K: Lendable> Drop for End<'_, K> {
    fn drop(&mut self) {
        self.0.close();
        let mut wait = Wait::default();
        // Acquire: what borrowers did is done. Release below: for the next owner.
        while self.0.state.load(Ordering::Acquire) != LENT {
            wait.pause();
        }
        self.0.state.store(EMPTY, Ordering::Release);
    }
}

/// A borrower that is inside.
struct Inside<'l, K: Lendable>(&'l Lent<K>);

impl<K: Lendable> Drop for Inside<'_, K> {
    fn drop(&mut self) {
        // Release: the owner that waits sees what this one did.
        self.0.state.fetch_sub(BORROWER, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Lendable, Lent};
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    #[derive(Debug)]
    struct Texts;

    impl Lendable for Texts {
        type For<'a> = &'a String;
    }

    fn length(lent: &Lent<Texts>) -> Option<usize> {
        lent.borrow(|text| text.len())
    }

    #[test]
    fn a_value_is_there_while_it_is_lent() {
        let lent = Lent::<Texts>::default();
        assert_eq!(length(&lent), None);
        for text in ["one", "three"].map(str::to_owned) {
            let borrowed = lent.lend(&text, || (length(&lent), length(&lent)));
            let len = Some(text.len());
            assert_eq!(borrowed, Some((len, len)));
            drop(text);
            assert_eq!(length(&lent), None);
        }
        assert_eq!(format!("{lent:?}"), "Lent");
    }

    #[test]
    fn one_value_at_a_time() {
        let lent = Lent::<Texts>::default();
        let (first, second) = ("first".to_owned(), "no".to_owned());
        let inner = lent.lend(&first, || (lent.lend(&second, || 0), length(&lent)));
        assert_eq!(inner, Some((None, Some(5))));
    }

    #[test]
    fn closed_until_the_next() {
        let lent = Lent::<Texts>::default();
        let text = "text".to_owned();
        let closed = lent.lend(&text, || {
            lent.close();
            length(&lent)
        });
        assert_eq!(closed, Some(None));
        assert_eq!(lent.lend(&text, || length(&lent)), Some(Some(4)));
    }

    #[test]
    fn panics_end_it() {
        let lent = Lent::<Texts>::default();
        let text = "text".to_owned();
        let owner = || lent.lend(&text, || panic!("the owner"));
        assert!(catch_unwind(AssertUnwindSafe(owner)).is_err());
        assert_eq!(length(&lent), None);
        let borrower = || lent.borrow(|_| panic!("a borrower"));
        let caught = lent.lend(&text, || catch_unwind(AssertUnwindSafe(borrower)).is_err());
        assert_eq!(caught, Some(true));
        assert_eq!(lent.lend(&text, || length(&lent)), Some(Some(4)));
    }

    /// Values come and go while others borrow them: what they read is whole and alive.
    #[test]
    fn borrowers_are_waited_for() {
        let lent = Lent::<Texts>::default();
        let (rounds, borrowed, stop) = (100, AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while stop.load(Ordering::Relaxed) == 0 {
                        let whole = lent.borrow(|text| {
                            let text = text.clone();
                            thread::yield_now();
                            text == "z".repeat(text.len())
                        });
                        match whole {
                            Some(whole) => {
                                assert!(whole);
                                borrowed.fetch_add(1, Ordering::Relaxed);
                            }
                            None => thread::yield_now(),
                        }
                    }
                });
            }
            for round in 0..rounds {
                let mut text = "z".repeat(100 + round);
                let before = borrowed.load(Ordering::Relaxed);
                lent.lend(&text, || {
                    while borrowed.load(Ordering::Relaxed) == before {
                        thread::yield_now();
                    }
                });
                text.clear();
                text.push_str("not whole");
            }
            stop.store(1, Ordering::Relaxed);
        });
        assert!(borrowed.into_inner() >= rounds);
    }
}

/// As `src/team.rs` says of its own.
#[cfg(all(test, loom))]
mod loom_models {
    use super::{Lendable, Lent};
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    struct Numbers;

    impl Lendable for Numbers {
        type For<'a> = &'a Number;
    }

    /// loom fails where a thread reads it while another writes.
    struct Number(UnsafeCell<usize>);

    // SAFETY: it is what the model shows.
    unsafe impl Sync for Number {}

    /// An owner writes each value before it is lent and after it is given back.
    #[test]
    fn values_are_whole_while_they_are_lent() {
        loom::model(|| {
            let lent = Arc::new(Lent::<Numbers>::default());
            let thread = {
                let lent = lent.clone();
                thread::spawn(move || {
                    for _ in 0..2 {
                        // SAFETY: lent, so nobody writes.
                        let read = |number: &Number| number.0.with(|p| unsafe { *p });
                        let read = lent.borrow(|number| read(number));
                        assert!(matches!(read, None | Some(1 | 2)), "{read:?}");
                    }
                })
            };
            for value in 1..=2 {
                let number = Number(UnsafeCell::new(0));
                // SAFETY: nobody else has it yet, or any more.
                number.0.with_mut(|p| unsafe { *p = value });
                lent.lend(&number, || ()).expect("the only owner");
                number.0.with_mut(|p| unsafe { *p = 9 });
            }
            thread.join().expect("no panic");
        });
    }
}
