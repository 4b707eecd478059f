//! The kernel table: the one list of what exists on which ISA.
//!
//! Dispatch, tests, benches and `tritgemm info` all read this table, so a new
//! ISA is one folder with a [`KernelSet`] and one row here.

use super::contract::{CodecKernel, FewKernel, ManyKernel};
use crate::isa::Isa;

/// All kernels of one ISA level.
pub struct KernelSet {
    /// Name of the level, e.g. `avx512-vbmi`.
    pub name: &'static str,
    /// The ISA it belongs to.
    pub isa: Isa,
    /// CPU features every kernel of the set needs.
    pub features: &'static [Feature],
    /// The CPU it was made for. Others can run it, but have a better one.
    pub made_for: Option<Cpu>,
    /// Encoding, decoding, packing.
    pub codec: &'static CodecKernel,
    /// int8, few tokens.
    pub few_i8: &'static FewKernel<i8, i32>,
    /// int8, one token, weights out of memory: another set's `few_i8`, if that
    /// is faster then.
    pub streamed_i8: &'static FewKernel<i8, i32>,
    /// f32, few tokens.
    pub few_f32: &'static FewKernel<f32, f32>,
    /// int8, many tokens.
    pub many_i8: &'static ManyKernel<i8, i32>,
    /// f32, many tokens.
    pub many_f32: &'static ManyKernel<f32, f32>,
    /// int8, tokens left over after whole tiles of `many_i8`: a kernel with
    /// smaller tiles, or the same one again.
    pub narrow_i8: &'static ManyKernel<i8, i32>,
    /// As `narrow_i8`, for f32.
    pub narrow_f32: &'static ManyKernel<f32, f32>,
    /// From how many left-over int8 tokens they take column lanes.
    pub crossover_i8: Crossovers,
    /// From how many left-over f32 tokens they take column lanes.
    pub crossover_f32: Crossovers,
}

/// CPUs that run the same instructions at different speeds. It decides what is
/// tried first, never what comes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cpu {
    /// AMD's before Zen 5: the kernels were measured on a Zen 4.
    #[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
    Amd,
    /// AMD's since Zen 5: measured on one with vectors of full width, which its mobile
    /// kin have not.
    #[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
    Zen5,
    /// Any other. On x86-64 they were measured on an Intel Xeon (Emerald Rapids).
    Other,
}

impl Cpu {
    /// This one.
    pub fn get() -> Self {
        // SSE4a is AMD's alone, whose first CPU with this one was Zen 5.
        #[cfg(kernels = "x86_64")]
        if std::arch::is_x86_feature_detected!("sse4a") {
            return if std::arch::is_x86_feature_detected!("avx512vp2intersect") {
                Cpu::Zen5
            } else {
                Cpu::Amd
            };
        }
        Cpu::Other
    }
}

/// A crossover for each [`Cpu`].
#[derive(Clone, Copy)]
pub struct Crossovers {
    /// Of [`Cpu::Amd`] and [`Cpu::Zen5`].
    pub amd: Crossover,
    /// Of [`Cpu::Other`].
    pub other: Crossover,
}

impl Crossovers {
    /// The same on every CPU.
    pub const fn same(narrow: usize, wide: usize) -> Self {
        let both = Crossover { narrow, wide };
        Self {
            amd: both,
            other: both,
        }
    }

    /// That of a CPU.
    pub fn on(self, cpu: Cpu) -> Crossover {
        match cpu {
            Cpu::Amd | Cpu::Zen5 => self.amd,
            Cpu::Other => self.other,
        }
    }
}

/// From how many tokens, left over after whole tiles, column lanes are faster
/// than row lanes, though a part of their lanes may stay empty.
#[derive(Clone, Copy)]
pub struct Crossover {
    /// A tile of the narrow kernel; tokens beyond it take row lanes. Looked at
    /// only where there is a narrower kernel.
    pub narrow: usize,
    /// A tile of the wide kernel.
    pub wide: usize,
}

impl KernelSet {
    /// Whether no other set of its ISA is better on this CPU for what it can do.
    pub fn suits(&self) -> bool {
        self.made_for.is_none_or(|cpu| cpu == Cpu::get())
    }
}

/// A CPU feature and how to ask for it.
pub struct Feature {
    /// The compiler's name of the feature.
    pub name: &'static str,
    /// Whether this CPU (and operating system) has it.
    pub detect: fn() -> bool,
}

/// Every kernel set compiled into this build, best first but for CPUs that a set was
/// not made for; the scalar reference is last and always available.
pub static TABLE: &[&KernelSet] = &[
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX512_ZEN5,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX512_VBMI,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX512,
    #[cfg(kernels = "x86_64")]
    &crate::kernels::x86_64::AVX2,
    #[cfg(kernels = "aarch64")]
    &crate::kernels::aarch64::NEON,
    &crate::kernels::scalar::SCALAR,
];
