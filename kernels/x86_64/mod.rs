//! x86-64: AVX2, and AVX-512 with and without VBMI.

/// A type that expands panel bytes by `$quad` for the column lanes: see
/// [`super::many::Expand`].
macro_rules! expansion {
    ($(#[$doc:meta])* $name:ident: $word:ty, $lanes:literal lanes,
     entries of $entry:expr, by $quad:ident) => {
        $(#[$doc])*
        struct $name;

        impl crate::kernels::many::Expand for $name {
            type Word = $word;
            const LANES: usize = $lanes;
            const ENTRY: usize = $entry;

            #[inline(always)]
            unsafe fn quad(panel: *const u8, quad: &mut Quad<$word>) {
                // SAFETY: precondition 1 of the contract; 256 readable bytes.
                unsafe { $quad(panel, quad) }
            }
        }
    };
}

pub mod avx2;
pub mod avx512;

use super::registry::{Cpu, Crossover, Crossovers, Feature, KernelSet};
use crate::isa::Isa;

/// Features by their names, with their detection.
macro_rules! features {
    ($($name:tt),+ $(,)?) => {
        &[$(Feature { name: $name, detect: || std::arch::is_x86_feature_detected!($name) }),+]
    };
}

/// What the kernels with VBMI need.
const VBMI: &[Feature] = features!(
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "popcnt",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "fma",
    "lzcnt",
    "fxsr",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512vbmi",
);

/// AVX-512 with the byte permutation of VBMI, on a CPU that starts two permutations a
/// cycle and loads two lines.
pub static AVX512_ZEN5: KernelSet = KernelSet {
    name: "avx512-zen5",
    isa: Isa::Avx512,
    features: VBMI,
    made_for: Some(Cpu::Zen5),
    codec: &avx512::codec::CODEC,
    few_i8: &avx512::few_i8_vbmi::FEW_I8,
    streamed_i8: &avx512::few_i8_nibbles::FEW_I8_MEMORY,
    few_f32: &avx512::few_f32::FEW_F32_VBMI,
    many_i8: &avx512::many_i8_zen5::MANY_I8,
    many_f32: &avx512::many_f32_zen5::MANY_F32,
    narrow_i8: &avx512::many_i8_zen5::MANY_I8,
    narrow_f32: &avx2::many::MANY_F32_X8,
    crossover_i8: Crossovers::same(2, 2),
    crossover_f32: Crossovers::same(8, 10),
};

/// AVX-512 with the byte permutation of VBMI.
pub static AVX512_VBMI: KernelSet = KernelSet {
    name: "avx512-vbmi",
    isa: Isa::Avx512,
    features: VBMI,
    made_for: None,
    codec: &avx512::codec::CODEC,
    few_i8: &avx512::few_i8_vbmi::FEW_I8,
    streamed_i8: &avx512::few_i8_nibbles::FEW_I8_MEMORY,
    few_f32: &avx512::few_f32::FEW_F32_VBMI,
    many_i8: &avx512::many::MANY_I8,
    many_f32: &avx512::many::MANY_F32,
    narrow_i8: &avx2::many::MANY_I8_X16,
    narrow_f32: &avx2::many::MANY_F32_X8,
    crossover_i8: Crossovers {
        amd: Crossover {
            narrow: 13,
            wide: 25,
        },
        other: Crossover {
            narrow: 14,
            wide: 19,
        },
    },
    crossover_f32: Crossovers {
        amd: Crossover {
            narrow: 6,
            wide: 12,
        },
        other: Crossover {
            narrow: 7,
            wide: 10,
        },
    },
};

/// AVX-512 without VBMI.
pub static AVX512: KernelSet = KernelSet {
    name: "avx512",
    isa: Isa::Avx512,
    features: features!(
        "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "bmi1", "bmi2", "fma",
        "lzcnt", "fxsr", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl",
    ),
    made_for: None,
    codec: &avx512::codec::CODEC,
    few_i8: &avx512::few_i8_nibbles::FEW_I8,
    streamed_i8: &avx512::few_i8_nibbles::FEW_I8,
    few_f32: &avx512::few_f32::FEW_F32,
    many_i8: &avx512::many::MANY_I8,
    many_f32: &avx512::many::MANY_F32,
    narrow_i8: &avx2::many::MANY_I8_X16,
    narrow_f32: &avx2::many::MANY_F32_X8,
    crossover_i8: Crossovers {
        amd: Crossover {
            narrow: 10,
            wide: 23,
        },
        other: Crossover {
            narrow: 12,
            wide: 20,
        },
    },
    crossover_f32: Crossovers {
        amd: Crossover {
            narrow: 4,
            wide: 11,
        },
        other: Crossover {
            narrow: 7,
            wide: 10,
        },
    },
};

/// AVX2.
pub static AVX2: KernelSet = KernelSet {
    name: "avx2",
    isa: Isa::Avx2,
    features: features!(
        "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "bmi1", "bmi2", "fma",
        "lzcnt", "fxsr",
    ),
    made_for: None,
    codec: &avx2::codec::CODEC,
    few_i8: &avx2::few_i8::FEW_I8,
    streamed_i8: &avx2::few_i8::FEW_I8,
    few_f32: &avx2::few_f32::FEW_F32,
    many_i8: &avx2::many::MANY_I8,
    many_f32: &avx2::many::MANY_F32,
    narrow_i8: &avx2::many::MANY_I8_X16,
    narrow_f32: &avx2::many::MANY_F32_X8,
    crossover_i8: Crossovers {
        amd: Crossover {
            narrow: 9,
            wide: 23,
        },
        other: Crossover {
            narrow: 8,
            wide: 24,
        },
    },
    crossover_f32: Crossovers {
        amd: Crossover {
            narrow: 3,
            wide: 10,
        },
        other: Crossover {
            narrow: 2,
            wide: 10,
        },
    },
};
