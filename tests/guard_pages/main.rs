//! No function reads or writes a byte outside of what it was given.
//!
//! Every slice that the public API takes lies beside a page that nobody may
//! touch: its end against one, its start against one, and at every distance
//! below 64 from either, so at every alignment that its type allows. Results
//! are compared with those from ordinary memory.
//!
//! | module | what it places |
//! |---|---|
//! | [`proof`] | nothing of the crate: it shows that a guard kills |
//! | [`codec`] | trits, packed bytes, scales, floats, panels |
//! | [`products`] | activations, outputs and panels of every product |
//! | [`quantisers`] | weights, trits, scales, activations of every float type |
//! | [`layers`] | RMSNorm, straight-through estimator, training |
//!
//! What the kernels are given by the crate itself (tables, accumulators, sums,
//! tiles of activations, panels by themselves) is placed by `kernels.rs` in this
//! folder, one of the crate's unit tests: it calls each row of the registry
//! directly.

mod codec;
mod layers;
mod products;
mod proof;
mod quantisers;
