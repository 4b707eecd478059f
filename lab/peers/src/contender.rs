//! What takes part in a run. A *library* loads a matrix once and offers several
//! *contenders* over it (so that three kernels of one library share their 512 MB
//! of copies); a *run* is one contender set up for one cell, everything
//! that is not the product itself done before the clock starts.

use crate::problem::{Job, Weights, WeightsFrom};
use serde::{Deserialize, Serialize};

/// ggml's TQ2_0 with f32 activations, quantised inside the call.
pub const GGML: &str = "ggml-tq2_0";
/// ggml's TQ2_0 with Q8_K activations, quantised beforehand.
pub const GGML_Q8K: &str = "ggml-tq2_0-q8k";
/// Dense f32 by the `gemm` crate.
pub const GEMM_CRATE: &str = "gemm-f32";
/// Reading the packed weights and nothing else.
pub const READ: &str = "read-weights";
/// The look-ups of the kernels for many tokens with nothing around them.
pub use tritgemm_loops::LOOK_UPS;

/// Which arithmetic a contender does, hence which ceiling and peer it answers to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// int8 activations, exact int32 sums.
    Int8,
    /// f32 activations in and out by way of int8: quantise, multiply, rescale.
    W1a8,
    /// f32 throughout.
    F32,
    /// Bytes read, nothing computed.
    Bytes,
}

/// The order is that of the tables.
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
    /// As in the table, the JSON and `--contenders`: `tritgemm-int8/avx2/zen4`.
    pub name: String,
    pub role: Role,
    pub arithmetic: Arithmetic,
    /// Whether it runs only if `--contenders` asks for it.
    #[serde(skip)]
    pub on_request: bool,
}

impl Info {
    pub fn new(name: impl Into<String>, role: Role, arithmetic: Arithmetic) -> Self {
        Self {
            name: name.into(),
            role,
            arithmetic,
            on_request: false,
        }
    }
}

/// Contenders that share their loaded weights.
pub trait Library {
    /// The contenders this machine can run; `Loaded::start` takes their index.
    fn contenders(&self) -> &[Info];

    /// Brings `weights` into the library's own format, as many copies as `from`
    /// asks for. Never timed.
    fn load(
        &self,
        weights: &Weights,
        from: WeightsFrom,
        wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>>;
}

pub trait Loaded {
    /// Sets contender `index` up for one job. Never timed.
    fn start<'a>(&'a self, index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>>;
}

/// How much one call does.
#[derive(Clone, Copy, Debug, Default)]
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

    fn output(&self) -> Output<'_> {
        Output::None
    }
}
