//! ggml's TQ2_0 matrix product, run as ggml runs it: a graph of one
//! `ggml_mul_mat` on the CPU, in a thread pool of its own, graph and plan made
//! beforehand. Twice: with f32 activations, which ggml quantises to Q8_K inside
//! every call, and with activations that are Q8_K already, which leaves its bare
//! product (the counterpart of a raw int8 GEMM).

pub mod build_check;
mod ffi;

use crate::contender::{Arithmetic, Info, Library, Loaded, Output, Role, Run, Work};
use crate::contender::{GGML, GGML_Q8K};
use crate::problem::{Job, Shape, Weights, WeightsFrom};
use aligned_vec::{AVec, ConstAlign, avec};
use anyhow::{Context, ensure};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use whisper_rs_sys as sys;
use whisper_rs_sys::{
    ggml_type_GGML_TYPE_F32 as F32, ggml_type_GGML_TYPE_Q8_K as Q8_K,
    ggml_type_GGML_TYPE_TQ2_0 as TQ2_0,
};

/// Memory that starts on a cache line, as ggml's own buffers do.
type Lines<T = u8> = AVec<T, ConstAlign<64>>;

fn traits(ty: sys::ggml_type) -> &'static ffi::TypeTraitsCpu {
    // SAFETY: `ty` is one of the constants above, whose traits are static.
    unsafe { &*ffi::ggml_get_type_traits_cpu(ty) }
}

fn row_bytes(ty: sys::ggml_type, cols: usize) -> usize {
    // SAFETY: takes and returns numbers.
    unsafe { sys::ggml_row_size(ty, cols as i64) }
}

pub struct Ggml {
    infos: [Info; 2],
}

impl Ggml {
    pub fn new() -> Self {
        // SAFETY: may be called any number of times.
        unsafe { ffi::ggml_cpu_init() };
        Self {
            infos: [
                Info::new(GGML, Role::Peer, Arithmetic::W1a8),
                Info::new(GGML_Q8K, Role::Peer, Arithmetic::Int8),
            ],
        }
    }
}

impl Library for Ggml {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    /// By ggml's own quantiser, from the f32 weights, some rows at a time.
    fn load(
        &self,
        weights: &Weights,
        from: WeightsFrom,
        _wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let Shape { rows, cols } = weights.shape;
        let row_bytes = row_bytes(TQ2_0, cols);
        let mut packed = avec![[64]| 0u8; rows * row_bytes];
        let mut floats = vec![0.0f32; cols];
        for row in 0..rows {
            let trits = &weights.trits[row * cols..][..cols];
            for (f, &t) in floats.iter_mut().zip(trits) {
                *f = f32::from(t) * weights.scale;
            }
            let out = &mut packed[row * row_bytes..][..row_bytes];
            // SAFETY: one row of `cols` floats in, `row_bytes` out; TQ2_0 takes
            // no importance matrix.
            let written = unsafe {
                sys::ggml_quantize_chunk(
                    TQ2_0,
                    floats.as_ptr(),
                    out.as_mut_ptr().cast(),
                    0,
                    1,
                    cols as i64,
                    ptr::null(),
                )
            };
            ensure!(
                written == row_bytes,
                "ggml quantised {written} bytes of a row of {row_bytes}"
            );
        }
        let copies = from.copies(packed.len());
        Ok(Box::new(LoadedGgml {
            shape: weights.shape,
            copies: vec![packed; copies],
        }))
    }
}

struct LoadedGgml {
    shape: Shape,
    copies: Vec<Lines>,
}

impl Loaded for LoadedGgml {
    fn start<'a>(&'a self, index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let x = match index {
            0 => as_bytes(&job.activations.f32s),
            _ => quantize_q8_k(&job.activations.f32s, self.shape.cols),
        };
        let ty = if index == 0 { F32 } else { Q8_K };
        Ok(Box::new(GgmlRun::new(self, ty, x, job)?))
    }
}

fn as_bytes(floats: &[f32]) -> Lines {
    Lines::from_iter(64, floats.iter().flat_map(|f| f.to_ne_bytes()))
}

fn quantize_q8_k(floats: &[f32], cols: usize) -> Lines {
    let row_bytes = row_bytes(Q8_K, cols);
    let from_float = traits(Q8_K).from_float.expect("Q8_K has a quantiser");
    let mut out = avec![[64]| 0u8; floats.len() / cols * row_bytes];
    for (x, q) in floats.chunks(cols).zip(out.chunks_mut(row_bytes)) {
        // SAFETY: `cols` floats in, their Q8_K row out.
        unsafe { from_float(x.as_ptr(), q.as_mut_ptr().cast(), cols as i64) };
    }
    out
}

