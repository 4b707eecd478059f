//! Memory of the kind that panels get: fresh from the system, on a huge page's
//! boundary, and in huge pages where it grants them. A ceiling in 4 KiB pages
//! would be lower than what it is a ceiling for.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;

const HUGE_PAGE: usize = 2 << 20;
const LINE: usize = 64;

/// Bytes, all of them written when it is made.
pub struct Bytes {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its bytes and gives out shared borrows only.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// `len` times `byte`.
    pub fn filled(byte: u8, len: usize) -> Self {
        let new = Self::room(len);
        // SAFETY: `len` bytes were allocated.
        unsafe { new.start.write_bytes(byte, len) };
        new
    }

    /// A copy, by one memcpy.
    pub fn copy(bytes: &[u8]) -> Self {
        let new = Self::room(bytes.len());
        // SAFETY: as many bytes were allocated, elsewhere.
        unsafe {
            new.start
                .as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        new
    }

    /// As the library's own panels: small ones on a cache line.
    fn room(len: usize) -> Self {
        assert!(len > 0);
        let huge = len >= 2 * HUGE_PAGE;
        let align = if huge { HUGE_PAGE } else { LINE };
        let layout = Layout::from_size_align(len, align).expect("a size that exists");
        // SAFETY: not of size 0.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        #[cfg(target_os = "linux")]
        if huge {
            let whole = len / HUGE_PAGE * HUGE_PAGE;
            // SAFETY: whole pages of this allocation; the advice changes no byte.
            unsafe { libc::madvise(start.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
        }
        Self { start, layout }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: every constructor wrote all of them; they live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
