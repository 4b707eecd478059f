//! Which memory each simulated worker allocated: what would lie in the caches of a real one.
//!
//! The program's allocator notes what is allocated while somebody works. Noting allocates
//! nothing: there is room for so many blocks, and those beyond it are nobody's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The system's allocator, which notes whose its blocks are.
pub struct Noting;

const NOBODY: usize = usize::MAX;
/// Blocks that there is room for.
const ROOM: usize = 4096;
/// Smaller blocks are not worth noting.
const SMALLEST: usize = 256;
const LINE: usize = 64;

#[derive(Clone, Copy)]
struct Block {
    address: usize,
    len: usize,
    worker: usize,
}

const NONE: Block = Block {
    address: 0,
    len: 0,
    worker: NOBODY,
};

struct Blocks {
    blocks: [Block; ROOM],
    /// Those from here on are free.
    end: usize,
}

thread_local! {
    /// Who works on this thread.
    static WORKER: Cell<usize> = const { Cell::new(NOBODY) };
}
static BLOCKS: Mutex<Blocks> = Mutex::new(Blocks {
    blocks: [NONE; ROOM],
    end: 0,
});

fn blocks() -> MutexGuard<'static, Blocks> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(pointer: *mut u8, len: usize) -> *mut u8 {
    let worker = WORKER.get();
    if worker != NOBODY && len >= SMALLEST && !pointer.is_null() {
        let mut blocks = blocks();
        let Blocks { blocks, end } = &mut *blocks;
        let free = blocks.iter().position(|block| block.worker == NOBODY);
        if let Some(free) = free {
            let address = pointer.addr();
            blocks[free] = Block {
                address,
                len,
                worker,
            };
            *end = (*end).max(free + 1);
        }
    }
    pointer
}

fn forget(pointer: *mut u8) {
    let mut blocks = blocks();
    let Blocks { blocks, end } = &mut *blocks;
    let is_it = |block: &&mut Block| block.address == pointer.addr();
    if let Some(block) = blocks[..*end].iter_mut().find(is_it) {
        *block = NONE;
    }
}

// SAFETY: everything is handed on to `System` unchanged; noting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout, as it is.
        note(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout, as it is.
        note(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if layout.size() >= SMALLEST {
            forget(pointer);
        }
        // SAFETY: the caller's block and layout, as they are.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `work` as a worker, which owns what this thread allocates meanwhile.
pub fn working<R>(worker: usize, work: impl FnOnce() -> R) -> R {
    let before = WORKER.replace(worker);
    let result = work();
    WORKER.set(before);
    result
}

/// Reads what a worker allocated.
pub fn read(worker: usize) {
    let blocks = blocks();
    for block in &blocks.blocks[..blocks.end] {
        if block.worker == worker {
            for at in (0..block.len).step_by(LINE) {
                let byte = std::ptr::with_exposed_provenance::<u8>(block.address + at);
                // SAFETY: the block is not freed before `forget`, which waits for the lock. It
                // was allocated on a thread that does everybody's work, this one.
                black_box(unsafe { byte.read_volatile() });
            }
        }
    }
}
