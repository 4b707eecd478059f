//! Running out of memory is `TRITGEMM_OUT_OF_MEMORY` and nothing worse: every
//! allocation whose size comes from the arguments fails in turn, copies of what
//! is not aligned or not dense included, and the call works when tried again.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;
use tritgemm_capi::*;
use tritgemm_testing::allocator::{Plan, Refusing, SMALLEST};

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

/// Large enough that whatever has this shape can be refused.
const M: usize = 320;
const K: usize = 512;
const N: usize = 20;
const F32: i32 = Float::TritgemmF32 as i32;

/// Runs `call` once with each of its allocations refused. Returns how many
/// there are.
#[track_caller]
fn every_allocation(name: &str, mut call: impl FnMut() -> Status) -> usize {
    let plan = Plan::here();
    let mut attempt = |refused| {
        let mut status = Status::TritgemmInternal;
        let allocations = plan.run(refused, || status = call());
        (allocations, status)
    };
    // What a process asks for once, with its first product, is no allocation of
    // this call.
    attempt(0);
    let (allocations, status) = attempt(0);
    assert_eq!(status, Status::TritgemmOk, "{name} works with memory");
    for refused in 1..=allocations {
        let (_, status) = attempt(refused);
        let what = format!("{name}, allocation {refused} of {allocations} refused");
        assert_eq!(status, Status::TritgemmOutOfMemory, "{what}");
        // SAFETY: this thread's message, copied at once.
        let text = unsafe { CStr::from_ptr(tritgemm_last_error()) };
        let text = text.to_str().expect("UTF-8");
        assert!(text.starts_with("out of memory: "), "{what}: {text}");
        assert_eq!(attempt(0).1, Status::TritgemmOk, "{what}: not tried again");
    }
    allocations
}

/// Bytes at an odd address.
struct Odd(Vec<u8>);

impl Odd {
    fn new(bytes: usize) -> Self {
        Self(vec![0; bytes + 2])
    }

    fn ptr<T>(&mut self) -> *mut T {
        let odd = 1 - self.0.as_ptr().addr() % 2;
        self.0[odd..].as_mut_ptr().cast()
    }
}

/// Makes a handle and destroys it.
fn made<T>(
    make: impl FnOnce(*mut *mut T) -> Status,
    destroy: unsafe extern "C" fn(*mut T),
) -> Status {
    let mut handle = null_mut();
    let status = make(&mut handle);
    assert_eq!(status == Status::TritgemmOk, !handle.is_null());
    // SAFETY: its own, or NULL.
    unsafe { destroy(handle) };
    status
}

fn handle<T>(make: impl FnOnce(*mut *mut T) -> Status) -> *mut T {
    let mut handle = null_mut();
    assert_eq!(make(&mut handle), Status::TritgemmOk);
    handle
}

#[test]
fn conversions() {
    let mut packed = vec![0u8; M * K / 4];
    let mut floats = Odd::new(4 * M * K);
    let mut scales = Odd::new(4 * M);
    let mut trits = vec![0i8; M * K];
    let (p, t, w, s) = (
        packed.as_mut_ptr(),
        trits.as_mut_ptr(),
        floats.ptr::<f32>(),
        scales.ptr::<f32>(),
    );
    let (len, rows) = (M * K, M);
    // SAFETY: buffers with their lengths.
    unsafe {
        let unpack = || tritgemm_unpack_f32(p, len / 4, M, K, s, rows, w, len, 0);
        assert!(every_allocation("unpack_f32", unpack) >= 2);
        let absmean = || tritgemm_absmean(w, len, M, K, 2, s, rows);
        assert!(every_allocation("absmean", absmean) >= 2);
        let ternarize = || tritgemm_ternarize(w, len, M, K, 2, s, rows, t, len);
        assert!(every_allocation("ternarize", ternarize) >= 2);
        let quantize = || tritgemm_quantize_activations(w, len, M, K, t, len, s, rows);
        assert!(every_allocation("quantize_activations", quantize) >= 2);
    }
}

