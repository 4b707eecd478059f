//! Reading weights in the order of the kernels for one token: what is left of the
//! bandwidth of one plain stream when four panels are read at once, as the tables make a
//! kernel do, a quarter of a matrix apart; and what of that when each line goes through
//! the instructions of a kernel, with tables that stay in registers and sums that nobody
//! folds or wants.

use crate::measure::Loop;
use std::arch::{asm, x86_64::*};
use std::hint::black_box;
use std::sync::Arc;
use tritgemm_loops::memory::Bytes;

const LINE: usize = 64;
/// A panel of 4096 columns, as the library pads it.
const PANEL: usize = 1026 * LINE;
/// At once.
const PANELS: usize = 4;
/// Panels from one of them to the next: a quarter of 4096 rows.
const APART: usize = 16;
const MATRIX: usize = APART * PANELS * PANEL;
/// More than 512 MiB in all.
const MATRICES: usize = 128;

/// Reads whole matrices.
type Read = fn(&[u8]);

/// The loops, if this CPU has AVX2.
pub fn loops() -> Vec<Loop> {
    if !is_x86_feature_detected!("avx2") {
        return Vec::new();
    }
    let bytes = Arc::new(Bytes::filled(1, MATRICES * MATRIX));
    // The L3 keeps one matrix, and a core's L2 does not.
    let from = |group, matrices: usize, name: &str, macs, read: Read| {
        let bytes = Arc::clone(&bytes);
        Loop {
            group,
            name: name.to_owned(),
            unit: "line",
            units: (bytes.len() / LINE) as u64,
            macs,
            run: Box::new(move || bytes.chunks(matrices * MATRIX).for_each(read)),
        }
    };
    let (memory, cached) = (
        "streams from memory, 256 weights a line; sums: four panels",
        "streams from L3",
    );
    let mut loops = vec![
        from(
            memory,
            MATRICES,
            "one stream, nothing computed",
            256,
            |bytes| {
                // SAFETY: AVX2 was detected.
                unsafe { one(bytes) }
            },
        ),
        from(
            memory,
            MATRICES,
            "four panels, nothing computed",
            256,
            |bytes| {
                // SAFETY: AVX2 was detected.
                unsafe { four(bytes) }
            },
        ),
    ];
    if !(is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vbmi")) {
        return loops;
    }
    let mixes: [(&str, u64, Read); 7] = [
        ("int8 sums, prefetched into L2 and L1", 256, |bytes| {
            // SAFETY: AVX-512 with BW and VBMI was detected.
            unsafe { int8::<1152, 3584, false>(bytes) }
        }),
        ("int8 sums, prefetched once", 256, |bytes| {
            // SAFETY: as above.
            unsafe { int8::<2048, 0, false>(bytes) }
        }),
        ("int8 sums, prefetched once, paced", 256, |bytes| {
            // SAFETY: as above.
            unsafe { int8::<3072, 0, true>(bytes) }
        }),
        ("f32 sums by vpmultishiftqb", 256, |bytes| {
            // SAFETY: as above.
            unsafe { f32_sums(bytes) }
        }),
        ("5/3 bits, tables in registers", FIVES_MACS, |bytes| {
            // SAFETY: as above.
            unsafe { fives::<1152, 3584, 4, false>(bytes) }
        }),
        ("5/3 bits, tables from L2", FIVES_MACS, |bytes| {
            // SAFETY: as above.
            unsafe { fives::<1152, 3584, 4, true>(bytes) }
        }),
        (
            "5/3 bits, tables from L2, eight panels",
            FIVES_MACS,
            |bytes| {
                // SAFETY: as above.
                unsafe { fives::<1152, 3584, 8, true>(bytes) }
            },
        ),
    ];
    for (group, matrices) in [(memory, MATRICES), (cached, 1)] {
        loops.extend(mixes.map(|(name, macs, read)| from(group, matrices, name, macs, read)));
    }
    loops
}

