//! The registry: the one list of kernel sets.
//!
//! Dispatch, tests, benches and `tritgemm info` all read this list. A new level is a
//! folder with a [`KernelSet`] and a row here.

use crate::kernels::contract::KernelSet;

/// Every kernel set of this build. The first row that the CPU has the features for, and
/// whose tuning suits it, is the best; the scalar reference is last and runs everywhere.
pub static REGISTRY: &[&KernelSet] = &[
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX512_VBMI_ZEN5,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX512_VBMI_ZEN4,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX512_VBMI_INTEL,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX512_ZEN4,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX512_INTEL,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX2_ZEN4,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX2_INTEL,
    #[cfg(kernels = "aarch64")]
    &crate::kernels::aarch64::NEON,
    &crate::kernels::scalar::SCALAR,
];
