//! What the tests and benches share, so that each thing is written once.
//!
//! | module | what it has |
//! |---|---|
//! | here | backends and ways to run, a generator of values, outputs among canaries |
//! | [`case`] | random products, and every way to compute them |
//! | [`oracle`] | what products should be, by plain loops |
//! | [`dense`] | the codec on dense slices |
//! | [`floats`] | the float types of activations, converted by `half` |
//! | [`guarded`] | memory beside pages that nobody may touch |
//! | [`allocator`] | an allocator that refuses |
//! | [`golden`] | the reference implementation's inputs and outputs |
//! | [`child`] | a test in a process of its own |
#![allow(missing_docs, reason = "nobody outside of this repository uses it")]

pub mod allocator;
pub mod case;
pub mod child;
pub mod dense;
pub mod environment;
pub mod floats;
pub mod golden;
pub mod guarded;
pub mod oracle;

use std::borrow::Borrow;
use std::env;
use tritgemm::{Backend, Family, MatMut, MatRef, Options, Threads, Workspace};

/// Every backend of this CPU, the scalar one last. `TRITGEMM_TEST_REQUIRE`, a
/// comma-separated list of levels or of `level/tuning`, makes a missing one a
/// failure: without it a test on the wrong machine would pass by testing less.
pub fn backends() -> Vec<Backend> {
    let backends: Vec<Backend> = Backend::available().collect();
    let required = env::var("TRITGEMM_TEST_REQUIRE").unwrap_or_default();
    for name in required.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        assert!(
            backends
                .iter()
                .any(|b| b.name() == name || b.isa().name() == name),
            "TRITGEMM_TEST_REQUIRE={required}, but this CPU offers only {backends:?}"
        );
    }
    backends
}

/// Whether to test fewer cases: under an emulator, say.
pub fn quick() -> bool {
    env::var("TRITGEMM_TEST_QUICK").is_ok_and(|v| v == "1")
}

pub const FAMILIES: [Family; 3] = [Family::Few, Family::Many, Family::Auto];

/// Every backend with every family of kernels, on the calling thread.
pub fn ways() -> Vec<Options> {
    let families = |b| FAMILIES.map(|family| Options::new().backend(b).family(family));
    let ways = backends().into_iter().flat_map(families);
    ways.map(|way| way.threads(Threads::Serial)).collect()
}

pub fn workspace(options: impl Borrow<Options>) -> Workspace {
    Workspace::with_options(options.borrow().clone())
}

/// A small generator of reproducible values (xorshift64*).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        // Zero is the one state it cannot leave; spread small seeds apart.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (((self.bits() >> 32) * n as u64) >> 32) as usize
    }

    pub fn trit(&mut self) -> i8 {
        self.below(3) as i8 - 1
    }

    pub fn i8(&mut self) -> i8 {
        (self.bits() >> 56) as i8
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn vec<T>(&mut self, len: usize, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..len).map(|_| value(self)).collect()
    }
}

/// A dense view.
pub fn view<T>(data: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::new(data, rows, cols).expect("a dense view")
}

/// A dense view to write to.
pub fn view_mut<T>(data: &mut [T], rows: usize, cols: usize) -> MatMut<'_, T> {
    MatMut::new(data, rows, cols).expect("a dense view")
}

/// The bits of floats: what equal results are equal in.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Output memory with room around and between the rows, all of it canaries.
pub struct Output<T> {
    data: Vec<T>,
    rows: usize,
    cols: usize,
    stride: usize,
    canary: T,
}

impl<T: Copy + PartialEq + std::fmt::Debug> Output<T> {
    /// Elements before the first row; odd, so that no row is aligned.
    const MARGIN: usize = 3;

    pub fn new(rows: usize, cols: usize, stride: usize, canary: T) -> Self {
        let len = rows.saturating_sub(1) * stride + cols;
        Self {
            data: vec![canary; len + 2 * Self::MARGIN + stride],
            rows,
            cols,
            stride,
            canary,
        }
    }

    pub fn view(&mut self) -> MatMut<'_, T> {
        let data = &mut self.data[Self::MARGIN..];
        MatMut::with_stride(data, self.rows, self.cols, self.stride).expect("large enough")
    }

    /// The rows, dense, after checking that all around them is untouched.
    pub fn take(self, what: &dyn std::fmt::Debug) -> Vec<T> {
        let mut values = Vec::with_capacity(self.rows * self.cols);
        for (i, &value) in self.data.iter().enumerate() {
            let at = i.checked_sub(Self::MARGIN);
            let inside = at.filter(|at| {
                self.cols > 0 && at / self.stride < self.rows && at % self.stride < self.cols
            });
            match inside {
                Some(_) => values.push(value),
                None => assert_eq!(
                    value, self.canary,
                    "element {i} around the output: {what:?}"
                ),
            }
        }
        values
    }
}
