//! What the kernels for many tokens do instead of multiplying, with nothing around it:
//! lines out of the tables of twelve strips, added up, by indices made beforehand.
//!
//! The other peaks keep their operands in registers and do not see what this one
//! sees: on a shared host, L1 and its load ports have slow seconds of their own,
//! while multiplications go on at their usual pace.

use core::arch::x86_64::*;

/// As many as a chunk of the kernels has, but for Zen 5.
const STRIPS: usize = 12;
/// Entries of a table: the signed sums of four activations.
const ENTRIES: usize = 81;
/// Rows that indices are kept for, a power of two: enough for no order of look-ups
/// to be learned, few enough to stay in the cache.
const ROWS: usize = 512;
/// Rows of a step: two chains of additions.
const PAIR: usize = 2;

/// int8 MACs that a step stands for: a look-up is four weights and 32 tokens.
pub const MACS_PER_STEP: usize = PAIR * STRIPS * 4 * 32;

#[repr(align(64))]
struct Tables([[[u8; 64]; ENTRIES]; STRIPS]);

// Not zero: pages of zeros could all be one page of memory.
static TABLES: Tables = Tables([[[1; 64]; ENTRIES]; STRIPS]);
static INDICES: [[u32; STRIPS / 4]; ROWS] = indices();

/// Indices of four strips a word, by Knuth's generator. A load for each would compete
/// with the tables'.
const fn indices() -> [[u32; STRIPS / 4]; ROWS] {
    let mut state = 1_u64;
    let mut all = [[0; STRIPS / 4]; ROWS];
    let mut i = 0;
    while i < ROWS * STRIPS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let index = ((state >> 33) % ENTRIES as u64) as u32;
        all[i / STRIPS][i % STRIPS / 4] |= index << (8 * (i % 4));
        i += 1;
    }
    all
}

/// `steps` times all strips for two rows.
#[target_feature(enable = "avx512f,avx512bw")]
pub fn look_ups(steps: u64) {
    let mut sums = [_mm512_setzero_si512(); PAIR];
    for step in 0..steps as usize {
        let row = PAIR * step % ROWS;
        for (strip, table) in TABLES.0.iter().enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                let index = INDICES[row + i][strip / 4] >> (8 * (strip % 4)) & 0xff;
                // SAFETY: `indices` makes them below ENTRIES; an entry is a line.
                let entry = unsafe { _mm512_load_si512(table.as_ptr().add(index as usize).cast()) };
                *sum = _mm512_add_epi16(*sum, entry);
            }
        }
    }
    core::hint::black_box(sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_reach_all_entries() {
        let mut seen = [false; ENTRIES];
        for word in INDICES.as_flattened() {
            for index in word.to_le_bytes() {
                seen[usize::from(index)] = true;
            }
        }
        assert!(seen.iter().all(|&seen| seen));
    }
}
