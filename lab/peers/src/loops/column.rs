//! The column lanes' inner loop: a row's accumulator plus one table entry for
//! each strip, the entry found by an offset or index from memory. Tables, accumulators
//! and offsets have the sizes of a real product with 4096 rows; their contents
//! are random indices and nothing else.

use crate::measure::Loop;
use std::arch::x86_64::*;

/// Rows whose accumulators are streamed: 256 KiB of 64-byte entries.
const ROWS: usize = 4096;
/// Entries of a table: the signed sums of four activations.
const ENTRIES: usize = 81;
/// Passes of one run.
const PASSES: usize = 4;

/// One table entry, and an accumulator of the same width.
trait Entry: Copy {
    const NAME: &'static str;
    const BYTES: usize;
    fn zero() -> Self;
    /// # Safety
    /// `from` is aligned to and readable for an entry.
    unsafe fn load(from: *const u8) -> Self;
    /// # Safety
    /// `to` is aligned to and writable for an entry.
    unsafe fn store(self, to: *mut u8);
    /// # Safety
    /// AVX-512 BW and VL.
    unsafe fn add(self, other: Self) -> Self;
}

macro_rules! entry {
    ($name:ident, $text:literal, $vector:ty, $count:literal, $add:ident) => {
        #[derive(Clone, Copy)]
        struct $name([$vector; $count]);
        impl Entry for $name {
            const NAME: &'static str = $text;
            const BYTES: usize = size_of::<Self>();
            #[inline(always)]
            fn zero() -> Self {
                // SAFETY: all bits zero is a vector.
                unsafe { std::mem::zeroed() }
            }
            #[inline(always)]
            unsafe fn load(from: *const u8) -> Self {
                // SAFETY: the caller's word.
                unsafe { *from.cast() }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                // SAFETY: the caller's word.
                unsafe { *to.cast() = self }
            }
            #[inline(always)]
            unsafe fn add(mut self, other: Self) -> Self {
                for (a, b) in self.0.iter_mut().zip(other.0) {
                    // SAFETY: the caller's word for the features.
                    *a = unsafe { $add(*a, b) };
                }
                self
            }
        }
    };
}
entry!(Zmm, "one zmm (32 tokens)", __m512i, 1, _mm512_add_epi16);
entry!(TwoZmm, "two zmm (64 tokens)", __m512i, 2, _mm512_add_epi16);
entry!(Ymm, "one ymm (16 tokens)", __m256i, 1, _mm256_add_epi16);
entry!(TwoYmm, "two ymm (32 tokens)", __m256i, 2, _mm256_add_epi16);

// How an offset gets out of memory: by a 16-bit load for each; four to a word of
// memory, split by shifts; or four indices of 8 bits, which have to be scaled, by a load
// for each word or by one vector for sixteen.
const EACH: u8 = 0;
const OFFSETS: u8 = 1;
const INDICES: u8 = 2;
const BY_VECTOR: u8 = 3;
// Where the accumulators are between two chunks of strips.
const MEMORY: bool = true;
const REGISTERS: bool = false;

/// Bits of an offset or index in its word.
const fn bits(how: u8) -> u32 {
    if how == INDICES || how == BY_VECTOR {
        8
    } else {
        16
    }
}

