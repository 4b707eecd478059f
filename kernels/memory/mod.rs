//! `unsafe` that is no kernel: memory, shared tiles, mapped files.
//!
//! | module | what it holds |
//! |---|---|
//! | [`panel_memory`] | the memory that packed panels lie in |
//! | [`tiles`] | disjoint output tiles for work that runs in parallel |
//! | [`tile_set`] | tiles of several outputs, whose work is divided among workers |
//! | `map` | panel files mapped into memory |
//! | `dense` | the dense product of training, by the `gemm` crate |

#[cfg(feature = "train")]
pub mod dense;
#[cfg(feature = "mmap")]
mod map;
pub mod panel_memory;
pub mod tile_set;
pub mod tiles;
