//! What the tests share: a layer with its operands, and the last error.
#![allow(dead_code, clippy::too_many_arguments)]

use std::ffi::CStr;
use std::ptr::null_mut;
use tritgemm_capi::*;

pub const M: usize = 200;
pub const K: usize = 300;
/// Enough for a product to go parallel: 2^21 MACs.
pub const N: usize = 50;

pub const F32: i32 = Float::TritgemmF32 as i32;

/// `tritgemm_linear_forward_int8` of f32.
///
/// # Safety
/// As for that.
pub unsafe fn forward_int8(
    linear: *const Linear,
    tokens: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    y: *mut f32,
    y_len: usize,
    y_stride: usize,
    ws: *mut Workspace,
) -> Status {
    let (x, forward) = (x.cast(), tritgemm_linear_forward_int8);
    // SAFETY: the caller's word.
    unsafe {
        forward(
            linear, tokens, F32, x, x_len, x_stride, y, y_len, y_stride, ws,
        )
    }
}

/// `tritgemm_linear_prepare_int8` of f32.
///
/// # Safety
/// As for that.
pub unsafe fn prepare_int8(
    linear: *const Linear,
    tokens: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    ws: *mut Workspace,
    out: *mut *mut Prepared,
) -> Status {
    // SAFETY: the caller's word.
    unsafe {
        tritgemm_linear_prepare_int8(linear, tokens, F32, x.cast(), x_len, x_stride, 0, ws, out)
    }
}

pub fn last_error() -> String {
    // SAFETY: this thread's message, copied at once.
    let text = unsafe { CStr::from_ptr(tritgemm_last_error()) };
    text.to_str().expect("UTF-8").to_owned()
}

/// The call failed with `status`, and its message has `part`.
#[track_caller]
pub fn fails(got: Status, status: Status, part: &str) {
    let text = last_error();
    assert_eq!(got, status, "{text}");
    assert!(text.contains(part), "`{text}` lacks `{part}`");
}

#[track_caller]
pub fn ok(status: Status) {
    assert_eq!(status, Status::TritgemmOk, "{}", last_error());
}

/// What `make` puts into its out pointer.
#[track_caller]
pub fn make<T>(make: impl FnOnce(*mut *mut T) -> Status) -> *mut T {
    let mut handle = null_mut();
    ok(make(&mut handle));
    assert!(!handle.is_null());
    handle
}

/// A layer by row scales, the same by the crate itself, and activations.
pub struct Case {
    pub matrix: *mut Matrix,
    pub linear: *mut Linear,
    pub panels: *mut Panels,
    pub workspace: *mut Workspace,
    pub trits: Vec<i8>,
    pub x: Vec<f32>,
    pub x_i8: Vec<i8>,
    pub sums: Vec<i32>,
    pub floats: Vec<f32>,
    pub quantized: Vec<f32>,
}

// SAFETY: handles may be used by any thread; tests give each its own workspace.
unsafe impl Sync for Case {}

pub fn numbers(len: usize) -> impl Iterator<Item = u64> {
    (1..=len as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)
}

