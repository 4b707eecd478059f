//! x86-64: AVX2, and AVX-512 with and without VBMI.
//!
//! A level has one row of the registry for each kind of CPU whose best choice of kernels
//! differs. AMD's CPUs alone have SSE4a, and of those Zen 5 was the first with
//! `avx512vp2intersect`.

pub mod avx2;
pub mod avx512;

use crate::kernels::contract::{Feature, KernelSet, ManyChoice, Tuning};
use std::arch::is_x86_feature_detected;

/// Features by their names, with their detection.
macro_rules! features {
    ($($name:tt),+ $(,)?) => {
        &[$(Feature { name: $name, detect: || is_x86_feature_detected!($name) }),+]
    };
}

/// AMD since Zen 5: measured on one with vectors of full width, which its mobile kin have
/// not.
const ZEN5: Option<Tuning> = Some(Tuning {
    looks_for: "an AMD CPU with avx512vp2intersect (Zen 5)",
    suits: || is_x86_feature_detected!("sse4a") && is_x86_feature_detected!("avx512vp2intersect"),
});

/// AMD: measured on a Zen 4.
const ZEN4: Option<Tuning> = Some(Tuning {
    looks_for: "an AMD CPU",
    suits: || is_x86_feature_detected!("sse4a"),
});

/// All others: measured on an Intel Xeon (Emerald Rapids).
const INTEL: Option<Tuning> = Some(Tuning {
    looks_for: "a CPU that is not AMD's",
    suits: || !is_x86_feature_detected!("sse4a"),
});

/// AVX-512 with the byte permutation of VBMI, on a CPU that starts two permutations a
/// cycle and loads two lines.
pub static AVX512_VBMI_ZEN5: KernelSet = KernelSet {
    name: "avx512-vbmi/zen5",
    tuning: ZEN5,
    few_i8: &avx512::few_i8_vbmi::FEW_I8_ZEN5,
    few_f32: &avx512::few_f32::FEW_F32_ZEN5,
    many_i8: &[ManyChoice::new(&avx512::many_i8_zen5::MANY_I8, 2)],
    many_f32: &[
        ManyChoice::new(&avx512::many_f32_zen5::MANY_F32, 10),
        ManyChoice::new(&avx2::many::MANY_F32_X8, 8),
    ],
    ..AVX512_VBMI_ZEN4
};

/// AVX-512 with the byte permutation of VBMI.
pub static AVX512_VBMI_ZEN4: KernelSet = KernelSet {
    name: "avx512-vbmi/zen4",
    tuning: ZEN4,
    few_f32: &avx512::few_f32::FEW_F32_ZEN4,
    many_i8: &[
        ManyChoice::new(&avx512::many::MANY_I8, 25),
        ManyChoice::new(&avx2::many::MANY_I8_X16, 13),
    ],
    many_f32: &[
        ManyChoice::new(&avx512::many::MANY_F32, 12),
        ManyChoice::new(&avx2::many::MANY_F32_X8, 6),
    ],
    ..AVX512_VBMI_INTEL
};

/// AVX-512 with the byte permutation of VBMI.
pub static AVX512_VBMI_INTEL: KernelSet = KernelSet {
    name: "avx512-vbmi/intel",
    features: features!(
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
    ),
    few_i8: &avx512::few_i8_vbmi::FEW_I8,
    many_i8: &[
        ManyChoice::new(&avx512::many::MANY_I8_INTEL, 21),
        ManyChoice::new(&avx512::many_i8_vbmi::MANY_I8, 2),
    ],
    ..AVX512_INTEL
};

/// AVX-512 without VBMI.
pub static AVX512_ZEN4: KernelSet = KernelSet {
    name: "avx512/zen4",
    tuning: ZEN4,
    many_i8: &[
        ManyChoice::new(&avx512::many::MANY_I8, 23),
        ManyChoice::new(&avx2::many::MANY_I8_X16, 10),
    ],
    many_f32: &[
        ManyChoice::new(&avx512::many::MANY_F32, 11),
        ManyChoice::new(&avx2::many::MANY_F32_X8, 4),
    ],
    ..AVX512_INTEL
};

/// AVX-512 without VBMI.
pub static AVX512_INTEL: KernelSet = KernelSet {
    name: "avx512/intel",
    tuning: INTEL,
    features: features!(
        "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "bmi1", "bmi2", "fma",
        "lzcnt", "fxsr", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl",
    ),
    codec: &avx512::codec::CODEC,
    few_i8: &avx512::few_i8_nibbles::FEW_I8,
    few_f32: &avx512::few_f32::FEW_F32,
    many_i8: &[
        ManyChoice::new(&avx512::many::MANY_I8_INTEL, 18),
        ManyChoice::new(&avx2::many::MANY_I8_X16, 12),
    ],
    many_f32: &[
        ManyChoice::new(&avx512::many::MANY_F32_INTEL, 10),
        ManyChoice::new(&avx2::many::MANY_F32_X8, 7),
    ],
};

/// AVX2.
pub static AVX2_ZEN4: KernelSet = KernelSet {
    name: "avx2/zen4",
    tuning: ZEN4,
    many_i8: &[
        ManyChoice::new(&avx2::many::MANY_I8, 23),
        ManyChoice::new(&avx2::many::MANY_I8_X16, 9),
    ],
    many_f32: &[
        ManyChoice::new(&avx2::many::MANY_F32, 10),
        ManyChoice::new(&avx2::many::MANY_F32_X8, 3),
    ],
    ..AVX2_INTEL
};

/// AVX2.
pub static AVX2_INTEL: KernelSet = KernelSet {
    name: "avx2/intel",
    tuning: INTEL,
    features: features!(
        "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "bmi1", "bmi2", "fma",
        "lzcnt", "fxsr",
    ),
    codec: &avx2::codec::CODEC,
    few_i8: &avx2::few_i8::FEW_I8,
    few_f32: &avx2::few_f32::FEW_F32,
    many_i8: &[
        ManyChoice::new(&avx2::many::MANY_I8, 21),
        ManyChoice::new(&avx2::many::MANY_I8_X16, 8),
    ],
    many_f32: &[
        ManyChoice::new(&avx2::many::MANY_F32, 10),
        ManyChoice::new(&avx2::many::MANY_F32_X8, 3),
    ],
};
