//! Bare loops: how fast this CPU multiplies and adds with nothing to load, how fast it
//! adds up table entries, and how fast it reads with nothing to compute.
//!
//! `tritgemm-peers` takes them as the ceilings of its contenders. The binary `loops`
//! lists loops of this kind in cycles.

#[cfg(target_arch = "x86_64")]
mod look_ups;
pub mod memory;
#[cfg(not(target_arch = "x86_64"))]
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(not(target_arch = "x86_64"))]
pub use portable::{peaks, readers};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{peaks, readers};

/// A loop of arithmetic that products are made of.
#[derive(Clone, Copy)]
pub struct Peak {
    /// The instruction and the width of its vectors.
    pub name: &'static str,
    /// Products of a weight and an activation that a step stands for.
    pub macs_per_step: f64,
    /// Runs so many steps.
    pub steps: fn(u64),
}

/// A loop that reads.
#[derive(Clone)]
pub struct Reader {
    /// Vectors, streams side by side and prefetch distance.
    pub name: String,
    /// Bytes ahead that it prefetches; 0 for not at all.
    pub ahead: usize,
    /// Reads the bytes, with this many prefetched ahead.
    pub read: fn(&[u8], usize),
}

/// The name of the peak that looks up lines of tables instead of multiplying.
pub const LOOK_UPS: &str = "look-ups-zmm";
