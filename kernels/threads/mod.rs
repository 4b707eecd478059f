//! `unsafe` that lets other threads use what a call of this one has.
//!
//! | module | what it holds |
//! |---|---|
//! | [`lent`] | a reference that other threads borrow until its owner's call ends |
//! | [`sync`] | atomics, a cell and a way to wait, which loom can watch |

pub mod lent;
pub mod sync;