/// Tiles of four panels, by the start of the first.
fn tiles(bytes: &[u8]) -> impl Iterator<Item = *const u8> {
    bytes
        .chunks_exact(MATRIX)
        .flat_map(|matrix| (0..APART).map(|i| matrix[i * PANEL..].as_ptr()))
}

/// Calls `line` for each line of each tile, and asks for those that many bytes ahead to
/// come into L1, and into L2 unless that is 0. `PACED` has the addresses wait for an
/// addition a cycle, 23 for four lines.
#[inline(always)]
fn each_line<const L1: usize, const L2: usize, const PACED: bool>(
    bytes: &[u8],
    mut line: impl FnMut(usize, *const u8),
) {
    let mut delay = 0_usize;
    for tile in tiles(bytes) {
        for at in (0..PANEL).step_by(LINE) {
            if PACED {
                // SAFETY: additions in a register, of 0.
                unsafe {
                    asm!(
                        ".rept 23", "add {x}, {x}", ".endr",
                        x = inout(reg) delay, options(pure, nomem, nostack),
                    );
                }
            }
            for p in 0..PANELS {
                let here = tile.wrapping_add(p * APART * PANEL + at + delay);
                // A prefetch never faults. SSE, which has it, is x86-64's.
                #[allow(unused_unsafe)]
                // SAFETY: as said.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(here.wrapping_add(L1).cast());
                    if L2 > 0 {
                        _mm_prefetch::<_MM_HINT_T1>(here.wrapping_add(L2).cast());
                    }
                }
                line(p, here);
            }
        }
    }
}

/// The look-ups of the int8 kernel for weights from memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn int8<const L1: usize, const L2: usize, const PACED: bool>(bytes: &[u8]) {
    let tables: [__m512i; 4] = black_box([_mm512_set1_epi8(1); 4]);
    let mut sums = [[_mm512_setzero_si512(); 2]; PANELS];
    each_line::<L1, L2, PACED>(bytes, |p, line| {
        // SAFETY: a whole line of the tile.
        let codes = unsafe { _mm512_loadu_si512(line.cast()) };
        for (i, index) in [_mm512_srli_epi16::<4>(codes), codes]
            .into_iter()
            .enumerate()
        {
            for (part, sum) in sums[p].iter_mut().enumerate() {
                let found = _mm512_permutexvar_epi8(index, tables[2 * i + part]);
                *sum = _mm512_add_epi8(*sum, found);
            }
        }
    });
    black_box(sums);
}

/// Weights a line of [`fives`] and 64 rows: 24 by 64, of five lines.
const FIVES_MACS: u64 = 24 * 64 / 5;

/// Tables of a group of [`fives`]: low and high bytes of eight.
type GroupTables = [[__m512i; 2]; 8];

