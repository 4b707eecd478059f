//! The ceilings of x86-64: multiply-accumulate with every operand in registers,
//! look-ups in tables, and reading as fast as loads and prefetches go.
//!
//! An empty `asm!` that claims to change a register stands where a compiler
//! could otherwise hoist, merge or fold the work; it emits no instruction.

use crate::look_ups::{self, look_ups};
use crate::{LOOK_UPS, Peak, Reader};
use core::arch::asm;
use core::arch::x86_64::*;
use std::hint::black_box;

/// Accumulators in flight: more than latency x issue rate of any core so far
/// (Intel: 5 cycles x 2 a cycle), and within the registers there are.
const ZMM_CHAINS: usize = 16;
const YMM_CHAINS: usize = 12;
/// Each of these chains has its own operand (equal ones would be multiplied once for
/// all), so chains and operands share the sixteen registers.
const MADDUBS_CHAINS: usize = 6;

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
    add!(LOOK_UPS, look_ups::MACS_PER_STEP, look_ups needs "avx512f", "avx512bw");
    peaks
}

/// Independent chains of one instruction.
macro_rules! chains {
    ($name:ident, $features:literal, [$zero:expr; $count:ident] in $register:ident,
     $x:ident = $x_value:expr, $y:ident = $y_value:expr, $a:ident => $step:expr) => {
        #[target_feature(enable = $features)]
        fn $name(steps: u64) {
            let mut acc = [$zero; $count];
            let $x = $x_value;
            let mut $y = $y_value;
            for _ in 0..steps {
                for sum in &mut acc {
                    let $a = *sum;
                    *sum = $step;
                }
                // SAFETY: empty.
                unsafe {
                    asm!("/* {0} */", inout($register) $y, options(nomem, nostack, preserves_flags))
                };
            }
            for sum in acc {
                // SAFETY: empty.
                unsafe {
                    asm!("/* {0} */", in($register) sum, options(nomem, nostack, preserves_flags))
                };
            }
        }
    };
}

chains!(vpdpbusd_zmm, "avx512f,avx512vnni", [_mm512_setzero_si512(); ZMM_CHAINS] in zmm_reg,
    x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(2), a => _mm512_dpbusd_epi32(a, x, y));
chains!(vpdpbusd_ymm, "avx512f,avx512vl,avx512vnni", [_mm256_setzero_si256(); YMM_CHAINS] in ymm_reg,
    x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(2), a => _mm256_dpbusd_epi32(a, x, y));
chains!(fma_zmm, "avx512f", [_mm512_setzero_ps(); ZMM_CHAINS] in zmm_reg,
    x = _mm512_set1_ps(1.0), y = _mm512_set1_ps(1e-6), a => _mm512_fmadd_ps(x, y, a));
chains!(fma_ymm, "avx2,fma", [_mm256_setzero_ps(); YMM_CHAINS] in ymm_reg,
    x = _mm256_set1_ps(1.0), y = _mm256_set1_ps(1e-6), a => _mm256_fmadd_ps(x, y, a));

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

/// Loops that read: by vector width, streams side by side and prefetch distance. Which
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
/// at a time, prefetching each line `ahead` bytes ahead (0: not at all).
macro_rules! reader {
    ($name:ident, $feature:literal, $vector:ty, $zero:ident, $load:ident, $xor:ident) => {
        #[target_feature(enable = $feature)]
        fn $name<const STREAMS: usize, const UNROLL: usize>(bytes: &[u8], ahead: usize) {
            const STEP: usize = size_of::<$vector>();
            let part = bytes.len() / STREAMS;
            let mut acc = [[$zero(); UNROLL]; STREAMS];
            let mut at = 0;
            while at + UNROLL * STEP <= part {
                for (s, acc) in acc.iter_mut().enumerate() {
                    let base = bytes.as_ptr().wrapping_add(s * part + at);
                    for (u, acc) in acc.iter_mut().enumerate() {
                        // SAFETY: s * part + at + (u + 1) * STEP <= (s + 1) * part <= len.
                        let vector = unsafe { $load(base.add(u * STEP).cast()) };
                        *acc = $xor(*acc, vector);
                        if ahead > 0 && (u * STEP).is_multiple_of(64) {
                            let line = base.wrapping_add(u * STEP + ahead);
                            // Unsafe for Rust 1.89 alone.
                            #[allow(unused_unsafe)]
                            // SAFETY: a prefetch never faults, so it may point past the end.
                            unsafe {
                                _mm_prefetch::<_MM_HINT_T0>(line.cast())
                            };
                        }
                    }
                }
                at += UNROLL * STEP;
            }
            black_box(acc);
        }
    };
}
reader!(
    read_zmm,
    "avx512f",
    __m512i,
    _mm512_setzero_si512,
    _mm512_loadu_si512,
    _mm512_xor_si512
);
reader!(
    read_ymm,
    "avx2",
    __m256i,
    _mm256_setzero_si256,
    _mm256_loadu_si256,
    _mm256_xor_si256
);
