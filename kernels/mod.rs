//! The instruction-set code, and the only `unsafe` of the crate.
//!
//! | module | what it holds |
//! |---|---|
//! | [`contract`] | what a kernel is given, and the preconditions it may rely on |
//! | [`registry`] | the one list of kernels |
//! | [`element`] | the two activation types, and handles of the kernels for them |
//! | [`call`] | safe wrappers: they check the preconditions, then call a kernel |
//! | [`environment`] | the floating-point environment that all arithmetic runs in |
//! | [`prefetch`] | cache lines asked for ahead of their use |
//! | [`many`] | the loop for many tokens, one generic source for every ISA; Zen 5 has loops of its own |
//! | [`scalar`] | the reference that defines every result |
//! | `x86_64`, `aarch64` | one folder per architecture |
//! | [`auto`] | what the compiler vectorises: quantisers, training, RMSNorm, the scales of outputs |
//! | [`memory`] | `unsafe` that is no kernel |
//! | [`threads`] | `unsafe` that lets other threads use what a call of this one has |

pub mod auto;
pub mod call;
pub mod contract;
pub mod element;
pub mod environment;
pub mod many;
pub mod memory;
pub mod prefetch;
pub mod registry;
pub mod scalar;
pub mod threads;

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

#[cfg(all(test, not(miri)))]
#[path = "../tests/guard_pages/kernels.rs"]
mod guard_pages;
