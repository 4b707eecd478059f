//! litespark-inference: AVX-512 VNNI kernels for ternary weights, of a library that is loaded
//! while the program runs. They unpack the weights and multiply.

use crate::contender::{Arithmetic, Info, Library, Loaded, Output, Role, Run, Work};
use crate::machine::Machine;
use crate::problem::{Job, Shape, Weights, WeightsFrom};
use anyhow::{Context, ensure};
use libloading::Symbol;
use std::ffi::c_int;
use std::path::Path;

/// Tokens that one call takes at most.
const MOST_TOKENS: usize = 64;

/// `x [T][K]`, `x_scales [T]`, `weights [N][K / 4]`, `weight_scale`, `y [T][N]`, T, N, K.
type Many =
    unsafe extern "C" fn(*const i8, *const f32, *const u8, f32, *mut f32, c_int, c_int, c_int);

/// The same for one token, whose scale is a value.
type One = unsafe extern "C" fn(*const i8, *const u8, f32, f32, *mut f32, c_int, c_int);

/// OpenMP's, of the library that the kernels' one is linked with.
type SetThreads = unsafe extern "C" fn(c_int);

#[derive(Clone, Copy)]
struct Kernels {
    one: One,
    many: Many,
    set_threads: SetThreads,
}

pub struct Litespark {
    infos: [Info; 1],
    kernels: Kernels,
}

impl Litespark {
    /// `library` is the package's `_matmul_lut_avx512` of a CPU that has AVX-512 VNNI.
    pub fn new(library: &Path) -> anyhow::Result<Self> {
        let name = library.display();
        let features = Machine::detect().features;
        ensure!(
            features.iter().any(|it| it == "avx512_vnni"),
            "litespark's library wants a CPU with AVX-512 VNNI, and this one has {features:?}"
        );
        // SAFETY: a library of kernels does nothing when it is loaded. The functions are
        // declared as the package's source (1.0.3) does.
        let kernels = unsafe {
            // Never unloaded: OpenMP's threads run code that it brought along.
            let library = Box::leak(Box::new(
                libloading::Library::new(library).with_context(|| format!("loading {name}"))?,
            ));
            let one: Symbol<'_, One> = library.get("matmul_lut_avx512_m1")?;
            let many: Symbol<'_, Many> = library.get("matmul_lut_avx512_mT")?;
            let set_threads: Symbol<'_, SetThreads> = library.get("omp_set_num_threads")?;
            Kernels {
                one: *one,
                many: *many,
                set_threads: *set_threads,
            }
        };
        Ok(Self {
            infos: [Info::new("litespark", Role::Peer, Arithmetic::Int8)],
            kernels,
        })
    }
}

impl Library for Litespark {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    fn load(
        &self,
        weights: &Weights,
        from: WeightsFrom,
        _wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let bytes = weights.trits.chunks(4).map(|four| {
            let code = |i: usize| ((four[i] + 1) as u8) << (2 * i);
            code(0) | code(1) | code(2) | code(3)
        });
        Ok(Box::new(LoadedBytes {
            shape: weights.shape,
            scale: weights.scale,
            copies: vec![bytes.collect(); from.copies(weights.shape.packed_bytes())],
            kernels: self.kernels,
        }))
    }
}

struct LoadedBytes {
    shape: Shape,
    scale: f32,
    copies: Vec<Vec<u8>>,
    kernels: Kernels,
}

impl Loaded for LoadedBytes {
    fn start<'a>(&'a self, _: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let x = job.activations;
        Ok(Box::new(LitesparkRun {
            loaded: self,
            x: &x.int8,
            // What `Activations` multiplies by.
            x_scales: vec![1.0 / 128.0; x.tokens],
            y: vec![0.0; x.tokens * self.shape.rows],
            tokens: x.tokens,
            threads: job.threads,
            next: 0,
        }))
    }
}

struct LitesparkRun<'a> {
    loaded: &'a LoadedBytes,
    x: &'a [i8],
    x_scales: Vec<f32>,
    y: Vec<f32>,
    tokens: usize,
    threads: usize,
    next: usize,
}

impl Run for LitesparkRun<'_> {
    fn work(&self) -> Work {
        Work {
            macs: (self.loaded.shape.weights() * self.tokens) as f64,
            bytes: self.loaded.shape.packed_bytes() as f64,
        }
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&mut self, calls: usize) {
        let (
            Kernels {
                one,
                many,
                set_threads,
            },
            scale,
        ) = (self.loaded.kernels, self.loaded.scale);
        let Shape { rows, cols } = self.loaded.shape;
        let (n, k) = (rows as c_int, cols as c_int);
        // SAFETY: OpenMP takes any number above zero.
        unsafe { set_threads(self.threads as c_int) };
        for call in 0..calls {
            let bytes = &self.loaded.copies[(self.next + call) % self.loaded.copies.len()];
            let tokens = (self.x.chunks(MOST_TOKENS * cols)).zip(self.x_scales.chunks(MOST_TOKENS));
            for ((x, scales), y) in tokens.zip(self.y.chunks_mut(MOST_TOKENS * rows)) {
                let (x, w, y) = (x.as_ptr(), bytes.as_ptr(), y.as_mut_ptr());
                // SAFETY: T tokens of K values and as many scales, M rows of K / 4 bytes, and
                // T x M outputs are there; `new` has seen that the CPU can run them.
                unsafe {
                    match scales {
                        [x_scale] => one(x, w, scale, *x_scale, y, n, k),
                        _ => many(x, scales.as_ptr(), w, scale, y, scales.len() as c_int, n, k),
                    }
                }
            }
        }
        self.next = (self.next + calls) % self.loaded.copies.len();
    }

    fn output(&self) -> Output<'_> {
        Output::Float(&self.y)
    }
}