impl Case {
    pub fn new() -> Self {
        use tritgemm::{MatMut, MatRef, Scales, TernaryMatrix};
        let trits: Vec<i8> = numbers(M * K).map(|v| (v % 3) as i8 - 1).collect();
        let scales: Vec<f32> = numbers(M).map(|v| v as f32 / 1e6 - 8.0).collect();
        let bias: Vec<f32> = numbers(M).map(|v| v as f32 / 1e7).collect();
        let x: Vec<f32> = numbers(N * K).map(|v| v as f32 / 1e6 - 8.0).collect();
        let x_i8: Vec<i8> = numbers(N * K).map(|v| v as i8).collect();

        let matrix = TernaryMatrix::from_trits(
            MatRef::new(&trits, M, K).expect("a view"),
            Scales::per_row(scales.clone()),
        );
        let layer = tritgemm::Linear::new(&matrix.expect("a matrix")).expect("a layer");
        let layer = layer.with_bias(bias.clone()).expect("a bias");
        let ws = &mut tritgemm::Workspace::new();
        let (mut sums, mut floats) = (vec![0; N * M], vec![0.0; N * M]);
        let mut quantized = floats.clone();
        let x_view = MatRef::new(&x, N, K).expect("a view");
        let i8_view = MatRef::new(&x_i8, N, K).expect("a view");
        let y = MatMut::new(&mut sums, N, M).expect("a view");
        layer.panels().gemm_i8(i8_view, y, ws).expect("fits");
        let y = MatMut::new(&mut floats, N, M).expect("a view");
        layer.forward_f32(x_view, y, ws).expect("fits");
        let y = MatMut::new(&mut quantized, N, M).expect("a view");
        layer.forward_int8(x_view, y, ws).expect("fits");

        // SAFETY: buffers with their lengths, handles that live.
        unsafe {
            let (t, s, b) = (trits.as_ptr(), scales.as_ptr(), bias.as_ptr());
            let matrix = make(|out| tritgemm_matrix_from_trits(t, M * K, M, K, 2, s, M, out));
            let linear = make(|out| tritgemm_linear_create(matrix, b, M, out));
            let panels = make(|out| tritgemm_linear_panels(linear, out));
            let workspace = make(|out| tritgemm_workspace_create(out));
            Self {
                matrix,
                linear,
                panels,
                workspace,
                trits,
                x,
                x_i8,
                sums,
                floats,
                quantized,
            }
        }
    }

    pub fn gemm_i8(&self, workspace: *mut Workspace) -> (Status, Vec<i32>) {
        let mut y = vec![0; N * M];
        let (x, len) = (self.x_i8.as_ptr(), self.x_i8.len());
        // SAFETY: buffers with their lengths, handles that live.
        let status = unsafe {
            let y = y.as_mut_ptr();
            tritgemm_panels_gemm_i8(self.panels, N, x, len, K, y, N * M, M, workspace)
        };
        (status, y)
    }

    pub fn forward_int8(&self, workspace: *mut Workspace) -> (Status, Vec<f32>) {
        let mut y = vec![0.0; N * M];
        let (x, len) = (self.x.as_ptr(), self.x.len());
        // SAFETY: buffers with their lengths, handles that live.
        let status = unsafe {
            let y = y.as_mut_ptr();
            forward_int8(self.linear, N, x, len, K, y, N * M, M, workspace)
        };
        (status, y)
    }

    pub fn forward_f32(&self, workspace: *mut Workspace) -> (Status, Vec<f32>) {
        let mut y = vec![0.0; N * M];
        let (x, len) = (self.x.as_ptr(), self.x.len());
        // SAFETY: buffers with their lengths, handles that live.
        let status = unsafe {
            let y = y.as_mut_ptr();
            tritgemm_linear_forward_f32(self.linear, N, x, len, K, y, N * M, M, workspace)
        };
        (status, y)
    }

    /// All products in `workspace` are right.
    #[track_caller]
    pub fn check(&self, workspace: *mut Workspace) {
        let (status, sums) = self.gemm_i8(workspace);
        ok(status);
        assert!(sums == self.sums, "gemm_i8");
        let (status, y) = self.forward_int8(workspace);
        ok(status);
        assert!(y == self.quantized, "forward_int8");
        let (status, y) = self.forward_f32(workspace);
        ok(status);
        assert!(y == self.floats, "forward_f32");
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        // SAFETY: each once, and nothing uses them any more.
        unsafe {
            tritgemm_matrix_destroy(self.matrix);
            tritgemm_linear_destroy(self.linear);
            tritgemm_panels_destroy(self.panels);
            tritgemm_workspace_destroy(self.workspace);
            tritgemm_workspace_destroy(null_mut());
        }
    }
}
