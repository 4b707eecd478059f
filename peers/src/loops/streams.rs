//! Reading weights out of memory in the order of the row lanes, with nothing
//! computed: what is left of the bandwidth of one plain stream when four panels
//! are read side by side, as the tables make a kernel do.

use crate::measure::Loop;
use crate::memory::Bytes;
use std::arch::x86_64::*;
use std::hint::black_box;
use std::rc::Rc;

const LINE: usize = 64;
/// A panel of 4096 columns, as the library pads it.
const PANEL: usize = 1026 * LINE;
/// Side by side.
const PANELS: usize = 4;
/// More than 512 MiB in all.
const TILES: usize = 2052;

/// The loops, if this CPU has AVX2.
pub fn loops() -> Vec<Loop> {
    if !is_x86_feature_detected!("avx2") {
        return Vec::new();
    }
    let bytes = Rc::new(Bytes::filled(1, TILES * PANELS * PANEL));
    let entry = |name: &str, read: fn(&[u8])| {
        let bytes = Rc::clone(&bytes);
        Loop {
            group: "reading out of memory, nothing computed; 256 weights a line",
            name: name.to_owned(),
            unit: "line",
            units: (bytes.len() / LINE) as u64,
            macs: 256,
            run: Box::new(move || read(&bytes)),
        }
    };
    vec![
        entry("one stream", |bytes| {
            // SAFETY: AVX2 was detected.
            unsafe { one(bytes) }
        }),
        entry("four panels side by side", |bytes| {
            // SAFETY: AVX2 was detected.
            unsafe { four(bytes) }
        }),
    ]
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
    for tile in bytes.chunks_exact(PANELS * PANEL) {
        for at in (0..PANEL).step_by(LINE) {
            for (p, sums) in sums.iter_mut().enumerate() {
                let line = &tile[p * PANEL + at..][..LINE];
                // SAFETY: a whole line.
                unsafe { add(sums, line.as_ptr()) };
            }
        }
    }
    black_box(sums);
}
