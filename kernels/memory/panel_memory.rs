//! The memory of packed panels: never cleared, never copied, in huge pages
//! where the system grants them.

use crate::kernels::call;
use crate::kernels::contract::PANEL_ROWS;
use crate::kernels::contract::Runnable;
use crate::kernels::memory::tiles::TileGrid;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::alloc::{alloc, dealloc};

/// The least alignment of panels: a cache line.
const CACHE_LINE: usize = 64;
/// A huge page where base pages have 4 KiB. Elsewhere it is larger, and the
/// advice is followed for the part that fills one, if any.
const HUGE_PAGE: usize = 2 << 20;

/// Bytes of panels, all of them written, owned.
pub struct PanelMemory(Unwritten);

// SAFETY: panel memory owns its bytes and gives out shared borrows only.
unsafe impl Send for PanelMemory {}
// SAFETY: as above.
unsafe impl Sync for PanelMemory {}

impl Deref for PanelMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `pack` alone makes it, of memory written to the last byte, which
        // lives as long as the borrow.
        unsafe { slice::from_raw_parts(self.0.start.as_ptr(), self.0.layout.size()) }
    }
}

impl AsRef<[u8]> for PanelMemory {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl core::fmt::Debug for PanelMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Bytes that were allocated and perhaps not written yet.
struct Unwritten {
    start: NonNull<u8>,
    layout: Layout,
}

impl Unwritten {
    /// `len` bytes, or `None` if there is no memory for them.
    fn new(len: usize) -> Option<Self> {
        // Memory of a few huge pages starts on one, or would lose a page to
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

impl Drop for Unwritten {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

/// Asks the system to back whole huge pages of memory that starts on one with
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

/// Takes the rows of a panel and the bytes from one to the next.
pub type Pack<'a> = &'a mut dyn FnMut(&[u8], usize);

/// The rows of panels out of all rows, `stride` bytes apart.
pub fn rows_of(packed: &[u8], stride: usize) -> impl FnMut(usize, Pack<'_>) -> bool {
    let panel_stride = PANEL_ROWS.saturating_mul(stride);
    move |panel, pack| {
        let first = panel * panel_stride;
        let last = packed.len().min(first.saturating_add(panel_stride));
        pack(&packed[first..last], stride);
        true
    }
}

/// Packs rows of `row_bytes` bytes into panels of `depth` strips, in items of `per_item`
/// panels: `run(items, work)` is to call `work` once for each number below `items`, on any
/// threads, or to fail; `work` says whether it did the item, which it does once. `source(item)`
/// gives what hands an item's panels, one by one, their rows and the bytes from one to the
/// next; what it does not hand on makes the item one that was not done. `None` if there is no
/// memory.
///
/// # Errors
/// Those of `run`.
///
/// # Panics
/// If the sizes contradict each other, or `run` succeeds and leaves an item out.
pub fn pack<E, S: FnMut(usize, Pack<'_>) -> bool>(
    kernels: Runnable,
    source: impl Fn(usize) -> S + Sync,
    [panels, row_bytes, depth]: [usize; 3],
    per_item: usize,
    run: impl FnOnce(usize, &(dyn Fn(usize) -> bool + Sync)) -> Result<(), E>,
) -> Result<Option<PanelMemory>, E> {
    let panel_len = depth.checked_mul(PANEL_ROWS);
    let len = panel_len.and_then(|len| panels.checked_mul(len));
    let (Some(panel_len), Some(mut memory)) = (panel_len, len.and_then(Unwritten::new)) else {
        return Ok(None);
    };
    if memory.layout.size() > 0 {
        let done = AtomicUsize::new(0);
        let (shape, tile) = ([panels, panel_len], [per_item, panel_len]);
        let grid = TileGrid::new(memory.bytes(), shape, panel_len, tile);
        run(grid.len(), &|i| {
            let Some(mut tile) = grid.claim(i) else {
                return false;
            };
            let mut source = source(i);
            tile.rows().all(|panel| {
                let mut to = Some(tile.row_mut(panel, 0..panel_len));
                let handed = source(panel, &mut |rows, stride| {
                    if let Some(to) = to.take() {
                        call::pack_new_panel(kernels, (rows, stride), row_bytes, to);
                        // Relaxed: `run` returns after its work, which orders the two.
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
                handed && to.is_none()
            })
        })?;
        assert_eq!(done.into_inner(), panels, "panels were left out");
    }
    // Every panel is claimed once and counted when it is written, so that the
    // assertion above is what a `PanelMemory` rests on.
    Ok(Some(PanelMemory(memory)))
}

#[cfg(test)]
mod tests {
    use super::{PANEL_ROWS, PanelMemory, Runnable, Unwritten, pack, rows_of};
    use crate::kernels::scalar::SCALAR;
    use core::convert::Infallible;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn scalar() -> Runnable {
        Runnable::new(&SCALAR).expect("it needs no feature")
    }

    #[test]
    fn memory_or_none() {
        for len in [0, 1, 4097, (4 << 20) + 1] {
            let mut memory = Unwritten::new(len).expect("little memory");
            let bytes = memory.bytes();
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % 64), (len, 0));
            for byte in bytes.iter_mut().step_by(4096) {
                byte.write(1);
            }
        }
        assert!(Unwritten::new(usize::MAX).is_none());
        // Where pointers have 32 bits, there may be that much.
        if cfg!(target_pointer_width = "64") {
            assert!(Unwritten::new(isize::MAX as usize - (4 << 20)).is_none());
        }
    }

    /// Packs rows, a panel an item.
    fn packed(
        [rows, row_bytes, depth]: [usize; 3],
        packed: &[u8],
        run: impl FnOnce(usize, &(dyn Fn(usize) -> bool + Sync)),
    ) -> Option<PanelMemory> {
        let run = |items: usize, work: &(dyn Fn(usize) -> bool + Sync)| {
            run(items, work);
            Ok::<(), Infallible>(())
        };
        let Ok(memory) = pack(
            scalar(),
            |_| rows_of(packed, row_bytes),
            [rows.div_ceil(PANEL_ROWS), row_bytes, depth],
            1,
            run,
        );
        memory
    }

    #[test]
    fn sizes_that_overflow_give_no_panels() {
        for shape in [[1, 1, usize::MAX], [usize::MAX, 1, 3]] {
            assert!(packed(shape, &[], |_, _| unreachable!()).is_none());
        }
    }

    #[test]
    fn an_item_run_again_is_packed_once() {
        let bytes = [0b01_00_10_00; 130 * 3];
        let pack = |times: usize| {
            let memory = packed([130, 3, 3], &bytes, |items, work| {
                (0..times * items).for_each(|i| assert_eq!(work(i / times), i % times == 0));
            });
            memory.expect("little memory")
        };
        assert_eq!(*pack(2), *pack(1));
        let text = format!("{:?}", pack(1));
        assert!(text.starts_with("[72, 72, ") && text.ends_with(", 0]"));
    }

    #[test]
    fn an_item_left_out_gives_no_panels() {
        let bytes = [0b01_00_10_00; 130 * 3];
        let pack = |skipped: usize| {
            packed([130, 3, 3], &bytes, |items, work| {
                assert_eq!(items, 3);
                (0..items)
                    .filter(|&i| i != skipped)
                    .for_each(|i| assert!(work(i)));
            })
        };
        for skipped in 0..3 {
            assert!(catch_unwind(AssertUnwindSafe(|| pack(skipped))).is_err());
        }
        let panels = pack(3).expect("little memory");
        for (i, strip) in panels.chunks(64).enumerate() {
            let rows = 64.min(130 - i / 3 * 64);
            assert!(strip[..rows].iter().all(|&byte| byte == 0b01_00_10_00));
            assert!(strip[rows..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn a_failed_run_gives_its_error() {
        let run = |_: usize, _: &(dyn Fn(usize) -> bool + Sync)| Err("left out");
        let made = pack(scalar(), |_| rows_of(&[0; 3], 3), [1, 3, 3], 1, run);
        assert_eq!(made.err(), Some("left out"));
    }
}
