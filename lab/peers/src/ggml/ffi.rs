//! The part of ggml-cpu.h that the bindings of whisper-rs-sys leave out, as it
//! is in the ggml 0.9.5 that version 0.15.0 vendors (hence the exact version in
//! Cargo.toml).

use std::ffi::{c_int, c_void};
use whisper_rs_sys::{
    ggml_abort_callback, ggml_cgraph, ggml_from_float_t, ggml_status, ggml_threadpool,
    ggml_threadpool_params, ggml_type,
};

#[repr(C)]
pub struct Plan {
    pub work_size: usize,
    pub work_data: *mut u8,
    pub n_threads: c_int,
    pub threadpool: *mut ggml_threadpool,
    pub abort_callback: ggml_abort_callback,
    pub abort_callback_data: *mut c_void,
}

/// `n, s, bs, x, bx, y, by, nrc`, as ggml_vec_dot_t.
pub type VecDot =
    unsafe extern "C" fn(c_int, *mut f32, usize, *const c_void, usize, *const c_void, usize, c_int);

#[repr(C)]
pub struct TypeTraitsCpu {
    pub from_float: ggml_from_float_t,
    pub vec_dot: Option<VecDot>,
    pub vec_dot_type: ggml_type,
    pub nrows: i64,
}

unsafe extern "C" {
    pub fn ggml_cpu_init();
    pub fn ggml_cpu_has_avx2() -> c_int;
    pub fn ggml_cpu_has_fma() -> c_int;
    pub fn ggml_cpu_has_f16c() -> c_int;
    pub fn ggml_cpu_has_avx512() -> c_int;
    pub fn ggml_cpu_has_avx512_vnni() -> c_int;
    pub fn ggml_get_type_traits_cpu(ty: ggml_type) -> *const TypeTraitsCpu;
    pub fn ggml_threadpool_new(params: *mut ggml_threadpool_params) -> *mut ggml_threadpool;
    pub fn ggml_threadpool_free(pool: *mut ggml_threadpool);
    pub fn ggml_threadpool_pause(pool: *mut ggml_threadpool);
    pub fn ggml_threadpool_resume(pool: *mut ggml_threadpool);
    pub fn ggml_graph_plan(
        graph: *const ggml_cgraph,
        n_threads: c_int,
        pool: *mut ggml_threadpool,
    ) -> Plan;
    pub fn ggml_graph_compute(graph: *mut ggml_cgraph, plan: *mut Plan) -> ggml_status;
}
