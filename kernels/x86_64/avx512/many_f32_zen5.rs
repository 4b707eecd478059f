//! f32, many tokens, for Zen 5. The algorithm, the tables and the order of the
//! accumulators are those of [`super::many`]; what is different is how indices come out
//! of memory, and how many strips a chunk has. In the bare loop a look-up takes 0.77 cycles
//! instead of 1.0, and products make 2.0 times the FMA peak instead of 1.6.
//!
//! A core of Zen 5 loads two lines a cycle, but of lines and words of indices mixed, one
//! word to four lines, it loads 1.2 lines a cycle, and no more where nothing is computed
//! of the words or added. So indices are loaded by whole vectors, of sixteen rows at
//! once, and come to the integer registers by `vmovq` and `vpextrq`, on pipes that the
//! rest of the loop leaves idle. Each word of 64 bits has the indices of two rows in four strips.
//!
//! Then the tables' own lines count, and the tables of 8 strips, 41 KiB, stay in an L1 of
//! 48. Blocks of 60 strips end in a chunk of 4.

use super::many::{MANY_F32 as GENERIC, indices_of_quad, run_f32 as run_any_length};
use crate::kernels::contract::ENTRY;
use crate::kernels::contract::{
    BLOCK_STRIPS, Fold, MANY_ENTRIES, ManyCall, ManyKernel, PANEL_ROWS,
};
use crate::kernels::many::Quad;
use crate::kernels::prefetch;
use core::arch::x86_64::*;

/// Quads of strips in a chunk.
const QUADS: usize = 2;
/// Quads in the last chunk of a block.
const LAST_QUADS: usize = BLOCK_STRIPS / 4 % QUADS;
/// Panels from the one in use to the one prefetched. With weights of 15 MB three and four
/// are a fifth faster than one, two 15 %; with 1.6 MB all are the same.
const AHEAD: usize = 4;

/// The kernel.
pub static MANY_F32: ManyKernel<f32, f32> = ManyKernel {
    name: "avx512-many_f32-zen5",
    chunk_strips: 4 * QUADS,
    run: run_f32,
    ..GENERIC
};

/// See [`ManyKernel::run`].
///
/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw")]
#[inline(never)]
unsafe fn run_f32(call: &ManyCall) {
    // SAFETY: the caller's preconditions, handed on unchanged; how many
    // strips there are is looked at.
    unsafe {
        if call.strips == 4 * QUADS {
            run::<QUADS>(call);
        } else if call.strips == 4 * LAST_QUADS {
            run::<LAST_QUADS>(call);
        } else {
            run_any_length(call);
        }
    }
}

/// What is prefetched: the panels of the call, and after the last one those of the chunk
/// that follows in them. Panels are a page or more apart, so no hardware prefetcher sees
/// the next one coming.
struct Ahead {
    panel: *const u8,
    /// From a panel to the next.
    stride: usize,
    /// Panels from this one to the last.
    left: usize,
    /// Panels of the call.
    count: usize,
    /// The first panel's next chunk.
    next_chunk: *const u8,
    /// Bytes of a chunk.
    bytes: usize,
}

impl Ahead {
    /// The first panel of a call whose chunk has so many bytes.
    fn new(call: &ManyCall, bytes: usize) -> Self {
        Self {
            panel: call.panels,
            stride: call.panel_stride,
            left: call.panel_count,
            count: call.panel_count,
            next_chunk: call.panels.wrapping_add(bytes),
            bytes,
        }
    }

    /// The next one.
    #[inline(always)]
    fn step(&mut self) {
        self.left = self.left.wrapping_sub(1);
        if self.left == 0 {
            self.panel = self.next_chunk;
            self.next_chunk = self.next_chunk.wrapping_add(self.bytes);
            self.left = self.count;
        } else {
            self.panel = self.panel.wrapping_add(self.stride);
        }
    }
}

/// The loop over panels, for chunks of `N` quads.
///
/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`crate::kernels::contract`]; the chunk has
/// `4 * N` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn run<const N: usize>(call: &ManyCall) {
    let mut expanded = [const { Quad::<u32>([0; PANEL_ROWS]) }; N];
    let mut strip = call.panels;
    let mut ahead = Ahead::new(call, 4 * N * PANEL_ROWS);
    for _ in 1..AHEAD {
        ahead.step();
    }
    let mut row = 0;
    for _ in 0..call.panel_count {
        ahead.step();
        for (i, quad) in expanded.iter_mut().enumerate() {
            let quad_bytes = 4 * PANEL_ROWS * i;
            for line in 0..4 {
                prefetch::line(ahead.panel.wrapping_add(quad_bytes + 64 * line));
            }
            // SAFETY: precondition 2: `N` times four strips of 64 bytes.
            unsafe { indices_of_quad(strip.wrapping_add(quad_bytes), quad) };
        }
        for sixteen in 0..PANEL_ROWS / 16 {
            let mut words = [_mm512_setzero_si512(); N];
            for (words, quad) in words.iter_mut().zip(&expanded) {
                // Volatile, or the compiler loads each word that it needs by itself: what
                // this kernel is about.
                // SAFETY: a quad is four vectors, aligned to them.
                *words = unsafe {
                    quad.0
                        .as_ptr()
                        .cast::<__m512i>()
                        .add(sixteen)
                        .read_volatile()
                };
            }
            // SAFETY: the caller's word; 64 rows a panel; `indices_of_quad` wrote the
            // words.
            unsafe {
                four_rows::<0, N>(&words, call, row);
                four_rows::<1, N>(&words, call, row + 4);
                four_rows::<2, N>(&words, call, row + 8);
                four_rows::<3, N>(&words, call, row + 12);
            }
            row += 16;
        }
        strip = strip.wrapping_add(call.panel_stride);
    }
}

