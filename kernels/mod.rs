//! The instruction-set code, and the only `unsafe` of the crate.
//!
//! | module | what it holds |
//! |---|---|
//! | [`contract`] | what a kernel is given, and the preconditions it may rely on |
//! | [`table`] | the one list of kernels |
//! | [`call`] | safe wrappers: they check the preconditions, then call a kernel |
//! | [`block`] | the memory that packed panels lie in |
//! | [`tiles`] | disjoint output tiles for work that runs in parallel |
//! | [`prefetch`] | cache lines asked for ahead of their use |
//! | [`column`] | the column-lane algorithm, one generic source for every ISA; Zen 5 has a loop of its own |
//! | [`scalar`] | the reference that defines every result |
//! | `x86_64`, `aarch64` | one folder per ISA |
//! | `dense` | the dense product of training, by the `gemm` crate |
//! | `map` | panel files mapped into memory |
//! | [`vector`] | helpers the compiler vectorises: quantisers, STE, RMSNorm |
//! | [`scale`] | the epilogues: the one place where an output is multiplied |

pub mod block;
pub mod call;
pub mod column;
pub mod contract;
#[cfg(feature = "train")]
pub mod dense;
#[cfg(feature = "mmap")]
mod map;
pub mod prefetch;
pub mod scalar;
pub mod scale;
pub mod table;
pub mod tiles;
pub mod vector;

#[cfg(kernels = "aarch64")]
pub mod aarch64;
#[cfg(kernels = "x86_64")]
pub mod x86_64;

/// Tables that `build.rs` generates and the scalar reference verifies. Only
/// vectors look nibbles up.
#[cfg_attr(not(any(kernels = "x86_64", kernels = "aarch64")), allow(dead_code))]
pub mod generated {
    include!(concat!(env!("OUT_DIR"), "/tables.rs"));
}

// With the other tests that place memory beside guard pages.
#[cfg(all(test, not(miri)))]
#[path = "../tests/guard_pages/kernels.rs"]
mod guard_pages;
