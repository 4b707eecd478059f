//! Parallel-for callbacks on one thread: in and out of order, items twice or
//! not at all, calls that come too late.

use super::outcome::{failed, worked};
use arbitrary::Arbitrary;
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null_mut;
use tritgemm::Incomplete;
use tritgemm_capi as c;

/// In which order items run, and which do.
#[derive(Arbitrary, Clone, Debug)]
pub enum Order {
    /// As they come.
    Forward,
    /// From the last to the first.
    Backward,
    /// Every so many, then those between.
    Strides(u8),
    /// Each twice at once.
    Twice,
    /// All, and all again, and some that there are not.
    Again,
    /// All but this one.
    Without(u8),
    /// Those before this one.
    Until(u8),
    /// This one as often as there are items.
    Only(u8),
}

impl Order {
    fn items(&self, items: usize) -> Vec<usize> {
        let one = |which: u8| usize::from(which) % items.max(1);
        let all = 0..items;
        match *self {
            Order::Forward => all.collect(),
            Order::Backward => all.rev().collect(),
            Order::Strides(by) => {
                let by = usize::from(by).max(1);
                (0..by.min(items))
                    .flat_map(|first| (first..items).step_by(by))
                    .collect()
            }
            Order::Twice => all.flat_map(|item| [item; 2]).collect(),
            Order::Again => all
                .clone()
                .chain(all)
                .chain([items, items + 1, usize::MAX])
                .collect(),
            Order::Without(which) => all.filter(|&item| item != one(which)).collect(),
            Order::Until(which) => (0..one(which)).collect(),
            Order::Only(which) => all.map(|_| one(which)).collect(),
        }
    }
}

/// The context of a callback.
#[derive(Debug)]
pub struct Schedule {
    order: Order,
    /// The workspace whose loops it runs, to be used from inside of one.
    workspace: Cell<*mut c::Workspace>,
    nested: bool,
    loops: Cell<usize>,
    short: Cell<Option<Incomplete>>,
    late: Cell<Option<Late>>,
}

type Late = (unsafe extern "C" fn(*mut c_void, usize), *mut c_void);

impl Schedule {
    /// For the loops of `workspace`.
    pub fn new(order: Order, nested: bool, workspace: *mut c::Workspace) -> Box<Self> {
        Box::new(Self {
            order,
            workspace: Cell::new(workspace),
            nested,
            loops: Cell::new(0),
            short: Cell::new(None),
            late: Cell::new(None),
        })
    }

    /// To be registered.
    pub fn context(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Before a call.
    pub fn begin(&self) {
        self.loops.set(0);
        self.short.set(None);
    }

    /// After a call: what it left out. Items that come now do nothing.
    pub fn end(&self) -> Option<Incomplete> {
        if let Some((work, context)) = self.late.take() {
            for item in [0, 1, usize::MAX] {
                // SAFETY: the workspace lives, which is all that it asks for.
                unsafe { work(context, item) };
            }
        }
        self.short.get()
    }

    fn run(&self, items: usize, work: impl Fn(usize)) {
        assert!(items > 1, "a loop of {items}");
        assert_eq!(self.short.get(), None, "a loop after one that failed");
        self.loops.set(self.loops.get() + 1);
        let order = self.order.items(items);
        let mut ran = vec![false; items];
        for &item in &order {
            work(item);
            if let Some(ran) = ran.get_mut(item) {
                *ran = true;
            }
        }
        let done = ran.iter().filter(|&&ran| ran).count();
        if done < items {
            self.short.set(Some(Incomplete { done, items }));
        }
    }

    /// Its own workspace is busy; another one is not.
    fn nest(&self) {
        let own = self.workspace.get();
        let mut other = null_mut();
        // SAFETY: a workspace that lives, an out pointer, and one of its own.
        unsafe {
            let status = c::tritgemm_workspace_pin(own, 0);
            assert_eq!(status, c::Status::TritgemmBusy);
            assert!(failed(status).contains("in use"));
            worked(c::tritgemm_workspace_create(&mut other));
            worked(c::tritgemm_workspace_pin(other, 1));
            c::tritgemm_workspace_destroy(other);
        }
    }
}

/// Runs the [`Schedule`] that is its context.
///
/// # Safety
/// It is one that lives.
pub unsafe extern "C" fn callback(
    context: *mut c_void,
    items: usize,
    work: c::Work,
    work_context: *mut c_void,
) {
    // SAFETY: the caller's word.
    let schedule = unsafe { &*context.cast::<Schedule>() };
    let work = work.expect("never null");
    schedule.late.set(Some((work, work_context)));
    if schedule.nested {
        schedule.nest();
    }
    schedule.run(items, |item| {
        // SAFETY: from inside of the loop, and the workspace lives.
        unsafe { work(work_context, item) };
    });
}