#[test]
fn handles() {
    let (mut trits, mut packed) = (vec![0i8; M * K], vec![0u8; M * K / 4]);
    let (mut weights, mut scales) = (Odd::new(4 * M * K), vec![1.0f32; M]);
    let (t, p, w, s) = (
        trits.as_mut_ptr(),
        packed.as_mut_ptr(),
        weights.ptr::<f32>(),
        scales.as_mut_ptr(),
    );
    let len = M * K;
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let from_trits = |out| tritgemm_matrix_from_trits(t, len, M, K, 2, s, M, out);
        let from_packed = |out| tritgemm_matrix_from_packed(p, len / 4, M, K, 2, s, M, out);
        let quantize = |out| tritgemm_matrix_quantize(w, len, M, K, 2, out);
        let matrix_destroy = tritgemm_matrix_destroy;
        let made_by = |name, make: &dyn Fn(*mut *mut Matrix) -> Status| {
            every_allocation(name, || made(make, matrix_destroy))
        };
        assert!(made_by("from_trits", &from_trits) >= 2);
        assert!(made_by("from_packed", &from_packed) >= 2);
        assert!(made_by("quantize", &quantize) >= 3);

        let matrix = handle(from_trits);
        let pack = || {
            made(
                |out| tritgemm_panels_pack(matrix, out),
                tritgemm_panels_destroy,
            )
        };
        assert!(every_allocation("pack", pack) >= 1);
        let panels = handle(|out| tritgemm_panels_pack(matrix, out));
        let create = |out| tritgemm_linear_create(matrix, s, M, out);
        let from_panels = |out| tritgemm_linear_from_panels(panels, 2, s, M, s, M, out);
        let linear = || made(create, tritgemm_linear_destroy);
        assert!(every_allocation("linear_create", linear) >= 2);
        let linear = || made(from_panels, tritgemm_linear_destroy);
        assert!(every_allocation("linear_from_panels", linear) >= 2);

        // A slice and a file share the panels and copy the rest.
        let layer = handle(create);
        let (ones, both) = ([1i8; K], [layer.cast_const(); 2]);
        let rotate = || {
            let with = tritgemm_linear_with_rotation;
            made(
                |out| with(layer, 2, ones.as_ptr(), K, out),
                tritgemm_linear_destroy,
            )
        };
        assert!(every_allocation("with_rotation", rotate) >= 2);
        let experts = || {
            let create = |out| tritgemm_experts_create(both.as_ptr(), 2, out);
            made(create, tritgemm_experts_destroy)
        };
        assert!(every_allocation("experts_create", experts) >= 3);
        let slice = || {
            let slice = |out| tritgemm_linear_slice_rows(layer, 0, M, out);
            made(slice, tritgemm_linear_destroy)
        };
        assert!(every_allocation("slice_rows", slice) >= 2);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("layer.tpan").into_os_string();
        let path = CString::new(path.into_encoded_bytes()).expect("no zero");
        // A layer is written from where it is.
        let save = || tritgemm_linear_save(layer, path.as_ptr());
        assert_eq!(every_allocation("save", save), 0);
        let load = |out| tritgemm_panel_file_load(path.as_ptr(), out);
        let loaded = || made(load, tritgemm_panel_file_destroy);
        assert!(every_allocation("load", loaded) >= 2);
        let file = handle(load);
        let linear = || {
            let linear = |out| tritgemm_panel_file_linear(file, out);
            made(linear, tritgemm_linear_destroy)
        };
        assert!(every_allocation("panel_file_linear", linear) >= 2);
        tritgemm_panel_file_destroy(file);
        tritgemm_linear_destroy(layer);
        tritgemm_panels_destroy(panels);
        tritgemm_matrix_destroy(matrix);
    }
}

/// A model whose layers rotate, with names for which memory has to grow.
#[test]
fn models() {
    const COUNT: usize = 80;
    let (trits, scales) = (vec![0i8; M * K], vec![1.0f32; M]);
    let long = "a".repeat(SMALLEST);
    let text = |text: String| CString::new(text).expect("no zero");
    let owned: Vec<_> = (0..COUNT).map(|i| text(format!("{i}.{long}"))).collect();
    let names: Vec<_> = owned.iter().map(|name| name.as_ptr()).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("model.tpan").into_os_string();
    let path = CString::new(path.into_encoded_bytes()).expect("no zero");
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let (t, s) = (trits.as_ptr(), scales.as_ptr());
        let matrix = handle(|out| tritgemm_matrix_from_trits(t, M * K, M, K, 2, s, M, out));
        let plain = handle(|out| tritgemm_linear_create(matrix, s, M, out));
        let signs = [-1i8; K];
        let layer = handle(|out| tritgemm_linear_with_rotation(plain, 2, signs.as_ptr(), K, out));
        let layers = [layer.cast_const(); COUNT];
        let save =
            || tritgemm_model_file_save(path.as_ptr(), names.as_ptr(), layers.as_ptr(), COUNT);
        // The array, and the index with a copy of each name.
        assert!(every_allocation("model_file_save", save) > 1 + COUNT);
        assert_eq!(std::fs::read_dir(dir.path()).expect("it").count(), 1);
        let load = |out| tritgemm_model_file_load(path.as_ptr(), out);
        let loaded = || made(load, tritgemm_model_file_destroy);
        assert!(every_allocation("model_file_load", loaded) > 2 * COUNT);
        let model = handle(load);
        let linear = || {
            let linear = |out| tritgemm_model_file_linear(model, names[0], out);
            made(linear, tritgemm_linear_destroy)
        };
        assert!(every_allocation("model_file_linear", linear) >= 3);
        tritgemm_model_file_destroy(model);
        tritgemm_linear_destroy(layer);
        tritgemm_linear_destroy(plain);
        tritgemm_matrix_destroy(matrix);
    }
}

