//! What takes part in a run. A *family* loads a matrix once and offers several
//! *contenders* over it (so that three kernels of one library share their 512 MB
//! of cold copies); a *run* is one contender set up for one cell, everything
//! that is not the product itself done before the clock starts.

use crate::problem::{Job, Residency, Weights};
use serde::{Deserialize, Serialize};

/// Which arithmetic a contender does, hence which ceiling and peer it answers to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// int8 activations, exact int32 sums.
    Int8,
    /// f32 activations in and out by way of int8: quantise, multiply, rescale.
    W1a8,
    /// f32 throughout.
    F32,
    /// Bytes read, nothing computed.
    Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Ours,
    Peer,
    Ceiling,
}

/// Names and classes of a contender.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Info {
    /// As in the table, the JSON and `--contenders`: `tritgemm-int8/avx2`.
    pub name: String,
    pub role: Role,
    pub path: Path,
}

impl Info {
    pub fn new(name: impl Into<String>, role: Role, path: Path) -> Self {
        Self {
            name: name.into(),
            role,
            path,
        }
    }
}

/// Contenders that share their loaded weights.
pub trait Family {
    /// The contenders this machine can run; `Loaded::start` takes their index.
    fn contenders(&self) -> &[Info];

    /// Brings `weights` into the family's own format, as many copies as the
    /// residency asks for. Never timed.
    fn load(
        &self,
        weights: &Weights,
        residency: Residency,
        wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>>;
}

pub trait Loaded {
    /// Sets contender `index` up for one job. Never timed.
    fn start<'a>(&'a self, index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>>;
}

/// How much one call does.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub macs: f64,
    /// Bytes of weights read.
    pub bytes: f64,
}

/// What a contender computed, token-major, for the check against the reference.
pub enum Output<'a> {
    Float(&'a [f32]),
    Exact(&'a [i32]),
    /// A ceiling: no product.
    None,
}

pub trait Run {
    fn work(&self) -> Work;

    fn threads(&self) -> usize;

    /// Called before each timed repeat, outside of it: wakes threads that
    /// `leave` put to sleep.
    fn enter(&mut self) {}

    /// Called after each timed repeat, outside of it: nothing of this contender
    /// may go on running (spinning worker threads) while others are timed.
    fn leave(&mut self) {}

    /// `calls` products back to back. Timed.
    fn run(&mut self, calls: usize);

    fn output(&self) -> Output<'_>;
}
