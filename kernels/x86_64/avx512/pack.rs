//! Packing a panel with AVX-512 BW: 64 rows of bytes, transposed.
//!
//! # The idea
//! A square is one cache line of each of the 64 rows. 16 rows at a time go
//! through four rounds of byte interleaving, which transpose the 16 x 16 bytes
//! in each 128-bit lane; two such groups then make halves of strips:
//!
//! ```text
//! group 0, vector i    r0..r15 of column i | of 16 + i | of 32 + i | of 48 + i
//! group 1, vector i    r16..r31 of the same
//! strip i, lower half  r0..r15 | r16..r31 of column i
//! ```
//!
//! # What limits it
//! The caches, not the ports: 128 lines come into L1 for a square (64 of rows, 64
//! of strips) and 64 go out, at 32 bytes a cycle 384 cycles, while 256 unpacks
//! of 64 bytes, 64 permutations, 64 extractions and 128 stores would be done in
//! 300. `rep movsb`, which memcpy is here, writes lines without reading them
//! first. Measured on a Zen 4 in L3 beside that memcpy, bytes moved a second:
//! 0.48 of it for rows of 1024 bytes, which fight for four sets of L1, 0.55 to
//! 0.57 for 1088 and 1152. What else was tried there, for 1024 / 1088 / 1152
//! byte rows, us for 4096 rows (this: 178 / 160 / 177; memcpy: 86 / 92 / 98):
//! rows copied to a stage of 4 KiB first and read 16 bytes at a time, 209 / 206
//! / 221; the same in whole vectors and lines, 195 / 172 / 181; single groups,
//! stored 16 bytes at a time, 189 / 165 / 177; a stage behind the rounds, 196 /
//! 183 / 185. The next rows prefetched into L1, or strips by `prefetchw`: slower.

use crate::kernels::contract::PANEL_ROWS;
use core::arch::x86_64::*;

/// Columns of a square: one cache line of each row.
const SPAN: usize = 64;

/// A square, or what it becomes.
#[repr(C, align(64))]
struct Square([[u8; SPAN]; PANEL_ROWS]);

/// The rows of a square, read in turn.
struct Rows {
    next: *const u8,
    stride: usize,
    /// What to prefetch along with it.
    ahead: *const u8,
}

impl Rows {
    /// The next row.
    ///
    /// # Safety
    /// AVX-512 BW; there is a next row, of 64 readable bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn next(&mut self) -> __m512i {
        // SAFETY: the caller's word; a prefetch never faults.
        let bytes = unsafe {
            _mm_prefetch::<_MM_HINT_T1>(self.ahead.cast());
            _mm512_loadu_si512(self.next.cast())
        };
        self.next = self.next.wrapping_add(self.stride);
        self.ahead = self.ahead.wrapping_add(SPAN);
        bytes
    }

    /// 16 rows: lane L of vector i holds them at column `16 L + i`.
    ///
    /// # Safety
    /// As for `next`, 16 times.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn sixteen(&mut self) -> [__m512i; 16] {
        let mut rows = [_mm512_setzero_si512(); 16];
        for row in &mut rows {
            // SAFETY: the caller's word.
            *row = unsafe { self.next() };
        }
        interleave(interleave(interleave(interleave(rows))))
    }
}

/// One round of the transposition: vectors i and i + 8, byte by byte in turn.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave(a: [__m512i; 16]) -> [__m512i; 16] {
    let lo = |x, y| _mm512_unpacklo_epi8(x, y);
    let hi = |x, y| _mm512_unpackhi_epi8(x, y);
    [
        lo(a[0], a[8]),
        hi(a[0], a[8]),
        lo(a[1], a[9]),
        hi(a[1], a[9]),
        lo(a[2], a[10]),
        hi(a[2], a[10]),
        lo(a[3], a[11]),
        hi(a[3], a[11]),
        lo(a[4], a[12]),
        hi(a[4], a[12]),
        lo(a[5], a[13]),
        hi(a[5], a[13]),
        lo(a[6], a[14]),
        hi(a[6], a[14]),
        lo(a[7], a[15]),
        hi(a[7], a[15]),
    ]
}

/// Writes a square as 64 strips.
///
/// # Safety
/// As for [`Rows::next`], 64 times; `to` has `64 * 64` writable bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn square(rows: &mut Rows, to: *mut u8) {
    let columns_0_and_1 = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    let columns_2_and_3 = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for &half in &[0, 32] {
        // SAFETY: the caller's word.
        let mut upper = unsafe { rows.sixteen() };
        // In memory on purpose: 32 registers do not hold both groups, and the
        // compiler would spill the rounds of the second instead.
        core::hint::black_box(&mut upper);
        // SAFETY: the caller's word.
        let lower = unsafe { rows.sixteen() };
        for (i, (&upper, &lower)) in upper.iter().zip(&lower).enumerate() {
            let first = _mm512_permutex2var_epi64(upper, columns_0_and_1, lower);
            let last = _mm512_permutex2var_epi64(upper, columns_2_and_3, lower);
            let halves = [
                _mm512_castsi512_si256(first),
                _mm512_extracti64x4_epi64::<1>(first),
                _mm512_castsi512_si256(last),
                _mm512_extracti64x4_epi64::<1>(last),
            ];
            for (lane, &strip) in halves.iter().enumerate() {
                let to = to
                    .wrapping_add((16 * lane + i) * PANEL_ROWS)
                    .wrapping_add(half);
                // SAFETY: half of one of the 64 strips.
                unsafe { _mm256_storeu_si256(to.cast(), strip) };
            }
        }
    }
}

/// See [`CodecKernel::pack_panel`].
///
/// # Safety
/// As [`CodecKernel::pack_panel`] states.
///
/// [`CodecKernel::pack_panel`]: crate::kernels::contract::CodecKernel::pack_panel
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pack_panel(
    src: *const u8,
    stride: usize,
    rows: usize,
    bytes: usize,
    dst: *mut u8,
    depth: usize,
) {
    for offset in (0..bytes).step_by(SPAN) {
        let cols = (bytes - offset).min(SPAN);
        let to = dst.wrapping_add(offset * PANEL_ROWS);
        let mut from = Rows {
            next: src.wrapping_add(offset),
            stride,
            // The 64 rows that follow are the next panel's; read in order, they
            // are in L2 when their columns are wanted 64 rows at a time.
            ahead: src.wrapping_add((stride + offset) * PANEL_ROWS),
        };
        if rows == PANEL_ROWS && cols == SPAN {
            // SAFETY: the caller's word for the rows and for 64 strips.
            unsafe { square(&mut from, to) };
            continue;
        }
        let mut whole = Square([[0; SPAN]; PANEL_ROWS]);
        let mut strips = Square([[0; PANEL_ROWS]; SPAN]);
        for row in whole.0.iter_mut().take(rows) {
            // SAFETY: the caller's word for `cols` bytes of a row that exists.
            unsafe { from.next.copy_to_nonoverlapping(row.as_mut_ptr(), cols) };
            from.next = from.next.wrapping_add(stride);
        }
        (from.next, from.stride) = (whole.0.as_ptr().cast(), SPAN);
        // SAFETY: both have 64 lines of 64 bytes; the caller's word for `cols`
        // strips.
        unsafe {
            square(&mut from, strips.0.as_mut_ptr().cast());
            to.copy_from_nonoverlapping(strips.0.as_ptr().cast(), cols * PANEL_ROWS);
        }
    }
    // SAFETY: strips `bytes .. depth` of `dst`.
    unsafe {
        dst.add(bytes * PANEL_ROWS)
            .write_bytes(0, (depth - bytes) * PANEL_ROWS)
    };
}