/// Each in a new workspace, so that there is something to allocate.
#[test]
fn products() {
    let (trits, scales) = (vec![1i8; M * K], vec![1.0f32; M]);
    let (mut x, mut y) = (Odd::new(4 * N * K), Odd::new(4 * N * M));
    let (mut i8s, mut token_scales) = (vec![1i8; N * (K + 1)], Odd::new(4 * SMALLEST));
    // SAFETY: buffers with their lengths, handles that live.
    unsafe {
        let (t, s) = (trits.as_ptr(), scales.as_ptr());
        let matrix = handle(|out| tritgemm_matrix_from_trits(t, M * K, M, K, 2, s, M, out));
        let layer = handle(|out| tritgemm_linear_create(matrix, s, M, out));
        let panels = handle(|out| tritgemm_linear_panels(layer, out));
        let new = |run: &dyn Fn(*mut Workspace) -> Status| {
            let mut workspace = core::ptr::null_mut();
            let created = tritgemm_workspace_create(&mut workspace);
            if created != Status::TritgemmOk {
                return created;
            }
            let status = run(workspace);
            tritgemm_workspace_destroy(workspace);
            status
        };
        let (xp, yp) = (x.ptr::<f32>(), y.ptr::<f32>());
        let (nk, nm) = (N * K, N * M);
        let int8 = |x_type: Float, ws| {
            let (x_type, x) = (x_type as i32, xp.cast());
            tritgemm_linear_forward_int8(layer, N, x_type, x, nk, K, yp, nm, M, ws)
        };
        let forwards: [(_, &dyn Fn(*mut Workspace) -> Status); 4] = [
            ("forward_int8", &|ws| int8(Float::TritgemmF32, ws)),
            ("forward_int8 of f16", &|ws| int8(Float::TritgemmF16, ws)),
            ("forward_int8 of bf16", &|ws| int8(Float::TritgemmBf16, ws)),
            ("forward_f32", &|ws| {
                tritgemm_linear_forward_f32(layer, N, xp, nk, K, yp, nm, M, ws)
            }),
        ];
        for (name, forward) in forwards {
            assert!(every_allocation(name, || new(forward)) >= 4, "{name}");
        }
        let xi = i8s.as_mut_ptr();
        let gemm =
            |ws| tritgemm_panels_gemm_i8(panels, N, xi, N * (K + 1), K + 1, yp.cast(), nm, M, ws);
        assert!(every_allocation("gemm_i8", || new(&gemm)) >= 3);

        // One scale a token: as many tokens as can be refused.
        let n = SMALLEST;
        let ts = token_scales.ptr::<f32>();
        let prepared = tritgemm_prepared_destroy;
        let from_int8 = |ws| {
            let make = |out| tritgemm_prepared_from_int8(n, 1, xi, n, 1, 0, ts, n, 0, ws, out);
            made(make, prepared)
        };
        assert!(every_allocation("from_int8", || new(&from_int8)) >= 2);
        let prepare = |ws| {
            made(
                |out| tritgemm_linear_prepare_int8(layer, N, F32, xp.cast(), nk, K, 0, ws, out),
                prepared,
            )
        };
        assert!(every_allocation("prepare_int8", || new(&prepare)) >= 3);
        let ws = handle(|out| tritgemm_workspace_create(out));
        let activations =
            handle(|out| tritgemm_linear_prepare_int8(layer, N, F32, xp.cast(), nk, K, 0, ws, out));
        tritgemm_workspace_destroy(ws);
        let forward = |ws| tritgemm_linear_forward_prepared(layer, activations, yp, nm, M, ws);
        assert!(every_allocation("forward_prepared", || new(&forward)) >= 2);
        tritgemm_prepared_destroy(activations);
        tritgemm_panels_destroy(panels);
        tritgemm_linear_destroy(layer);
        tritgemm_matrix_destroy(matrix);
    }
}