/// One pass: `STRIPS` look-ups for each of [`ROWS`] rows, two rows at a time.
///
/// # Safety
/// AVX-512 BW and VL; `offsets` has `ROWS * STRIPS / 4` words, u32 of four indices
/// below `ENTRIES` or u64 of four multiples of an entry's bytes; `tables` has room for `STRIPS` tables, `acc` for `ROWS` entries, both aligned to 64.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2")]
unsafe fn pass<E: Entry, const STRIPS: usize, const HOW: u8, const IN_MEMORY: bool>(
    offsets: *const u64,
    tables: *const u8,
    acc: *mut u8,
) {
    let mut kept = [E::zero(); 2];
    for row in (0..ROWS).step_by(2) {
        // SAFETY: within what the caller vouches for.
        unsafe {
            let acc = acc.add(row * E::BYTES);
            let mut sums = if IN_MEMORY {
                [E::load(acc), E::load(acc.add(E::BYTES))]
            } else {
                kept
            };
            let mut table = tables;
            for quad in 0..STRIPS / 4 {
                let at = row * (STRIPS / 4) + quad;
                let at = [at, at + STRIPS / 4];
                let mut words = at.map(|at| match HOW {
                    INDICES => (*offsets.cast::<u32>().add(at)).into(),
                    _ => *offsets.add(at),
                });
                for strip in 0..4 {
                    for i in 0..2 {
                        let offset = match HOW {
                            EACH => offsets
                                .add(at[i])
                                .cast::<u16>()
                                .add(strip)
                                .read_volatile()
                                .into(),
                            OFFSETS => (words[i] & 0xffff) as usize,
                            INDICES => (words[i] & 0xff) as usize * E::BYTES,
                            _ => unreachable!("no such way"),
                        };
                        words[i] >>= bits(HOW);
                        sums[i] = sums[i].add(E::load(table.add(offset)));
                    }
                    table = table.add(ENTRIES * E::BYTES);
                }
            }
            if IN_MEMORY {
                sums[0].store(acc);
                sums[1].store(acc.add(E::BYTES));
            } else {
                kept = sums;
            }
        }
    }
    // SAFETY: room for an entry, and the same again.
    unsafe { kept[0].add(kept[1]).store(acc) };
}

/// As [`pass`] with indices of 8 bits and sums in memory, but four rows at a time, and the
/// words of sixteen loaded by one vector: from there they come by `vmovq` and `vpextrq`.
///
/// # Safety
/// As for [`pass`]; `offsets` is aligned to 64.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2")]
unsafe fn pass_by_vector<const STRIPS: usize>(
    offsets: *const u64,
    tables: *const u8,
    acc: *mut u8,
) {
    /// The look-ups of four rows, whose words are in a 128-bit lane of each vector.
    ///
    /// # Safety
    /// As for the function around it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi1,bmi2")]
    unsafe fn four<const LANE: i32, const STRIPS: usize>(
        words: &[__m512i],
        mut table: *const u8,
        acc: *mut u8,
    ) {
        // SAFETY: within what the caller vouches for.
        unsafe {
            let acc = acc.cast::<Zmm>();
            let mut sums = [0, 1, 2, 3].map(|i| *acc.add(i));
            let mut pairs = [[0; 2]; 8];
            for (pairs, &words) in pairs.iter_mut().zip(words) {
                let four = _mm512_extracti32x4_epi32::<LANE>(words);
                *pairs =
                    [_mm_cvtsi128_si64(four), _mm_extract_epi64::<1>(four)].map(i64::cast_unsigned);
            }
            for mut pairs in pairs.into_iter().take(STRIPS / 4) {
                for _ in 0..4 {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let index = (pairs[i / 2] >> (i % 2 * 32) & 0xff) as usize;
                        *sum = sum.add(Zmm::load(table.add(index * Zmm::BYTES)));
                    }
                    pairs = pairs.map(|pair| pair >> 8);
                    table = table.add(ENTRIES * Zmm::BYTES);
                }
            }
            for (i, sum) in sums.into_iter().enumerate() {
                *acc.add(i) = sum;
            }
        }
    }
    const { assert!(STRIPS / 4 <= 8 && ROWS.is_multiple_of(16)) };
    let mut words = [_mm512_setzero_si512(); 8];
    let words = &mut words[..STRIPS / 4];
    for sixteen in 0..ROWS / 16 {
        for (quad, words) in words.iter_mut().enumerate() {
            let at = sixteen * (STRIPS / 4) + quad;
            // Volatile, or the compiler loads each word by itself.
            // SAFETY: within what the caller vouches for.
            *words = unsafe { offsets.cast::<__m512i>().add(at).read_volatile() };
        }
        // SAFETY: within what the caller vouches for.
        unsafe {
            let acc = acc.add(16 * Zmm::BYTES * sixteen);
            four::<0, STRIPS>(words, tables, acc);
            four::<1, STRIPS>(words, tables, acc.add(4 * Zmm::BYTES));
            four::<2, STRIPS>(words, tables, acc.add(8 * Zmm::BYTES));
            four::<3, STRIPS>(words, tables, acc.add(12 * Zmm::BYTES));
        }
    }
}

