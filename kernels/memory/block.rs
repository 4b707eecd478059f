//! The memory of packed panels: never cleared, never copied, in huge pages
//! where the system grants them.

use crate::isa::Backend;
use crate::kernels::call;
use crate::kernels::contract::PANEL_ROWS;
use crate::kernels::memory::tiles::TileGrid;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::alloc::{alloc, dealloc};

/// The least alignment of a block: a cache line.
const CACHE_LINE: usize = 64;
/// A huge page where base pages have 4 KiB. Elsewhere it is larger, and the
/// advice is followed for the part that fills one, if any.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes of panels, all of them written, owned.
pub struct Block(Room);

// SAFETY: a block owns its bytes and gives out shared borrows only.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `pack` alone makes blocks, of rooms written to the last byte;
        // the room lives as long as the borrow.
        unsafe { slice::from_raw_parts(self.0.start.as_ptr(), self.0.layout.size()) }
    }
}

impl core::fmt::Debug for Block {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Bytes that were allocated and perhaps not written yet.
struct Room {
    start: NonNull<u8>,
    layout: Layout,
}

impl Room {
    /// `len` bytes, or `None` if there is no memory for them.
    fn new(len: usize) -> Option<Self> {
        // A block of a few huge pages starts on one, or would lose a page to
        // its unaligned ends; for smaller ones the gap would cost more.
        let huge = len >= 2 * HUGE_PAGE;
        let align = if huge { HUGE_PAGE } else { CACHE_LINE };
        let layout = Layout::from_size_align(len, align).ok()?;
        if len == 0 {
            // 64 as an address: not null, and aligned.
            let start = NonNull::new(core::ptr::without_provenance_mut(align))?;
            return Some(Self { start, layout });
        }
        // SAFETY: the layout is not of size 0.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        if huge {
            advise_huge_pages(start, len);
        }
        Some(Self { start, layout })
    }

    fn bytes(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: `layout.size()` bytes were allocated at `start`, and need not
        // be initialised for this type; the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.layout.size()) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

/// Asks the system to back whole huge pages of a block that starts on one with
/// huge pages: a walk over the weights then misses the TLB 512 times less often,
/// and the first touch of the memory takes fewer faults. It is advice: a refusal
/// is no error.
#[cfg(all(target_os = "linux", not(miri)))]
fn advise_huge_pages(start: NonNull<u8>, len: usize) {
    use core::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int;
    }
    const MADV_HUGEPAGE: c_int = 14;
    // Only pages that are used to their end: no memory is spent on padding.
    let whole = len / HUGE_PAGE * HUGE_PAGE;
    // SAFETY: within one allocation; the advice changes no byte of it.
    unsafe { madvise(start.as_ptr().cast(), whole, MADV_HUGEPAGE) };
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn advise_huge_pages(_: NonNull<u8>, _: usize) {}

/// Packs `rows` rows of `row_bytes` bytes into panels of `depth` strips, in
/// items of `per_item` panels: `run(items, work)` is to call `work` once for
/// each number below `items`, on any threads. `None` if there is no memory.
///
/// # Panics
/// If the sizes contradict each other, or `run` leaves an item out.
pub fn pack(
    backend: Backend,
    packed: &[u8],
    [rows, row_bytes, depth]: [usize; 3],
    per_item: usize,
    run: impl FnOnce(usize, &(dyn Fn(usize) + Sync)),
) -> Option<Block> {
    let (panels, stride) = (rows.div_ceil(PANEL_ROWS), depth.checked_mul(PANEL_ROWS)?);
    let mut room = Room::new(panels.checked_mul(stride)?)?;
    if room.layout.size() > 0 {
        let done = AtomicUsize::new(0);
        let grid = TileGrid::new(room.bytes(), [panels, stride], stride, [per_item, stride]);
        run(grid.len(), &|i| {
            let Some(mut tile) = grid.claim(i) else {
                return;
            };
            for panel in tile.rows() {
                let first = panel * PANEL_ROWS * row_bytes;
                let last = packed.len().min(first + PANEL_ROWS * row_bytes);
                let to = tile.row_mut(panel, 0..stride);
                call::pack_new_panel(backend, &packed[first..last], row_bytes, to);
                // Relaxed: `run` returns after its work, which orders the two.
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(done.into_inner(), panels, "panels were left out");
    }
    // Every panel is claimed once and counted when it is written, so that the
    // assertion above is what a `Block` rests on.
    Some(Block(room))
}

#[cfg(test)]
mod tests {
    use super::{Room, pack};
    use crate::isa::Backend;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn rooms_or_none() {
        for len in [0, 1, 4097, (4 << 20) + 1] {
            let mut room = Room::new(len).expect("little memory");
            let bytes = room.bytes();
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % 64), (len, 0));
            for byte in bytes.iter_mut().step_by(4096) {
                byte.write(1);
            }
        }
        assert!(Room::new(usize::MAX).is_none());
        // Where pointers have 32 bits, there may be that much.
        if cfg!(target_pointer_width = "64") {
            assert!(Room::new(isize::MAX as usize - (4 << 20)).is_none());
        }
    }

    #[test]
    fn sizes_that_overflow_give_no_block() {
        for shape in [[1, 1, usize::MAX], [usize::MAX, 1, 3]] {
            let block = pack(Backend::best(), &[], shape, 1, |_, _| unreachable!());
            assert!(block.is_none());
        }
    }

    #[test]
    fn an_item_run_again_is_packed_once() {
        let packed = [0b01_00_10_00; 130 * 3];
        let pack = |times: usize| {
            let block = pack(Backend::best(), &packed, [130, 3, 3], 1, |items, work| {
                (0..times * items).for_each(|i| work(i / times));
            });
            block.expect("little memory")
        };
        assert_eq!(*pack(2), *pack(1));
        let text = format!("{:?}", pack(1));
        assert!(text.starts_with("[72, 72, ") && text.ends_with(", 0]"));
    }

    #[test]
    fn an_item_left_out_gives_no_block() {
        let packed = [0b01_00_10_00; 130 * 3];
        let pack = |skipped: usize| {
            pack(Backend::best(), &packed, [130, 3, 3], 1, |items, work| {
                assert_eq!(items, 3);
                (0..items).filter(|&i| i != skipped).for_each(work);
            })
        };
        for skipped in 0..3 {
            assert!(catch_unwind(AssertUnwindSafe(|| pack(skipped))).is_err());
        }
        let block = pack(3).expect("little memory");
        for (i, strip) in block.chunks(64).enumerate() {
            let rows = 64.min(130 - i / 3 * 64);
            assert!(strip[..rows].iter().all(|&byte| byte == 0b01_00_10_00));
            assert!(strip[rows..].iter().all(|&byte| byte == 0));
        }
    }
}