struct GgmlRun<'a> {
    loaded: &'a LoadedGgml,
    tokens: usize,
    next: usize,
    context: NonNull<sys::ggml_context>,
    pool: NonNull<sys::ggml_threadpool>,
    graph: *mut sys::ggml_cgraph,
    weights: *mut sys::ggml_tensor,
    plan: ffi::Plan,
    // The tensors and the plan point into these.
    _x: Lines,
    _work: Lines,
    y: Lines<f32>,
}

impl<'a> GgmlRun<'a> {
    fn new(
        loaded: &'a LoadedGgml,
        x_type: sys::ggml_type,
        mut x: Lines,
        job: &Job<'_>,
    ) -> anyhow::Result<Self> {
        let Shape { rows, cols } = loaded.shape;
        let tokens = job.activations.tokens;
        let mut y = avec![[64]| 0.0f32; tokens * rows];
        // SAFETY: the context holds three tensors and a graph without their
        // data, within its size; the data set by hand below is as large as the
        // types and shapes say and lives as long as the run.
        unsafe {
            let context = NonNull::new(sys::ggml_init(sys::ggml_init_params {
                mem_size: 8 * sys::ggml_tensor_overhead() + sys::ggml_graph_overhead(),
                mem_buffer: ptr::null_mut(),
                no_alloc: true,
            }))
            .context("ggml_init failed")?;
            let ctx = context.as_ptr();
            let weights = sys::ggml_new_tensor_2d(ctx, TQ2_0, cols as i64, rows as i64);
            let input = sys::ggml_new_tensor_2d(ctx, x_type, cols as i64, tokens as i64);
            let product = sys::ggml_mul_mat(ctx, weights, input);
            (*weights).data = loaded.copies[0].as_ptr().cast_mut().cast();
            (*input).data = x.as_mut_ptr().cast();
            (*product).data = y.as_mut_ptr().cast::<c_void>();
            let graph = sys::ggml_new_graph(ctx);
            sys::ggml_build_forward_expand(graph, product);

            // A pool of its own, as llama.cpp makes one; without it every call
            // would start and join threads. Default polling: quick to wake.
            let mut params = sys::ggml_threadpool_params_default(job.threads as i32);
            params.paused = true;
            let pool = NonNull::new(ffi::ggml_threadpool_new(&mut params))
                .context("ggml_threadpool_new failed")?;
            let mut plan = ffi::ggml_graph_plan(graph, job.threads as i32, pool.as_ptr());
            let mut work = avec![[64]| 0u8; plan.work_size];
            plan.work_data = work.as_mut_ptr();
            Ok(Self {
                loaded,
                tokens,
                next: 0,
                context,
                pool,
                graph,
                weights,
                plan,
                _x: x,
                _work: work,
                y,
            })
        }
    }
}

impl Run for GgmlRun<'_> {
    fn work(&self) -> Work {
        Work {
            macs: (self.loaded.shape.weights() * self.tokens) as f64,
            bytes: self.loaded.copies[0].len() as f64,
        }
    }

    fn threads(&self) -> usize {
        self.plan.n_threads as usize
    }

    fn enter(&mut self) {
        // SAFETY: the pool lives until `drop`.
        unsafe { ffi::ggml_threadpool_resume(self.pool.as_ptr()) };
    }

    /// ggml's idle workers spin for tens of milliseconds; paused ones sleep.
    fn leave(&mut self) {
        // SAFETY: the pool lives until `drop`, and no graph is being computed.
        unsafe { ffi::ggml_threadpool_pause(self.pool.as_ptr()) };
    }

    fn run(&mut self, calls: usize) {
        let copies = &self.loaded.copies;
        for _ in 0..calls {
            // SAFETY: all copies are of the size the weight tensor was made
            // for, and ggml only reads them.
            let status = unsafe {
                (*self.weights).data = copies[self.next].as_ptr().cast_mut().cast();
                ffi::ggml_graph_compute(self.graph, &mut self.plan)
            };
            assert_eq!(
                status,
                sys::ggml_status_GGML_STATUS_SUCCESS,
                "ggml_graph_compute"
            );
            self.next = (self.next + 1) % copies.len();
        }
    }

    fn output(&self) -> Output<'_> {
        Output::Float(&self.y)
    }
}

impl Drop for GgmlRun<'_> {
    fn drop(&mut self) {
        // SAFETY: both were made in `new`, are owned by this run alone and are
        // not used after this.
        unsafe {
            ffi::ggml_threadpool_free(self.pool.as_ptr());
            sys::ggml_free(self.context.as_ptr());
        }
    }
}
