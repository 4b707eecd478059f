//! The loops whose speed is a ceiling on x86-64: multiply-accumulate with every
//! operand in registers, look-ups in tables, and reading as fast as loads and
//! prefetch go.
//!
//! An empty `asm!` that claims to change a register stands where a compiler
//! could otherwise hoist, merge or fold the work; it emits no instruction.

#[path = "lookups.rs"]
mod lookups;

use super::{Peak, Reader};
use core::arch::asm;
use core::arch::x86_64::*;
use lookups::look_ups;

/// Accumulators in flight: more than latency x issue rate of any core so far
/// (Intel: 5 cycles x 2 a cycle), and within the registers there are.
const ZMM_CHAINS: usize = 16;
const YMM_CHAINS: usize = 12;

macro_rules! detected {
    ($($feature:tt),*) => { true $(&& is_x86_feature_detected!($feature))* };
}

/// The arithmetic ceilings that this CPU has.
pub fn peaks() -> Vec<Peak> {
    let mut peaks = Vec::new();
    macro_rules! add {
        ($name:expr, $macs:expr, $steps:ident needs $($feature:tt),*) => {
            if detected!($($feature),*) {
                peaks.push(Peak {
                    name: $name,
                    macs_per_step: $macs as f64,
                    steps: |n| {
                        // SAFETY: the features of its `target_feature` attribute
                        // are those that were just detected.
                        unsafe { $steps(n) }
                    },
                });
            }
        };
    }
    add!("vpdpbusd-zmm", 64 * ZMM_CHAINS, vpdpbusd_zmm needs "avx512f", "avx512vnni");
    add!("vpdpbusd-ymm", 32 * YMM_CHAINS, vpdpbusd_ymm needs "avx512f", "avx512vl", "avx512vnni");
    add!("vpmaddubsw-ymm", 32 * MADDUBS_CHAINS, vpmaddubsw_ymm needs "avx2");
    add!("fma-zmm", 16 * ZMM_CHAINS, fma_zmm needs "avx512f");
    add!("fma-ymm", 8 * YMM_CHAINS, fma_ymm needs "avx2", "fma");
    add!(super::LOOK_UPS, lookups::MACS_PER_STEP, look_ups needs "avx512f", "avx512bw");
    peaks
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn vpdpbusd_zmm(steps: u64) {
    let mut acc = [_mm512_setzero_si512(); ZMM_CHAINS];
    let x = _mm512_set1_epi8(3);
    let mut y = _mm512_set1_epi8(2);
    for _ in 0..steps {
        for a in &mut acc {
            *a = _mm512_dpbusd_epi32(*a, x, y);
        }
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", inout(zmm_reg) y, options(nomem, nostack, preserves_flags)) };
    }
    for a in acc {
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", in(zmm_reg) a, options(nomem, nostack, preserves_flags)) };
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
fn vpdpbusd_ymm(steps: u64) {
    let mut acc = [_mm256_setzero_si256(); YMM_CHAINS];
    let x = _mm256_set1_epi8(3);
    let mut y = _mm256_set1_epi8(2);
    for _ in 0..steps {
        for a in &mut acc {
            *a = _mm256_dpbusd_epi32(*a, x, y);
        }
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", inout(ymm_reg) y, options(nomem, nostack, preserves_flags)) };
    }
    for a in acc {
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", in(ymm_reg) a, options(nomem, nostack, preserves_flags)) };
    }
}

/// Each chain has its own operand (equal ones would be multiplied once for all),
/// so chains and operands share the sixteen registers.
const MADDUBS_CHAINS: usize = 6;

/// The AVX2 int8 product: `vpmaddubsw`, `vpmaddwd` by ones, `vpaddd`.
#[target_feature(enable = "avx2")]
fn vpmaddubsw_ymm(steps: u64) {
    let mut acc = [_mm256_setzero_si256(); MADDUBS_CHAINS];
    let y: [__m256i; MADDUBS_CHAINS] = core::array::from_fn(|j| _mm256_set1_epi8(j as i8 + 1));
    let ones = _mm256_set1_epi16(1);
    let mut x = _mm256_set1_epi8(3);
    for _ in 0..steps {
        for (a, y) in acc.iter_mut().zip(y) {
            let pairs = _mm256_maddubs_epi16(x, y);
            *a = _mm256_add_epi32(*a, _mm256_madd_epi16(pairs, ones));
        }
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", inout(ymm_reg) x, options(nomem, nostack, preserves_flags)) };
    }
    for a in acc {
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", in(ymm_reg) a, options(nomem, nostack, preserves_flags)) };
    }
}

#[target_feature(enable = "avx512f")]
fn fma_zmm(steps: u64) {
    let mut acc = [_mm512_setzero_ps(); ZMM_CHAINS];
    let x = _mm512_set1_ps(1.0);
    let mut y = _mm512_set1_ps(1e-6);
    for _ in 0..steps {
        for a in &mut acc {
            *a = _mm512_fmadd_ps(x, y, *a);
        }
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", inout(zmm_reg) y, options(nomem, nostack, preserves_flags)) };
    }
    for a in acc {
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", in(zmm_reg) a, options(nomem, nostack, preserves_flags)) };
    }
}

#[target_feature(enable = "avx2,fma")]
fn fma_ymm(steps: u64) {
    let mut acc = [_mm256_setzero_ps(); YMM_CHAINS];
    let x = _mm256_set1_ps(1.0);
    let mut y = _mm256_set1_ps(1e-6);
    for _ in 0..steps {
        for a in &mut acc {
            *a = _mm256_fmadd_ps(x, y, *a);
        }
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", inout(ymm_reg) y, options(nomem, nostack, preserves_flags)) };
    }
    for a in acc {
        // SAFETY: empty.
        unsafe { asm!("/* {0} */", in(ymm_reg) a, options(nomem, nostack, preserves_flags)) };
    }
}

/// Ways to read: vector width, streams side by side, prefetch distance. Which
/// one is fastest differs by core and by cache level, so all are tried.
pub fn readers() -> Vec<Reader> {
    let mut readers = Vec::new();
    macro_rules! add {
        ($read:ident $name:literal needs $feature:tt: $($streams:literal x $unroll:literal),*) => {
            if detected!($feature) {
                for ahead in [0, 512, 1024, 2048, 4096, 8192] {
                    $(readers.push(Reader {
                        name: format!("{} x{} prefetch {ahead}", $name, $streams),
                        ahead,
                        read: |bytes, ahead| {
                            // SAFETY: the one feature it needs was just detected.
                            unsafe { $read::<$streams, $unroll>(bytes, ahead) }
                        },
                    });)*
                }
            }
        };
    }
    add!(read_zmm "zmm" needs "avx512f": 1 x 8, 2 x 4, 4 x 4, 8 x 2);
    add!(read_ymm "ymm" needs "avx2": 1 x 8, 4 x 2);
    readers
}

/// Reads `bytes` in `STREAMS` equal parts side by side, `UNROLL` vectors of each
/// at a time, prefetching `ahead` bytes ahead of each stream (0: not at all).
#[target_feature(enable = "avx512f")]
fn read_zmm<const STREAMS: usize, const UNROLL: usize>(bytes: &[u8], ahead: usize) -> u64 {
    const LINE: usize = 64;
    let part = bytes.len() / STREAMS;
    let mut acc = [[_mm512_setzero_si512(); UNROLL]; STREAMS];
    let mut at = 0;
    while at + UNROLL * LINE <= part {
        for (s, acc) in acc.iter_mut().enumerate() {
            let base = bytes.as_ptr().wrapping_add(s * part + at);
            for (u, acc) in acc.iter_mut().enumerate() {
                // SAFETY: s * part + at + (u + 1) * 64 <= (s + 1) * part <= len.
                let line = unsafe { _mm512_loadu_si512(base.add(u * LINE).cast()) };
                *acc = _mm512_xor_si512(*acc, line);
                if ahead > 0 {
                    // A prefetch never faults, so it may point past the end.
                    _mm_prefetch::<_MM_HINT_T0>(base.wrapping_add(u * LINE + ahead).cast());
                }
            }
        }
        at += UNROLL * LINE;
    }
    let all = acc
        .as_flattened()
        .iter()
        .fold(_mm512_setzero_si512(), |a, &b| _mm512_xor_si512(a, b));
    _mm512_reduce_add_epi64(all) as u64
}

/// `read_zmm` with 32-byte loads; one prefetch a line still.
#[target_feature(enable = "avx2")]
fn read_ymm<const STREAMS: usize, const UNROLL: usize>(bytes: &[u8], ahead: usize) -> u64 {
    const STEP: usize = 32;
    let part = bytes.len() / STREAMS;
    let mut acc = [[_mm256_setzero_si256(); UNROLL]; STREAMS];
    let mut at = 0;
    while at + UNROLL * STEP <= part {
        for (s, acc) in acc.iter_mut().enumerate() {
            let base = bytes.as_ptr().wrapping_add(s * part + at);
            for (u, acc) in acc.iter_mut().enumerate() {
                // SAFETY: s * part + at + (u + 1) * 32 <= (s + 1) * part <= len.
                let half_line = unsafe { _mm256_loadu_si256(base.add(u * STEP).cast()) };
                *acc = _mm256_xor_si256(*acc, half_line);
                if ahead > 0 && u.is_multiple_of(2) {
                    // A prefetch never faults, so it may point past the end.
                    _mm_prefetch::<_MM_HINT_T0>(base.wrapping_add(u * STEP + ahead).cast());
                }
            }
        }
        at += UNROLL * STEP;
    }
    let all = acc
        .as_flattened()
        .iter()
        .fold(_mm256_setzero_si256(), |a, &b| _mm256_xor_si256(a, b));
    let halves = [
        _mm256_extract_epi64::<0>(all),
        _mm256_extract_epi64::<1>(all),
        _mm256_extract_epi64::<2>(all),
        _mm256_extract_epi64::<3>(all),
    ];
    halves.iter().fold(0, |a, &b| a ^ b as u64)
}
