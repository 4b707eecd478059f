//! Asking for cache lines ahead of their use.

/// Asks for the cache line at `line`, which need not be readable. Where stable Rust
/// has no instruction for it, nothing.
#[inline(always)]
pub fn line<T>(line: *const T) {
    #[cfg(kernels = "x86_64")]
    // SAFETY: every x86-64 CPU has SSE; a prefetch touches no memory.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(kernels = "x86_64"))]
    let _ = line;
}

/// Asks for the lines of an output that is about to be written; if it does not start on
/// one, perhaps not for the last.
#[inline]
pub fn output<T>(output: &mut [T]) {
    let start = output.as_mut_ptr().cast::<u8>();
    for offset in (0..size_of_val(output)).step_by(64) {
        line(start.wrapping_add(offset));
    }
}
