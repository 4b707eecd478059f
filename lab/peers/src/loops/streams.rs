//! Reading weights out of memory in the order of the row lanes: what is left of the
//! bandwidth of one plain stream when four panels are read at once, as the tables
//! make a kernel do, neighbours or a quarter of a matrix apart; and what of that when each
//! line goes through the instructions of a kernel, with tables that stay in registers and
//! sums that nobody folds or wants.

use crate::hand_over;
use crate::measure::Loop;
use crate::memory::Bytes;
use std::arch::{asm, x86_64::*};
use std::hint::black_box;
use std::sync::Arc;

const LINE: usize = 64;
/// A panel of 4096 columns, as the library pads it.
const PANEL: usize = 1026 * LINE;
/// At once.
const PANELS: usize = 4;
/// Tiles in a matrix of 4096 rows.
const MATRIX: usize = 16;
/// Bytes of one.
pub const MATRIX_BYTES: usize = MATRIX * PANELS * PANEL;
/// More than 512 MiB in all.
const TILES: usize = 128 * MATRIX;
/// Tiles that the L3 keeps, and a core's L2 does not.
const FEW: usize = 16;

/// Reads all of some bytes.
pub type Read = fn(&[u8]);

/// The loops, if this CPU has AVX2.
pub fn loops() -> Vec<Loop> {
    if !is_x86_feature_detected!("avx2") {
        return Vec::new();
    }
    let bytes = Arc::new(Bytes::filled(1, TILES * PANELS * PANEL));
    let from = |group, tiles: usize, name: &str, read: Read| {
        let bytes = Arc::clone(&bytes);
        let len = tiles * PANELS * PANEL;
        Loop {
            group,
            name: name.to_owned(),
            unit: "line",
            units: (bytes.len() / len * len / LINE) as u64,
            macs: 256,
            run: Box::new(move || {
                for _ in 0..bytes.len() / len {
                    read(&bytes[..len]);
                }
            }),
        }
    };
    let memory = "streams from memory, 256 weights a line; sums: four panels";
    let cached = "streams from L3";
    let mut loops = vec![
        from(memory, TILES, "one stream, nothing computed", |bytes| {
            // SAFETY: AVX2 was detected.
            unsafe { one(bytes) }
        }),
        from(memory, TILES, "four panels, nothing computed", |bytes| {
            // SAFETY: AVX2 was detected.
            unsafe { four::<1>(bytes) }
        }),
        from(memory, TILES, "the same a quarter apart", |bytes| {
            // SAFETY: AVX2 was detected.
            unsafe { four::<MATRIX>(bytes) }
        }),
    ];
    let by_two = hand_over::loops(&bytes, |bytes| {
        // SAFETY: AVX2 was detected.
        unsafe { one(bytes) }
    });
    if !(is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vbmi")) {
        loops.extend(by_two);
        return loops;
    }
    let mixes: [(&str, Read); 7] = [
        ("int8 sums", |bytes| {
            // SAFETY: AVX-512 with BW and VBMI was detected.
            unsafe { int8::<1152, 3584, false, 1>(bytes) }
        }),
        ("int8 sums, prefetched once", |bytes| {
            // SAFETY: as above.
            unsafe { int8::<2048, 0, false, 1>(bytes) }
        }),
        ("int8 sums, prefetched once, paced", |bytes| {
            // SAFETY: as above.
            unsafe { int8::<3072, 0, true, 1>(bytes) }
        }),
        ("the same a quarter apart", |bytes| {
            // SAFETY: as above.
            unsafe { int8::<3072, 0, true, MATRIX>(bytes) }
        }),
        ("f32 sums by shifts", |bytes| {
            // SAFETY: as above.
            unsafe { float::<3072, 0, false, 1>(bytes) }
        }),
        ("f32 sums by vpmultishiftqb", |bytes| {
            // SAFETY: as above.
            unsafe { float::<3072, 0, true, 1>(bytes) }
        }),
        ("these a quarter apart", |bytes| {
            // SAFETY: as above.
            unsafe { float::<3072, 0, true, MATRIX>(bytes) }
        }),
    ];
    for (group, tiles) in [(memory, TILES), (cached, FEW)] {
        loops.extend(mixes.map(|(name, read)| from(group, tiles, name, read)));
    }
    loops.extend(by_two);
    loops
}