/// The look-ups of the four rows from accumulator `row` on, whose indices are in the
/// 128-bit lanes number `LANE` of `words`.
///
/// # Safety
/// Preconditions 1, 4 and 6 of [`crate::kernels::contract`]; the chunk has `4 * N` bytes,
/// and `row + 4` rows; [`indices_of_quad`] wrote the words, so no index is above 80.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn four_rows<const LANE: i32, const N: usize>(
    words: &[__m512i; N],
    call: &ManyCall,
    row: usize,
) {
    let acc = call.acc.cast::<__m512>().wrapping_add(row);
    let total = call.total.cast::<__m512>().wrapping_add(row);
    let mut sums = [_mm512_setzero_ps(); 4];
    if !call.first {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: precondition 6: an entry a row.
            *sum = unsafe { *acc.add(i) };
        }
    }
    let mut pairs = [[0; 2]; N];
    for (pairs, &words) in pairs.iter_mut().zip(words) {
        let four = _mm512_extracti32x4_epi32::<LANE>(words);
        *pairs = [
            _mm_cvtsi128_si64(four) as u64,
            _mm_extract_epi64::<1>(four) as u64,
        ];
    }
    let mut table = call.tables;
    for pairs in &mut pairs {
        for _ in 0..4 {
            let indices = [
                pairs[0] & 0xff,
                pairs[0] >> 32 & 0xff,
                pairs[1] & 0xff,
                pairs[1] >> 32 & 0xff,
            ];
            for (sum, &index) in sums.iter_mut().zip(&indices) {
                let offset = index as usize * ENTRY;
                // SAFETY: precondition 4: the table of a strip of the chunk, which has 81
                // entries.
                let entry = unsafe { *table.add(offset).cast::<__m512>() };
                *sum = _mm512_add_ps(*sum, entry);
            }
            pairs[0] >>= 8;
            pairs[1] >>= 8;
            // At most one past the tables of the chunk.
            table = table.wrapping_add(MANY_ENTRIES * ENTRY);
        }
    }
    for (i, &sum) in sums.iter().enumerate() {
        // SAFETY: precondition 6: an entry a row, in both.
        unsafe {
            *acc.add(i) = sum;
            // Not a match, of which the compiler makes a table of jumps, which no test can follow.
            if call.fold == Fold::Start {
                *total.add(i) = sum;
            } else if call.fold == Fold::Add {
                *total.add(i) = _mm512_add_ps(*total.add(i), sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Backend, Isa};
    use crate::kernels::contract::Scaling;

    /// The bits of sixteen f32, so that no two zeros are equal.
    #[repr(C, align(64))]
    #[derive(PartialEq)]
    struct Sixteen([u32; 16]);

    /// Numbers that no order of additions leaves the same.
    fn lines(seed: usize, count: usize) -> Vec<Sixteen> {
        let value = |i: usize| ((i.wrapping_add(seed) * 7919 % 10_007) as f32 - 5000.0) / 7.0;
        (0..count)
            .map(|i| Sixteen(std::array::from_fn(|lane| value(16 * i + lane).to_bits())))
            .collect()
    }

    /// Every length of a chunk, against the kernel of other CPUs: the same bits.
    #[test]
    fn any_chunk_of_any_panels() {
        if !Backend::available().any(|backend| backend.isa() == Isa::Avx512) {
            println!("skipped: no AVX-512");
            return;
        }
        let counts: &[usize] = if cfg!(miri) { &[1, 2] } else { &[1, 2, 3, 6] };
        for strips in 1..=MANY_F32.chunk_strips {
            for &panel_count in counts {
                let stride = PANEL_ROWS * (strips + 1);
                let panels: Vec<u8> = (0..stride * panel_count)
                    .map(|i| (i * 31 % 251) as u8)
                    .collect();
                let tables = lines(1, strips * MANY_ENTRIES);
                for (first, fold) in [
                    (true, Fold::Keep),
                    (false, Fold::Keep),
                    (true, Fold::Start),
                    (false, Fold::Add),
                ] {
                    let run = |run: unsafe fn(&ManyCall)| {
                        let mut acc = lines(2, panel_count * PANEL_ROWS);
                        let mut total = lines(3, panel_count * PANEL_ROWS);
                        let call = ManyCall {
                            panels: panels.as_ptr(),
                            panel_stride: stride,
                            panel_count,
                            strips,
                            tokens: GENERIC.tokens,
                            tables: tables.as_ptr().cast(),
                            acc: acc.as_mut_ptr().cast(),
                            total: total.as_mut_ptr().cast(),
                            first,
                            fold,
                            scaling: Scaling::NONE,
                        };
                        // SAFETY: what `avx512` needs was asked for; the buffers have the sizes and the
                        // alignment of the contract.
                        unsafe { run(&call) };
                        (acc, total)
                    };
                    let [ours, theirs] = [MANY_F32.run, GENERIC.run].map(run);
                    assert!(
                        ours == theirs,
                        "{strips} strips, {panel_count} panels, {fold:?}"
                    );
                }
            }
        }
    }
}
