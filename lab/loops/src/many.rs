//! The inner loop of the kernels for many tokens: a row's accumulator plus one table
//! entry of 32 int8 tokens for each strip, the entry found by an index from memory.
//! Tables, accumulators and indices have the sizes of a real product with 4096 rows;
//! their contents are random indices and nothing else.

use crate::measure::Loop;
use std::arch::x86_64::*;

/// Rows whose accumulators pass by: 256 KiB of entries.
const ROWS: usize = 4096;
/// Entries of a table: the signed sums of four activations.
const ENTRIES: usize = 81;
/// Passes of one run.
const PASSES: usize = 4;

/// A table entry, an accumulator, or 64 indices.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// What a pass works on: `STRIPS` tables, [`ROWS`] accumulators, and for each row words
/// of four indices below [`ENTRIES`].
struct Data<const STRIPS: usize> {
    indices: Vec<Line>,
    tables: Vec<Line>,
    acc: Vec<Line>,
}

impl<const STRIPS: usize> Data<STRIPS> {
    fn new() -> Self {
        const { assert!(STRIPS.is_multiple_of(4) && ROWS.is_multiple_of(16)) };
        // Knuth's generator: what matters is that no predictor learns the order.
        let mut state = 1_u64;
        let mut indices = vec![Line([0; 64]); ROWS * STRIPS / 64];
        for index in indices.iter_mut().flat_map(|line| &mut line.0) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *index = ((state >> 33) % ENTRIES as u64) as u8;
        }
        Self {
            indices,
            // Not zero: pages of zeros could all be one page of memory.
            tables: vec![Line([1; 64]); STRIPS * ENTRIES],
            acc: vec![Line([1; 64]); ROWS],
        }
    }
}

/// Adds entry `index` of a table to `sum`.
///
/// # Safety
/// AVX-512 BW; `table` has the entry.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn add(sum: &mut __m512i, table: *const Line, index: usize) {
    // SAFETY: the caller's word.
    let entry = unsafe { _mm512_load_si512(table.add(index).cast()) };
    *sum = _mm512_add_epi16(*sum, entry);
}

/// One pass, two rows at a time, a load for each word of four indices. Sums lie in
/// memory between two rows, or in registers all the time.
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
fn by_word<const STRIPS: usize, const IN_MEMORY: bool>(data: &mut Data<STRIPS>) {
    let indices: *const u32 = data.indices.as_ptr().cast();
    let mut kept = [_mm512_setzero_si512(); 2];
    for row in (0..ROWS).step_by(2) {
        // SAFETY: `Data::new` made room for all of it, and indices below `ENTRIES`.
        unsafe {
            let acc: *mut __m512i = data.acc.as_mut_ptr().add(row).cast();
            let mut sums = if IN_MEMORY { [*acc, *acc.add(1)] } else { kept };
            let mut table = data.tables.as_ptr();
            for quad in 0..STRIPS / 4 {
                let at = row * (STRIPS / 4) + quad;
                let mut words = [*indices.add(at), *indices.add(at + STRIPS / 4)];
                for _ in 0..4 {
                    for (sum, word) in sums.iter_mut().zip(&mut words) {
                        add(sum, table, (*word & 0xff) as usize);
                        *word >>= 8;
                    }
                    table = table.add(ENTRIES);
                }
            }
            if IN_MEMORY {
                [*acc, *acc.add(1)] = sums;
            } else {
                kept = sums;
            }
        }
    }
    std::hint::black_box(kept);
}

/// As [`by_word`] with sums in memory, but four rows at a time, and the words of sixteen
/// loaded by one vector: from there they come by `vmovq` and `vpextrq`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2")]
fn by_vector<const STRIPS: usize>(data: &mut Data<STRIPS>) {
    /// The look-ups of four rows, whose words are in a 128-bit part of each vector.
    ///
    /// # Safety
    /// There are as many tables as `words` have strips, and four accumulators.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2")]
    unsafe fn four<const PART: i32>(words: &[__m512i], mut table: *const Line, acc: *mut Line) {
        let mut pairs = [[0; 2]; 8];
        for (pairs, &words) in pairs.iter_mut().zip(words) {
            let four = _mm512_extracti32x4_epi32::<PART>(words);
            *pairs =
                [_mm_cvtsi128_si64(four), _mm_extract_epi64::<1>(four)].map(i64::cast_unsigned);
        }
        // SAFETY: the caller's word.
        unsafe {
            let acc: *mut __m512i = acc.cast();
            let mut sums = [0, 1, 2, 3].map(|i| *acc.add(i));
            for mut pairs in pairs.into_iter().take(words.len()) {
                for _ in 0..4 {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        add(sum, table, (pairs[i / 2] >> (i % 2 * 32) & 0xff) as usize);
                    }
                    pairs = pairs.map(|pair| pair >> 8);
                    table = table.add(ENTRIES);
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                *acc.add(i) = sum;
            }
        }
    }
    const { assert!(STRIPS / 4 <= 8) };
    let mut words = [_mm512_setzero_si512(); 8];
    let words = &mut words[..STRIPS / 4];
    let tables = data.tables.as_ptr();
    for sixteen in 0..ROWS / 16 {
        for (quad, words) in words.iter_mut().enumerate() {
            let at: *const __m512i = data.indices[sixteen * (STRIPS / 4) + quad..]
                .as_ptr()
                .cast();
            // Volatile, or the compiler loads each word by itself.
            // SAFETY: a line of indices.
            *words = unsafe { at.read_volatile() };
        }
        let acc = data.acc[16 * sixteen..][..16].as_mut_ptr();
        // SAFETY: `Data::new` made the tables; these are sixteen accumulators.
        unsafe {
            four::<0>(words, tables, acc);
            four::<1>(words, tables, acc.add(4));
            four::<2>(words, tables, acc.add(8));
            four::<3>(words, tables, acc.add(12));
        }
    }
}

/// A loop of [`PASSES`] passes.
fn passes<const STRIPS: usize>(how: &str, pass: unsafe fn(&mut Data<STRIPS>)) -> Loop {
    let mut data = Data::new();
    Loop {
        group: "many tokens: look-ups of 128 int8 MACs",
        name: format!("{STRIPS} strips, {how}"),
        unit: "look-up",
        units: (PASSES * ROWS * STRIPS) as u64,
        macs: 128,
        run: Box::new(move || {
            for _ in 0..PASSES {
                // SAFETY: `loops` has looked for the features.
                unsafe { pass(&mut data) };
            }
        }),
    }
}

/// The loops that this CPU can run.
pub fn loops() -> Vec<Loop> {
    if !(is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("bmi2"))
    {
        return Vec::new();
    }
    vec![
        passes("sums in registers", by_word::<12, false>),
        passes("indices by word", by_word::<4, true>),
        passes("indices by word", by_word::<8, true>),
        passes("indices by word", by_word::<12, true>),
        passes("indices by word", by_word::<20, true>),
        passes("indices by vector", by_vector::<4>),
        passes("indices by vector", by_vector::<8>),
        passes("indices by vector", by_vector::<12>),
    ]
}