/// Four panels at a time, `APART` panels from one another, by the start of the first:
/// neighbours if that is 1.
fn tiles<const APART: usize>(bytes: &[u8]) -> impl Iterator<Item = *const u8> {
    bytes
        .chunks_exact(APART * PANELS * PANEL)
        .flat_map(|matrix| (0..APART).map(|i| matrix[i * PANEL..].as_ptr()))
}

/// Calls `line` for each line of each tile of four panels, `APART` panels from one
/// another, and asks for those that many bytes ahead to come into L1, and into L2 unless
/// that is 0. `PACED` has the addresses wait for an addition a cycle, 23 for four lines.
#[inline(always)]
fn each_line<const L1: usize, const L2: usize, const PACED: bool, const APART: usize>(
    bytes: &[u8],
    mut line: impl FnMut(usize, *const u8),
) {
    let mut late = 0_usize;
    for tile in tiles::<APART>(bytes) {
        for at in (0..PANEL).step_by(LINE) {
            if PACED {
                // SAFETY: additions in a register, of 0.
                unsafe {
                    asm!(
                        ".rept 23", "add {x}, {x}", ".endr",
                        x = inout(reg) late, options(pure, nomem, nostack),
                    );
                }
            }
            let at = at + late;
            // Past a panel follows, among neighbours, another one of the tile: the next
            // tile's instead.
            let ahead = [L1, L2].map(|distance| match at + distance < PANEL || APART > 1 {
                true => at + distance,
                false => at + distance + (PANELS - 1) * PANEL,
            });
            for p in 0..PANELS {
                let start = tile.wrapping_add(p * APART * PANEL);
                // SAFETY: a prefetch of any address is a hint; SSE is x86-64's.
                #[allow(unused_unsafe)]
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(ahead[0]).cast());
                    if L2 > 0 {
                        _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(ahead[1]).cast());
                    }
                }
                line(p, start.wrapping_add(at));
            }
        }
    }
}

/// The look-ups of the int8 kernel for weights out of memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn int8<const L1: usize, const L2: usize, const PACED: bool, const APART: usize>(bytes: &[u8]) {
    let tables: [__m512i; 4] = black_box([_mm512_set1_epi8(1); 4]);
    let mut sums = [[_mm512_setzero_si512(); 2]; PANELS];
    each_line::<L1, L2, PACED, APART>(bytes, |p, line| {
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

/// The look-ups of the f32 kernel.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn float<const L1: usize, const L2: usize, const MULTISHIFT: bool, const APART: usize>(
    bytes: &[u8],
) {
    let tables: [__m512; 2] = black_box([_mm512_set1_ps(1.0); 2]);
    let controls: [__m512i; 8] =
        std::array::from_fn(|i| _mm512_set1_epi64(((32 + 4 * i as i64) << 32) | (4 * i as i64)));
    let counts: [__m128i; 8] = std::array::from_fn(|i| _mm_cvtsi64_si128(4 * i as i64));
    let mut sums = [[_mm512_setzero_ps(); 4]; PANELS];
    each_line::<L1, L2, false, APART>(bytes, |p, line| {
        // SAFETY: a whole line of the tile.
        let codes = unsafe { _mm512_loadu_si512(line.cast()) };
        let index = |i: usize| match (i, MULTISHIFT) {
            (0, _) => codes,
            (_, true) => _mm512_multishift_epi64_epi8(controls[i], codes),
            (_, false) => _mm512_srl_epi32(codes, counts[i]),
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
fn four<const APART: usize>(bytes: &[u8]) {
    let mut sums = [[_mm256_setzero_si256(); 2]; PANELS];
    for tile in tiles::<APART>(bytes) {
        for at in (0..PANEL).step_by(LINE) {
            for (p, sums) in sums.iter_mut().enumerate() {
                // SAFETY: a whole line of the tile.
                unsafe { add(sums, tile.wrapping_add(p * APART * PANEL + at)) };
            }
        }
    }
    black_box(sums);
}