/// What a layout of 5 bits for three weights would do. Five lines hold 24 weights of 64 rows:
/// a byte's low bits are an index as they are, those above them make three more. Tables have
/// their 27 entries twice, so that a sixth bit may be anything. They are those of a token,
/// from L2, or stay in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn fives<const L1: usize, const L2: usize, const AT_ONCE: usize, const FROM_L2: bool>(
    bytes: &[u8],
) {
    const LINES: usize = 5;
    let groups = PANEL / LINE / LINES;
    let mut tables: Vec<GroupTables> = vec![[[_mm512_set1_epi8(1); 2]; 8]; groups];
    black_box(&mut tables);
    let low = _mm512_set1_epi8(0b111);
    let fourth = _mm512_set1_epi8(0b1000);
    // Bits of `a` where the mask has them, else of `b`.
    let select = |mask, a, b| _mm512_ternarylogic_epi64::<0xca>(mask, a, b);
    let apart = APART * PANELS / AT_ONCE;
    let mut sums = [[_mm512_setzero_si512(); 2]; AT_ONCE];
    let tiles = bytes.chunks_exact(MATRIX);
    for tile in tiles.flat_map(|m| (0..apart).map(|i| m[i * PANEL..].as_ptr())) {
        for group in 0..groups {
            let tables = &tables[if FROM_L2 { group } else { 0 }];
            for (p, sums) in sums.iter_mut().enumerate() {
                let here = tile.wrapping_add(p * apart * PANEL + group * LINES * LINE);
                let mut lines = [low; LINES];
                for (i, line) in lines.iter_mut().enumerate() {
                    let here = here.wrapping_add(i * LINE);
                    // SAFETY: a whole line of the tile; prefetches never fault.
                    unsafe {
                        _mm_prefetch::<_MM_HINT_T0>(here.wrapping_add(L1).cast());
                        if L2 > 0 {
                            _mm_prefetch::<_MM_HINT_T1>(here.wrapping_add(L2).cast());
                        }
                        *line = _mm512_loadu_si512(here.cast());
                    }
                }
                let [a, b, c, d, e] = lines;
                let above = select(fourth, _mm512_srli_epi16::<4>(d), _mm512_srli_epi16::<3>(e));
                let indices = [
                    a,
                    b,
                    c,
                    d,
                    e,
                    select(low, _mm512_srli_epi16::<5>(a), _mm512_srli_epi16::<2>(d)),
                    select(low, _mm512_srli_epi16::<5>(b), _mm512_srli_epi16::<2>(e)),
                    select(low, _mm512_srli_epi16::<5>(c), above),
                ];
                for (index, tables) in indices.iter().zip(tables) {
                    for (sum, table) in sums.iter_mut().zip(tables) {
                        let found = _mm512_permutexvar_epi8(*index, *table);
                        *sum = _mm512_add_epi8(*sum, found);
                    }
                }
            }
        }
    }
    black_box(sums);
}

/// The look-ups of the f32 kernel with VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn f32_sums(bytes: &[u8]) {
    let tables: [__m512; 2] = black_box([_mm512_set1_ps(1.0); 2]);
    let controls: [__m512i; 8] =
        std::array::from_fn(|i| _mm512_set1_epi64(((32 + 4 * i as i64) << 32) | (4 * i as i64)));
    let mut sums = [[_mm512_setzero_ps(); 4]; PANELS];
    each_line::<3072, 0, false>(bytes, |p, line| {
        // SAFETY: a whole line of the tile.
        let codes = unsafe { _mm512_loadu_si512(line.cast()) };
        let index = |i: usize| match i {
            0 => codes,
            _ => _mm512_multishift_epi64_epi8(controls[i], codes),
        };
        for (b, sum) in sums[p].iter_mut().enumerate() {
            let first = _mm512_permutexvar_ps(index(2 * b + 1), tables[0]);
            let second = _mm512_permutexvar_ps(index(2 * b), tables[1]);
            *sum = _mm512_add_ps(*sum, _mm512_add_ps(first, second));
        }
    });
    black_box(sums);
}

/// # Safety
/// A line may be read at `line`.
#[target_feature(enable = "avx2")]
unsafe fn add(sums: &mut [__m256i; 2], line: *const u8) {
    for (half, sum) in sums.iter_mut().enumerate() {
        // SAFETY: half a line; the caller's word for both.
        let read = unsafe { _mm256_loadu_si256(line.add(32 * half).cast()) };
        *sum = _mm256_xor_si256(*sum, read);
    }
}

#[target_feature(enable = "avx2")]
fn one(bytes: &[u8]) {
    let mut sums = [[_mm256_setzero_si256(); 2]; PANELS];
    for lines in bytes.chunks_exact(PANELS * LINE) {
        for (line, sums) in lines.chunks_exact(LINE).zip(&mut sums) {
            // SAFETY: a whole line.
            unsafe { add(sums, line.as_ptr()) };
        }
    }
    black_box(sums);
}

#[target_feature(enable = "avx2")]
fn four(bytes: &[u8]) {
    let mut sums = [[_mm256_setzero_si256(); 2]; PANELS];
    for tile in tiles(bytes) {
        for at in (0..PANEL).step_by(LINE) {
            for (p, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a whole line of the tile.
                unsafe { add(sums, tile.wrapping_add(p * APART * PANEL + at)) };
            }
        }
    }
    black_box(sums);
}