/// A cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// The loop of one entry type and shape.
fn lookup<E: Entry, const STRIPS: usize, const HOW: u8, const IN_MEMORY: bool>() -> Loop {
    const { assert!(STRIPS.is_multiple_of(4) && ENTRIES * E::BYTES <= 1 << 16) };
    const { assert!(HOW != BY_VECTOR || (E::BYTES == size_of::<Zmm>() && IN_MEMORY)) };
    // Knuth's generator: what matters is that no predictor learns the order.
    let mut state = 1_u64;
    let mut index = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % ENTRIES
    };
    let scale = if bits(HOW) == 8 { 1 } else { E::BYTES };
    let lines = |bytes: usize| vec![Line([1; 64]); bytes.div_ceil(64)];
    let mut offsets = lines(ROWS * STRIPS / 4 * size_of::<u64>());
    for word in offsets
        .iter_mut()
        .flat_map(|line| line.0.chunks_exact_mut(8))
    {
        // With indices a u64 is two words.
        let parts = 64 / bits(HOW);
        let new = (0..parts).fold(0, |word, _| word << bits(HOW) | (index() * scale) as u64);
        word.copy_from_slice(&new.to_le_bytes());
    }
    let tables = lines(STRIPS * ENTRIES * E::BYTES);
    let mut acc = lines(ROWS * E::BYTES);
    let how = match (HOW, IN_MEMORY) {
        (EACH, _) => ", offsets by movzx",
        (INDICES, _) => ", indices of 8 bits",
        (BY_VECTOR, _) => ", indices of 8 bits by vector",
        (_, REGISTERS) => ", sums in registers",
        (_, MEMORY) => "",
    };
    Loop {
        group: E::NAME,
        name: format!("{STRIPS} strips{how}"),
        unit: "look-up",
        units: (PASSES * ROWS * STRIPS) as u64,
        macs: 4 * E::BYTES as u64 / 2,
        run: Box::new(move || {
            for _ in 0..PASSES {
                // SAFETY: `loops` has looked for the features; the buffers were
                // made for these constants.
                unsafe {
                    let pass = const {
                        match HOW {
                            BY_VECTOR => pass_by_vector::<STRIPS>,
                            _ => pass::<E, STRIPS, HOW, IN_MEMORY>,
                        }
                    };
                    pass(
                        offsets.as_ptr().cast(),
                        tables.as_ptr().cast(),
                        acc.as_mut_ptr().cast(),
                    );
                }
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
        lookup::<Zmm, 4, OFFSETS, REGISTERS>(),
        lookup::<Zmm, 12, OFFSETS, REGISTERS>(),
        lookup::<Zmm, 4, OFFSETS, MEMORY>(),
        lookup::<Zmm, 8, OFFSETS, MEMORY>(),
        lookup::<Zmm, 12, OFFSETS, MEMORY>(),
        lookup::<Zmm, 16, OFFSETS, MEMORY>(),
        lookup::<Zmm, 20, OFFSETS, MEMORY>(),
        lookup::<Zmm, 60, OFFSETS, MEMORY>(),
        lookup::<Zmm, 12, EACH, MEMORY>(),
        lookup::<Zmm, 8, INDICES, MEMORY>(),
        lookup::<Zmm, 12, INDICES, MEMORY>(),
        lookup::<Zmm, 4, BY_VECTOR, MEMORY>(),
        lookup::<Zmm, 8, BY_VECTOR, MEMORY>(),
        lookup::<Zmm, 12, BY_VECTOR, MEMORY>(),
        lookup::<TwoZmm, 4, OFFSETS, MEMORY>(),
        lookup::<TwoZmm, 8, OFFSETS, MEMORY>(),
        lookup::<TwoZmm, 12, OFFSETS, MEMORY>(),
        lookup::<Ymm, 8, OFFSETS, REGISTERS>(),
        lookup::<Ymm, 8, OFFSETS, MEMORY>(),
        lookup::<Ymm, 12, OFFSETS, MEMORY>(),
        lookup::<Ymm, 20, OFFSETS, MEMORY>(),
        lookup::<Ymm, 12, INDICES, MEMORY>(),
        lookup::<TwoYmm, 8, OFFSETS, MEMORY>(),
        lookup::<TwoYmm, 12, OFFSETS, MEMORY>(),
        lookup::<TwoYmm, 12, INDICES, MEMORY>(),
    ]
}
