//! `unsafe` that lets other threads use what a call of this one has, and asks for forks.
//!
//! | module | what it holds |
//! |---|---|
//! | [`fork`] | whether this process is a forked child |
//! | [`lent`] | a reference that other threads borrow until its owner's call ends |
//! | [`sync`] | atomics, a cell and a way to wait, which loom can watch |

pub mod fork;
pub mod lent;
pub mod sync;
